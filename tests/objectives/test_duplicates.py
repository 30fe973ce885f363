"""Equal content has equal numbers, whatever the batch looks like."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sensorium.objectives.duplicates import content_ids, merge_groups
from sensorium.types import Batch, Entries


def batch(values, row, size, mask=None):
    row = torch.tensor(row)
    item = torch.tensor([row[:i].tolist().count(r) for i, r in enumerate(row.tolist())])
    entries = Entries(values, row, item, mask)
    return Batch({"x": entries}, [str(i) for i in range(size)], torch.arange(size))


def test_equal_texts_whatever_their_padding():
    ids = torch.tensor([[5, 6, 0, 9], [5, 6, 7, 0], [5, 6, 1, 1], [6, 5, 0, 0]])
    mask = torch.arange(4) < torch.tensor([[2], [3], [2], [2]])
    a, b, c, d = content_ids(batch(ids, [0, 1, 2, 3], 4, mask), "x").tolist()
    assert a == c and len({a, b, d}) == 3
    longer = torch.zeros(1, 9, dtype=torch.long)
    longer[0, :2] = torch.tensor([5, 6])
    alone = content_ids(batch(longer, [0], 1, torch.arange(9)[None] < 2), "x")
    assert alone.item() == a


def test_pictures_numbers_and_odd_sizes():
    pixels = torch.randint(0, 256, (3, 5, 3, 3), dtype=torch.uint8)
    pixels[2] = pixels[0]
    a, b, c = content_ids(batch(pixels, [0, 1, 2], 3), "x").tolist()
    assert a == c != b
    numbers = content_ids(batch(torch.tensor([0.5, 0.25, 0.5]), [0, 1, 2], 3), "x").tolist()
    assert numbers[0] == numbers[2] != numbers[1]


def test_rows_of_several_and_of_none():
    values = torch.tensor([[1, 2], [3, 4], [3, 4], [1, 2], [1, 2], [3, 4]])
    ids = content_ids(batch(values, [0, 0, 1, 1, 3, 3], 4), "x").tolist()
    assert ids[0] == ids[3] != ids[1] and ids[2] == 0
    assert content_ids(batch(values, [0] * 6, 2).without("x"), "x").tolist() == [0, 0]


def test_merging_by_hand():
    groups = torch.tensor([[10, 1], [10, 2], [30, 2], [40, 9], [50, 1]])
    label = merge_groups(groups)
    assert label.tolist() == [0, 0, 0, 3, 0]
    assert merge_groups(groups[:, :1]).tolist() == [0, 0, 2, 3, 4]
    assert len(merge_groups(groups[:0])) == 0


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_merged_groups_are_the_connected_ones(pairs):
    groups = torch.tensor(pairs)
    linked = (groups[:, None] == groups).any(2)
    for _ in range(len(pairs)):
        linked = (linked.float() @ linked.float()) > 0
    label = merge_groups(groups)
    assert torch.equal(label[:, None] == label, linked)
