"""Files are whole or not there, and nothing is unpickled."""

import json
import threading
import time

import pytest
import torch

from sensorium.training.files import (
    read_tensors,
    write_aside,
    write_folder_aside,
    write_json,
    write_tensors,
)
from sensorium.training.folder import RunFolder
from sensorium.types import Fault, UserError


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail(aside):
        aside.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"No space left.*intact"):
        write_aside(path, fail)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_fails_is_not_there(tmp_path):
    def fail(aside):
        (aside / "model").write_text("half")
        raise UserError("full")

    with pytest.raises(UserError, match="full"):
        write_folder_aside(tmp_path / "step-1", fail)
    assert list(tmp_path.iterdir()) == []


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [None, 1.5]}


def test_tensors_that_share_memory_are_each_read_back(tmp_path):
    weight = torch.randn(2, 3)
    write_tensors(tmp_path / "m.safetensors", {"a": weight, "b": weight, "c": weight.T})
    found = read_tensors(tmp_path / "m.safetensors")
    assert torch.equal(found["a"], weight)
    assert torch.equal(found["b"], weight)
    assert torch.equal(found["c"], weight.T)


def test_a_pickle_offered_as_weights_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "bomb-went-off"), "w"))

    torch.save({"x": Bomb()}, tmp_path / "model.safetensors")
    (tmp_path / "bomb-went-off").unlink(missing_ok=True)
    with pytest.raises(UserError, match="pickles, are not read"):
        read_tensors(tmp_path / "model.safetensors")
    assert not (tmp_path / "bomb-went-off").exists()


def test_a_file_cut_short_is_named(tmp_path):
    path = tmp_path / "m.safetensors"
    write_tensors(path, {"a": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"m\.safetensors is not a whole"):
        read_tensors(path)


def test_a_second_run_into_a_folder_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.locked(), pytest.raises(UserError, match="another process is writing"):
        with RunFolder(tmp_path).locked():
            pass
    with folder.locked():
        pass


def test_a_run_that_is_ending_is_waited_for(tmp_path):
    held, ended = threading.Event(), []

    def hold():
        with RunFolder(tmp_path).locked():
            held.set()
            time.sleep(0.3)
            ended.append(True)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    with RunFolder(tmp_path).locked():
        assert ended
    other.join()


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Choose another with --out"):
        RunFolder(tmp_path / "file" / "run").create()


def test_lines_cut_short_by_a_kill_are_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append_metrics({"step": step})
    with folder.metrics_file.open("a") as file:
        file.write('{"step": 4, "los')
    assert [line["step"] for line in folder.read_metrics()] == [1, 2, 3]
    folder.cut_metrics(2)
    assert [line["step"] for line in folder.read_metrics()] == [1, 2]


def test_quarantine_lists_each_row_once(tmp_path):
    folder = RunFolder(tmp_path)
    fault = Fault("row 3", "image", "truncated")
    folder.append_faults([fault])
    folder.append_faults([fault])
    assert folder.read_faults() == [fault]


def test_a_run_of_a_later_version_says_upgrade(tmp_path):
    write_json(tmp_path / "run.json", {"format": 99})
    with pytest.raises(UserError, match="upgrade sensorium"):
        RunFolder(tmp_path).read_run()
    with pytest.raises(UserError, match="not a run folder"):
        RunFolder(tmp_path / "nothing").read_run()
