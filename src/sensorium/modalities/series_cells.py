"""What the cell of a series says: times in seconds, and the values of channels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorium.modalities.base import is_missing
from sensorium.modalities.cells import LARGEST, to_days, to_list, to_number
from sensorium.modalities.series_files import read_columns
from sensorium.types import BadValue, Field
from sensorium.types.names import did_you_mean

MAX_SAMPLES = 1_000_000
MAX_CHANNELS = 1_000

UNITS = MappingProxyType({"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0, "d": 86400.0})
"""Seconds in each unit of time stamps that are numbers."""

Columns = Mapping[str, Any]


def is_file(value: Any) -> bool:
    """Whether it is a file, bytes or text, or nothing: what several series in a cell come as."""
    return is_missing(value) or isinstance(value, (str, Path, bytes)) or _holds_media(value)


def _holds_media(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and value.keys() <= {"bytes", "path"}


Parsed = tuple[NDArray[np.float64], NDArray[np.float64], list[str]]


def named_channels(field: Field) -> list[str]:
    """The channels that are asked for, or known from training rows; none if it is to be found out."""
    named = [column for column, kind in field.columns.items() if kind == "channel"]
    wanted = field.options.get("channels") or named or field.fitted.get("channels", ())
    return [str(name) for name in wanted]


def read_series(raw: Any, field: Field) -> Parsed:
    """Ascending times in seconds, numbers (samples, channels; NaN if missing), names of channels.

    Raises:
        BadValue: it cannot be read, or has no samples or too many.
    """
    columns = _columns_of(raw, field)
    time = _time_column(columns, field)
    names = [name for name in named_channels(field) or map(str, columns) if name != time]
    names = [name for name in names if not is_missing(columns.get(name))]
    if len(names) > MAX_CHANNELS:
        raise BadValue(f"field '{field.name}': {len(names)} channels, more than {MAX_CHANNELS}")
    read = [_numbers(columns[name], name, field) for name in names]
    lengths = {len(each) for each in read}
    stamps = None if time is None else _seconds(columns[time], time, field)
    if stamps is not None:
        lengths.add(len(stamps))
    if len(lengths) > 1:
        raise BadValue(
            f"field '{field.name}': columns of {' and '.join(map(str, sorted(lengths)))} samples; "
            "expected one value of each channel for each time",
            "has columns of different lengths",
        )
    if not names:
        raise BadValue(
            f"field '{field.name}': has none of the channels that are known; found "
            f"{', '.join(map(str, columns)) or 'none at all'}",
            "has none of the known channels",
        )
    if lengths == {0}:
        raise BadValue(f"field '{field.name}': a series without samples", "has no samples")
    if max(lengths) > MAX_SAMPLES:
        raise BadValue(f"field '{field.name}': more than {MAX_SAMPLES} samples")
    numbers = np.stack(read, axis=1)
    if stamps is None:
        return np.arange(float(len(numbers))), numbers, names
    return (*_in_order(stamps, numbers), names)


def _columns_of(raw: Any, field: Field) -> Columns:
    """The columns of a mapping, a file, JSON text, a list of samples, or an array."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            raise BadValue(
                f"field '{field.name}': {raw!r:.60} is no JSON list or object of numbers; set the "
                "option path: true if it names a file",
                "is no series",
            ) from None
    elif isinstance(raw, (Path, bytes, bytearray, memoryview)) or _holds_media(raw):
        raw = read_columns(raw, field, MAX_SAMPLES)
    if isinstance(raw, Mapping):
        return {str(name): values for name, values in raw.items()}
    if isinstance(raw, (list, tuple)) and raw and all(isinstance(part, Mapping) for part in raw):
        names = dict.fromkeys(name for sample in raw for name in sample)
        return {str(name): [sample.get(name) for sample in raw] for name in names}
    try:
        array = np.asarray(raw)
        array = array.astype(np.float64) if array.dtype.kind in "OUS" else array
    except (ValueError, TypeError, OverflowError):
        array = np.empty(0, dtype=object)
    if array.ndim not in (1, 2) or array.dtype.kind not in "bfiu":
        raise BadValue(
            f"field '{field.name}': expected numbers (samples, or samples and channels) or columns "
            f"by name, found {str(raw)!r:.60}",
            "is no series",
        )
    if array.size == 0:
        raise BadValue(f"field '{field.name}': a series without samples", "has no samples")
    table = array[:, None] if array.ndim == 1 else array
    return dict(zip(_array_names(table.shape[1], field), table.T, strict=True))


def _array_names(number: int, field: Field) -> list[str]:
    """What the columns of an array are called: by the channels that are known, or by their place.

    Raises:
        BadValue: there are other than as many channels as are known.
    """
    known, places = named_channels(field), [str(place) for place in range(number)]
    time = field.options.get("time")
    if not known:
        return places
    if len(known) + (time in places and time not in known) != number:
        raise BadValue(
            f"field '{field.name}': an array of {number} columns, where {len(known)} channels are "
            "known; expected samples along its first dimension and channels along its second",
            "has another number of channels",
        )
    return known if len(known) == number else places


def _time_column(columns: Columns, field: Field) -> str | None:
    named = [column for column, kind in field.columns.items() if kind == "time"]
    time = field.options.get("time", named[0] if named else None)
    if time is None:
        return "time" if "time" in columns else None
    if time not in columns or is_missing(columns[time]):
        raise BadValue(
            f"field '{field.name}': there is no column '{time}' of time stamps. "
            + did_you_mean(time, map(str, columns)),
            "has no time stamps",
        )
    return str(time)


def _numbers(cells: Any, name: str, field: Field) -> NDArray[np.float64]:
    """The values of a channel, NaN where one is missing."""
    array = _listed(cells, name, field)
    if array.dtype.kind not in "bfiu":
        numbers = [_number(cell, name, field) for cell in array]
        array = np.array(numbers)
    array = array.astype(np.float64)
    if not (np.isnan(array) | (np.abs(array) <= LARGEST)).all():
        raise BadValue(
            f"field '{field.name}', channel '{name}': a value that is not finite",
            "has values that are not finite",
        )
    return array


def _number(cell: Any, name: str, field: Field) -> float:
    return (
        math.nan if is_missing(cell) else to_number(cell, name, field.options.get("decimal", "."))
    )


def _seconds(cells: Any, name: str, field: Field) -> NDArray[np.float64]:
    """Time stamps in seconds, from numbers or dates."""
    array = _listed(cells, name, field)
    if array.dtype.kind == "M":
        seconds = array.astype("datetime64[us]").astype(np.int64) / 1e6
        seconds[np.isnat(array)] = np.nan
    elif array.dtype.kind in "iuf":
        seconds = array.astype(np.float64) * UNITS[field.options.get("unit", "s")]
    else:
        seconds = np.array([_second(cell, name, field) for cell in array], dtype=np.float64)
    if not (np.abs(seconds) <= LARGEST).all():
        raise BadValue(
            f"field '{field.name}', column '{name}': a time stamp that is empty or not finite",
            "has samples without a time",
        )
    return seconds


def _second(cell: Any, name: str, field: Field) -> float:
    if is_missing(cell):
        return math.nan
    is_text = isinstance(cell, str)
    if isinstance(cell, Real) or (is_text and "date_format" not in field.options):
        try:
            return to_number(cell, name) * UNITS[field.options.get("unit", "s")]
        except BadValue:
            if not is_text:
                raise
    return to_days(cell, name, field.options.get("date_format")) * 86_400.0


def _listed(cells: Any, name: str, field: Field) -> NDArray[Any]:
    array = cells if isinstance(cells, np.ndarray) else None
    if isinstance(cells, str):
        cells = to_list(cells, name)
    if isinstance(cells, (list, tuple)):
        if all(type(cell) is float for cell in cells):  # the most frequent, and the fastest
            return np.asarray(cells, dtype=np.float64)
        array = np.empty(len(cells), dtype=object)
        array[:] = cells
    if array is None or array.ndim != 1:
        raise BadValue(
            f"field '{field.name}', column '{name}': expected a list of values, found "
            f"{str(cells)!r:.60}",
            "has a column that is no list",
        )
    return array


def _in_order(
    times: NDArray[np.float64], numbers: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Samples by ascending time, those of one time as one."""
    steps = np.diff(times)
    if (steps > 0).all():
        return times, numbers
    order = np.argsort(times, kind="stable")
    times, numbers = times[order], numbers[order]
    part = np.concatenate([[0], np.cumsum(np.diff(times) > 0)])
    return averaged(times, numbers, part) if part[-1] + 1 < len(times) else (times, numbers)


def averaged(
    times: NDArray[np.float64], numbers: NDArray[np.float64], part: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of the samples of each part (ascending numbers), channel by channel what is there."""
    starts = np.flatnonzero(np.concatenate([[True], np.diff(part) > 0]))
    there = ~np.isnan(numbers)
    counts = np.add.reduceat(there, starts, axis=0, dtype=np.int64)
    sums = np.add.reduceat(np.where(there, numbers, 0.0), starts, axis=0)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    sizes = np.diff(np.append(starts, len(times)))
    # From the first of a part on, since a mean of large times would lose digits.
    first = times[starts]
    inner = np.add.reduceat(times - np.repeat(first, sizes), starts) / sizes
    return first + inner, means
