"""Points from files: PLY, OBJ, NPY, and text with a point a line. No header is believed."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sensorium.modalities.series_files import read_npy
from sensorium.types import Field

MAX_POINTS = 5_000_000
"""In one cloud, before some of them are chosen."""

_MAX_HEADER = 65_536
_MAX_COLUMNS = 9  # place, colour, normal
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "place": (("x", "y", "z"),),
    "colour": (("red", "green", "blue"), ("r", "g", "b")),
    "normal": (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")),
}
_KNOWN = {name for choices in _NAMES.values() for names in choices for name in names}
_OBJ = re.compile(rb"\A(\s*#[^\n]*\n|\s)*(v|vn|vt|o|g|s|mtllib|usemtl)[ \t]")


class UnreadableError(ValueError):
    """A file that is no cloud; the message says why."""


@dataclass(frozen=True)
class Cloud:
    """Points as a file holds them.

    Attributes:
        places: x, y, z.
        colours: red, green, blue in [0, 1], if they are known.
        normals: of the surface, if they are known.
    """

    places: Float[np.ndarray, "points 3"]
    colours: Float[np.ndarray, "points 3"] | None = None
    normals: Float[np.ndarray, "points 3"] | None = None


def read_points(content: bytes, field: Field) -> Cloud:
    """The points in the bytes of a file, whose beginning says what kind it is.

    Raises:
        UnreadableError: they cannot be read as any of the kinds, or are more than `MAX_POINTS`.
        BadValue: an NPY file is damaged.
    """
    if content.startswith(b"ply"):
        return _read_ply(content)
    if content.startswith(b"\x93NUMPY"):
        return cloud_of(read_npy(content, field))
    if _OBJ.match(content[:_MAX_HEADER]):
        return _read_obj(content)
    return _read_text(content)


def cloud_of(values: NDArray[Any]) -> Cloud:
    """The cloud of an array: x, y, z, and after them colours, normals or both, told by their values.

    Raises:
        UnreadableError: it holds no numbers, or not three for each point at least.
    """
    if values.ndim != 2 or values.shape[1] < 3 or values.dtype.kind not in "fiu":
        raise UnreadableError(
            f"expected numbers (points, 3 or more), found {values.dtype} {values.shape}"
        )
    _check_count(len(values))
    found: dict[str, NDArray[Any]] = {}
    for start in (3, 6):
        three = values[:, start : start + 3]
        if three.shape[1] == 3 and len(three):
            found.setdefault(_kind_of(three), three)
    return _cloud(values[:, :3], found.get("colour"), found.get("normal"))


def _kind_of(three: NDArray[Any]) -> str:
    known = three[np.isfinite(three).all(1)].astype(np.float64)
    if not len(known):
        return ""
    with np.errstate(over="ignore"):
        length = np.sqrt(np.square(known).sum(1))
    if three.dtype.kind == "f" and np.abs(length - 1).max() < 0.02:
        return "normal"
    return "colour" if known.min() >= 0 and known.max() <= 255 else ""


def _cloud(
    places: NDArray[Any], colours: NDArray[Any] | None, normals: NDArray[Any] | None
) -> Cloud:
    if colours is not None and len(colours):
        top = 65535 if colours.dtype == np.uint16 else 255
        is_share = colours.dtype.kind == "f" and not (colours > 1).any()
        colours = (colours / (1 if is_share else top)).astype(np.float32)
    return Cloud(
        places.astype(np.float64),
        colours,
        None if normals is None else normals.astype(np.float32),
    )


def _check_count(count: int) -> None:
    if count > MAX_POINTS:
        raise UnreadableError(f"has {count} points, more than {MAX_POINTS}")


# ---------------------------------------------------------------------- PLY


def _read_ply(content: bytes) -> Cloud:
    order, elements, start = _ply_header(content)
    for name, count, properties in elements:
        if name == "vertex":
            _check_count(count)
            return _ply_vertices(content[start:], order, count, properties)
        if any(kind is None for kind, _ in properties):
            raise UnreadableError(f"has lists of '{name}' before its vertices")
        if order:
            start += count * np.dtype([(n, k) for k, n in properties if k]).itemsize
        else:
            for _ in range(count):
                start = content.find(b"\n", start) + 1
                if not start:
                    raise UnreadableError(f"ends before its {count} '{name}'")
    raise UnreadableError("has no element 'vertex'")


Property = tuple[str | None, str]


def _ply_header(content: bytes) -> tuple[str, list[tuple[str, int, list[Property]]], int]:
    """The byte order, the elements with their properties (type, None for a list, and name), the end."""
    ended = re.search(rb"\nend_header[ \t]*\r?\n", content[:_MAX_HEADER])
    if ended is None:
        raise UnreadableError(f"has no 'end_header' in its first {_MAX_HEADER} bytes")
    order: str | None = None
    elements: list[tuple[str, int, list[Property]]] = []
    for line in content[: ended.start()].decode("latin-1").splitlines()[1:]:
        match line.split():
            case ["format", kind, _] if kind in _ORDERS:
                order = _ORDERS[kind]
            case ["element", name, count] if count.isdecimal() and len(count) < 16:
                elements.append((name, int(count), []))
            case ["property", "list", size, kind, name] if elements and {size, kind} <= set(_TYPES):
                elements[-1][2].append((None, name))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1][2].append(((order or "") + _TYPES[kind], name))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise UnreadableError(f"has an unknown line in its header: '{line[:60]}'")
    if order is None:
        raise UnreadableError("does not say in its header what format it has")
    if any(len({own for _, own in has}) < len(has) for _, _, has in elements):
        raise UnreadableError("has an element with two properties of one name")
    return order, elements, ended.end()


def _ply_vertices(content: bytes, order: str, count: int, properties: list[Property]) -> Cloud:
    kinds = [kind for kind, _ in properties]
    names = [name for _, name in properties]
    if None in kinds:
        raise UnreadableError("has lists among the properties of its vertices")
    if not order:
        lines = io.TextIOWrapper(io.BytesIO(content), encoding="latin-1")
        table = _table(lines, None, len(names), count)
        if len(table) < count:
            raise UnreadableError(f"says that it has {count} points, and has {len(table)}")
        return _named({name: _typed(table[:, at], kinds[at]) for at, name in enumerate(names)})
    layout = np.dtype([(name, kind) for kind, name in properties if kind])
    if count * layout.itemsize > len(content):
        room = len(content) // max(1, layout.itemsize)
        raise UnreadableError(f"says that it has {count} points, and has room for {room}")
    rows = np.frombuffer(content, layout, count)
    return _named({name: rows[name] for name in names})


def _typed(column: Float[np.ndarray, " points"], kind: str | None) -> NDArray[Any]:
    """A column in the type of bytes or words, if that is what it is: then 1 is nearly black."""
    if kind not in ("u1", "u2"):
        return column
    whole: NDArray[Any] = np.nan_to_num(column).clip(0, np.iinfo(kind).max).astype(kind)
    return whole


def _named(columns: dict[str, NDArray[Any]]) -> Cloud:
    found: dict[str, NDArray[Any]] = {}
    for what, choices in _NAMES.items():
        for names in choices:
            if what not in found and columns.keys() >= set(names):
                found[what] = np.stack([columns[name] for name in names], 1)
    if "place" not in found:
        raise UnreadableError(f"has no x, y, z among {', '.join(columns)[:100]}")
    return _cloud(found["place"], found.get("colour"), found.get("normal"))


# ---------------------------------------------------------------------- OBJ, text


def _read_obj(content: bytes) -> Cloud:
    rows = [line[2:] for line in content.splitlines() if line.startswith((b"v ", b"v\t"))]
    _check_count(len(rows))
    if not rows:
        raise UnreadableError("has no vertices (lines that begin with v)")
    width = 6 if len(rows[0].split()) >= 6 else 3
    table = _table([row.decode("latin-1") for row in rows], None, width, len(rows))
    return _cloud(table[:, :3], table[:, 3:] if width == 6 else None, None)


def _read_text(content: bytes) -> Cloud:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableError("is none of PLY, OBJ, NPY and text") from None
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if _has_content(line)), len(lines))
    if start < len(lines) and lines[start].strip().isdecimal():
        start += 1  # some begin with the number of points
    if start == len(lines):
        raise UnreadableError("has no points")
    _check_count(len(lines) - start)
    delimiter = next((mark for mark in ",;" if mark in lines[start]), None)
    first = [cell.strip().strip('"').lower() for cell in lines[start].split(delimiter)]
    if not all(_is_number(cell) for cell in first):
        if len(set(first)) < len(first):
            raise UnreadableError("has two columns of one name")
        wanted = [at for at, name in enumerate(first) if name in _KNOWN]
        table = _table(lines[start + 1 :], delimiter, wanted, MAX_POINTS)
        return _named({first[at]: table[:, number] for number, at in enumerate(wanted)})
    if len(first) < 3:
        raise UnreadableError(f"has {len(first)} numbers a line, and a point needs three")
    width = min(len(first) // 3 * 3, _MAX_COLUMNS)
    return cloud_of(_table(lines[start:], delimiter, width, MAX_POINTS))


def _has_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _table(
    lines: Iterable[str], delimiter: str | None, columns: int | list[int], count: int
) -> Float[np.ndarray, "rows columns"]:
    """Numbers in columns; at most `count` lines of them."""
    wanted = list(range(columns)) if isinstance(columns, int) else columns
    rows = (line for line in lines if _has_content(line))
    first = next(rows, None)
    if first is None or not wanted or not count:
        return np.zeros((0, len(wanted)))
    try:
        # loadtxt warns of an input without lines, so it is looked at before
        return np.loadtxt(
            _with(first, rows), delimiter=delimiter, usecols=wanted, max_rows=count, ndmin=2
        )
    except (ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise UnreadableError(f"cannot be read as numbers: {reason}") from None


def _with(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
