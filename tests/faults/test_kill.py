"""A run that is killed, wherever it is, ends with the bytes of one that was not."""

import json
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from killing import SMALL, await_kill, finish, kill, kill_at, make_rows, outcome, start, steps_of

from sensorium.types import draws

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "kills.json"
BUDGET = 40
STEPS_IN_EPOCH = 4  # 37 training rows in batches of 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def small(place):
    """Dropout, augmentation, a running average, two workers, a broken picture."""
    return {
        "system": SMALL,
        "data": str(make_rows(place / "rows")),
        "target": "label",
        "budget": f"{BUDGET}steps",
        "cache": str(place / "cache"),
        "options": {
            "workers": 2,
            "log_every": 1,
            "checkpoint_every": 0.02,
            "validate_every": 7,
            "max_fault_share": 0.5,
        },
    }


def drawn(purpose, number=0, *, low, high):
    """A number in [low, high), the same each time."""
    return low + int(draws.integers(f"kill, {purpose}", number)) % (high - low)


def assert_same_end(out, whole):
    weights, lines, faults, counts = outcome(out)
    assert lines == whole[1]
    assert weights == whole[0]
    assert (faults, counts) == whole[2:]


def test_three_kills_change_nothing(small, place):
    """From outside at a random step, within a checkpoint, and at the last batch of an epoch."""
    finish(start(small, place / "whole"), place / "whole")
    whole = outcome(place / "whole")
    assert whole[1][0]["losses"] != whole[1][1]["losses"] and whole[2]
    out = place / "killed"
    assert kill_at(drawn("outside", low=3, high=12), start(small, out), out)
    assert not (out / "model.safetensors").exists()
    before = len(steps_of(out))
    assert await_kill(start(small, out, rename=drawn("rename", low=12, high=40)))
    assert any((out / "checkpoints").glob(".*.part"))
    last = STEPS_IN_EPOCH * drawn("epoch", low=BUDGET // STEPS_IN_EPOCH - 2, high=BUDGET // 4)
    assert await_kill(start(small, out, step=last))
    assert steps_of(out)[-1] == last and len(steps_of(out)) > before
    finish(start(small, out), out)
    assert_same_end(out, whole)
    assert not list(out.rglob("*.part"))


def test_two_processes_are_killed(small, place):
    asked = {**small, "budget": "16steps", "options": {**small["options"], "workers": 1}}
    finish(start(asked, place / "two", num_ranks=2), place / "two")
    out = place / "two-killed"
    assert await_kill(start(asked, out, step=drawn("two", low=5, high=15), num_ranks=2))
    finish(start(asked, out, num_ranks=2), out)
    assert_same_end(out, outcome(place / "two"))


def test_a_kill_before_the_first_checkpoint_begins_anew(small, place):
    asked = {**small, "budget": "6steps", "options": {**small["options"], "checkpoint_every": 1e6}}
    finish(start(asked, place / "early"), place / "early")
    out = place / "early-killed"
    assert await_kill(start(asked, out, step=3))
    assert steps_of(out) == [1, 2, 3]
    finish(start(asked, out), out)
    assert_same_end(out, outcome(place / "early"))


def systems(small):
    """What the long test kills."""
    scenes = "playground:scenes?train=60&validation=8&test=8"
    common = {"budget": f"{BUDGET}steps", "cache": small["cache"], "options": small["options"]}
    common["options"] = {**common["options"], "batch_size": 8, "validation_rows": 8}
    return {
        "small": small,
        "small on two processes": small,
        "late-fusion": {
            "system": "late-fusion", "data": small["data"], "target": "label",
            "settings": {"width": 32, "dropout": 0.3}, **common,
        },
        "dual-encoder": {"system": "dual-encoder", "data": scenes, "settings": {"width": 32}, **common},
        "interbert": {
            "system": "interbert", "data": scenes, "task": "retrieval",
            "settings": {"dropout": 0.2, "image_dropout": 0.2}, **common,
        },
    }  # fmt: skip


@pytest.mark.long
def test_twenty_kills(small, place):
    """Systems, steps, times and places drawn at random; what came out is recorded."""
    wholes, record = {}, []
    asked_of = systems(small)
    for number in range(20):
        name = list(asked_of)[number % len(asked_of)]
        asked, ranks = asked_of[name], 2 if name.endswith("two processes") else 1
        if name not in wholes:
            out = place / f"whole {name}"
            finish(start(asked, out, num_ranks=ranks), out)
            wholes[name] = outcome(out)
        out = place / f"{number} {name}"
        where = ("step", "rename", "time", "end of an epoch")[number // len(asked_of)]
        step = drawn("long", number, low=2, high=BUDGET)
        if where == "rename":
            assert await_kill(start(asked, out, rename=5 + 3 * step, num_ranks=ranks))
        elif where == "time":
            processes = start(asked, out, num_ranks=ranks)
            while not steps_of(out) and processes[0].exitcode is None:
                time.sleep(0.01)
            time.sleep(drawn("time", number, low=0, high=400) / 1000)
            kill(processes)
        else:
            step -= step % STEPS_IN_EPOCH if where == "end of an epoch" else 0
            assert await_kill(start(asked, out, step=max(step, STEPS_IN_EPOCH), num_ranks=ranks))
        reached = max(steps_of(out), default=0)
        finish(start(asked, out, num_ranks=ranks), out)
        equal = outcome(out) == wholes[name]
        record.append({"system": name, "where": where, "step": reached, "equal": equal})
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "compared": "weights (bytes), losses of each step, rows set aside, counts",
        "kills": record,
    }
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")
    assert all(kill["equal"] for kill in record), record
