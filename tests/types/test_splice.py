"""Streams in a text: in their places, with their ids, taken out again; and rows packed one behind another."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.nn.masks import causal, packed
from sensorium.types import Tokens
from sensorium.types.names import number_of
from sensorium.types.tokens import Inserted, packed_rows, splice

WIDTH = 3
TEXT, MEDIA = number_of("text"), number_of("media")


@st.composite
def layouts(draw):
    """Rows of words (1) and placeholders of two streams (-1, -2), and the lengths of their entries."""
    rows = draw(
        st.lists(st.lists(st.sampled_from([1, 1, -1, -2]), max_size=7), min_size=1, max_size=4)
    )
    lengths = [[draw(st.integers(0, 4)) for place in row if place < 0] for row in rows]
    return rows, lengths, draw(st.booleans())


def stream_of(rows, lengths, number):
    """The entries of one stream: entry e of row r has the vectors 100 r + 10 e + j."""
    sizes, row, item = [], [], []
    for r, (words, own) in enumerate(zip(rows, lengths, strict=True)):
        places = [p for p in words if p < 0]
        mine = [size for place, size in zip(places, own, strict=True) if place == -1 - number]
        sizes += mine
        row += [r] * len(mine)
        item += range(len(mine))
    longest = max(sizes, default=0)
    values = torch.zeros(len(sizes), longest, WIDTH)
    for e in range(len(sizes)):
        values[e] = (
            100 * row[e] + 10 * item[e] + torch.arange(longest)[:, None] + 1000 * (number + 1)
        )
    mask = torch.arange(longest) < torch.tensor(sizes, dtype=torch.long)[:, None]
    row, item = (torch.tensor(part, dtype=torch.long) for part in (row, item))
    return Inserted(f"stream {number}", values, mask.reshape(len(sizes), longest), row, item), sizes


def text_of(rows, is_left):
    longest = max(map(len, rows))
    words = torch.full((len(rows), longest), 7)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for r, row in enumerate(rows):
        start = longest - len(row) if is_left else 0
        words[r, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
        mask[r, start : start + len(row)] = True
    values = torch.arange(words.numel()).reshape(*words.shape, 1).expand(-1, -1, WIDTH) / 1000
    ids = {"part": torch.where(words < 0, 5, 6), "turn": words.abs()}
    return Tokens(values, mask, ids), words


@given(layouts())
@settings(max_examples=150, deadline=None)
def test_each_stream_stands_at_its_placeholders_and_can_be_taken_out_again(layout):
    rows, lengths, is_left = layout
    text, words = text_of(rows, is_left)
    streams = [stream_of(rows, lengths, number)[0] for number in range(2)]
    joined = splice(text, words, streams)
    modality, item = joined.id("modality"), joined.id("item")
    for r, row in enumerate(rows):
        real = joined.mask[r]
        assert joined.id("position")[r, real].tolist() == list(range(int(real.sum())))
        # the words, in order, are what they were
        is_text = real & (modality[r] == TEXT)
        before = text.values[r, text.mask[r] & (words[r] >= 0)]
        assert torch.equal(joined.values[r, is_text], before)
        # the expected row, piece by piece
        expected, seen = [], [0, 0]
        sizes = iter(lengths[r])
        for place in row:
            if place > 0:
                expected.append(("text", 0, 6))
                continue
            number = -1 - place
            expected += [(f"stream {number}", seen[number], MEDIA)] * next(sizes)
            seen[number] += 1
        found = list(
            zip(
                modality[r, real].tolist(),
                item[r, real].tolist(),
                joined.id("part")[r, real].tolist(),
                strict=True,
            )
        )
        assert found == [(number_of(name), i, part) for name, i, part in expected]
        for number, stream in enumerate(streams):
            mine = real & (modality[r] == number_of(f"stream {number}"))
            entries = stream.values[stream.row == r][stream.mask[stream.row == r]]
            assert torch.equal(joined.values[r, mine], entries)
            assert (joined.id("turn")[r, mine] == 1 + number).all()


def test_placeholders_of_an_absent_stream_vanish_and_other_numbers_are_refused():
    text, words = text_of([[1, -1, 1], [1, 1]], is_left=False)
    none = torch.zeros(0, dtype=torch.long)
    nothing = Inserted("image", torch.zeros(0, 2, WIDTH), None, none, none)
    assert splice(text, words, [nothing]).mask.sum(1).tolist() == [2, 2]
    assert splice(text, words, []).mask.sum(1).tolist() == [2, 2]
    two = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="row 0 has 1 placeholders for 2 entries"):
        splice(text, words, [Inserted("image", torch.zeros(2, 2, WIDTH), None, two, two)])


def test_gradients_reach_words_and_streams():
    text, words = text_of([[1, -1, 1]], is_left=False)
    values, vectors = (
        text.values.clone().requires_grad_(),
        torch.ones(1, 2, WIDTH, requires_grad=True),
    )
    zero = torch.zeros(1, dtype=torch.long)
    joined = splice(text.with_values(values), words, [Inserted("image", vectors, None, zero, zero)])
    joined.values.sum().backward()
    assert vectors.grad.eq(1).all()
    assert values.grad[0, :, 0].tolist() == [1, 0, 1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(4, 12))
@settings(max_examples=60, deadline=None)
def test_packed_rows_keep_to_themselves(lengths, capacity):
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    values = torch.rand(len(lengths), longest, WIDTH)
    position = torch.arange(longest).expand(len(lengths), longest)
    laid, places = packed_rows(Tokens(values, mask, {"position": position}), capacity)
    assert laid.mask.sum() == mask.sum()
    assert laid.values.shape[1] <= max(capacity, longest)
    assert torch.equal(laid.values.flatten(0, 1)[places[mask]], values[mask])
    assert torch.equal(laid.id("position").flatten()[places[mask]], position[mask])
    seen = (causal & packed).dense(laid)[:, 0]
    sample = laid.id("sample")
    for row in range(len(laid.mask)):
        for query in laid.mask[row].nonzero().flatten().tolist():
            others = seen[row, query].nonzero().flatten()
            assert (sample[row, others] == sample[row, query]).all()
            assert len(others) == laid.id("position")[row, query] + 1
