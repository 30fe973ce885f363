"""Translating: files hold what was predicted, from what was named alone, and open as data."""

import json

import numpy as np
import pytest
import torch

import commands
import sensorium as sm
from sensorium.data import read_batches
from sensorium.training.run import train
from sensorium.training.translating import translate
from sensorium.types import UserError

WHERE = "playground:layers?train=24&validation=8&test=8&pictures=20&size=32"
SMALL = {"image_size": 32, "width": 16, "depth": 1, "decoder_width": 16, "visible": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(
        "multimae",
        WHERE,
        out=tmp_path_factory.mktemp("run") / "a",
        task="reconstruction",
        settings=SMALL,
        options={"workers": 0, "batch_size": 8},
        budget="2steps",
    )


def test_files_hold_what_was_predicted(run, tmp_path):
    assert translate(run, WHERE, tmp_path, given=["image"], wanted=["depth", "segments"]) == 40
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines[:3]] == ["0", "1", "2"]
    assert lines[7]["depth"] == "depth/000007.npy"
    data = run.rows_of(WHERE)
    (batch,) = read_batches(data, data.rows("all")[:8], run.system.views(), batch_size=8)
    with torch.inference_mode():
        said = run.system.reconstruct(batch.without("depth", "segments"), ["depth", "segments"])
    # read back with the same schema, the files are what was said
    schema = run.schema.with_roles({"image": "ignore", "caption": "ignore", "label": "ignore"})
    told = sm.open(tmp_path / "rows.jsonl").with_schema(schema)
    views = {name: run.system.views()[name] for name in ("depth", "segments")}
    (again,) = read_batches(told, told.rows("all")[:8], views, batch_size=8)
    torch.testing.assert_close(again["depth"].values, said["depth"].values, rtol=0, atol=1e-5)
    assert torch.equal(again["segments"].values, said["segments"].values)


def test_rows_without_what_is_read_are_left_out(run, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    np.save(folder / "a.npy", np.full((32, 32), 3000.0, dtype=np.float32))
    rows = ['{"key": "x", "depth": "a.npy"}', '{"key": "y", "depth": null}']
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    assert translate(run, folder / "rows.jsonl", tmp_path / "b", given=["depth"]) == 1
    (line,) = (tmp_path / "b" / "rows.jsonl").read_text().splitlines()
    assert set(json.loads(line)) == {"key", "image", "segments"}
    assert (tmp_path / "b" / "image" / "000000.png").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"given": ["imag"]}, "'imag' is not read by this run. Did you mean 'image'"),
        ({"wanted": ["dept"]}, "'dept' is not predicted by this run. Did you mean 'depth'"),
        ({"given": ["image"], "wanted": ["image"]}, "Name different fields with --from and --to"),
        ({}, "nothing to be predicted"),
    ],
)
def test_what_cannot_be_asked_is_named(run, tmp_path, asked, message):
    with pytest.raises(UserError, match=message):
        translate(run, WHERE, tmp_path / "none", **asked)
    assert not (tmp_path / "none").exists()


def test_as_a_command(run, tmp_path):
    out = tmp_path / "told"
    outcome = commands.run(
        "translate",
        run.folder.path,
        WHERE,
        "--from",
        "image, depth",
        "--to",
        "segments",
        "--out",
        out,
    )
    assert outcome.code == 0
    assert "rows.jsonl: 40 rows" in outcome.out.replace("\n", " ")
    assert len(list((out / "segments").iterdir())) == 40
    assert not (out / "depth").exists()
