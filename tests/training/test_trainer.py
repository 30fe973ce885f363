"""The loop: parts equal the whole, processes equal one, faults and failures say what to do."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sensorium.data import open_data
from sensorium.training.files import read_tensors
from sensorium.training.run import load, train
from sensorium.training.trainer import Interrupted
from sensorium.types import UserError

TOY = f"{Path(__file__).with_name('toy.py')}:Toy"


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


def run(table, out, *, budget="12steps", settings=None, seed=0, **options):
    return train(
        TOY,
        table,
        out=out,
        task="classification",
        target="label",
        budget=budget,
        seed=seed,
        settings=settings,
        device="cpu",
        options={"workers": 0, "log_every": 1, **options},
    )


def losses(run, split="train"):
    return [line["losses"] for line in run.folder.read_metrics() if line["split"] == split]


def assert_close(a, b):
    for left, right in zip(losses(a), losses(b), strict=True):
        assert left == pytest.approx(right, abs=1e-5)
    for name, value in a.system.state_dict().items():
        torch.testing.assert_close(value, b.system.state_dict()[name], atol=1e-5, rtol=1e-4)


def test_micro_batches_give_the_step_of_the_whole(table, tmp_path):
    """Though each part holds another number of chosen rows."""
    assert_close(run(table, tmp_path / "a"), run(table, tmp_path / "b", accumulate=3))


def run_in_two_processes(table, out, schema=None, **options):
    script = out.with_suffix(".py")
    options = {"workers": 0, "log_every": 1, **options}
    script.write_text(
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "from sensorium.data import open_data\n"
        "from sensorium.training.run import train\n"
        f"data = open_data({str(table)!r}, schema={schema and str(schema)!r})\n"
        f"train({TOY!r}, data, out={str(out)!r}, task='classification', target='label',"
        f" budget='12steps', device='cpu', options={options!r})\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return subprocess.run([*launch, str(script)], capture_output=True, text=True, timeout=180)


def test_two_processes_give_the_run_of_one(table, tmp_path):
    whole = run(table, tmp_path / "one")
    done = run_in_two_processes(table, tmp_path / "two")
    assert done.returncode == 0, done.stderr[-2000:]
    assert_close(whole, load(tmp_path / "two", "cpu"))


def test_a_process_without_a_usable_row_does_not_stop_the_others(table, tmp_path):
    schema = spoil(table, range(100), tmp_path)
    done = run_in_two_processes(table, tmp_path / "a", schema, max_fault_share=0.95)
    assert done.returncode == 0, done.stderr[-2000:]
    made = load(tmp_path / "a", "cpu")
    assert made.info["steps"] == 12
    assert made.info["rows_seen"] + made.info["rows_set_aside"] == 12 * 16
    lines = [line for line in made.folder.read_metrics() if line["split"] == "train"]
    assert 0 < len(lines) < 12  # some steps could be made, and some could not
    done = run_in_two_processes(table, tmp_path / "b", schema, max_fault_share=0.1)
    assert done.returncode != 0
    assert "rows could not be used" in done.stderr


def test_a_run_that_is_interrupted_goes_on_to_the_same_end(table, tmp_path, monkeypatch):
    settings = {"dropout": 0.3, "num_stages": 2}
    whole = run(table, tmp_path / "a", settings=settings)
    steps = []

    def press(line):
        steps.append(line)
        if len(steps) == 9:  # in the second stage
            os.kill(os.getpid(), signal.SIGINT)

    common = {
        "out": tmp_path / "b",
        "task": "classification",
        "target": "label",
        "budget": "12steps",
    }
    common |= {"device": "cpu", "settings": settings, "options": {"workers": 0, "log_every": 1}}
    with pytest.raises(Interrupted):
        train(TOY, table, report=press, **common)
    with pytest.raises(UserError, match="has not ended"):
        load(tmp_path / "b")
    resumed = train(TOY, table, **common)
    for name, value in whole.system.state_dict().items():
        assert torch.equal(value, resumed.system.state_dict()[name])
    assert losses(whole) == losses(resumed)


def test_the_same_call_loads_a_finished_run_and_another_is_refused(table, tmp_path):
    first = run(table, tmp_path / "a")
    stamp = first.folder.model_file.stat().st_mtime_ns
    assert run(table, tmp_path / "a").folder.model_file.stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="holds another run .*seed was 0, now 1"):
        run(table, tmp_path / "a", seed=1)


def test_the_average_is_what_is_kept(table, tmp_path):
    kept = run(table, tmp_path / "a", settings={"num_stages": 2}).system.state_dict()
    (last,) = sorted((tmp_path / "a" / "checkpoints").glob("step-*"))[-1:]
    average = read_tensors(last / "average.safetensors")
    raw = read_tensors(last / "model.safetensors")
    assert torch.equal(kept["trunk.weight"], average["trunk.weight"])
    assert not torch.equal(kept["trunk.weight"], raw["trunk.weight"])


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_checkpoint(table, tmp_path):
    with pytest.raises(UserError, match=r"'label' is not a finite number.*learning_rate"):
        run(
            table,
            tmp_path / "a",
            settings={"explode_below": 0.4},
            budget="60steps",
            checkpoint_every=1e-6,
        )
    (*_, last) = sorted((tmp_path / "a" / "checkpoints").glob("step-*"))
    assert all(torch.isfinite(t).all() for t in read_tensors(last / "model.safetensors").values())
    assert json.loads((tmp_path / "a" / "run.json").read_text())["status"] == "running"


def spoil(table, rows, folder):
    """Put words in place of numbers in some rows; a schema that asks for numbers."""
    lines = table.read_text().splitlines()
    for row in rows:
        lines[1 + row] = f"x{row},1.0,up"
    table.write_text("\n".join(lines) + "\n")
    schema = folder / "schema.yaml"
    schema.write_text(
        "fields:\n  t: {modality: table, columns: {a: number, b: number}}\n"
        "  label: {modality: category, role: label}\n"
    )
    return schema


def test_rows_that_cannot_be_used_are_listed_and_too_many_stop_the_run(table, tmp_path):
    data = open_data(table, schema=spoil(table, range(6), tmp_path))
    done = run(data, tmp_path / "a", budget="20steps", max_fault_share=0.2)
    assert done.info["rows_set_aside"] > 0
    assert {fault.field for fault in done.folder.read_faults()} == {"t"}
    with pytest.raises(UserError, match=r"rows could not be used.*max_fault_share"):
        run(data, tmp_path / "b", budget="20steps", max_fault_share=0.001)


def test_patience_stops_early_and_keeps_the_best(table, tmp_path):
    done = run(
        table, tmp_path / "a", budget="400steps", validate_every=2, patience=3, learning_rate=3.0
    )
    assert done.info["steps"] < 400
    validation = [line["label"] + 0.1 * line["spread"] for line in losses(done, "validation")]
    assert np.argmin(validation) == len(validation) - 4


def test_each_stage_has_its_own_patience_and_ends_with_its_best_weights(table, tmp_path):
    done = run(
        table,
        tmp_path / "a",
        budget="800steps",
        settings={"num_stages": 2},
        validate_every=2,
        patience=3,
        learning_rate=3.0,
    )
    lines = [line for line in done.folder.read_metrics() if line["split"] == "validation"]
    values = {}
    for line in lines:
        value = line["losses"]["label"] + 0.1 * line["losses"]["spread"]
        values.setdefault(line["stage"], []).append(value)
    assert len(values) == 2
    for each in values.values():
        assert len(each) > 3
        assert np.argmin(each) == len(each) - 4


def test_a_budget_in_time_is_kept_roughly(table, tmp_path):
    done = run(table, tmp_path / "a", budget="2s")
    assert 0.8 < done.info["cost"]["training_seconds"] < 5
    assert done.info["steps"] > 20
    assert done.info["cost"]["training_flops"] > 0


def test_another_run_gives_its_weights(table, tmp_path):
    start = run(table, tmp_path / "a")
    warm = train(
        TOY,
        table,
        out=tmp_path / "b",
        target="label",
        budget="1steps",
        device="cpu",
        init=tmp_path / "a",
        options={"workers": 0, "learning_rate": 1e-9},
    )
    torch.testing.assert_close(warm.system.trunk.weight, start.system.trunk.weight)


def test_bf16_trains_to_about_the_same(table, tmp_path):
    exact, half = run(table, tmp_path / "a"), run(table, tmp_path / "b", precision="bf16")
    assert losses(half)[-1]["label"] == pytest.approx(losses(exact)[-1]["label"], abs=0.03)
    assert half.system.trunk.weight.dtype == torch.float32


def test_metrics_go_to_tensorboard(table, tmp_path):
    run(table, tmp_path / "a", tensorboard=True)
    assert list((tmp_path / "a" / "tensorboard").glob("events*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batchsize": 3}, "Did you mean 'batch_size'"),
        ({"batch_size": "many"}, "training option batch_size"),
    ],
)
def test_options_are_checked(table, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(table, tmp_path / "a", **options)


def test_settings_are_checked(table, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'dropout'"):
        run(table, tmp_path / "a", settings={"dropuot": 0.1})
