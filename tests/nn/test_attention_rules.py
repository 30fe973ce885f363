"""Attention rules: who sees whom. What is forbidden must not move anything, by any path."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.nn.blocks import transformer
from sensorium.nn.masks import bidirectional, causal, own, packed, prefix, sees, within
from sensorium.types import Tokens
from sensorium.types.names import number_of

MODALITIES = ("image", "text")
PARTS = ("question", "answer", "prompt")
RULES = {
    "bidirectional": bidirectional,
    "causal": causal,
    "packed": packed,
    "own item": own("item"),
    "within": within("image"),
    "within both": within("text", part="question"),
    "sees": sees("image", "text", part="question"),
    "prefix": prefix("prompt"),
    "not causal": ~causal,
    "and": causal & packed,
    "or": causal | sees("image", part="question"),
    "mixture": (causal & packed) | within("image") | ~prefix("prompt"),
}


def make_tokens(seed, num_tokens=7, batch=2, width=8):
    g = torch.Generator().manual_seed(seed)

    def draw(high):
        return torch.randint(high, (batch, num_tokens), generator=g)

    kinds = torch.tensor([number_of(name) for name in MODALITIES])
    parts = torch.tensor([number_of(name) for name in PARTS])
    ids = {
        "modality": kinds[draw(2)],
        "part": parts[draw(3)],
        "item": draw(3),
        "sample": draw(2),
        "position": torch.stack([torch.randperm(num_tokens, generator=g) for _ in range(batch)]),
    }
    mask = torch.rand(batch, num_tokens, generator=g) < 0.8
    return Tokens(torch.randn(batch, num_tokens, width, generator=g), mask, ids)


@pytest.mark.parametrize("name", RULES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_forbidden_tokens_move_nothing(name, seed):
    rule, tokens = RULES[name], make_tokens(seed)
    torch.manual_seed(0)
    layers = transformer(1, 8, 2)
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter)  # large, so that a leak would show
    before = layers(tokens, rule).values
    allowed = rule.dense(tokens).expand(2, 1, 7, 7)[:, 0]
    moved = False
    for key in range(7):
        values = tokens.values.clone()
        # Not a shift: layer norms would take that away before anyone could see it.
        values[:, key] += 3.0 * torch.randn(8, generator=torch.Generator().manual_seed(seed))
        after = layers(tokens.with_values(values), rule).values
        difference = (after - before).abs().amax(2)
        others = torch.arange(7) != key  # a token always reads itself through its residual
        forbidden = ~allowed[:, :, key] & others
        assert (difference[forbidden] == 0).all()
        seen = allowed[:, :, key] & others
        moved = moved or bool((difference[seen] > 0).any())
    assert moved or not (allowed & ~torch.eye(7, dtype=torch.bool)).any()


@pytest.mark.parametrize("name", RULES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_one_rule_gives_one_mask(name, seed):
    rule, tokens = RULES[name], make_tokens(seed, num_tokens=5)
    dense = rule.dense(tokens).expand(2, 1, 5, 5)
    mod = rule.mask_mod(tokens)
    head = torch.tensor(0)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in (2, 5, 5))):
        batch, query, key = index
        assert bool(mod(batch, head, query, key)) == bool(dense[batch, 0, query, key])


def ids_of(**rows):
    length = len(next(iter(rows.values())))
    ids = {
        name: torch.tensor([[number_of(v) if isinstance(v, str) else v for v in row]])
        for name, row in rows.items()
    }
    return Tokens(torch.zeros(1, length, 2), torch.ones(1, length, dtype=torch.bool), ids)


def test_image_rows_opened_to_the_question():
    """The mask of AKI: causal, but the picture also sees the question behind it, not the answer."""
    tokens = ids_of(
        modality=["text", "image", "image", "text", "text", "text"],
        part=["prompt", "prompt", "prompt", "question", "question", "answer"],
        position=[0, 1, 2, 3, 4, 5],
    )
    mask = (causal | sees("image", part="question")).dense(tokens)[0, 0]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]


def test_queries_and_keys_of_different_streams():
    queries = ids_of(modality=["text", "text"], item=[0, 1])
    keys = ids_of(modality=["image"] * 3, item=[0, 1, 1])
    assert own("item").dense(queries, keys)[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 1]]


def test_padding_is_never_seen_whatever_the_rule():
    tokens = make_tokens(3)
    for rule in RULES.values():
        mask = rule.dense(tokens).expand(2, 1, 7, 7)
        assert not mask[~tokens.mask[:, None, None, :].expand_as(mask)].any()


def test_unknown_ids_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'position'"):
        within(positon=1)


def test_nothing_is_the_opposite_of_everything():
    with pytest.raises(ValueError, match="nothing could be seen"):
        _ = ~bidirectional
