import pickle

import numpy as np
import pytest
import torch

import sensorium as sm
from sensorium.data import train_batches
from sensorium.data.packing import Packer, Unpacker
from sensorium.modalities.base import default_views
from sensorium.types import Batch, Entries


def batch(size=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    values = torch.rand(size, 5, 2, generator=draw)
    rows = torch.arange(size)
    fields = {
        "whole": Entries(values, rows, torch.zeros_like(rows), values[..., 0] > 0.5),
        "turned": Entries(values.transpose(1, 2), rows, torch.zeros_like(rows)),
        "nothing": Entries(values[:0], rows[:0], rows[:0]),
        "bytes": Entries((values * 255).to(torch.uint8), rows, rows),
    }
    return Batch(fields, [f"row {n}" for n in range(size)], rows, seed)


def same(a, b):
    assert (a.keys, a.seed, list(a)) == (b.keys, b.seed, list(b))
    torch.testing.assert_close(a.index, b.index)
    for name in a:
        for part in ("values", "row", "item", "mask"):
            left, right = getattr(a[name], part), getattr(b[name], part)
            assert (left is None) == (right is None)
            if left is not None:
                torch.testing.assert_close(left, right, rtol=0, atol=0)
    return True


def sent(packed):
    """As through a pipe, but for the shared memory."""
    memory = packed.memory
    copy = pickle.loads(pickle.dumps((packed.head, packed.lengths, packed.block)))
    return type(packed)(*copy, memory)


def test_what_arrives_is_what_was_sent():
    pack, unpack = Packer(), Unpacker()
    arrived = unpack(sent(pack([batch(), np.arange(3), "text"])))
    assert same(arrived[0], batch())
    assert arrived[1].tolist() == [0, 1, 2]
    assert arrived[2] == "text"
    arrived[0]["whole"].values.add_(1)  # as any tensor, it can be changed in place


def test_a_block_is_used_again_only_when_nothing_of_its_batch_is_left():
    pack, unpack = Packer(), Unpacker()
    first = sent(pack(batch(seed=1)))
    arrived = unpack(first)
    part = arrived["whole"].values[1:, 0]
    second = sent(pack(batch(seed=2)))
    assert second.block != first.block
    other = unpack(second)
    del arrived
    third = sent(pack(batch(seed=3)))
    assert third.block not in (first.block, second.block)  # a part is still in use
    torch.testing.assert_close(part, batch(seed=1)["whole"].values[1:, 0])
    del part
    fourth = sent(pack(batch(seed=4)))
    assert fourth.block == first.block
    assert fourth.memory is None
    assert same(unpack(fourth), batch(seed=4))
    assert same(other, batch(seed=2))


def test_batches_of_other_sizes_find_their_place():
    pack, unpack = Packer(), Unpacker()
    for size in (1, 40, 2, 41, 3):
        assert same(unpack(sent(pack(batch(size)))), batch(size))
    assert len(pack._blocks) <= 3


@pytest.mark.parametrize("keep", [True, False])
def test_workers_give_what_one_process_gives(keep):
    data = sm.open("playground:scenes?size=32")
    views = default_views(data.schema.find(modality=("image", "box")))

    def batches(workers):
        return train_batches(
            data, views, batch_size=8, seed=0, num_steps=24, workers=workers, accumulate=2
        )

    if keep:  # then no block is ever free
        pairs = list(zip(list(batches(2)), list(batches(0)), strict=True))
    else:
        pairs = zip(batches(2), batches(0), strict=True)
    for ours, theirs in pairs:
        assert all(map(same, ours, theirs))
