"""With `--no-samples` no file of a run, a comparison or an inspection holds a part of a row."""

import json
import re

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from commands import FAST, run
from sensorium.data import open_data
from sensorium.report.pictures import show_cell
from sensorium.training.run import evaluate, load
from sensorium.types import Field, UserError

# Words that stand in one row each: in its text, its file's name, its name, what is wrong with it.
WORDS = ["Quetzalfeder", "zebrafinch77", "patientXY", "brokenvalueZZ"]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "clinic"
    folder.mkdir()
    lines = ["id,file_name,caption,age,label,split"]
    for number in range(40):
        draw = np.random.default_rng(number)
        name = f"{WORDS[1]}{number}.png"
        pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / name)
        if number in (5, 36):
            (folder / name).write_bytes(b"broken")
        split = "train" if number < 24 else "validation" if number < 28 else "test"
        age = f"{WORDS[3]}" if number == 7 else number
        text = f"{WORDS[0]}{number} is seen"
        lines.append(f"{WORDS[2]}{number},{name},{text},{age},{'ab'[number % 2]},{split}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    schema = folder.parent / "schema.yaml"
    schema.write_text(
        "key: id\nsplit: split\nfields:\n"
        "  image: {modality: image, column: file_name, role: query}\n"
        "  caption: {modality: text, role: target}\n"
        "  table: {modality: table, columns: {age: number}}\n"
        "  label: {modality: category, role: label}\n"
    )
    return folder


SMALL = ["--budget", "2epochs", "--set=width=16", "--set=training.max_fault_share=1", *FAST]


def leaks(folder, clinic):
    """What of the rows stands in the files of a folder; the tokenizer is part of the model."""
    field = Field(name="image", modality="image")
    shown = {show_cell(file, field)[0].picture for file in clinic.glob("*.png")} - {""}
    assert len(shown) == 38
    found = set()
    for path in folder.rglob("*"):
        if not path.is_file() or "tokenizer" in path.relative_to(folder).parts:
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += str(pq.read_table(path).to_pydict()).encode()
        found |= {word for word in WORDS if word.encode() in content}
        if "data:image" in content.decode("utf-8", "replace"):
            found |= {"picture" for picture in shown if picture.encode() in content}
        if path.suffix == ".png":
            found.add("picture")
    return found


def training(system, clinic):
    asks = ["--target", "label"] if system == "late-fusion" else ["--task", "retrieval"]
    schema = clinic.parent / "schema.yaml"
    return ["train", system, "--data", clinic, "--schema", schema, *asks, *SMALL]


@pytest.mark.parametrize("system", ["late-fusion", "dual-encoder"])
def test_a_run_holds_no_rows(system, clinic, tmp_path):
    asked = training(system, clinic)
    for folder, more in ((tmp_path / "open", []), (tmp_path / "closed", ["--no-samples"])):
        done = run(*asked, "--out", folder, *more)
        assert done.code == 0, done.err
    assert leaks(tmp_path / "open", clinic) >= {*WORDS[1:3], "picture"}
    assert leaks(tmp_path / "closed", clinic) == set()
    assert not any(word in done.out + done.err for word in WORDS)
    counts = [
        json.loads((tmp_path / name / "run.json").read_text())["rows_set_aside"]
        for name in ("open", "closed")
    ]
    assert counts[0] == counts[1] > 0
    lines = (tmp_path / "closed" / "quarantine.jsonl").read_text().splitlines()
    faults = [json.loads(line) for line in lines]
    assert {(f["field"], f["reason"], f["row"]) for f in faults} >= {
        ("image", "is no picture of a known kind", 5)
    }
    assert len({json.dumps(f) for f in faults}) == len(
        set((tmp_path / "open" / "quarantine.jsonl").read_text().splitlines())
    )


def test_it_is_remembered(clinic, tmp_path):
    """By the report, by scores made anew, in Python."""
    folder, asked = tmp_path / "run", training("late-fusion", clinic)
    assert run(*asked, "--out", folder, "--no-samples").code == 0
    assert run("report", folder).code == 0
    assert run("evaluate", folder).code == 0
    assert json.loads(run("evaluate", folder, "--data", clinic, "--json").out)["examples"] == []
    evaluate(load(folder))
    assert leaks(folder, clinic) == set()
    done = run(*asked, "--out", folder)
    assert done.code == 2 and "holds another run (data was" in done.err


def test_a_report_and_scores_of_an_open_run_can_be_closed(clinic, tmp_path):
    folder, asked = tmp_path / "run", training("dual-encoder", clinic)
    assert run(*asked, "--out", folder).code == 0
    assert run("evaluate", folder, "--no-samples").code == 0
    assert run("report", folder, "--no-samples").code == 0
    (folder / "quarantine.jsonl").unlink()
    assert leaks(folder, clinic) == set()


def test_a_comparison_holds_no_rows(clinic, tmp_path):
    schema = clinic.parent / "schema.yaml"
    asked = ["compare", "late-fusion", "--data", clinic, "--schema", schema, "--target", "label"]
    done = run(*asked, *SMALL, "--out", tmp_path / "out", "--no-samples")
    assert done.code == 0, done.err
    assert leaks(tmp_path / "out", clinic) == set()
    run("report", tmp_path / "out")
    assert leaks(tmp_path / "out", clinic) == set()
    strict = [text.replace("max_fault_share=1", "max_fault_share=0") for text in SMALL]
    strict = ["--budget", "40epochs", *strict[2:]]
    done = run(*asked, *strict, "--out", tmp_path / "fails", "--no-samples")
    assert done.code == 1
    error = json.loads((tmp_path / "fails" / "compare.json").read_text())[0]["error"]
    assert re.search(r"row '\d+', field '(table|image)': is no", error)
    assert leaks(tmp_path / "fails", clinic) == set()


def test_an_inspection_shows_no_rows(clinic, tmp_path):
    for more in ([], ["--json"]):
        done = run("inspect", clinic, "--out", tmp_path / "closed", "--no-samples", *more)
        assert done.code == 0
        assert not any(word in done.out + done.err for word in WORDS), done.out
    assert leaks(tmp_path / "closed", clinic) == set()
    done = run("inspect", clinic, "--out", tmp_path / "open")
    assert all(word in done.out for word in WORDS[:2])
    assert leaks(tmp_path / "open", clinic) == {"picture"}


def test_what_cannot_be_learned_from_is_said_without_it(tmp_path):
    (tmp_path / "rows.csv").write_text("a,label\n" + f"1,{WORDS[0]}\n" * 30)
    schema = {
        "fields": [
            {"name": "a", "modality": "number"},
            {"name": "label", "modality": "category", "role": "label"},
        ]
    }
    for samples in (True, False):
        data = open_data(tmp_path / "rows.csv", schema, samples=samples)
        with pytest.raises(UserError, match="in all training rows") as caught:
            data.fit()
        assert (WORDS[0] in str(caught.value)) is samples
