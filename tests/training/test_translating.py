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


ALIGNED = "playground:aligned?train=24&validation=4&test=4&pictures=12&size=32"
CODING = {"image_size": 32, "patch": 8, "width": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def chained(tmp_path_factory):
    return train(
        "fourm",
        ALIGNED,
        out=tmp_path_factory.mktemp("chained") / "a",
        task="reconstruction",
        settings={"coding": CODING, "width": 16, "depth": 1, "heads": 2, "filling.steps": 2},
        options={"workers": 0, "batch_size": 8},
        budget="4steps",
    )


def lines_of(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_texts_and_boxes_stand_in_the_table(chained, tmp_path):
    wanted = ["caption", "boxes", "depth"]
    assert translate(chained, ALIGNED, tmp_path, given=["image"], wanted=wanted) == 32
    lines = lines_of(tmp_path)
    assert all(isinstance(line["caption"], str) for line in lines)
    assert all("[SEP]" not in line["caption"] for line in lines)
    assert (tmp_path / lines[3]["depth"]).exists() and not (tmp_path / "caption").exists()
    some = [line for line in lines if "boxes" in line]
    assert some and all(len(line["boxes"]) == len(line["things"]) for line in some)
    known = chained.schema["things"].fitted["classes"]
    assert all(name in known or name is None for line in some for name in line["things"])
    told = sm.open(tmp_path / "rows.jsonl")
    assert told.schema["boxes"].modality == "boxes" and told.schema["depth"].modality == "maps"


def test_fields_are_chained_in_the_order_in_which_they_are_wanted(chained, tmp_path):
    asked, fill = [], type(chained.system).chain

    def watched(system, batch, fields, how, keep=None):
        asked.append((tuple(batch), tuple(fields), how, keep))
        return fill(system, batch, fields, how, keep)

    type(chained.system).chain = watched
    try:
        chain = {"given": ["caption"], "wanted": ["segments", "depth"]}
        how = {"temperature": 1.0, "seed": 3, "guidance.caption": 2.0}
        translate(chained, ALIGNED, tmp_path / "one", filling=how, **chain)
        translate(chained, ALIGNED, tmp_path / "two", filling=how, **chain)
        translate(chained, ALIGNED, tmp_path / "other", filling=how | {"seed": 4}, **chain)
    finally:
        type(chained.system).chain = fill
    fields, order, filling, _ = asked[0]
    assert fields == ("caption",) and order == ("segments", "depth")
    assert (filling.temperature, filling.steps, dict(filling.guidance)) == (1, 2, {"caption": 2.0})
    one, two, other = (
        [np.load(tmp_path / name / line["depth"]) for line in lines_of(tmp_path / name)]
        for name in ("one", "two", "other")
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_part_of_a_picture_stays(chained, tmp_path):
    system = chained.system
    data = chained.rows_of(ALIGNED)
    (batch,) = read_batches(data, data.rows("all"), system.views(), batch_size=64)
    first = system.streams.of("image").read(batch).ids.view(-1, 4, 4)
    said, restore = [], system.streams.of("image").restore
    system.streams.of("image").restore = lambda ids, real: said.append(ids) or restore(ids, real)
    try:
        translate(
            chained,
            ALIGNED,
            tmp_path / "edited",
            given=["image", "caption"],
            wanted=["image"],
            keep={"image": (0.5, 0.0, 1.0, 0.75)},
            filling={"temperature": 2.0},
        )
    finally:
        del system.streams.of("image").restore
    ids = torch.cat(said).view(-1, 4, 4)
    assert torch.equal(
        ids[:, :3, 2:], first[:, :3, 2:]
    )  # rows from the top, columns from the right
    assert (ids[:, 3] != first[:, 3]).any() and (ids[:, :, :2] != first[:, :, :2]).any()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"given": ["image"], "wanted": ["image"], "keep": {"image": (0.0, 0.0, 1.0, 1.0)}},
            "of 'image', 16 of 16 places lie in the box 0, 0, 1, 1",
        ),
        (
            {
                "given": ["caption"],
                "wanted": ["caption"],
                "keep": {"caption": (0.0, 0.0, 0.5, 1.0)},
            },
            "'caption' has no places. Known: depth, image, segments",
        ),
        (
            {"given": ["image"], "wanted": ["depth"], "keep": {"image": (0.0, 0.0, 0.5, 1.0)}},
            "and one of which a part stays in both",
        ),
        ({"given": ["image"], "filling": {"step": 3}}, "setting filling.step: "),
        ({"given": ["image"], "filling": {"steps": 0}}, "setting filling.steps: "),
        ({"given": ["image"], "filling": {"guidance.dept": 3.0}}, "guidance: 'dept' is not read"),
    ],
)
def test_what_chains_cannot_be_asked_is_named(chained, tmp_path, asked, message):
    with pytest.raises(UserError, match=message):
        translate(chained, ALIGNED, tmp_path / "none", **asked)


def test_a_system_that_predicts_at_once_keeps_nothing(run, tmp_path):
    with pytest.raises(UserError, match="system 'multimae' predicts fields at once"):
        translate(run, WHERE, tmp_path / "none", given=["image"], filling={"steps": 3})
    outcome = commands.run("translate", run.folder.path, WHERE, "--keep", "image:0,0,1")
    assert outcome.code and "expected FIELD:X1,Y1,X2,Y2" in outcome.err.replace("\n", " ")


def test_training_says_how_rows_are_translated(tmp_path):
    settings = [f"--set={name}={value}" for name, value in SMALL.items()]
    where = ["--data", WHERE, "--task", "reconstruction", "--out", tmp_path / "run"]
    outcome = commands.run(
        "train", "multimae", *where, "--budget", "1steps", *settings, *commands.FAST
    )
    assert outcome.code == 0
    assert f"sensorium translate {tmp_path / 'run'} ROWS --out translated" in " ".join(
        outcome.out.split()
    )
