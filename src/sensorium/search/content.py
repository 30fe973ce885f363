"""What an index keeps of a row beside its vectors, and how it knows that a row has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from jaxtyping import Int
from numpy.typing import NDArray

from sensorium.data import Data, MediaCache
from sensorium.data.decoding import entries_of, holds_paths
from sensorium.data.sources import Broken, Rows, spread
from sensorium.modalities.base import get_modality, is_missing
from sensorium.report.pictures import as_webp
from sensorium.search.layout import Column, Kind, Layout
from sensorium.types import BadValue, Field, UserError

if TYPE_CHECKING:
    from hashlib import blake2b

_LOOKED_AT = 256


@dataclass(frozen=True)
class Chunk:
    """Some rows, as they are before anything is decoded.

    Attributes:
        rows: their numbers.
        keys: their names.
        raws: of each field, the raw values.
        cells: of each column that is kept.
        content: a digest of what is embedded.
        shown: a digest of all else that is kept.
    """

    rows: Rows
    keys: list[str]
    raws: dict[str, list[Any]]
    cells: dict[str, list[Any]]
    content: Int[NDArray[np.int64], "rows"]
    shown: Int[NDArray[np.int64], "rows"]

    def take(self, places: Sequence[int]) -> Chunk:
        """Some of them."""
        at = np.asarray(places, dtype=np.int64)
        return Chunk(
            self.rows[at],
            [self.keys[place] for place in places],
            {name: [values[place] for place in places] for name, values in self.raws.items()},
            {name: [values[place] for place in places] for name, values in self.cells.items()},
            self.content[at],
            self.shown[at],
        )


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks one after another."""
    first = chunks[0]
    return Chunk(
        np.concatenate([chunk.rows for chunk in chunks]),
        [key for chunk in chunks for key in chunk.keys],
        {name: [raw for chunk in chunks for raw in chunk.raws[name]] for name in first.raws},
        {name: [cell for chunk in chunks for cell in chunk.cells[name]] for name in first.cells},
        np.concatenate([chunk.content for chunk in chunks]),
        np.concatenate([chunk.shown for chunk in chunks]),
    )


def find_columns(data: Data, known: Sequence[Column]) -> tuple[Column, ...]:
    """The columns to be kept: those that are, and further ones with numbers, texts, or true and false."""
    media = {c for f in data.schema if holds_paths(f) for c in f.source_columns}
    names = [name for name in data.source.column_names if name not in media]
    cells = data.columns(names, spread(data.rows("all"), _LOOKED_AT))
    columns = list(known)
    for name in names:
        kind = _kind(cells[name])
        if kind is not None and all(column.name != name for column in known):
            columns.append(Column(name=name, kind=kind, stored=_stored(name, kind)))
    return tuple(columns)


def find_picture(data: Data) -> str:
    """The field whose entries are shown as small pictures: an image, or what can be drawn; or empty."""
    shown = [
        field for field in data.schema if field.role not in ("ignore", "label") and not field.of
    ]
    for field in sorted(shown, key=lambda field: field.modality != "image"):
        rows = spread(data.rows("all"), _LOOKED_AT)
        for raw in data.raw([field.name], rows)[field.name]:
            try:
                entries = entries_of(raw, field, get_modality(field.modality))
                if entries:
                    if isinstance(
                        get_modality(field.modality).show(entries[0], field), PIL.Image.Image
                    ):
                        return field.name
                    break
            except UserError:
                continue  # a broken one; the next may do
    return ""


def read_chunk(
    data: Data, layout: Layout, embedded: Sequence[str], rows: Rows, files: MediaCache
) -> Chunk:
    """Rows with their digests.

    Args:
        data: where they are.
        layout: what is kept of them.
        embedded: the fields of which vectors are made, with all that hangs on them.
        rows: their numbers.
        files: remembers the digests of files that have not changed.
    """
    names = dict.fromkeys([*embedded, *layout.texts, *filter(None, [layout.picture])])
    there = [name for name in names if name in data.schema]
    columns = [c.name for c in layout.columns if c.name in data.source.column_names]
    raws, cells = data.raw(there, rows), data.columns(columns, rows)
    of_content = [raws[name] for name in there if name in embedded]
    of_shown = [raws[name] for name in there if name not in embedded] + list(cells.values())
    places = range(len(rows))
    content = [_digest([values[place] for values in of_content], files) for place in places]
    shown = [_digest([values[place] for values in of_shown], files) for place in places]
    numbers = (np.asarray(each, dtype=np.int64) for each in (content, shown))
    return Chunk(rows, data.keys(rows), raws, cells, *numbers)


def cell_value(cell: Any, column: Column) -> float | str | bool | None:
    """A cell as it is kept.

    Raises:
        UserError: it is of another kind than the column was.
    """
    if isinstance(cell, Broken) or is_missing(cell):
        return None
    kind = _kind_of(cell)
    if column.kind == "text" and kind is not None:
        return cell.isoformat() if isinstance(cell, date) else str(cell)
    if kind != column.kind:
        raise UserError(
            f"column '{column.name}' holds {cell!r:.60} here, and was {column.kind} when the index was "
            "made; give the column another name, or index all rows anew into another folder"
        )
    if kind == "number":
        number = float(cell)
        return number if np.isfinite(number) else None
    return bool(cell)


def full_text(chunk: Chunk, layout: Layout, data: Data, place: int) -> str:
    """All words of a row: of its fields of texts, and of columns that are not such a field."""
    parts: list[str] = []
    columns = {data.schema.key, data.schema.split}
    for name in layout.texts:
        if name not in chunk.raws:
            continue
        field = data.schema[name]
        columns |= set(field.source_columns)
        modality = get_modality("text")
        try:
            entries = entries_of(chunk.raws[name][place], field, modality)
            parts += [str(modality.show(entry, field)) for entry in entries]
        except BadValue:
            continue  # the row is embedded without it
    for column in layout.columns:
        if column.kind == "text" and column.name not in columns and column.name in chunk.cells:
            value = cell_value(chunk.cells[column.name][place], column)
            parts += [] if value is None else [str(value)]
    return "\n".join(parts)


def small_picture(raw: Any, field: Field) -> bytes | None:
    """The first entry of a field as a small WebP file; None if it cannot be shown."""
    modality = get_modality(field.modality)
    try:
        entries = entries_of(raw, field, modality)
        shown = modality.show(entries[0], field) if entries else None
    except BadValue:
        return None
    return as_webp(shown) if isinstance(shown, PIL.Image.Image) else None


def key_number(key: str) -> int:
    """An integer that stands for a key."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little", signed=True)


def _stored(name: str, kind: Kind) -> str:
    """The same for the same column, so that what a killed run has stored is found by the next."""
    digest = hashlib.blake2b(f"{kind} {name}".encode("utf-8", "surrogatepass"), digest_size=8)
    return f"column_{digest.hexdigest()}"


def _kind(cells: Sequence[Any]) -> Kind | None:
    """Of what kind all filled cells of a column are."""
    kinds = {
        _kind_of(cell) for cell in cells if not isinstance(cell, Broken) and not is_missing(cell)
    }
    return kinds.pop() if len(kinds) == 1 else None


def _kind_of(cell: Any) -> Kind | None:
    if isinstance(cell, (bool, np.bool_)):
        return "truth"
    if isinstance(cell, (Real, Decimal)):
        return "number"
    return "text" if isinstance(cell, (str, date)) else None


def _digest(values: Sequence[Any], files: MediaCache) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        _add(digest, value, files)
    return int.from_bytes(digest.digest(), "little", signed=True)


def _add(digest: blake2b, value: Any, files: MediaCache) -> None:
    """Add a raw value: what kind it is, how long, and what is in it."""
    if isinstance(value, Path):
        try:
            content = files.digest(value)
        except OSError:
            content = b""  # it is set aside when it is decoded
    elif isinstance(value, (list, tuple)):
        digest.update(b"%d" % len(value))
        for part in value:
            _add(digest, part, files)
        return
    elif isinstance(value, Mapping):
        _add(digest, [part for item in sorted(value.items(), key=str) for part in item], files)
        return
    elif isinstance(value, np.ndarray):
        content = f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    elif isinstance(value, bytes):
        content = value
    else:
        content = str(value).encode("utf-8", "surrogatepass")
    digest.update(f"{type(value).__name__} {len(content)} ".encode() + content)
