"""Runs in processes of their own that are killed, and what is left of them."""

import faulthandler
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image

SMALL = f"{Path(__file__).with_name('small.py')}:Small"

# Forks runs from a process that has imported what takes seconds to import, and has no threads yet.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["accelerate", "datasets", "sensorium.training.run"])


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


def train_and_die(asked, log, environment, step, rename):
    """In a process of its own: train, and kill its group at a step or a rename."""
    os.setsid()
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)

    def die():
        os.killpg(0, signal.SIGKILL)

    replace, left = os.replace, [rename]

    def counted(source, target, **settings):
        left[0] -= 1
        if left[0] == 0:
            die()
        replace(source, target, **settings)

    os.replace = counted
    faulthandler.enable()
    import torch

    from sensorium.training.run import train

    torch.set_num_threads(1)
    system, data = asked.pop("system"), asked.pop("data")
    train(system, data, device="cpu", report=lambda line: line["step"] == step and die(), **asked)


def start(asked, out, *, step=0, rename=0, num_ranks=1):
    """Begin a run, of one or several processes, each in a session of its own.

    Args:
        asked: the arguments of `train`.
        out: its folder.
        step: at which it kills itself; 0 for none.
        rename: at which it kills itself: when so many files and folders were given their names.
        num_ranks: how many processes.
    """
    port = free_port() if num_ranks > 1 else 0
    processes = []
    for rank in range(num_ranks):
        place = {"OMP_NUM_THREADS": "1"}
        if num_ranks > 1:  # as `accelerate launch` does
            place |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            place |= {"ACCELERATE_USE_CPU": "true"}
        told = ({**asked, "out": str(out)}, f"{out}.{rank}.log", place, step, rename)
        processes.append(SERVER.Process(target=train_and_die, args=told))
        processes[-1].start()
    return processes


def free_port():
    """A port that nothing listens on.

    Below those that the system gives to outgoing connections, one of which could be to itself.
    """
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def await_kill(processes, seconds=120):
    """Wait until one process has killed itself, and kill the others; whether it did."""
    multiprocessing.connection.wait([process.sentinel for process in processes], seconds)
    killed = any(process.exitcode == -signal.SIGKILL for process in processes)
    kill(processes)
    return killed


def kill(processes):
    """SIGKILL to the processes and to the loader workers they started."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # it may not yet have a group of its own
    for process in processes:
        process.join()


def steps_of(out):
    """The steps in the log of a run, as they are now."""
    file = Path(out) / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line)["step"] for line in text.split("\n") if line.endswith("}")]


def kill_at(step, processes, out, seconds=120):
    """Kill a run as soon as its log has a step; whether it was still running."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(process.exitcode is not None for process in processes):
            break
        if step in steps_of(out):
            kill(processes)
            return True
        time.sleep(0.002)
    kill(processes)
    return False


def finish(processes, out, seconds=120):
    """Wait for the end of a run, which must be a good one."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    if any(process.exitcode != 0 for process in processes):
        for process in processes:
            if process.is_alive():  # it says where it is
                os.kill(process.pid, signal.SIGABRT)
                process.join(5)
        kill(processes)
        logs = [Path(f"{out}.{rank}.log").read_text() for rank in range(len(processes))]
        raise AssertionError("\n".join(log[-3000:] for log in logs))


def outcome(out):
    """What must be equal: the weights, the losses of each step, the rows set aside."""
    out = Path(out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    bad = out / "quarantine.jsonl"
    faults = sorted(set(bad.read_text().splitlines())) if bad.exists() else []
    info = json.loads((out / "run.json").read_text())
    counts = [info[name] for name in ("status", "steps", "rows_seen", "rows_set_aside")]
    return (out / "model.safetensors").read_bytes(), lines, faults, counts
