"""WebDataset tars: rows by key, media by offset, and entries that are refused."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest

from sensorium.data import open_data, train_batches
from sensorium.types import UserError


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            if isinstance(name, tarfile.TarInfo):
                tar.addfile(name)
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def shard(picture, start, count):
    for i in range(start, start + count):
        yield f"{i:05}.{'jpg' if i % 2 else 'png'}", picture(i, "JPEG" if i % 2 else "PNG")
        yield f"{i:05}.txt", f"text {i}".encode()
        yield f"{i:05}.cls", str(i % 3).encode()
        yield f"{i:05}.json", json.dumps({"author": f"a{i % 4}", "year": 1990.5 + i}).encode()


def test_rows_of_shards(tmp_path, picture, views):
    write_tar(tmp_path / "train-000.tar", shard(picture, 0, 12))
    write_tar(tmp_path / "train-001.tar", shard(picture, 12, 12))
    write_tar(tmp_path / "val-000.tar", shard(picture, 24, 6))
    write_tar(tmp_path / "test-000.tar", shard(picture, 30, 6))  # listed before train
    data = open_data(tmp_path).fit()
    assert len(data) == 36
    assert [len(data.rows(split)) for split in ("train", "validation", "test")] == [24, 6, 6]
    assert data.schema["image"].modality == "image"
    assert data.schema["cls"].role == "label"
    assert data.schema["table"].columns == {"author": "category", "year": "number"}
    assert data.keys(np.asarray([19])) == ["00013"]
    assert data.columns(["image"], np.asarray([19, 2]))["image"] == [
        picture(13, "JPEG"),
        picture(32, "PNG"),
    ]
    for workers in (0, 2):
        batches = list(
            train_batches(
                data, views(data.schema), batch_size=8, seed=0, num_steps=3, workers=workers
            )
        )
        assert all(batch.size == 8 and not batch.faults for (batch,) in batches)


def test_a_pattern_names_shards(tmp_path, picture):
    write_tar(tmp_path / "a-000.tar", shard(picture, 0, 4))
    write_tar(tmp_path / "a-001.tar", shard(picture, 4, 4))
    write_tar(tmp_path / "b-000.tar", shard(picture, 8, 4))
    assert len(open_data(str(tmp_path / "a-*.tar"))) == 8
    assert len(open_data(str(tmp_path / "b-{000..000}.tar"))) == 4
    assert open_data(str(tmp_path / "a-{000..001}.tar")).keys(np.asarray([7])) == ["00007"]
    with pytest.raises(UserError, match="no file fits the pattern"):
        open_data(str(tmp_path / "c-*.tar"))
    with pytest.raises(UserError, match=r"a-002.tar: no such file"):
        open_data(str(tmp_path / "a-{000..002}.tar"))


def test_entries_that_lead_elsewhere_are_refused(tmp_path, picture):
    link, device = tarfile.TarInfo("00001.jpg"), tarfile.TarInfo("00002.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device.type = tarfile.CHRTYPE
    evil = [("../00003.jpg", b"x"), ("/etc/00004.jpg", b"x"), (link, None), (device, None)]
    write_tar(tmp_path / "a.tar", [*shard(picture, 10, 3), *evil])
    data = open_data(tmp_path / "a.tar")
    assert len(data) == 3
    reasons = [fault.reason for fault in data.faults]
    assert reasons == [
        "its path leads out of the archive",
        "its path leads out of the archive",
        "it is a link",
        "it is a device or another special file",
    ]
    assert data.faults[0].key == "a.tar/../00003.jpg"


def test_damaged_members_are_set_aside(tmp_path, picture, views):
    members = [("1.jpg", picture(1, "JPEG")), ("1.txt", b"a"), ("2.jpg", b""), ("2.txt", b"b")]
    write_tar(tmp_path / "a.tar", [*members, ("3.jpg", picture(3, "JPEG")), ("3.txt", b"\xff")])
    data = open_data(tmp_path / "a.tar")
    assert "not readable" in data.faults[0].reason
    samples, faults = data.read(data.rows("all"), views(data.schema))
    assert [sample.key for sample in samples] == ["1", "3"]
    assert "text" not in samples[1].values
    assert faults[0].key == "2"


def test_damaged_archives(tmp_path, picture):
    write_tar(tmp_path / "a.tar", shard(picture, 0, 3))
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:1500])
    (tmp_path / "junk.tar").write_bytes(b"no tar at all" * 100)
    write_tar(tmp_path / "none.tar", [])
    for name, message in (("cut", "not a whole"), ("junk", "not a whole"), ("none", "no rows")):
        with pytest.raises(UserError, match=rf"{name}.tar.*{message}"):
            open_data(tmp_path / f"{name}.tar")


def test_a_tar_that_shrinks_gives_faults(tmp_path, picture, views):
    write_tar(tmp_path / "a.tar", shard(picture, 0, 3))
    data = open_data(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:600])
    samples, faults = data.read(data.rows("all"), {"image": views(data.schema)["image"]})
    assert not samples
    assert "cut short" in faults[0].reason


def test_handles_do_not_travel(tmp_path, picture):
    write_tar(tmp_path / "a.tar", shard(picture, 0, 3))
    source = open_data(tmp_path / "a.tar").source
    source.row(0)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.row(1) == source.row(1)
