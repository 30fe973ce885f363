"""Runs in processes of their own that are killed, and what is left of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image

SMALL = f"{Path(__file__).with_name('small.py')}:Small"

# Kills its own process group when a file or a folder is about to be given its name for the n-th time.
KILL_AT_RENAME = """
import os, signal, sys
left, replace = [int(sys.argv.pop(1))], os.replace
def killing(source, target, **kwargs):
    left[0] -= 1
    if left[0] == 0:
        os.killpg(0, signal.SIGKILL)
    replace(source, target, **kwargs)
os.replace = killing
"""
SCRIPT = """
from sensorium.cli import main
main()
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
        found |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    return found


def start(arguments, out, *, rename=0, rank=0, num_ranks=1, port=0):
    """Begin `sensorium ARGUMENTS --out OUT` in a session of its own."""
    code = (KILL_AT_RENAME if rename else "") + SCRIPT
    command = [sys.executable, "-c", code, *([str(rename)] if rename else [])]
    with Path(f"{out}.{rank}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, *map(str, arguments), "--out", str(out)],
            stdout=log,
            stderr=log,
            env=environment(rank, num_ranks, port),
            start_new_session=True,
        )


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
    evaluation = json.loads((out / "evaluation.json").read_text())
    info = json.loads((out / "run.json").read_text())
    counts = [info[name] for name in ("status", "steps", "rows_seen", "rows_set_aside")]
    return (out / "model.safetensors").read_bytes(), lines, faults, evaluation["metrics"], counts
