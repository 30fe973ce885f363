"""What `datasets` wrote: folders on disk, Parquet with media, names that cannot be reached."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sensorium.data import open_data, train_batches
from sensorium.types import UserError


@pytest.fixture(autouse=True)
def _no_bars():
    datasets.disable_progress_bars()


def rows(picture, count, start=0):
    numbers = range(start, start + count)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.List(datasets.Value("string")),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "x": datasets.Value("float32"),
        }
    )
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": picture(i), "path": None} for i in numbers],
            "captions": [[f"first {i}", f"second {i}"] for i in numbers],
            "kind": [i % 2 for i in numbers],
            "x": [i / 2 for i in numbers],
        },
        features=features,
    )


def test_a_saved_data_set_keeps_its_splits(tmp_path, picture, views):
    parts = {"train": rows(picture, 10), "validation": rows(picture, 3, 10)}
    parts["test"] = rows(picture, 4, 13).select([3, 1, 2])  # rows by an indices mapping
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    data = open_data(tmp_path / "saved").fit()
    # A caption is a row: two for each picture.
    assert [len(data.rows(split)) for split in ("train", "validation", "test")] == [20, 6, 6]
    assert data.schema["image"].modality == "image"
    assert data.source.row(31)["captions"] == "second 15"
    assert data.source.row(31)["image"] == picture(15)
    assert data.source.row(31)["kind"] == "dog"
    for workers in (0, 2):
        steps = train_batches(
            data, views(data.schema), batch_size=8, seed=0, num_steps=2, workers=workers
        )
        assert all(batch.size == 8 and not batch.faults for (batch,) in steps)


def test_parquet_shards_say_their_split(tmp_path, picture):
    rows(picture, 10).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    rows(picture, 4, 10).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    data = open_data(tmp_path, cache=tmp_path / "cache")
    assert len(data.rows("test")) == 8
    assert data.source.row(0)["image"] == picture(10)  # the file `test-...` is listed first
    assert data.source.row(9)["image"] == picture(0)
    assert data.source.row(9)["kind"] == "cat"
    alone = open_data(tmp_path / "data" / "test-00000-of-00001.parquet", cache=tmp_path / "cache")
    assert len(alone.rows("train"))


def test_parquet_of_plain_structs(tmp_path, picture, views):
    (tmp_path / "one.png").write_bytes(picture(1))
    table = pa.table(
        {
            "scan": [
                {"bytes": picture(0), "path": "ignored.png"},
                {"bytes": None, "path": "one.png"},
                {"bytes": None, "path": "../one.png"},
                None,
                {"bytes": picture(4), "path": None},
            ],
            "finding": ["a lesion", "no lesion", "a cyst", "nothing at all", "two cysts"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    data = open_data(tmp_path / "a.parquet", cache=tmp_path / "cache")
    assert data.schema["scan"].modality == "image"
    samples, faults = data.read(data.rows("all"), views(data.schema))
    assert [s.key for s in samples if "scan" in s.values] == ["0", "1", "4"]
    assert [s.key for s in samples if "scan" not in s.values] == ["3"]
    assert "no such file" in faults[0].reason or "leads out" in faults[0].reason


def test_boxes_and_their_classes_in_a_struct(tmp_path, picture, views):
    boxes = [[[1.0, 2, 10, 12], [3, 3, 20, 9]][: 1 + i % 2] for i in range(8)]
    names = [["cup", "pan"][: 1 + i % 2] for i in range(8)]
    datasets.Dataset.from_dict(
        {
            "image": [{"bytes": picture(i), "path": None} for i in range(8)],
            "objects": [{"bbox": b, "category": n} for b, n in zip(boxes, names, strict=True)],
        }
    ).cast_column("image", datasets.Image()).save_to_disk(tmp_path / "boxes")
    data = open_data(tmp_path / "boxes").fit()
    field = data.schema["objects_bbox"]
    assert (field.modality, field.of, field.options["unit"]) == ("boxes", "image", "pixel")
    assert data.schema["objects_category"].of == "objects_bbox"
    sample = data.sample(1, views(data.schema))
    np.testing.assert_allclose(sample.values["objects_bbox"][0], [1 / 24, 0.1, 10 / 24, 0.6], 1e-5)
    assert sample.values["objects_category"] == [0, 1]


def test_errors(tmp_path, picture):
    with pytest.raises(UserError, match="hub:no/such cannot be loaded.*no network"):
        open_data("hub:no/such")
    rows(picture, 3).save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"short")
    with pytest.raises(UserError, match="saved by `datasets`, but cannot be loaded"):
        open_data(tmp_path / "saved")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="not a whole Parquet file"):
        open_data(tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    with pytest.raises(UserError, match="empty table"):
        open_data(tmp_path / "none.parquet")
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "rows.parquet")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the cache folder"):
        open_data(tmp_path / "rows.parquet", cache=tmp_path / "file")
