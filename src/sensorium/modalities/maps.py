"""Maps: pictures of something other than colour, such as depth, heat, edges or classes of things.

A pixel is a number in a unit of its own, or the number of a class. Numbers come to [0, 1] by the range
of the field; pixels that say nothing are marked.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor

from sensorium.modalities.base import PredictableMedia, View, is_missing
from sensorium.modalities.image import Fit, geometry
from sensorium.modalities.map_pixels import (
    MAX_CLASS,
    channels_of,
    invalid_of,
    is_classes,
    mean,
    nearest,
    read_map,
)
from sensorium.modalities.media import locate, share_of_files
from sensorium.types import BadValue, Field, UserError

MAX_CHANNELS = 64

_FILES = (".png", ".tif", ".tiff", ".pfm", ".pgm", ".npy", ".jpg", ".jpeg", ".webp", ".bmp")
_WORDS = frozenset(["depth", "disparity", "infrared", "thermal", "edges"])
# What the range or the classes are found in.
_MOST_MAPS, _MOST_PIXELS = 256, 4096
_PERCENTILES = (1.0, 99.0)
_LARGEST = 1.7e38  # half of the largest number of 32 bits

# Dark blue, violet, orange, pale yellow: brighter throughout, so that it can be read in grey.
_RAMP = np.array([(13, 8, 60), (126, 28, 140), (240, 120, 60), (250, 250, 170)], dtype=np.float64)
_NOTHING = (128, 128, 128)


class MapView(View):
    """What a system wants from a map.

    Attributes:
        size: width and height in pixels.
        fit: how a map that is not square becomes so, as for pictures; what `pad` adds says nothing.
    """

    size: int = Setting(default=64, gt=0, le=4096)
    fit: Fit = "squash"

    @property
    def key(self) -> str:
        """Size and fit."""
        return f"{self.size}/{self.fit}"


@dataclass(frozen=True, eq=False)
class Map:
    """A decoded map.

    Attributes:
        values: in the unit of the file, or numbers of classes; NaN where a pixel says nothing.
        width: of the original in pixels.
        height: of the original in pixels.
    """

    values: Float[np.ndarray, "size size channels"]
    width: int
    height: int


class Maps(PredictableMedia):
    """Pictures of 8, 16 or 32 bits, float TIFF and PFM, `.npy`, and arrays.

    Arrays are (height, width) or (height, width, channels). Options:

    - `kind`: `continuous` (numbers; scaled by means over areas, the default) or `classes` (numbers of
      classes; never mixed).
    - `channels`: how many (1). Three that are equal count as one.
    - `range`: [low, high], what becomes 0 and 1; else, for each channel, the 1st and the 99th
      percentile of training rows. What is beyond is cut.
    - `invalid`: a value, or a list of values, of pixels that say nothing, such as 0 in a depth map.
      NaN and infinite ones never do, nor do transparent ones.
    - `classes`: the numbers in the order of their codes; else those of training rows, sorted.
    """

    name = "maps"
    suffixes = (".pfm",)  # others are pictures or arrays of any kind, unless the schema says so
    View = MapView
    cached = True
    options = MappingProxyType(
        {
            "path": bool,
            "kind": ("continuous", "classes"),
            "channels": int,
            "range": list,
            "invalid": object,
            "classes": list,
        }
    )

    def check(self, field: Field) -> None:
        """Options of the right types, a range that is one, classes that are whole numbers."""
        super().check(field)
        place = f"field '{field.name}', option"
        options = field.options
        if not 1 <= options.get("channels", 1) <= MAX_CHANNELS:
            raise UserError(f"{place} 'channels': expected 1 to {MAX_CHANNELS}")
        if is_classes(field) and (options.get("channels", 1) != 1 or "range" in options):
            raise UserError(f"{place} 'kind': classes have one channel and no range")
        if not is_classes(field) and "classes" in options:
            raise UserError(f"{place} 'classes': set kind: classes as well")
        limits = options.get("range", [0, 1])
        if not (len(limits) == 2 and all(map(_is_finite, limits)) and _differ(*map(float, limits))):
            raise UserError(f"{place} 'range': expected [low, high], found {limits!r:.60}")
        for value in invalid_of(field):
            if not isinstance(value, Real):
                raise UserError(f"{place} 'invalid': expected numbers, found {value!r:.60}")
        for value in options.get("classes", []):
            if not isinstance(value, int) or not 0 <= value <= MAX_CLASS:
                raise UserError(f"{place} 'classes': expected numbers of classes, found {value!r}")

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Files or arrays in a column whose name says depth, infrared, thermal, disparity, edges."""
        cells = [value for cell in values for value in self.entries(cell, _ANY)]
        if not cells:
            return 0.0
        share = share_of_files(values, self.suffixes)
        if _WORDS & set(re.split(r"[^a-z]+", column.lower())):
            arrays = sum(isinstance(cell, np.ndarray) and cell.ndim in (2, 3) for cell in cells)
            inside = sum(isinstance(locate(cell), bytes) for cell in cells)
            share = max(share_of_files(values, _FILES), max(arrays, inside) / len(cells))
        return 0.99 * share if share > 0.5 else 0.0

    def fit(self, field: Field, values: Iterable[Any]) -> dict[str, Any]:
        """The range of each channel, or the classes, from up to 256 maps.

        Raises:
            UserError: none of them can be read.
        """
        if "range" in field.options:
            return {"range": [list(map(float, field.options["range"]))] * channels_of(field)}
        if "classes" in field.options:
            return {"classes": list(field.options["classes"])}
        cells = [cell for cell in values if not is_missing(cell)]
        parts, reason = [], "there is none"
        for cell in cells[:: max(1, len(cells) // _MOST_MAPS)][:_MOST_MAPS]:
            try:
                for raw in self.entries(cell, field):
                    pixels = read_map(raw, field).reshape(-1, channels_of(field))
                    step = 1 if is_classes(field) else max(1, len(pixels) // _MOST_PIXELS)
                    parts.append(_distinct(pixels) if is_classes(field) else pixels[::step])
            except BadValue as error:  # the row will be set aside when it is loaded
                reason = str(error).removeprefix(f"field '{field.name}': ")
        if not parts:
            raise UserError(
                f"field '{field.name}': no map could be read of the training rows looked at "
                f"({reason}). Mend them, or set the option range (or classes) in the schema"
            )
        found = np.concatenate(parts)
        if is_classes(field):
            return {"classes": _distinct(found).astype(int).ravel().tolist()}
        # maps are scaled in 32 bits, in which the two limits, and what is between them, must differ
        low, high = np.nanpercentile(found.clip(-_LARGEST, _LARGEST), _PERCENTILES, axis=0)
        apart = np.float32(high) > np.float32(low)
        high = np.where(apart, high, low + np.maximum(1, np.abs(low) * 1e-6))
        return {"range": np.stack([low, high], axis=1).astype(float).tolist()}

    def decode(self, raw: Any, field: Field, view: MapView) -> Map:
        """A map of the view's size, in its own unit.

        Raises:
            BadValue: no map, a damaged one, one of another number of channels, of more than
                `MAX_PIXELS` pixels, without any pixel that says something, or classes that are no
                whole numbers.
        """
        values = read_map(raw, field)
        height, width = values.shape[:2]
        (left, top, right, bottom), (wide, high) = geometry(width, height, view.size, view.fit)
        part = values[top:bottom, left:right]
        scaled = nearest(part, high, wide) if is_classes(field) else mean(part, high, wide)
        if scaled.shape[:2] != (view.size, view.size):
            over, before = (view.size - high) // 2, (view.size - wide) // 2
            padded = np.full((view.size, view.size, scaled.shape[2]), np.nan, np.float32)
            padded[over : over + high, before : before + wide] = scaled
            scaled = padded
        return Map(np.ascontiguousarray(scaled), width, height)

    def collate(
        self, values: Sequence[Map], field: Field, view: MapView
    ) -> tuple[Float[Tensor, "entries size size numbers"] | Int[Tensor, "entries size size"], None]:
        """Numbers in [0, 1] by the range of the field, or codes of classes.

        Returns:
            Of numbers, the channels (0 where a pixel says nothing) and one more that is 1 where it
            says something, else 0. Of classes, codes; the number of classes stands for pixels that
            say nothing or have a class that no training row has.
        """
        stacked = torch.from_numpy(np.stack([value.values for value in values]))
        if is_classes(field):
            return _codes(stacked[..., 0], class_numbers(field)), None
        low, high = torch.tensor(value_range(field), dtype=torch.float32).unbind(1)
        valid = stacked.isfinite().all(-1, keepdim=True)
        scaled = ((stacked - low) / (high - low)).clamp(0, 1)
        return torch.cat([torch.where(valid, scaled, 0.0), valid.float()], -1), None

    def uncollate(
        self,
        value: Float[Tensor, "size size numbers"] | Int[Tensor, "size size"],
        field: Field,
        view: Any,
    ) -> Map:
        """The map, in its own unit."""
        if is_classes(field):
            numbers = np.array([*class_numbers(field), np.nan], dtype=np.float32)
            return Map(numbers[value.cpu().numpy()][..., None], value.shape[1], value.shape[0])
        low, high = np.array(value_range(field), dtype=np.float32).T
        shares = value.float().cpu().numpy()
        known = low + shares[..., :-1] * (high - low)
        return Map(np.where(shares[..., -1:] > 0, known, np.nan), value.shape[1], value.shape[0])

    def as_file(self, value: Map, field: Field) -> tuple[str, bytes]:
        """An array of 32-bit numbers, in the unit of the field; NaN where nothing is said."""
        file, values = io.BytesIO(), value.values.astype(np.float32)
        for number in invalid_of(field):  # what says something stays beside what says nothing
            nothing = np.float32(number)
            values[values == nothing] = np.nextafter(nothing, np.float32(np.inf))
        np.save(file, values)
        return ".npy", file.getvalue()

    def freeze(self, value: Map) -> tuple[NDArray[Any], str]:
        """The values, and the original's width and height."""
        return value.values, json.dumps([value.width, value.height])

    def thaw(self, array: NDArray[Any], note: str) -> Map:
        """The map that `freeze` took apart."""
        width, height = json.loads(note)
        return Map(array, width, height)

    def show(self, value: Any, field: Field) -> PIL.Image.Image:
        """Small values dark, large ones bright; a colour for each class; grey where nothing is said."""
        if not isinstance(value, Map):
            value = self.decode(value, field, MapView(size=128, fit="pad"))
        valid = np.isfinite(value.values).all(-1)
        if is_classes(field):
            picture = _class_colours(np.where(valid, value.values[..., 0], 0))
        else:
            picture = _ramp(_shown_share(value.values, valid, field))
        picture[~valid] = _NOTHING
        return PIL.Image.fromarray(picture)


_ANY = Field(name="any", modality="maps")


def value_range(field: Field) -> list[list[float]]:
    """What becomes 0 and what becomes 1, for each channel of a continuous map.

    Raises:
        ValueError: the field has no range and was not fitted.
    """
    if "range" in field.options:
        return [list(map(float, field.options["range"]))] * channels_of(field)
    if "range" not in field.fitted:
        raise ValueError(f"field '{field.name}' was not fitted to training rows")
    found: list[list[float]] = field.fitted["range"]
    return found


def class_numbers(field: Field) -> list[int]:
    """The numbers of the classes of a map, in the order of their codes.

    Raises:
        ValueError: the field names no classes and was not fitted.
    """
    found: list[int] | None = field.options.get("classes", field.fitted.get("classes"))
    if found is None:
        raise ValueError(f"field '{field.name}' was not fitted to training rows")
    return found


def num_channels(field: Field) -> int:
    """How many numbers a pixel of a collated continuous map has, with the one that marks it."""
    return channels_of(field) + 1


def _differ(low: float, high: float) -> bool:
    """Whether one limit lies above the other, and maps between them can be scaled in 32 bits."""
    return max(abs(low), abs(high)) <= _LARGEST and bool(np.float32(low) < np.float32(high))


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and bool(np.isfinite(float(value)))


def _distinct(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "distinct 1"]:
    found: NDArray[Any] = np.unique(values[np.isfinite(values)])[:, None]
    return found


def _codes(
    numbers: Float[Tensor, "entries size size"], classes: list[int]
) -> Int[Tensor, "entries size size"]:
    ordered, order = torch.tensor(classes, dtype=torch.float32).sort()
    place = torch.searchsorted(ordered, numbers.nan_to_num(-1.0)).clamp(max=len(classes) - 1)
    return torch.where(ordered[place] == numbers, order[place], len(classes))


def _shown_share(
    values: Float[np.ndarray, "size size channels"],
    valid: Bool[np.ndarray, "size size"],
    field: Field,
) -> Float[np.ndarray, "size size"]:
    """Where values lie between dark and bright: by the field's range, or by their own."""
    if "range" in field.options or "range" in field.fitted:
        low, high = np.array(value_range(field), dtype=np.float32).T
    else:
        low, high = (edge(values[valid], axis=0) for edge in (np.min, np.max))
    share = (values - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return np.where(valid, share.mean(-1), 0).clip(0, 1)


def _ramp(share: Float[np.ndarray, "size size"]) -> UInt8[np.ndarray, "size size 3"]:
    stops = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(share, stops, _RAMP[:, channel]) for channel in range(3)]
    colours: NDArray[np.uint8] = np.rint(np.stack(channels, -1)).astype(np.uint8)
    return colours


def _class_colours(numbers: Float[np.ndarray, "size size"]) -> UInt8[np.ndarray, "size size 3"]:
    """Turns of the colour circle by the golden angle: neighbours in number are unlike."""
    angle = numbers * np.float32(np.pi * (3 - 5**0.5))
    shifts = np.array([0, 2, 4], dtype=np.float32) * np.float32(np.pi / 3)
    turned = 140 + 90 * np.cos(angle[..., None] - shifts)
    colours: NDArray[np.uint8] = np.rint(turned).astype(np.uint8)
    return colours
