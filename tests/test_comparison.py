"""Comparison: one table for all, failures are rows, a second call reuses what is finished."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sensorium as sm
from sensorium.comparison import summarise

TOY = f"{Path(__file__).parent / 'training' / 'toy.py'}:Toy"
BROKEN = """
import torch
from sensorium.systems.base import System, SystemConfig, register
from sensorium.types import Card

class Broken(System):
    card = Card(title="broken", family="test", modalities=("any",), tasks=("classification",))
    Config = SystemConfig

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.layer = torch.nn.Linear(1, 1)

    def views(self):
        raise RuntimeError("this system is broken")

    def losses(self, batch):
        return {}

    def predict(self, batch):
        return None
"""


@pytest.fixture
def table(tmp_path):
    """A CSV of two numbers and a class."""
    path = tmp_path / "table.csv"
    numbers = np.random.default_rng(0).normal(size=(120, 2))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "label"])
        writer.writerows([x, y, "up" if x + y > 0 else "down"] for x, y in numbers)
    return path


def compare(table, out, systems, **more):
    options = {"workers": 0, "batch_size": 16}
    common = {"target": "label", "budget": "30steps", "device": "cpu", "options": options}
    return sm.compare(systems, table, out=out, **(common | more))


def test_a_system_that_fails_is_a_row_and_a_second_call_reuses_what_is_finished(table, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    systems = [TOY, f"{tmp_path / 'broken.py'}:Broken"]
    lines = []
    result = compare(table, tmp_path / "c", systems, report=lambda *line: lines.append(line))
    good, bad = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert (good["system"], good["status"], good["error"]) == ("Toy", "finished", None)
    assert set(good["metrics"]["accuracy"]) == {"value", "low", "high"}
    assert set(good["cost"]) == {
        "parameters",
        "trainable_parameters",
        "training_flops",
        "training_seconds",
        "peak_memory_bytes",
        "inference_ms_per_row",
    }
    assert good["cost"]["parameters"] == 42
    assert bad["status"] == "failed"
    assert "RuntimeError: this system is broken" in bad["error"]
    assert {line[0] for line in lines} == {"Toy"}
    assert result.summary["best"] == "Toy"
    predictions = result.best.predict(table)
    assert predictions.num_rows == 120
    text = str(result)
    assert "Toy" in text
    assert "this system is broken" in text
    assert (tmp_path / "c" / "report.html").exists()

    stamp = (tmp_path / "c" / "runs" / "Toy-seed0" / "run.json").stat().st_mtime_ns
    lines.clear()
    again = compare(table, tmp_path / "c", systems, report=lambda *line: lines.append(line))
    assert again.rows[0] == result.rows[0]
    assert not lines
    assert (tmp_path / "c" / "runs" / "Toy-seed0" / "run.json").stat().st_mtime_ns == stamp


def test_seeds_give_intervals_over_seeds(table, tmp_path):
    result = compare(table, tmp_path / "c", [TOY], seeds=2)
    assert [row["seed"] for row in result.rows] == [0, 1]
    accuracy = result.summary["systems"]["Toy"]["metrics"]["accuracy"]
    values = [row["metrics"]["accuracy"]["value"] for row in result.rows]
    assert accuracy["value"] == pytest.approx(np.mean(values))
    assert accuracy["over"] == "seeds"


def test_other_settings_in_the_same_folder_are_refused(table, tmp_path):
    compare(table, tmp_path / "c", [TOY])
    before = (tmp_path / "c" / "compare.json").read_bytes()
    with pytest.raises(sm.UserError, match="its budget was '30steps', and now it is '31steps'"):
        compare(table, tmp_path / "c", [TOY], budget="31steps")
    assert (tmp_path / "c" / "compare.json").read_bytes() == before


def test_an_unknown_setting_is_refused_before_anything_runs(table, tmp_path):
    with pytest.raises(sm.UserError, match="Did you mean 'dropout'"):
        compare(table, tmp_path / "c", [TOY], settings={"dropuot": 0.1})
    with pytest.raises(sm.UserError, match="unknown system 'lat-fusion'"):
        compare(table, tmp_path / "c", ["lat-fusion"])


def row(system, seed, value):
    metric = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {
        "system": system,
        "seed": seed,
        "status": "finished",
        "metrics": {"accuracy": metric},
        "cost": {"parameters": 1},
        "main_metric": "accuracy",
        "pool": None,
        "rows": 9,
        "run": "r",
    }


def test_differences_over_seeds_are_paired(tmp_path):
    """The spread of the differences counts, not that of the systems."""
    rows = [row("a", s, 0.5 + s / 10 + 0.05) for s in range(3)]
    rows += [row("b", s, 0.5 + s / 10 + (0.001 if s == 1 else 0)) for s in range(3)]
    summary = summarise(rows, tmp_path, {})
    (difference,) = summary["differences"]
    assert (difference["of"], difference["from"]) == ("a", "b")
    assert 0.04 < difference["low"] < difference["value"] < difference["high"] < 0.06


def test_nothing_finished_is_a_summary_without_a_best(tmp_path):
    failed = {"system": "a", "seed": 0, "status": "failed"}
    assert summarise([failed], tmp_path, {})["best"] is None


def test_ctrl_c_leaves_a_run_that_goes_on(table, tmp_path):
    """The signal reaches only the process that compares, as from a service manager or a notebook."""
    out = tmp_path / "c"
    code = (
        "import signal\n"  # which a shell's background jobs inherit ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sensorium as sm\n"
        f"sm.compare([{TOY!r}], {str(table)!r}, out={str(out)!r}, task='classification',"
        " target='label', budget='800steps', options={'workers': 0})\n"
    )
    command = [sys.executable, "-c", code]
    metrics = out / "runs" / "Toy-seed0" / "metrics.jsonl"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    (checkpoint,) = (out / "runs" / "Toy-seed0" / "checkpoints").glob("step-*")
    stopped = int(checkpoint.name.removeprefix("step-"))
    assert 0 < stopped < 800
    subprocess.run(command, check=True, timeout=120)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert max(steps) == 800
    assert steps == sorted(steps)
