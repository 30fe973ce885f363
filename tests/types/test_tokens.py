"""Streams of vectors: joining and splitting undo each other, packing leaves no gaps."""

import hypothesis.strategies as st
import torch
from hypothesis import given

from sensorium.types import Tokens, cat, pack
from sensorium.types.names import number_of


def make_tokens(length, modality, size=2):
    values = torch.randn(size, length, 3)
    mask = torch.rand(size, length) > 0.3
    ids = {"modality": torch.full((size, length), number_of(modality))}
    return Tokens(values, mask, ids)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_split_undoes_cat(lengths):
    streams = [make_tokens(length, f"m{i}") for i, length in enumerate(lengths)]
    for before, after in zip(streams, cat(*streams).split(), strict=True):
        assert torch.equal(before.values, after.values)
        assert torch.equal(before.mask, after.mask)
        assert torch.equal(before.id("modality"), after.id("modality"))


def test_an_id_that_only_one_stream_has_is_zero_in_the_other():
    left, right = make_tokens(2, "a"), make_tokens(3, "b")
    joined = cat(left, right.replace(ids={**right.ids, "part": torch.ones(2, 3, dtype=torch.long)}))
    assert joined.id("part").tolist() == [[0, 0, 1, 1, 1]] * 2


def test_pack_lays_the_entries_of_a_row_side_by_side_without_gaps():
    values = torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 5.0]])[..., None]
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    row, item = torch.tensor([0, 2, 2]), torch.tensor([0, 0, 1])
    tokens = pack(values, mask, row, item, 3, "image")
    assert tokens.values[..., 0].tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]
    assert tokens.mask.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert tokens.id("item").tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert (tokens.id("modality") == number_of("image")).all()


def test_the_short_way_of_pack_agrees_with_the_general_one():
    values, row = torch.randn(3, 4, 2), torch.arange(3)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4])
    short = pack(values, mask, row, torch.zeros(3, dtype=torch.long), 3, "text")
    general = pack(values, mask, row, torch.zeros(3, dtype=torch.long), 4, "text")
    assert torch.equal(short.mask, general.mask[:3])
    assert torch.equal(short.values[short.mask], general.values[:3][short.mask])


def test_the_mean_of_a_row_without_tokens_is_zero_not_nan():
    tokens = Tokens(torch.randn(2, 3, 4), torch.tensor([[True, True, False], [False] * 3]))
    assert torch.allclose(tokens.mean()[0], tokens.values[0, :2].mean(0))
    assert torch.equal(tokens.mean()[1], torch.zeros(4))
