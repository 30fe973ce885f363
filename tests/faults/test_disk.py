"""Disks that are full, folders that cannot be written, two runs in one: the last good state stays."""

import json
import os
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from killing import SMALL, finish, make_rows, start, steps_of

from commands import run
from sensorium.training import checkpoints, files
from sensorium.training.files import read_tensors
from sensorium.training.folder import RunFolder
from sensorium.training.run import load, train
from sensorium.types import UserError


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Numbers and a class."""
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    numbers = np.random.default_rng(0).normal(size=(80, 2))
    lines = [f"{a},{b},{'up' if a > b else 'down'}" for a, b in numbers]
    path.write_text("a,b,label\n" + "\n".join(lines) + "\n")
    return path


def asked(table, out, **options):
    return {
        "system": "late-fusion",
        "data": table,
        "out": out,
        "target": "label",
        "budget": "8steps",
        "settings": {"width": 16, "hidden": 16},
        "device": "cpu",
        "options": {"workers": 0, "log_every": 1, "checkpoint_every": 1e-6, **options},
    }


def assert_resumable(folder, table, whole):
    """The last checkpoint is whole, nothing half-written is in place, and the end is the same."""
    last = checkpoints.latest_checkpoint(folder / "checkpoints")
    assert last is not None
    for file in last.glob("*.safetensors"):
        read_tensors(file)
    checkpoints.load_progress(last)
    assert not (folder / "model.safetensors").exists()
    resumed = train(**asked(table, folder))
    assert not list(folder.rglob("*.part"))
    for name, value in whole.system.state_dict().items():
        assert torch.equal(value, resumed.system.state_dict()[name])


class FullAfter:
    """A flush to a disk on which so many writes find room."""

    def __init__(self, number):
        self.left, self.flush = number, os.fsync

    def __call__(self, handle):
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        self.flush(handle)


def test_a_disk_that_fills_up_at_any_write(table, tmp_path, monkeypatch):
    """Each write in turn finds no space left."""
    whole = train(**asked(table, tmp_path / "whole"))
    for number in (1, 4, 9, 14):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", FullAfter(number))
            with pytest.raises(UserError, match=r"No space left on device.*Free some space"):
                train(**asked(table, folder))
        if checkpoints.latest_checkpoint(folder / "checkpoints") is not None:
            assert_resumable(folder, table, whole)
        else:
            assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize("blocks", [40])
def test_a_process_that_may_write_no_larger_files(table, tmp_path, blocks):
    """As `ulimit -f` says; the log then fails, or a checkpoint."""
    command = [sys.executable, "-m", "sensorium", "train", "late-fusion", "--data", str(table)]
    command += ["--target", "label", "--out", str(tmp_path / "run"), "--budget", "8steps"]
    command += ["--set=training.workers=0", "--set=training.checkpoint_every=1e-6"]
    script = f"ulimit -f {blocks}; exec {shlex.join(command)}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SENSORIUM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "Free some space" in done.stderr
    assert not list((tmp_path / "run").rglob("*.part"))


def test_a_disk_that_is_really_full(tmp_path):
    """A file system of two megabytes, in a name space of its own."""
    can = subprocess.run(["unshare", "-rm", "true"], capture_output=True)
    if can.returncode:
        pytest.skip("no file systems can be mounted here")
    rows = make_rows(tmp_path / "rows")
    disk, left = tmp_path / "disk", tmp_path / "left"
    disk.mkdir()
    train_it = [sys.executable, "-m", "sensorium", "train", SMALL, "--data", str(rows)]
    train_it += ["--target", "label", "--out", str(disk / "run"), "--budget", "3000steps"]
    train_it += ["--cache", str(tmp_path / "cache"), "--set=training.max_fault_share=1"]
    options = ("workers=0", "log_every=1", "checkpoint_every=1e-6", "validation_rows=0")
    train_it += [f"--set=training.{option}" for option in options]
    script = (
        f"mount -t tmpfs -o size=400k tmpfs {disk} && {shlex.join(train_it)}; "
        f"code=$?; cp -r {disk} {left}; exit $code"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "No space left on device" in done.stderr and "Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    folder = RunFolder(left / "run")
    last = checkpoints.latest_checkpoint(folder.checkpoints)
    assert last is not None and checkpoints.load_progress(last).step > 2
    for file in last.glob("*.safetensors"):
        assert all(torch.isfinite(tensor.float()).all() for tensor in read_tensors(file).values())
    assert not list((left / "run").rglob("*.part"))


def test_a_log_that_cannot_be_written(table, tmp_path):
    """/dev/full takes nothing."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "quarantine.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        UserError, match=r"quarantine.*No space left on device.*resumes from the last"
    ):
        RunFolder(folder).append_faults([_fault()])


def _fault():
    from sensorium.types import Fault

    return Fault("row 3", "image", "truncated")


@pytest.mark.parametrize("place", ["/proc/run", "/dev/null/run", "file/run"])
def test_folders_that_cannot_be_written(table, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for command in (
        ["train", "late-fusion", "--data", table, "--target", "label", "--out", place],
        ["compare", "late-fusion", "--data", table, "--target", "label", "--out", place],
        ["inspect", table, "--out", place],
    ):
        done = run(*command)
        assert done.code == 2 and "cannot write the folder" in done.err, done.err


def test_a_loss_that_is_no_number_leaves_the_last_checkpoint(table, tmp_path):
    """By a learning rate that no float survives; the message says what to do."""
    arguments = asked(table, tmp_path / "run", learning_rate=1e38, warmup=0.0)
    with pytest.raises(UserError, match=r"not a finite number.*Lower the learning rate"):
        train(**{**arguments, "budget": "60steps"})
    last = checkpoints.latest_checkpoint(tmp_path / "run" / "checkpoints")
    if last is not None:
        for tensor in read_tensors(last / "model.safetensors").values():
            assert torch.isfinite(tensor.float()).all()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"


def test_a_second_run_into_the_folder_is_refused_and_the_first_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("sensorium.training.folder.ENDING", 0.0)  # the first is short
    rows = make_rows(tmp_path / "rows")
    told = {
        "system": SMALL,
        "data": str(rows),
        "target": "label",
        "budget": "60steps",
        "cache": str(tmp_path / "cache"),
        "options": {"workers": 1, "log_every": 1, "checkpoint_every": 0.05, "max_fault_share": 1},
    }
    out = tmp_path / "run"
    first = start(told, out)
    while not steps_of(out) and first[0].exitcode is None:
        time.sleep(0.01)
    with pytest.raises(UserError, match="another process is writing"):
        train(told["system"], told["data"], out=out, **{k: told[k] for k in ("target", "budget")})
    finish(first, out)
    assert load(out).info["status"] == "finished"
    assert sorted(set(steps_of(out))) == list(range(1, 61))
