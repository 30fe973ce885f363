"""Point clouds: x, y, z of points on the surface of a thing, with or without colours and normals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor

from sensorium.modalities.base import Modality, View
from sensorium.modalities.cells import to_list
from sensorium.modalities.media import checked, label, locate, share_of_files
from sensorium.modalities.point_files import Cloud, UnreadableError, cloud_of, read_points
from sensorium.types import BadValue, Field, draws

Channel = Literal["colour", "normal"]
Change = Literal["dropout", "scale", "shift", "perturb", "rotate"]
CHANGES: tuple[Change, ...] = ("dropout", "scale", "shift", "perturb", "rotate")
"""All that ULIP changes in training."""

GREY = 0.5
"""The colour of points without one."""

_FEWEST = 16  # points of an array that is taken for a cloud without being told so
NAMES = ("point", "cloud", "pcd", "lidar", "xyz")
_TABLES = (".csv", ".npy")
_MOST_DROPPED = 0.875
_SCALE = (0.8, 1.25)
_SHIFT = 0.1
_ANGLE, _LARGEST_ANGLE = 0.06, 0.18  # radians: deviation and limit


class PointsView(View):
    """What a system wants from a cloud.

    Attributes:
        num_points: of more, a subset is taken that depends on the cloud alone; fewer are padded.
        normalise: move the mean to the origin, and scale the farthest point to a distance of 1.
        channels: what is wanted beside x, y, z: `colour` (grey where there is none) and `normal`
            (zeros where there are none).
        augment: what is changed at random in training, in this order: `dropout` (up to 7 of 8 points
            become copies of the first), `scale`, `shift`, `perturb` (small turns about all axes),
            `rotate` (any turn about the vertical).
    """

    num_points: int = Setting(default=1024, gt=0, le=100_000)
    normalise: bool = True
    channels: tuple[Channel, ...] = ()
    augment: tuple[Change, ...] = ()

    @property
    def key(self) -> str:
        """All but augmentation, which comes after decoding."""
        return f"{self.num_points}/{self.normalise}/{','.join(self.channels)}"

    @property
    def num_channels(self) -> int:
        """Numbers of a point."""
        return 3 + 3 * len(self.channels)


@dataclass(frozen=True, eq=False)
class PointSet:
    """A decoded cloud.

    Attributes:
        values: x, y, z with y upwards, and the other channels.
        dropped: points of the original that were left out, since their numbers are not finite.
    """

    values: Float[np.ndarray, "points channels"]
    dropped: int = 0


class Points(Modality):
    """PLY (text or binary), vertices of OBJ, NPY, text with a point a line, and arrays.

    What a file is, its first bytes say. An array, or a text without a line of names, holds x, y, z,
    and after them colours (whole numbers up to 255, or shares), normals (of length 1), or both. Points
    with numbers that are not finite are left out.

    Option `up`: which axis points upwards, `y` (the default) or `z`; decoded clouds have y upwards.
    """

    name = "points"
    suffixes = (".ply", ".obj", ".pts", ".xyz")
    View = PointsView
    cached = True
    options = MappingProxyType({"path": bool, "up": ("y", "z")})

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Files of these types; under a name that says so also tables, or arrays of 3, 6 or 9 columns."""
        named = any(name in column.lower() for name in NAMES)
        share = share_of_files(values, (*self.suffixes, *(_TABLES if named else ())))
        if share > 0.5:
            return 0.98 * share
        arrays = [_as_array(value) for value in values] if named else []
        fits = [a is not None and len(a) >= _FEWEST and a.shape[1] in (3, 6, 9) for a in arrays]
        return 0.97 * float(bool(fits) and all(fits))

    def entries(self, raw: Any, field: Field) -> list[Any]:
        """The clouds of a cell; a list of lists of numbers is one."""
        if isinstance(raw, str) and raw.lstrip().startswith("["):
            raw = to_list(raw, field.name)
        if isinstance(raw, (list, tuple)) and len(raw) and _is_point(raw[0]):
            return [raw]
        return super().entries(raw, field)

    def decode(self, raw: Any, field: Field, view: PointsView) -> PointSet:
        """The points that the view asks for.

        Raises:
            BadValue: no cloud, a damaged one, one of too many points, or without any finite one.
        """
        cloud = _read(raw, field)
        parts = [cloud.places, *(_channel(cloud, name) for name in view.channels)]
        values = np.concatenate(parts, axis=1)
        # float32 must hold them, also where they are not normalised
        finite = (np.abs(values) <= np.finfo(np.float32).max).all(1)
        dropped = len(values) - int(finite.sum())
        if dropped == len(values):
            what = f"{dropped} points, none of them finite" if dropped else "no points"
            raise BadValue(f"field '{field.name}': a cloud with {what}", "has no points")
        values = _subset(values[finite] if dropped else values, view.num_points)
        if field.options.get("up") == "z":
            for start in (0, *(3 * (n + 1) for n, c in enumerate(view.channels) if c == "normal")):
                values[:, start : start + 3] = _y_up(values[:, start : start + 3])
        if view.normalise:
            values[:, :3] = normalised(values[:, :3])
        return PointSet(values.astype(np.float32), dropped)

    def collate(
        self, values: Sequence[PointSet], field: Field, view: PointsView
    ) -> tuple[Float[Tensor, "entries points channels"], Bool[Tensor, "entries points"]]:
        """Clouds of `view.num_points`, and which points are no padding."""
        out = np.zeros((len(values), view.num_points, view.num_channels), dtype=np.float32)
        real = np.zeros(out.shape[:2], dtype=bool)
        for at, value in enumerate(values):
            out[at, : len(value.values)] = value.values
            real[at, : len(value.values)] = True
        return torch.from_numpy(out), torch.from_numpy(real)

    def freeze(self, value: PointSet) -> tuple[NDArray[Any], str]:
        """The numbers, and how many points were left out."""
        return value.values, json.dumps(value.dropped)

    def thaw(self, array: NDArray[Any], note: str) -> PointSet:
        """The cloud that `freeze` took apart."""
        return PointSet(array, json.loads(note))

    def show(self, value: Any, field: Field) -> PIL.Image.Image:
        """A picture of the cloud from the front, a little from above; in its colours if it has any."""
        if isinstance(value, PointSet):
            value, field = value.values, _ANY
        has_colours = _read(value, field).colours is not None
        channels: tuple[Channel, ...] = ("colour",) if has_colours else ()
        shown = self.decode(value, field, PointsView(num_points=8192, channels=channels)).values
        places = seen_from(shown[:, :3], 30.0, 20.0)
        colours = (255 * shown[:, 3:]).astype(np.uint8) if has_colours else None
        return PIL.Image.fromarray(splat(places, 128, colours, width=3))


_ANY = Field(name="any", modality="points")


def normalised(places: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
    """Around the origin, in a sphere of radius 1; points that are all equal lie at the origin."""
    scale = max(float(np.abs(places).max()), np.finfo(np.float64).tiny)
    places = places / scale  # so that no square overflows
    places = places - places.mean(0)
    radius = float(np.sqrt(np.square(places).sum(1).max()))
    return np.asarray(places / radius if radius > 1e-12 else np.zeros_like(places))


def augmented(value: PointSet, view: PointsView, rng: np.random.Generator) -> PointSet:
    """The cloud with the random changes that the view asks for (ULIP, section 4.2).

    Args:
        value: decoded, and normalised if that is wanted: what is scaled here is not scaled back.
        view: what may change.
        rng: where the draws come from; as many for every cloud of so many points.
    """
    if not view.augment:
        return value
    points = value.values.copy()
    ratio, dropped = rng.uniform(0, _MOST_DROPPED), rng.random(len(points))
    scale, shift = rng.uniform(*_SCALE), rng.uniform(-_SHIFT, _SHIFT, 3)
    small = np.clip(_ANGLE * rng.standard_normal(3), -_LARGEST_ANGLE, _LARGEST_ANGLE)
    angle = rng.uniform(0, 2 * np.pi)
    if "dropout" in view.augment:
        points[dropped <= ratio] = points[0]
    if "scale" in view.augment:
        points[:, :3] *= scale
    if "shift" in view.augment:
        points[:, :3] += shift
    turn = np.eye(3)
    if "perturb" in view.augment:
        turn = turning(2, small[2]) @ turning(1, small[1]) @ turning(0, small[0])
    if "rotate" in view.augment:
        turn = turning(1, angle) @ turn
    for start in (0, *(3 * (n + 1) for n, name in enumerate(view.channels) if name == "normal")):
        points[:, start : start + 3] = points[:, start : start + 3] @ turn.T
    return replace(value, values=points)


def turning(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    """The matrix of a turn about an axis, by an angle in radians."""
    one, other = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[one, one] = matrix[other, other] = np.cos(angle)
    matrix[other, one], matrix[one, other] = np.sin(angle), -np.sin(angle)
    return matrix


def seen_from(
    places: Float[np.ndarray, "points 3"], azimuth: float, elevation: float
) -> Float[np.ndarray, "points 3"]:
    """Right, up and towards the eye, for an eye at these angles (degrees) from the front."""
    turn = turning(0, np.deg2rad(elevation)) @ turning(1, np.deg2rad(-azimuth))
    return np.asarray(places @ turn.T)


def splat(
    places: Float[np.ndarray, "points 3"],
    size: int,
    colours: UInt8[np.ndarray, "points 3"] | None = None,
    *,
    width: int = 2,
    ground: int = 255,
) -> UInt8[np.ndarray, "size size 3"]:
    """A picture of points, the nearer ones before the others.

    Args:
        places: right, up and towards the eye, within a sphere of radius 1 around the origin.
        size: of the picture in pixels.
        colours: of the points; if None, near points are dark and far ones light (a depth map, if
            `ground` is white).
        width: of a point in pixels.
        ground: the grey of what no point covers.
    """
    depth = ((places[:, 2] + 1) * 2**15).astype(np.int64).clip(0, 2**16 - 1)
    if colours is None:
        grey = 220 - depth * 200 // 2**16
        colours = np.repeat(grey[:, None], 3, 1).astype(np.uint8)
    red, green, blue = colours.astype(np.int64).T
    # the depth above the colour, so that the largest number of a pixel is that of the nearest point
    code: Int[np.ndarray, " points"] = (depth << 24) | (red << 16) | (green << 8) | blue
    across = np.floor((places[:, 0] * 0.48 + 0.5) * size - width / 2 + 0.5).astype(np.int64)
    down = np.floor((0.5 - places[:, 1] * 0.48) * size - width / 2 + 0.5).astype(np.int64)
    canvas = np.full(size * size, -1, dtype=np.int64)
    for row in range(width):
        for column in range(width):
            x, y = (across + column).clip(0, size - 1), (down + row).clip(0, size - 1)
            np.maximum.at(canvas, y * size + x, code)
    canvas = np.where(canvas < 0, ground * 0x010101, canvas)
    pixels: UInt8[np.ndarray, "pixels 3"] = ((canvas[:, None] >> [16, 8, 0]) & 255).astype(np.uint8)
    return pixels.reshape(size, size, 3)


def _read(raw: Any, field: Field) -> Cloud:
    source = locate(raw)
    kind = "cannot be read"
    try:
        if source is None:
            array = _as_array(raw)
            if array is None:
                raise BadValue(
                    f"field '{field.name}': expected a cloud (a file, or numbers of x, y, z for each "
                    f"point), found {type(raw).__name__}"
                )
            return cloud_of(array)
        source = checked(raw, field, "a cloud")
        content = source.read_bytes() if isinstance(source, Path) else source
        return read_points(content, field)
    except UnreadableError as error:
        where = "the cloud" if source is None else label(source)
        raise BadValue(f"field '{field.name}': {where} {error}", kind) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadValue(f"field '{field.name}': {label(raw)} {kind}: {reason}", kind) from None


def _as_array(raw: Any) -> NDArray[Any] | None:
    """Numbers in rows and columns; None if it is something else."""
    if not isinstance(raw, (list, tuple, np.ndarray)):
        return None
    try:
        array = np.asarray(raw if not _is_nested(raw) else np.stack(list(raw)))
        if array.dtype == object:
            array = array.astype(np.float64)
    except (ValueError, TypeError):
        return None
    return array if array.ndim == 2 and array.dtype.kind in "fiu" else None


def _is_nested(raw: Any) -> bool:
    """Whether it is an array of arrays, as Parquet gives lists of lists."""
    return isinstance(raw, np.ndarray) and raw.dtype == object and raw.ndim == 1 and len(raw) > 0


def _is_point(value: Any) -> bool:
    if not isinstance(value, (list, tuple, np.ndarray)) or np.ndim(value) != 1:
        return False
    return len(value) >= 3 and all(isinstance(n, (int, float, np.number)) for n in value)


def _channel(cloud: Cloud, name: Channel) -> Float[np.ndarray, "points 3"]:
    known = cloud.colours if name == "colour" else cloud.normals
    if known is not None:
        return known
    return np.full(cloud.places.shape, GREY if name == "colour" else 0.0)


def _subset(values: NDArray[Any], count: int) -> NDArray[Any]:
    """At most `count` points, in a copy: which, depends on all of them and on nothing else."""
    if len(values) <= count:
        return values.copy()
    content = hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=8).digest()
    order = draws.permutation(len(values), "points", int.from_bytes(content, "little", signed=True))
    return np.asarray(values[np.sort(order[:count])])


def _y_up(places: NDArray[Any]) -> NDArray[Any]:
    """Of axes of which z points upwards, x, z and -y: a turn, no mirror."""
    return np.stack([places[:, 0], places[:, 2], -places[:, 1]], 1)
