"""Groups of a prompt's tokens, the patches of boxes, and edges that are cut."""

import pytest
import torch

from sensorium.diagnostics.streams.groups import groups_of, object_groups, patches_of
from sensorium.diagnostics.streams.knockout import (
    between,
    cut,
    existing,
    numbered,
    random_edges,
    window,
    window_size,
)
from sensorium.nn.masks import causal, sees
from sensorium.types import Entries, Tokens
from sensorium.types.names import number_of

PARTS = {"p": "prompt", "q": "question", "a": "answer", "i": "prompt", "I": "prompt"}


def prompt(*rows, turns=None):
    """Rows as letters: p, q, a for text of a part, i and I for pictures 0 and 1, a dot for padding."""
    size, length = len(rows), len(rows[0])
    ids = {name: torch.zeros(size, length, dtype=torch.long) for name in ("modality", "part")}
    ids |= {name: torch.zeros(size, length, dtype=torch.long) for name in ("item", "position")}
    mask = torch.zeros(size, length, dtype=torch.bool)
    for row, letters in enumerate(rows):
        for place, letter in enumerate(letters):
            if letter == ".":
                continue
            mask[row, place] = True
            ids["modality"][row, place] = number_of("image" if letter in "iI" else "text")
            ids["part"][row, place] = number_of(PARTS[letter])
            ids["item"][row, place] = letter == "I"
            ids["position"][row, place] = int(mask[row, :place].sum())
    if turns is not None:
        ids["turn"] = torch.tensor(turns)
    return Tokens(torch.zeros(size, length, 4), mask, ids)


def shown(group):
    return ["".join("x" if each else "-" for each in row) for row in group.tolist()]


def test_groups_are_a_partition_whatever_the_padding():
    tokens = prompt("piiqqpp..", "..piiqqqp")
    groups = groups_of(tokens)
    assert shown(groups["image"]) == ["-xx------", "---xx----"]
    assert shown(groups["question"]) == ["---xx----", "-----xxx-"]
    assert shown(groups["last"]) == ["------x--", "--------x"]
    assert shown(groups["other"]) == ["x----x---", "--x------"]
    assert torch.equal(torch.stack(list(groups.values())).sum(0), tokens.mask.long())


def test_question_is_that_of_the_last_turn_and_last_is_no_question():
    tokens = prompt("iqqpaapqq", turns=[[0, 0, 0, 1, 1, 1, 2, 2, 2]])
    groups = groups_of(tokens)
    assert shown(groups["question"]) == ["-------x-"]
    assert shown(groups["last"]) == ["--------x"]
    assert shown(groups["other"]) == ["-xxxxxx--"]


def test_patches_that_a_box_touches():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.49, 0.3, 0.51, 0.34], [0.5, 0.5, 1.0, 0.51]])
    found = patches_of(boxes, 2)
    # a box that ends at the edge of a patch has no pixel of the next
    assert found.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]
    assert found.shape == (3, 4)


def test_object_is_of_the_first_picture_and_rows_without_boxes_have_none():
    tokens = prompt("piiiiIIIIqp", "piiiiqp....", "pqp........")
    boxes = Entries(
        torch.tensor([[0.6, 0.1, 0.9, 0.3], [0.1, 0.7, 0.2, 0.8]]),
        row=torch.tensor([0, 0]),
        item=torch.tensor([0, 1]),
    )
    groups = object_groups(tokens, boxes)
    assert shown(groups["object"]) == ["--xx-------", "-----------", "-----------"]
    assert shown(groups["background"]) == ["-x--x------", "-----------", "-----------"]


def test_tokens_in_front_of_the_patches_are_in_neither_group():
    tokens = prompt("p" + "i" * 17 + "qp")
    boxes = Entries(torch.tensor([[0.3, 0.3, 0.4, 0.4]]), torch.tensor([0]), torch.tensor([0]))
    groups = object_groups(tokens, boxes)
    assert shown(groups["object"]) == ["--" + "-----x----------" + "--"]
    assert shown(groups["background"]) == ["--" + "xxxxx-xxxxxxxxxx" + "--"]
    assert shown(groups_of(tokens)["image"]) == ["-" + "x" * 17 + "--"]


def test_pictures_without_a_grid_have_no_objects():
    boxes = Entries(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(ValueError, match="15 tokens of a picture are not one for each patch"):
        object_groups(prompt("i" * 15 + "qp"), boxes)
    with pytest.raises(ValueError, match="square grid"):
        object_groups(prompt("iiiiqp", "i...qp"), boxes)


@pytest.mark.parametrize(
    ("num_layers", "size"), [(1, 1), (2, 1), (4, 1), (8, 3), (12, 3), (24, 7), (32, 9), (40, 9)]
)
def test_windows_are_odd_and_nine_at_most(num_layers, size):
    assert window_size(num_layers) == size


def test_windows_are_clipped_at_the_ends():
    assert [list(window(centre, 3, 4)) for centre in range(4)] == [
        [0, 1],
        [0, 1, 2],
        [1, 2, 3],
        [2, 3],
    ]
    assert list(window(2, 1, 4)) == [2]
    assert list(window(2, 4, 8)) == [0, 1, 2, 3]  # an even one reaches further down


def test_cut_takes_edges_away_in_its_layers_alone():
    tokens = numbered(prompt("piqp", ".piq"))
    groups = groups_of(tokens)
    edges = between(groups["image"], groups["last"])
    of_layer = cut(causal, edges, range(1, 3))
    assert of_layer(0) is causal and of_layer(3) is causal
    assert of_layer(1) is of_layer(2)
    mask = of_layer(1).dense(tokens)[:, 0]
    expected = causal.dense(tokens)[:, 0].clone()
    assert expected[0, 3, 1] and expected[1, 3, 2]
    expected[0, 3, 1] = expected[1, 3, 2] = False
    assert torch.equal(mask, expected)


def test_a_cut_is_the_same_rule_for_block_masks():
    tokens = numbered(prompt("piqp", ".piq"))
    groups = groups_of(tokens)
    rule = cut(causal, between(groups["image"], groups["question"]), range(4))(0)
    mod, dense = rule.mask_mod(tokens), rule.dense(tokens)
    for index in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4)):
        batch, query, key = index
        assert bool(mod(batch, torch.tensor(0), query, key)) == bool(dense[batch, 0, query, key])


def test_edges_that_exist_are_those_of_the_rule():
    tokens = numbered(prompt("piiqqp", "piqqp."))
    groups = groups_of(tokens)
    backwards = between(groups["question"], groups["image"])
    assert not existing(causal, tokens, backwards, 2).any()
    mutual = causal | sees("image", part="question")
    assert existing(mutual, tokens, backwards, 2).sum((1, 2)).tolist() == [4, 2]


def test_rules_that_differ_by_layer_are_cut_each_for_itself():
    tokens = numbered(prompt("piiqqp"))
    groups = groups_of(tokens)
    mutual = causal | sees("image", part="question")
    rules = [causal, mutual, mutual]
    edges = between(groups["question"], groups["image"])
    assert existing(rules.__getitem__, tokens, edges, 3).sum() == 4  # in any layer
    assert existing(rules.__getitem__, tokens, edges, 1).sum() == 0
    of_layer = cut(rules.__getitem__, edges, range(3))
    assert torch.equal(of_layer(2).dense(tokens), causal.dense(tokens))
    assert of_layer(1) is of_layer(2) and of_layer(0) is not of_layer(1)
    drawn = random_edges(rules.__getitem__, tokens, tokens.mask[:, :, None] & edges, row_of(3), 3)
    assert drawn.sum() == 4
    assert not (drawn & ~mutual.dense(tokens)[:, 0]).any()


def row_of(number):
    return torch.tensor([number])


def test_last_keeps_one_key_at_least():
    tokens = numbered(prompt("piqp"))
    last = groups_of(tokens)["last"]
    assert existing(causal, tokens, between(last, last), 2).sum() == 1
    with pytest.raises(ValueError, match="row 0: token 3 would read nothing"):
        existing(causal, tokens, between(tokens.mask, last), 2)


def test_random_edges_are_as_many_and_exist_and_depend_on_the_row_alone():
    tokens = numbered(prompt("piiqqp", "piqqp.", "..piqp"))
    groups = groups_of(tokens)
    edges = existing(causal, tokens, between(groups["image"], groups["question"]), 2)
    row = torch.tensor([5, 8, 2])
    found = random_edges(causal, tokens, edges, row, 2)
    assert found.sum((1, 2)).tolist() == edges.sum((1, 2)).tolist() == [4, 2, 1]
    allowed = causal.dense(tokens)[:, 0] & tokens.mask[:, :, None]
    assert not (found & ~allowed).any()
    assert not found.diagonal(dim1=1, dim2=2).any()
    assert not torch.equal(found, edges)
    again = random_edges(causal, tokens, edges, torch.tensor([7, 8, 2]), 2)
    assert torch.equal(found[1:], again[1:]) and not torch.equal(found[0], again[0])


def test_random_edges_of_a_row_do_not_depend_on_its_padding():
    found = []
    for letters in ("piiqqp", "piiqqp..", ".piiqqp"):
        tokens = numbered(prompt(letters))
        groups = groups_of(tokens)
        edges = existing(causal, tokens, between(groups["image"], groups["question"]), 2)
        drawn = random_edges(causal, tokens, edges, torch.tensor([3]), 2)[0]
        found.append(drawn[tokens.mask[0]][:, tokens.mask[0]])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
