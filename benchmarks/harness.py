"""What all benchmarks share: repeats that take turns, medians and spreads, memory, dated records.

A benchmark is a module with a function `measure(settings) -> list[Figure]`. A figure is one number
with what it was computed from: where there is a peer, the quotient of our number and the peer's in
the same repeat, so that whatever else the machine does then meets both.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"
REPEATS = 5
PACKAGES = ("torch", "numpy", "pillow", "transformers")


@dataclass(frozen=True)
class Settings:
    """What `run.py` was asked for.

    Attributes:
        threads: of every process that computes.
        repeats: how often each side is measured.
    """

    threads: int = 2
    repeats: int = REPEATS


@dataclass(frozen=True)
class Target:
    """What a figure should be.

    Attributes:
        bound: whether it should be at least or at most `value`.
        value: the limit.
    """

    bound: Literal["at least", "at most"]
    value: float

    def reached_by(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return value >= self.value if self.bound == "at least" else value <= self.value


@dataclass(frozen=True)
class Figure:
    """One number that a benchmark is about.

    Attributes:
        name: what it is.
        unit: of `ours` and `theirs`.
        ours: our number in each repeat.
        peer: what it is compared with; empty if with nothing.
        theirs: the peer's number in each repeat.
        target: what the quotient `ours / theirs`, or `ours` alone without a peer, should be.
    """

    name: str
    unit: str
    ours: Sequence[float]
    peer: str = ""
    theirs: Sequence[float] = ()
    target: Target | None = None

    @property
    def values(self) -> list[float]:
        """The figure in each repeat."""
        if not self.peer:
            return list(self.ours)
        return [one / other for one, other in zip(self.ours, self.theirs, strict=True)]

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        median = statistics.median(self.values)
        return {
            "name": self.name,
            "unit": self.unit,
            "peer": self.peer,
            "ours": [rounded(value) for value in self.ours],
            "theirs": [rounded(value) for value in self.theirs],
            "values": [rounded(value) for value in self.values],
            "median": rounded(median),
            "lowest": rounded(min(self.values)),
            "highest": rounded(max(self.values)),
            "target": None if self.target is None else asdict(self.target),
            "reached": None if self.target is None else self.target.reached_by(median),
        }


@dataclass
class Result:
    """What a benchmark found.

    Attributes:
        figures: its numbers.
        notes: what a reader must know to take them for what they are.
        packages: peers, whose versions are recorded.
        skipped: what was not measured here, and why.
    """

    figures: list[Figure]
    notes: Sequence[str] = ()
    packages: Sequence[str] = ()
    skipped: Sequence[str] = field(default=())


def rounded(value: float) -> float:
    """Five digits that count."""
    return float(f"{value:.5g}")


def rates(count: float, seconds: Sequence[float]) -> list[float]:
    """How many a second, from how long `count` of them took."""
    return [count / each for each in seconds]


def take_turns(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """The seconds each side takes: ours, theirs, ours, theirs, ..., after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(repeats + 1):
        for name, side in sides.items():
            took = timed(side)
            if round_:
                seconds[name].append(took)
    return seconds


def timed(step: Callable[[], Any]) -> float:
    """Seconds on the clock."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def timed_with_memory(step: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and by how many MiB the process's resident memory grew at its highest while it ran.

    What earlier steps left in the allocator is given back to the system before, since it would be
    used again without being seen. Linux only: it keeps the highest value, and resets it on request.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    seconds = timed(step)
    return seconds, (_status("VmHWM") - before) / 1024


def peak_memory() -> float:
    """MiB of resident memory that this process had at its highest."""
    return _status("VmHWM") / 1024


def _status(name: str) -> float:
    """A line of the process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def own_process() -> ProcessPoolExecutor:
    """A fresh process of its own for one side, so that its memory is nobody else's."""
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))


def write_record(name: str, title: str, result: Result, settings: Settings, seconds: float) -> Path:
    """The dated record of a run."""
    packages = dict.fromkeys([*PACKAGES, *result.packages])
    record = {
        "benchmark": name,
        "title": title,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "machine": machine(),
        "threads": settings.threads,
        "repeats": settings.repeats,
        "seconds": round(seconds, 1),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "figures": [figure.record() for figure in result.figures],
        "skipped": list(result.skipped),
        "notes": list(result.notes),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """Processor, cores, memory, and how busy it was."""
    import psutil

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    return {
        "processor": model,
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(psutil.getloadavg()[1], 2),
        "system": platform.platform(),
    }


def _commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()
