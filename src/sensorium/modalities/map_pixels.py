"""The pixels of maps: read from files and arrays, and brought to a size."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch.nn import functional as F

from sensorium.modalities.image import check_pixels
from sensorium.modalities.media import checked, label
from sensorium.types import BadValue, Field

MAX_PIXELS = 25_000_000
"""5,000 x 5,000: a pixel takes 40 bytes while it is scaled."""

MAX_CLASS = 2**24
"""Whole numbers up to here are exact in float32."""

_FORMATS = ["PNG", "TIFF", "PPM", "JPEG", "WEBP", "BMP"]
_NUMPY = b"\x93NUMPY"


def is_classes(field: Field) -> bool:
    """Whether pixels are numbers of classes."""
    return field.options.get("kind") == "classes"


def channels_of(field: Field) -> int:
    """How many numbers a pixel has."""
    return int(field.options.get("channels", 1))


def invalid_of(field: Field) -> list[Any]:
    """The values of pixels that say nothing."""
    found = field.options.get("invalid", [])
    return found if isinstance(found, list) else [found]


def read_map(raw: Any, field: Field) -> Float[np.ndarray, "height width channels"]:
    """All pixels in their own unit; NaN where one says nothing.

    Raises:
        BadValue: as `Maps.decode` does.
    """
    if isinstance(raw, np.ndarray):
        where, array, clear = "the map", raw, None
    elif isinstance(raw, PIL.Image.Image):
        where = "the map"
        array, clear = _from_picture(raw)
    else:
        source = checked(raw, field, "a map")
        where = label(source)
        array, clear = _from_file(source, field)
    values = _as_channels(array, field, where)
    for value in invalid_of(field):
        values[values == np.float32(value)] = np.nan
    values[~np.isfinite(values)] = np.nan
    if clear is not None:
        values[clear] = np.nan
    if np.isnan(values).all():
        raise _bad(field, where, "has no pixel that says something")
    if is_classes(field):
        known = values[~np.isnan(values)]
        if (known != np.floor(known)).any() or known.min() < 0 or known.max() > MAX_CLASS:
            raise _bad(field, where, f"has classes that are no whole numbers from 0 to {MAX_CLASS}")
    return values


def _bad(field: Field, where: str, kind: str, more: str = "") -> BadValue:
    return BadValue(f"field '{field.name}': {where} {kind}{more and ': ' + more}", kind)


def _as_channels(
    array: NDArray[Any], field: Field, where: str
) -> Float[np.ndarray, "height width channels"]:
    """A copy as float32 with as many channels as the field has."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.dtype.kind not in "buif" or array.size == 0:
        raise _bad(
            field,
            where,
            "is no map",
            f"expected numbers (height, width) or (height, width, channels), found {array.dtype} "
            f"{array.shape}",
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise _bad(field, where, f"has more than {MAX_PIXELS} pixels")
    wanted = channels_of(field)
    if wanted == 1 and array.shape[2] == 3 and (array == array[:, :, :1]).all():
        array = array[:, :, :1]
    if array.shape[2] != wanted:
        raise _bad(
            field,
            where,
            f"has another number of channels than {wanted}",
            f"{array.shape[2]}; see the option channels",
        )
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite: says nothing
        return array.astype(np.float32)


def _from_file(
    source: Path | bytes, field: Field
) -> tuple[NDArray[Any], Bool[np.ndarray, "height width"] | None]:
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
        if content.startswith(_NUMPY):
            return _from_numpy(content), None
        with warnings.catch_warnings():  # of odd metadata and large pictures
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                check_pixels(picture, MAX_PIXELS)
                return _from_picture(picture)
    except PIL.UnidentifiedImageError:
        raise _bad(field, label(source), "is no map of a known kind") from None
    except PIL.Image.DecompressionBombError:
        raise _bad(field, label(source), f"has more than {MAX_PIXELS} pixels") from None
    except Exception as error:  # decoders of damaged files raise whatever they like
        reason = str(error) or type(error).__name__
        raise _bad(field, label(source), "cannot be decoded", reason) from None


def _from_picture(
    picture: PIL.Image.Image,
) -> tuple[NDArray[Any], Bool[np.ndarray, "height width"] | None]:
    """The pixels as stored (of a palette the numbers in it), and which are transparent."""
    array = np.asarray(picture)
    if picture.mode in ("LA", "RGBA"):
        return array[:, :, :-1], array[:, :, -1] == 0
    return array, None


def _from_numpy(content: bytes) -> NDArray[Any]:
    """An array of a `.npy` file, which must hold what its header promises."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, _, dtype = read[version](file)
    if dtype.hasobject or np.prod(shape, dtype=float) * dtype.itemsize > len(content):
        raise ValueError(f"not an array of {dtype} {shape}")
    file.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def nearest(
    values: Float[np.ndarray, "height width channels"], high: int, wide: int
) -> Float[np.ndarray, "high wide channels"]:
    """The pixel in the middle of each area."""
    rows = (2 * np.arange(high) + 1) * values.shape[0] // (2 * high)
    columns = (2 * np.arange(wide) + 1) * values.shape[1] // (2 * wide)
    chosen: NDArray[np.float32] = values[rows[:, None], columns]
    return chosen


def mean(
    values: Float[np.ndarray, "height width channels"], high: int, wide: int
) -> Float[np.ndarray, "high wide channels"]:
    """Weighted means of what says something; NaN where that is less than half of the weight.

    Bilinear, since a filter with negative weights would leave the range at edges.
    """
    if values.shape[:2] == (high, wide):
        return values
    channels = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None]
    valid = channels.isfinite()
    both = torch.cat([torch.where(valid, channels, 0.0), valid.float()])
    height, width = values.shape[:2]
    if height * wide > width * high:
        # width is scaled first, but a column of millions must not grow to 64 columns of millions
        both = F.interpolate(both, (high, width), mode="bilinear", antialias=True)
    both = F.interpolate(both, (high, wide), mode="bilinear", antialias=True)
    total, weight = both
    mean = torch.where(weight >= 0.5, total / weight.clamp(min=0.5), torch.nan)
    return mean.permute(1, 2, 0).numpy()
