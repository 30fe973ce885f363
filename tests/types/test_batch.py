"""Flat storage: what is absent has no entries, and rows can be taken, joined and put together."""

import dataclasses

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from sensorium.types import Batch, Entries, UserError, concatenate


def make_entries(counts, length=None):
    """Entries whose values count up, `counts[i]` of them in row i."""
    counts = torch.tensor(counts)
    row = torch.repeat_interleave(torch.arange(len(counts)), counts)
    item = torch.cat([torch.arange(int(c)) for c in counts]) if len(row) else row
    values = torch.arange(len(row)).float()
    if length is None:
        return Entries(values, row, item)
    mask = torch.ones(len(row), length, dtype=torch.bool)
    return Entries(values[:, None].expand(-1, length).clone(), row, item, mask)


def make_batch(counts, **more):
    size = len(counts)
    fields = {"image": make_entries(counts), **more}
    return Batch(fields, [str(i) for i in range(size)], torch.arange(size), seed=3)


def test_a_row_without_a_field_is_absent_and_others_are_present():
    batch = make_batch([1, 0, 2])
    assert batch.present("image").tolist() == [True, False, True]
    assert batch.present("audio").tolist() == [False, False, False]


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'image'"):
        make_batch([1])["imago"]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_take_gives_the_entries_of_each_named_row_in_order(counts, data):
    entries = make_entries(counts)
    rows = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8))
    taken = entries.take(torch.tensor(rows, dtype=torch.long), len(counts))
    expected = [
        (n, v) for n, r in enumerate(rows) for v in entries.values[entries.row == r].tolist()
    ]
    assert list(zip(taken.row.tolist(), taken.values.tolist(), strict=True)) == expected


def test_take_of_a_batch_keeps_keys_and_index_with_their_rows():
    taken = make_batch([1, 0, 2]).take(torch.tensor([2, 2, 0]))
    assert taken.keys == ["2", "2", "0"]
    assert taken.index.tolist() == [2, 2, 0]
    assert taken["image"].values.tolist() == [1, 2, 1, 2, 0]


def test_first_is_the_first_entry_or_zero():
    values, present = make_entries([2, 0, 1]).first(3)
    assert values.tolist() == [0.0, 0.0, 2.0]
    assert present.tolist() == [True, False, True]


def test_joined_rows_put_the_caption_of_one_beside_the_picture_of_another():
    left = make_batch([1, 1]).only("image")
    right = make_batch([1, 1], caption=make_entries([1, 1])).only("caption")
    pair = left.joined(right.take(torch.tensor([1, 0])))
    assert pair["image"].values.tolist() == [0, 1]
    assert pair["caption"].values.tolist() == [1, 0]
    with pytest.raises(ValueError, match="cannot be joined"):
        left.joined(right.take(torch.tensor([1])))


def test_concatenate_pads_to_the_longest_and_moves_rows():
    short = make_batch([1, 0], caption=make_entries([1, 1], length=2))
    long = make_batch([2], caption=make_entries([1], length=5))
    whole = concatenate([short, long])
    assert whole.size == 3
    assert whole["image"].row.tolist() == [0, 2, 2]
    assert whole["caption"].values.shape == (3, 5)
    assert whole["caption"].mask.sum(1).tolist() == [2, 2, 5]


def test_draws_belong_to_the_row_not_to_its_place_in_the_batch():
    batch = make_batch([1, 1, 1])
    numbers = batch.uniform("words", 4)
    moved = batch.take(torch.tensor([2, 0])).uniform("words", 4)
    assert torch.equal(moved, numbers[[2, 0]])
    assert not torch.equal(numbers, batch.uniform("regions", 4))
    assert ((numbers >= 0) & (numbers < 1)).all()


def test_one_entry_of_each_row_is_drawn():
    counts = torch.tensor([3, 0, 1, 2] * 50)
    row = torch.repeat_interleave(torch.arange(200), counts)
    item = torch.cat([torch.arange(count) for count in counts])
    values = row * 10 + item
    batch = Batch(
        {"a": Entries(values, row, item)}, [str(n) for n in range(200)], torch.arange(200), 4
    )
    drawn = batch.drawn("a")["a"]
    assert torch.equal(drawn.row, counts.nonzero().squeeze(1))
    assert torch.equal(drawn.values, drawn.row * 10 + drawn.item)
    assert set(drawn.item[counts[drawn.row] == 3].tolist()) == {0, 1, 2}
    part = batch.take(torch.arange(100, 200)).drawn("a")["a"]
    assert torch.equal(part.item, drawn.item[drawn.row >= 100])  # whatever batch it is in
    other = dataclasses.replace(batch, seed=5).drawn("a")["a"]
    assert not torch.equal(other.item, drawn.item)
