"""Series: measurements over time, of several channels, at whatever times they were taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor

from sensorium.modalities.base import Modality, View, is_missing, side_by_side
from sensorium.modalities.cells import LARGEST
from sensorium.modalities.media import share_of_files
from sensorium.modalities.points import NAMES as NAMES_OF_POINTS
from sensorium.modalities.series_cells import UNITS, averaged, is_file, named_channels, read_series
from sensorium.types import BadValue, Field, UserError
from sensorium.types.names import did_you_mean

KINDS = ("time", "channel")

_SURELY_LONG = 8
_TABLES = (".csv", ".parquet")


class SeriesView(View):
    """What a system wants from a series.

    Attributes:
        length: the most samples. A longer series is averaged, in as many parts of equal duration.
    """

    length: int = Setting(default=128, gt=0, le=100_000)


class Series(Modality):
    """CSV, Parquet and NPY files (one for each row), or cells with the numbers themselves.

    A cell is an array (samples, or samples and channels), a mapping from column to values, or a list
    of mappings, one for each sample; a field with `columns` gathers list columns of the row, each of
    the kind `time` or `channel`. An empty value or NaN is missing in its channel. Times are seconds
    from the first sample: when a series was taken plays no part. They need no order; samples of one
    time are one sample, the mean of what each channel has there.

    Channels are standardised by the training rows. Options: `channels` (their names; all columns of
    training rows but the time if not given; those of an array are `0`, `1`, ...), `time` (the column
    of time stamps: `time` if there is one; without one, a sample is taken each second), `unit` of
    stamps that are numbers, `date_format` of dates that are not ISO 8601, `decimal` (`,` for the
    decimal comma), and `path: true` if the column names files.
    """

    name = "series"
    View = SeriesView
    options = MappingProxyType(
        {
            "channels": list,
            "time": str,
            "unit": tuple(UNITS),
            "date_format": str,
            "decimal": (".", ","),
            "path": bool,
        }
    )

    def check(self, field: Field) -> None:
        """Refuse columns of unknown kinds, and several columns of time, too."""
        super().check(field)
        for column, kind in field.columns.items():
            if kind not in KINDS:
                raise UserError(
                    f"field '{field.name}', column '{column}': unknown kind '{kind}'. "
                    + did_you_mean(kind, KINDS)
                )
        times = [column for column, kind in field.columns.items() if kind == "time"]
        if len(times) > 1:
            raise UserError(f"field '{field.name}': two columns of time, {' and '.join(times[:2])}")

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Tables, a file for each row, unless their name speaks of points; or numbers in cells.

        These are lists, arrays or mappings, of which it is surer if most have eight samples or more.
        """
        if not any(name in column.lower() for name in NAMES_OF_POINTS):
            share = share_of_files(values, _TABLES)
            if share > 0.5:
                return 0.95 * share
        if not values or not all(isinstance(v, (list, tuple, np.ndarray, Mapping)) for v in values):
            return 0.0
        if any(isinstance(v, np.ndarray) and v.dtype == np.uint8 for v in values):
            return 0.0  # more likely a picture
        try:
            usual = np.median([len(read_series(value, _ANY)[0]) for value in values])
        except BadValue:
            return 0.0
        if usual >= _SURELY_LONG:  # a few numbers may belong to a few boxes
            return 0.92
        return 0.5 if usual > 1 else 0.0

    def entries(self, raw: Any, field: Field) -> list[Any]:
        """The cell as a whole; several for a list of files."""
        if is_missing(raw):
            return []
        if isinstance(raw, Mapping):
            channels = [c for c, kind in field.columns.items() if kind == "channel"]
            return [] if all(is_missing(raw.get(name)) for name in channels or raw) else [raw]
        if isinstance(raw, (list, tuple)) and raw and all(map(is_file, raw)):
            return super().entries(raw, field)
        return [raw]

    def fit(self, field: Field, values: Iterable[Any]) -> dict[str, Any]:
        """The channels, with mean and spread of each; `step`, the usual time between samples."""
        field = field.replace(fitted={})
        found: dict[str, _Moments] = {}
        steps = []
        for cell in values:
            try:
                series = [read_series(raw, field) for raw in self.entries(cell, field)]
            except BadValue:  # the row will be set aside when it is loaded
                continue
            for times, numbers, names in series:
                if len(times) > 1:
                    steps.append(float(np.median(np.diff(times))))
                for name, column in zip(names, numbers.T, strict=True):
                    found.setdefault(name, _Moments()).add(column[~np.isnan(column)])
        return {
            "channels": {
                name: found.get(name, _Moments()).spread()
                for name in named_channels(field) or found
            },
            "step": float(np.median(steps)) if steps else 1.0,
        }

    def decode(
        self, raw: Any, field: Field, view: SeriesView
    ) -> Float[np.ndarray, "samples features"]:
        """For each sample its time, in usual steps from the first, each channel, and what is there.

        The features are time, channels (standardised; 0 where missing), and for each channel 1 where
        there is a value.

        Raises:
            BadValue: it cannot be read, has no sample, too many, or none of the known channels.
        """
        known, step = _fitted(field)
        times, numbers, names = read_series(raw, field)
        chosen = np.full((len(times), len(known)), np.nan)
        chosen[:, [list(known).index(name) for name in names]] = numbers
        there = ~np.isnan(chosen).all(axis=1)
        if not there.any():
            raise BadValue(f"field '{field.name}': a series without values", "has no values")
        times, chosen = times[there] - times[there][0], chosen[there]
        if len(times) > view.length:
            part = (times / times[-1] * view.length).astype(np.int64).clip(max=view.length - 1)
            times, chosen = averaged(times, chosen, part)
            times = times - times[0]
        means = np.array([moments["mean"] for moments in known.values()])
        deviations = np.array([moments["std"] for moments in known.values()])
        scaled = (chosen - means) / deviations
        filled = ~np.isnan(scaled)
        if not (np.abs(scaled[filled]) <= LARGEST).all() or times[-1] / step > LARGEST:
            reason = "is far outside of the training rows"
            raise BadValue(f"field '{field.name}': a series that {reason}", reason)
        features = [(times / step)[:, None], np.where(filled, scaled, 0.0), filled]
        return np.concatenate(features, axis=1).astype(np.float32)

    def collate(
        self, values: Sequence[Float[np.ndarray, "_ features"]], field: Field, view: Any
    ) -> tuple[Float[Tensor, "entries samples features"], Bool[Tensor, "entries samples"]]:
        """The series, filled up to the longest, and which samples are no filling."""
        return side_by_side(values)

    def show(self, value: Any, field: Field) -> PIL.Image.Image:
        """A line for each channel over time, each between its own smallest and largest value."""
        if _is_decoded(value, field):
            num = value.shape[1] // 2
            numbers = np.where(value[:, 1 + num :] > 0, value[:, 1 : 1 + num], np.nan)
            return _draw(value[:, 0].astype(np.float64), numbers.astype(np.float64))
        times, numbers, _ = read_series(value, field)
        return _draw(times, numbers)


_ANY = Field(name="any", modality="series")


def num_channels(field: Field) -> int:
    """How many channels training rows have."""
    return len(_fitted(field)[0])


def _fitted(field: Field) -> tuple[dict[str, dict[str, float]], float]:
    if "channels" not in field.fitted:
        raise ValueError(f"field '{field.name}' was not fitted to training rows")
    return field.fitted["channels"], field.fitted["step"]


def _is_decoded(value: Any, field: Field) -> bool:
    if not isinstance(value, np.ndarray) or "channels" not in field.fitted:
        return False
    return bool(value.dtype == np.float32 and value.shape[1:] == (1 + 2 * num_channels(field),))


@dataclass
class _Moments:
    """Mean and spread of numbers that come in parts (Chan et al., 1979, equation 2.1)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # the sum of squared distances from the mean
    largest: float = 0.0

    def add(self, part: NDArray[np.float64]) -> None:
        """Take in further numbers."""
        if not len(part):
            return
        mean, count = float(part.mean()), self.count + len(part)
        difference = mean - self.mean
        self.squares += float(np.square(part - mean).sum())
        self.squares += difference**2 * self.count * len(part) / count
        self.mean += difference * len(part) / count
        self.count, self.largest = count, max(self.largest, float(np.abs(part).max()))

    def spread(self) -> dict[str, float]:
        """Mean and standard deviation; 0 and 1 where there is nothing to measure."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        # Equal fractions have a spread of rounding errors, which must not be blown up to 1.
        is_varied = deviation > 1e-9 * self.largest
        return {"mean": self.mean, "std": deviation if is_varied else 1.0}


_COLOURS = ((40, 90, 160), (200, 80, 40), (60, 140, 70), (140, 80, 160), (120, 120, 120))
_MOST_LINES = 12


def _draw(times: NDArray[np.float64], numbers: NDArray[np.float64]) -> PIL.Image.Image:
    from PIL import ImageDraw

    width, height, edge = 256, 96, 4
    picture = PIL.Image.new("RGB", (width, height), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    times, part = times - times[0], np.arange(len(times))
    if len(times) > width:
        part = (times / times[-1] * width).astype(np.int64).clip(max=width - 1)
        times, numbers = averaged(times, numbers, part)
    x = edge + times / (times[-1] or 1.0) * (width - 1 - 2 * edge)
    for place, channel in enumerate(numbers.T[:_MOST_LINES]):
        there = ~np.isnan(channel)
        if not there.any():
            continue
        low, high = channel[there].min(), channel[there].max()
        level = (channel[there] - low) / (high - low) if high > low else 0.5 * there[there]
        y = edge + (1 - level) * (height - 1 - 2 * edge)
        points = list(zip(x[there].tolist(), y.tolist(), strict=True))
        colour = _COLOURS[place % len(_COLOURS)]
        pen.line(points, fill=colour)
        if len(points) == 1:
            (at, over) = points[0]
            pen.ellipse((at - 2, over - 2, at + 2, over + 2), fill=colour)
    return picture
