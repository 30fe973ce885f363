"""Runs in processes of their own that are killed, and what is left of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image

SMALL = f"{Path(__file__).with_name('small.py')}:Small"

# Trains; kills its process group when a step is reported, or when a file or a folder is about to be
# given its name for the n-th time.
SCRIPT = """
import json, os, signal, sys
asked = json.loads(sys.argv[1])
system, data, at_step, at_rename = (asked.pop(n) for n in ("system", "data", "step", "rename"))

def die():
    os.killpg(0, signal.SIGKILL)

replace = os.replace
def counted(source, target, **settings):
    global at_rename
    at_rename -= 1
    die() if at_rename == 0 else replace(source, target, **settings)
os.replace = counted

from sensorium.training.run import is_main_process, train
train(system, data, device="cpu", report=lambda line: line["step"] == at_step and die(), **asked)
"""


def make_rows(folder, num_rows=45):
    """Pictures, captions and a class in a folder; one picture is broken."""
    folder.mkdir(parents=True)
    lines = ["file_name,caption,label,split"]
    for number in range(num_rows):
        draw = np.random.default_rng(number)
        pixels = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "train" if number < num_rows - 8 else "validation" if number % 2 else "test"
        word = "left" if number % 3 else "right"
        lines.append(f"{number}.png,thing {number} on the {word},{'ab'[number % 2]},{split}")
    (folder / "3.png").write_bytes(b"\x89PNG broken")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def environment(rank=0, num_ranks=1, port=0):
    """One thread, no network; the place of a process among several."""
    found = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    if num_ranks > 1:
        found |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
        found |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
    return found


def start(asked, out, *, step=0, rename=0, num_ranks=1):
    """Begin a run, of one or several processes, each in a session of its own.

    Args:
        asked: the arguments of `train`.
        out: its folder.
        step: at which it kills itself; 0 for none.
        rename: at which it kills itself.
        num_ranks: how many processes.
    """
    text = json.dumps({**asked, "out": str(out), "step": step, "rename": rename})
    port = free_port() if num_ranks > 1 else 0
    processes = []
    for rank in range(num_ranks):
        with Path(f"{out}.{rank}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, text],
                stdout=log,
                stderr=log,
                env=environment(rank, num_ranks, port),
                start_new_session=True,
            )
        processes.append(process)
    return processes


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def await_kill(processes, seconds=120):
    """Wait until one process has killed itself, and kill the others; whether it did."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        time.sleep(0.01)
    killed = any(process.poll() == -signal.SIGKILL for process in processes)
    kill(processes)
    return killed


def kill(processes):
    """SIGKILL to the processes and to the loader workers they started."""
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for process in processes:
        process.wait()


def steps_of(out):
    """The steps in the log of a run, as they are now."""
    file = Path(out) / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line)["step"] for line in text.split("\n") if line.endswith("}")]


def kill_at(step, processes, out, seconds=120):
    """Kill a run as soon as its log has a step; whether it was still running."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            break
        if step in steps_of(out):
            kill(processes)
            return True
        time.sleep(0.002)
    kill(processes)
    return False


def finish(processes, out):
    """Wait for the end of a run, which must be a good one."""
    for rank, process in enumerate(processes):
        assert process.wait(timeout=300) == 0, Path(f"{out}.{rank}.log").read_text()[-3000:]


def outcome(out):
    """What must be equal: the weights, the losses of each step, the rows set aside."""
    out = Path(out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    faults = sorted(set((out / "quarantine.jsonl").read_text().splitlines()))
    info = json.loads((out / "run.json").read_text())
    counts = [info[name] for name in ("status", "steps", "rows_seen", "rows_set_aside")]
    return (out / "model.safetensors").read_bytes(), lines, faults, counts
