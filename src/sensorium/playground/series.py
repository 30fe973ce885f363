"""The view `series`: measurements over time whose shape carries the label."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sensorium.playground.base import GeneratedView, Row
from sensorium.playground.stream import Stream
from sensorium.playground.synthesis import CYCLE, sine

SHAPES = ("rise", "fall", "step", "spike", "burst", "oscillation", "sawtooth", "flat")
NAMES = "abcdefghijklmnop"
HIGH = 1000  # how far a shape goes from 0, before a channel scales it


class Series(GeneratedView):
    """Series of several channels, and the class of their shape.

    Columns: series (time in seconds, and channels `a`, `b`, ...), label (one of eight shapes, which
    take turns). All channels follow the shape, each with a scale and an offset of its own. Where in
    time a step, a spike or a burst lies, how often a wave repeats, the sign of a step or a spike, and
    the time of the first sample tell nothing.

    Parameters of its own: `samples`, `channels`, `irregular` (1: the time between two samples is
    between a fifth and nine fifths of the usual one, which is 0.1 s), `missing` (percent of the
    values of each channel that are not there; the first of `a` always is), `noise` (percent of the
    shape's height, at most).
    """

    name = "series"
    defaults: ClassVar[dict[str, int | str]] = {
        "seed": 0,
        "train": 20000,
        "validation": 1000,
        "test": 1000,
        "samples": 48,
        "channels": 3,
        "irregular": 1,
        "missing": 10,
        "noise": 50,
    }

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "series", "modality": "series", "role": "input"},
            {"name": "label", "modality": "category", "role": "label"},
        ]

    def _row(self, split: str, number: int) -> Row:
        stream = self._stream("series", split, number)
        label = SHAPES[number % len(SHAPES)]
        times = self._times(stream)
        shape = _shape(stream, label, (times - times[0]) * CYCLE // (times[-1] - times[0]))
        columns: dict[str, NDArray[np.float64]] = {"time": times / 1000}
        noise, missing = self._number("noise"), self._number("missing")
        for name in NAMES[: self._number("channels")]:
            scale, offset = stream.between(50, 150), stream.between(-HIGH, HIGH)
            values = np.empty(len(times))
            for place, level in enumerate(shape.tolist()):
                whole = level * 100 + noise * stream.between(-HIGH, HIGH)
                values[place] = (whole * scale // 100 + offset * 100) / 100_000
                if stream.chance(missing) and (place or name != NAMES[0]):
                    values[place] = np.nan
            columns[name] = values
        return {"series": columns, "label": label}

    def _times(self, stream: Stream) -> NDArray[np.int64]:
        """Milliseconds from the epoch of the playground on."""
        span = (20, 180) if self.parameters["irregular"] else (100, 100)
        steps = [stream.below(10**9)]
        steps += [stream.between(*span) for _ in range(self._number("samples") - 1)]
        return np.cumsum(steps)


def _shape(stream: Stream, label: str, time: NDArray[np.int64]) -> NDArray[np.int64]:
    """Levels from -1000 to 1000 (a spike: 2000) at times from 0 to 4096, the whole duration."""
    middle = stream.between(CYCLE // 4, 3 * CYCLE // 4)
    sign = 1 if stream.chance(50) else -1
    cycles = stream.between(2, 4)
    phase = stream.below(CYCLE)
    if label == "rise":
        return (2 * time - CYCLE) * HIGH // CYCLE
    if label == "fall":
        return (CYCLE - 2 * time) * HIGH // CYCLE
    if label == "step":
        return np.where(time < middle, -sign * HIGH, sign * HIGH)
    if label == "spike":
        half = CYCLE // 12
        near: NDArray[np.int64] = np.maximum(0, half - np.abs(time - middle))
        return sign * near * 2 * HIGH // half
    if label == "burst":
        wave = sine()[(time * 9 + phase) % CYCLE] * HIGH // CYCLE
        return np.where(np.abs(time - middle) < CYCLE // 6, wave, 0)
    if label == "oscillation":
        return sine()[(time * cycles + phase) % CYCLE] * HIGH // CYCLE
    if label == "sawtooth":
        return (time * cycles + phase) % CYCLE * 2 * HIGH // CYCLE - HIGH
    return np.zeros_like(time)
