"""Batches: the same whatever the workers, the ranks and the start; bad rows set aside."""

import json

import numpy as np
import pytest
import torch

from sensorium.data import MediaCache, open_data, read_batches, train_batches
from sensorium.modalities.image import ImageView
from sensorium.types import UserError, concatenate, draws


def equal(first, second):
    """Whether two batches are the same, bit for bit."""
    if (first.keys, first.seed, first.faults) != (second.keys, second.seed, second.faults):
        return False
    if set(first) != set(second) or not torch.equal(first.index, second.index):
        return False
    for name in first:
        a, b = first[name], second[name]
        if not (torch.equal(a.values, b.values) and torch.equal(a.row, b.row)):
            return False
        if not torch.equal(a.item, b.item) or (a.mask is None) != (b.mask is None):
            return False
        if a.mask is not None and not torch.equal(a.mask, b.mask):
            return False
    return True


@pytest.fixture(scope="module")
def scenes():
    return open_data("playground:scenes?train=50&validation=10&test=10&size=32").fit()


@pytest.fixture(scope="module")
def asked(scenes, views):
    found = views(scenes.schema)
    return {**found, "image": ImageView(size=32, augment=("crop", "flip", "colour"))}


def steps(data, views, **changes):
    settings = {"batch_size": 16, "seed": 5, "num_steps": 7} | changes
    return list(train_batches(data, views, **settings))


def test_workers_and_the_start_change_nothing(scenes, asked):
    whole = steps(scenes, asked)
    for workers in (1, 2):
        other = steps(scenes, asked, workers=workers)
        assert all(equal(a[0], b[0]) for a, b in zip(whole, other, strict=True))
    resumed = steps(scenes, asked, start_step=4, num_steps=3, workers=1)
    assert all(equal(a[0], b[0]) for a, b in zip(whole[4:], resumed, strict=True))


def test_ranks_and_micro_batches_divide_the_global_batch(scenes, asked):
    whole = steps(scenes, asked, num_steps=2)
    parts = [steps(scenes, asked, num_steps=2, rank=r, num_ranks=2, accumulate=3) for r in (0, 1)]
    for step in range(2):
        joined = concatenate([*parts[0][step], *parts[1][step]])
        assert joined.keys == whole[step][0].keys
        assert torch.equal(joined["image"].values, whole[step][0]["image"].values)
        assert {batch.seed for part in parts for batch in part[step]} == {whole[step][0].seed}


def test_an_epoch_sees_each_row_once_and_drops_the_rest(scenes, asked):
    found = steps(scenes, asked, num_steps=6)
    for epoch in (0, 1):
        rows = torch.cat([batch.index for (batch,) in found[3 * epoch : 3 * epoch + 3]]).tolist()
        expected = scenes.rows("train")[draws.permutation(50, "order", 5, epoch)][:48]
        assert rows == expected.tolist()
    assert len({batch.seed for (batch,) in found}) == 6
    assert all(0 <= batch.seed < 2**63 for (batch,) in found)


def test_augmentation_depends_on_epoch_and_row_alone(scenes, asked):
    pictures = {}
    for step, (batch,) in enumerate(steps(scenes, asked, num_steps=6)):
        for row, picture in zip(batch.index.tolist(), batch["image"].values, strict=True):
            pictures[step // 3, row] = picture
    row = next(row for epoch, row in pictures if epoch == 1 and (0, row) in pictures)
    assert not torch.equal(pictures[0, row], pictures[1, row])
    again = steps(scenes, asked, batch_size=8, num_steps=6)
    for (batch,) in again:
        for row, picture in zip(batch.index.tolist(), batch["image"].values, strict=True):
            if (0, row) in pictures:
                assert torch.equal(picture, pictures[0, row])
    plain = steps(scenes, asked, num_steps=1, augment=False)[0][0]
    expected = next(read_batches(scenes, plain.index.numpy(), asked, batch_size=16))
    assert torch.equal(plain["image"].values, expected["image"].values)


def test_few_rows_are_one_batch(scenes, asked):
    found = steps(scenes, asked, batch_size=500, num_steps=2)
    assert [batch.size for (batch,) in found] == [50, 50]
    assert found[0][0].keys != found[1][0].keys


def test_reading_keeps_the_order(scenes, asked):
    rows = scenes.rows("test")[::-1]
    for workers in (0, 2):
        found = list(read_batches(scenes, rows, asked, batch_size=4, workers=workers))
        assert [batch.size for batch in found] == [4, 4, 2]
        assert torch.cat([batch.index for batch in found]).tolist() == rows.tolist()
        assert {batch.seed for batch in found} == {0}
    assert list(read_batches(scenes, rows[:0], asked, batch_size=4)) == []


def test_values_stay_small(scenes, asked):
    batch = next(read_batches(scenes, scenes.rows("test"), asked, batch_size=4))
    assert batch["image"].values.dtype == torch.uint8
    assert batch["image"].values.shape == (4, 32, 32, 3)
    assert batch["boxes"].values.dtype == torch.float32
    assert batch["boxes"].row.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch["boxes"].item.tolist() == [0, 1] * 4


class TestBadRows:
    @pytest.fixture
    def folder(self, tmp_path, write_picture):
        for i in range(12):
            write_picture(tmp_path / f"{i}.png", i)
        (tmp_path / "3.png").write_bytes(b"")
        (tmp_path / "7.png").unlink()
        rows = [
            {"image": f"{i}.png", "caption": None if i == 5 else f"words {i}"} for i in range(12)
        ]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return open_data(path, split="share:1,0,0")

    @pytest.mark.parametrize("workers", [0, 2])
    def test_they_are_left_out_and_named(self, folder, views, workers):
        (batch,) = next(
            train_batches(
                folder,
                views(folder.schema),
                batch_size=12,
                seed=0,
                num_steps=1,
                workers=workers,
            )
        )
        assert batch.size == 10
        assert {fault.key for fault in batch.faults} == {"3.png", "7.png"}
        assert {fault.field for fault in batch.faults} == {"image"}
        assert sorted(batch.keys) == sorted(f"{i}.png" for i in range(12) if i not in (3, 7))
        assert int(batch.present("caption").sum()) == 9
        assert len(batch["image"]) == 10

    def test_a_batch_of_only_such_rows_is_empty(self, folder, views):
        rows = np.asarray([3, 7])
        (batch,) = read_batches(folder, rows, views(folder.schema), batch_size=2)
        assert batch.size == 0
        assert len(batch.faults) == 2
        assert list(batch) == []
        assert batch.index.shape == (0,)
        both = concatenate(
            [batch, *read_batches(folder, rows - 3, views(folder.schema), batch_size=2)]
        )
        assert both.size == 2
        assert len(both.faults) == 2

    def test_the_cache_changes_nothing(self, folder, views, tmp_path):
        cache = MediaCache(tmp_path / "cache")
        rows = folder.rows("all")
        settings = {"batch_size": 5, "workers": 2}
        plain = list(read_batches(folder, rows, views(folder.schema), **settings))
        for _ in range(2):
            cached = list(read_batches(folder, rows, views(folder.schema), cache=cache, **settings))
            assert all(equal(a, b) for a, b in zip(plain, cached, strict=True))

    def test_no_training_rows(self, folder, views):
        data = open_data(folder.where, split="share:0,0,1")
        with pytest.raises(UserError, match="no training rows"):
            train_batches(data, views(data.schema), batch_size=2, seed=0, num_steps=1)
