"""Runs under one missingness, asked under another: what was trained, what is scored, what is said."""

import csv
import json

import numpy as np
import pytest

import sensorium as sm
from commands import run as command
from sensorium.diagnostics.diagnosis import diagnose
from sensorium.report.html import write_report
from sensorium.types import UserError

SCHEMA = {
    "fields": [
        {"name": "a", "modality": "number", "role": "input"},
        {"name": "b", "modality": "number", "role": "input"},
        {"name": "label", "modality": "category", "role": "label"},
    ]
}
SETTINGS = {
    "late-fusion": {"width": 8, "hidden": 16, "modality_dropout": 0.0, "dropout": 0.0},
    "multimodn": {"width": 8, "outputs": "logits", "dropout": 0.0},
}
OPTIONS = {"workers": 0, "batch_size": 32, "learning_rate": 1e-2, "validation_rows": 0}
HIDDEN, FLIPPED = "a:1:by=label=up", "a:1:by=label!=up"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two numbers that tell nothing of the label."""
    path = tmp_path_factory.mktemp("runs") / "table.csv"
    draw = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "label"])
        for number in range(300):
            writer.writerow([*draw.normal(size=2), "up" if number % 2 else "down"])
    return path


def opened(table, *missing, test=None):
    return sm.open(table, SCHEMA, missing=missing, missing_test=test)


def trained(system, data, out, budget="80steps"):
    return sm.train(
        system, data, out=out, budget=budget, settings=SETTINGS[system], options=OPTIONS
    )


@pytest.mark.parametrize("system", SETTINGS)
def test_what_was_read_from_absence_is_wrong_when_it_flips(system, table, tmp_path):
    """Absence alone tells the label here, so every system reads it, and the flip turns it over."""
    run = trained(system, opened(table, HIDDEN, test=[HIDDEN, "b:0.1"]), tmp_path / "run")
    # the run is scored under the mechanism of its test rows, and remembers it
    assert [str(entry) for entry in run.data().missing_test] == [HIDDEN, "b:0.1"]
    assert run.evaluate().scores.metrics["accuracy"].value > 0.85
    kept = (tmp_path / "run" / "evaluation.json").read_bytes()
    flipped = run.evaluate(missing=[FLIPPED])
    assert flipped.scores.metrics["accuracy"].value < 0.05
    clean = run.evaluate(missing=["none"])
    assert 0.3 < clean.scores.metrics["accuracy"].value < 0.7
    with pytest.raises(UserError, match="Did you mean 'up'"):
        run.evaluate(missing=["a:1:by=label=upp"])
    assert run.evaluate(table, missing=[FLIPPED]).scores.metrics["accuracy"].value < 0.05
    assert (tmp_path / "run" / "evaluation.json").read_bytes() == kept


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    data = opened(table, HIDDEN, test=[FLIPPED])
    return trained("late-fusion", data, tmp_path_factory.mktemp("run") / "run", "4steps")


def test_a_run_under_another_mechanism_is_another_run(run, table):
    before = {"missing": run.info["data"]["missing"], "test": run.info["data"]["missing_test"]}
    assert before == {"missing": [HIDDEN], "test": [FLIPPED]}
    for missing, test in (
        ([HIDDEN], None),
        ([HIDDEN], []),
        (["a:0.5"], [FLIPPED]),
        ([], [FLIPPED]),
    ):
        with pytest.raises(UserError, match="holds another run"):
            trained("late-fusion", opened(table, *missing, test=test), run.folder.path, "4steps")
    again = trained("late-fusion", opened(table, HIDDEN, test=[FLIPPED]), run.folder.path, "4steps")
    assert again.info["steps"] == 4


def test_the_report_says_what_was_hidden(run):
    run.evaluate()
    page = write_report(run.folder.path).read_text()
    assert "hidden in test rows" in page
    for text in (HIDDEN, FLIPPED):
        assert f">{text}<" in page


def test_a_diagnosis_asks_under_the_mechanism_of_the_test_or_another(run):
    assert diagnose(run).content["hidden"] == [FLIPPED]
    found = diagnose(run, missing=["b:1"])
    assert found.content["hidden"] == ["b:1"]
    assert "hidden b:1" in str(found)
    assert found.content["importance"]["overall"]["b"]["value"] == 0
    assert diagnose(run, missing=["none"]).content["hidden"] == []


def test_commands(run, table, tmp_path):
    folder = str(run.folder.path)
    schema = tmp_path / "schema.yaml"
    sm.Schema(**SCHEMA).save(schema)

    def said(*arguments):
        outcome = command(*arguments)
        assert outcome.code == 0, outcome.err
        return outcome.out

    asked = ("--missing", HIDDEN, "--missing", "b:0.25", "--missing-test", "none")
    out = tmp_path / "compared"
    options = ("--set", "training.workers=0", "--budget", "3steps", "--set", "width=8")
    text = said(
        "compare", "late-fusion", "--data", str(table), "--schema", str(schema),
        "--out", str(out), *options, *asked,
    )  # fmt: skip
    assert f"hidden: {HIDDEN}, b:0.25" in text and "hidden in test rows: none" in text
    (row,) = json.loads((out / "compare.json").read_text())
    assert row["status"] == "finished"
    assert row["hidden"] == {"hidden": f"{HIDDEN}, b:0.25", "hidden in test rows": "none"}
    page = (out / "report.html").read_text()
    assert f">{HIDDEN}, b:0.25<" in page and "hidden in test rows" in page
    scored = json.loads(said("evaluate", folder, "--missing", "none", "--json"))
    assert scored["rows"] == len(run.data().rows("test"))
    found = json.loads(said("diagnose", folder, "--missing", "a:1", "--json"))
    assert found["hidden"] == ["a:1"]
