"""Folders of media: tables, equal stems, class folders; and paths that may not leave the folder."""

import json

import numpy as np
import pytest

from sensorium.data import open_data
from sensorium.data.sources import Broken, locate
from sensorium.types import BadValue, UserError

ALL = slice(None)


def cells(data, *names):
    found = data.columns(names, data.rows("all"))
    return [found[name] for name in names]


def test_metadata_names_files(tmp_path, write_picture, views):
    for i in range(12):
        write_picture(tmp_path / "scans" / f"{i}.png", i)
    lines = [f'scans/{i}.png,"a report, in words {i}"\n' for i in range(12)]
    (tmp_path / "metadata.csv").write_text("file_name,report\n" + "".join(lines))
    data = open_data(tmp_path)
    assert data.schema.names == ("image", "report")
    assert data.schema["image"].column == "file_name"
    sample = data.sample(3, {"image": views(data.schema)["image"]})
    assert sample.key == "scans/3.png"
    assert sample.values["image"][0].width == 24


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_metadata_below_each_split(tmp_path, write_picture, suffix, views):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        rows = [{"file_name": f"{i}.jpg", "caption": f"{split} words {i}"} for i in range(count)]
        for i in range(count):
            write_picture(tmp_path / split / f"{i}.jpg", hash((split, i)) % 1000)
        path = tmp_path / split / f"metadata{suffix}"
        if suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)
    data = open_data(tmp_path)
    assert {split: len(rows) for split, rows in data.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 3,
    }
    samples, faults = data.read(data.rows("all"), views(data.schema))
    assert len(samples) == 11
    assert not faults
    assert {s.values["caption"][0].split()[0] for s in samples if "test/" in s.key} == {"test"}


def test_one_table_for_each_split(tmp_path):
    for name, count in (("train.csv", 5), ("test.csv", 2)):
        rows = "".join(f"{name} text {i},{i}\n" for i in range(count))
        (tmp_path / name).write_text("text,x\n" + rows)
    data = open_data(tmp_path)
    assert len(data.rows("test")) == 2
    assert all(
        text.startswith("test") for text in data.columns(["text"], data.rows("test"))["text"]
    )


def test_an_id_stands_for_a_file(tmp_path, write_picture, views):
    for i in range(10):
        write_picture(tmp_path / "images" / f"ISIC_{i:04}.jpg", i)
    rows = "".join(f"ISIC_{i:04},{'ab'[i % 2]}\n" for i in range(10))
    (tmp_path / "labels.csv").write_text("image_id,diagnosis\n" + rows)
    data = open_data(tmp_path)
    assert data.schema["image"].modality == "image"
    assert data.schema["diagnosis"].role == "label"
    assert data.schema.key == "image_id"
    assert cells(data, "image")[0][3].name == "ISIC_0003.jpg"
    data = data.fit()
    samples, faults = data.read(data.rows("all"), views(data.schema))
    assert len(samples) == 10
    assert not faults


def test_equal_stems(tmp_path, write_picture, views):
    for i in range(5):
        write_picture(tmp_path / "trip" / f"{i}.jpg", i)
        (tmp_path / "trip" / f"{i}.txt").write_text(f"wörds {i}", encoding="utf-8")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "trip" / "4.txt").unlink()
    data = open_data(tmp_path)
    assert [(f.name, f.role) for f in data.schema] == [("image", "query"), ("text", "target")]
    samples, faults = data.read(data.rows("all"), views(data.schema))
    assert not faults
    assert [s.values.get("text") for s in samples] == [[f"wörds {i}"] for i in range(4)] + [None]
    assert data.keys(np.asarray([2])) == ["trip/2"]


def test_equal_stems_in_sibling_folders(tmp_path, write_picture, views):
    for i in range(6):
        write_picture(tmp_path / "images" / f"{i}.png", i)
        (tmp_path / "captions").mkdir(exist_ok=True)
        (tmp_path / "captions" / f"{i}.txt").write_text(f"text {i}")
    data = open_data(tmp_path)
    samples, _ = data.read(data.rows("all"), views(data.schema))
    assert len(samples) == 6
    assert all(s.values["text"] == [f"text {s.key}"] and "image" in s.values for s in samples)


def test_class_folders_below_splits(tmp_path, write_picture):
    number = 0
    for split, count in (("train", 4), ("test", 2)):
        for animal in ("cats", "dogs"):
            for i in range(count):
                write_picture(tmp_path / split / animal / f"{i}.jpg", number := number + 1)
    data = open_data(tmp_path).fit()
    assert data.schema["label"].role == "label"
    assert data.schema["label"].fitted["classes"] == ["cats", "dogs"]
    assert len(data.rows("test")) == 4
    assert cells(data, "label")[0].count("cats") == 6


def test_the_label_of_a_flat_folder_is_nothing(tmp_path, write_picture):
    for i in range(3):
        write_picture(tmp_path / f"{i}.png", i)
    assert open_data(tmp_path).schema.names == ("image",)


def test_paths_stay_in_the_folder(tmp_path, write_picture, views):
    outside, folder = tmp_path / "outside.png", tmp_path / "data"
    write_picture(outside, 0)
    for i in range(3):
        write_picture(folder / f"{i}.png", i)
    (folder / "link.png").symlink_to(outside)
    (folder / "inner.png").symlink_to(folder / "0.png")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:200])
    names = [
        *("0.png", "1.png", "../outside.png", str(outside), "link.png", "inner.png"),
        *("gone.png", "https://example.org/a.png", "empty.png", "cut.png", str(folder / "2.png")),
    ]
    rows = "".join(f"{name},words {i}\n" for i, name in enumerate(names))
    (folder / "metadata.csv").write_text("file_name,caption\n" + rows)
    data = open_data(folder)
    samples, faults = data.read(data.rows("all"), views(data.schema))
    assert [sample.key for sample in samples] == ["0.png", "1.png", "inner.png", names[-1]]
    reasons = {fault.key: fault.reason for fault in faults}
    assert all(fault.field == "image" for fault in faults)
    for name in ("../outside.png", str(outside), "link.png"):
        assert "leads out of the folder" in reasons[name]
    assert "no such file" in reasons["gone.png"]
    assert "is an address" in reasons["https://example.org/a.png"]
    assert "empty" in reasons["empty.png"]
    assert "cut.png" in reasons["cut.png"]
    with pytest.raises(BadValue, match=r"row 'gone.png', field 'image': no such file"):
        data.sample(6, views(data.schema))


def test_locate_refuses_what_no_path_can_hold(tmp_path):
    assert isinstance(locate(tmp_path, "a\0b.png"), Broken)
    assert isinstance(locate(tmp_path, "x" * 5000), Broken)
    assert isinstance(locate(None, "a.png"), Broken)


def test_folders_that_are_no_data(tmp_path):
    with pytest.raises(UserError, match="is an empty folder"):
        open_data(tmp_path)
    (tmp_path / "notes.qqq").touch()
    with pytest.raises(UserError, match="holds no rows"):
        open_data(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is the folder of a run, not data"):
        open_data(tmp_path)


def test_several_tables_are_not_guessed_among(tmp_path):
    for name in ("patients.csv", "visits.csv"):
        (tmp_path / name).write_text("x\n1\n")
    with pytest.raises(UserError, match=r"several tables \(patients.csv, visits.csv\)"):
        open_data(tmp_path)
    assert open_data(tmp_path / "visits.csv").name == "visits.csv"
