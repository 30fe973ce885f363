"""Where rows come from: map-style tables whose cells are raw values, read by row number.

A cell holds what its modality decodes: a number, a string, a list, the `Path` of a file, or bytes.
What cannot be read becomes a `Broken` cell, so that one bad row never ends the run; the row is set
aside when it is its turn.
"""

from __future__ import annotations

import json
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sensorium.types import Fault, Schema, UserError, draws

Rows = NDArray[np.int64]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}


@dataclass(frozen=True)
class Broken:
    """A cell that cannot be read, and why: with what it says, and without."""

    reason: str
    kind: str = "cannot be read"


class Source(ABC):
    """Rows by number.

    It must be cheap to hand to a forked worker: no Python object for each row, files opened when
    they are read.

    Attributes:
        name: for messages and reports.
        version: changes when the content does.
        root: the folder that paths in cells start from and may not leave; None if there is none.
        column_names: the columns, in order.
        hints: columns whose modality the source knows.
        schema: the schema, if the source knows all of it.
        key: the column that names a row, if the source knows it.
        faults: entries that were refused while the rows were listed.
        most_scanned: how many rows may be read to learn means and classes.
    """

    name: str
    version: str
    root: Path | None = None
    column_names: tuple[str, ...]
    hints: Mapping[str, str] = {}
    schema: Schema | None = None
    key: str | None = None
    faults: tuple[Fault, ...] = ()
    most_scanned: int = 2**62

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def columns(self, names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
        """The cells of some columns in some rows."""

    def row(self, row: int) -> dict[str, Any]:
        """All cells of a row."""
        cells = self.columns(self.column_names, np.asarray([row]))
        return {name: values[0] for name, values in cells.items()}

    def origin(self, rows: Rows) -> Rows:
        """The row of the original table that each row comes from."""
        return rows

    def list_lengths(self, column: str) -> NDArray[np.int64] | None:
        """How many values each cell of a column of lists holds; None if cells are no lists."""
        return None

    def split_rows(self) -> dict[str, Rows] | None:
        """The splits, if the source has them built in."""
        return None


class ArrowSource(Source):
    """An Arrow table in memory; forked workers share its buffers.

    Args:
        table: the rows.
        name, version, root, hints, key, faults: see `Source`.
        path_columns: columns whose strings are paths in `root`.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        name: str,
        version: str,
        root: Path | None = None,
        hints: Mapping[str, str] | None = None,
        key: str | None = None,
        path_columns: Sequence[str] = (),
        faults: Sequence[Fault] = (),
    ) -> None:
        # One chunk: taking rows from many small ones is slow.
        self.table = flattened(table).combine_chunks()
        self.name, self.version, self.root = name, version, root
        self.column_names = tuple(self.table.column_names)
        self.hints = dict(hints or {})
        self.key = key
        self.faults = tuple(faults)
        self._path_columns = frozenset(path_columns)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def columns(self, names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
        """The cells; media structs are unwrapped, path columns located."""
        indices = pa.array(rows)
        found = {}
        for name in names:
            column = self.table.column(name)
            cells = cells_of(column.take(indices))
            if holds_media(column.type):
                cells = [unwrap_media(self.root, cell) for cell in cells]
            elif name in self._path_columns:
                cells = [
                    locate(self.root, cell) if cell and isinstance(cell, str) else cell
                    for cell in cells
                ]
            found[name] = cells
        return found

    def list_lengths(self, column: str) -> NDArray[np.int64] | None:
        """The lengths of a list column (0 for a null)."""
        return arrow_list_lengths(self.table.column(column))


class Expanded(Source):
    """A table in which each row stands once for each value of a list column.

    So every caption of a picture is a row of its own; the rows of one picture have one origin, and
    an empty list keeps one row without the value.

    Args:
        base: the original rows.
        column: the column of lists.
        lengths: of the list in each original row.
    """

    def __init__(self, base: Source, column: str, lengths: NDArray[np.int64]) -> None:
        self.base, self.column = base, column
        self.name, self.version, self.root = base.name, base.version, base.root
        self.column_names, self.hints, self.key = base.column_names, base.hints, base.key
        self.schema, self.faults, self.most_scanned = base.schema, base.faults, base.most_scanned
        self._ends = np.cumsum(np.maximum(lengths, 1))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def origin(self, rows: Rows) -> Rows:
        """The original row of each."""
        return np.searchsorted(self._ends, rows, side="right").astype(np.int64)

    def place(self, rows: Rows) -> NDArray[np.int64]:
        """Which value of the list each row stands for."""
        origin = self.origin(rows)
        starts = np.where(origin > 0, self._ends[origin - 1], 0)
        return rows - starts

    def columns(self, names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
        """The cells; of the list column, the one value."""
        cells = self.base.columns(names, self.origin(rows))
        if self.column in cells:
            places = self.place(rows).tolist()
            cells[self.column] = [
                values[place] if values else None
                for values, place in zip(cells[self.column], places, strict=True)
            ]
        return cells


def flattened(table: pa.Table) -> pa.Table:
    """A table in which the parts of structs are columns: `objects.bbox` as `objects_bbox`."""
    columns: dict[str, pa.ChunkedArray] = {}
    nested = False
    for name in table.column_names:
        column = table.column(name)
        kind = column.type
        if not pa.types.is_struct(kind) or holds_media(kind) or is_member(kind):
            columns[name] = column
            continue
        nested = True
        for number, part in enumerate(kind):
            columns[f"{name}_{part.name}"] = pc.struct_field(column, [number])
    return flattened(pa.table(columns)) if nested else table


def cells_of(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column; those that Python has no value for, such as a year 10,000, broken."""
    try:
        return list(column.to_pylist())
    except Exception:  # a damaged file may hold any bits
        return [_cell(value) for value in column]


def _cell(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except Exception as error:
        return Broken(f"a value of type {value.type} that cannot be read: {error}")


def is_member(kind: pa.DataType) -> bool:
    """Whether a column says where in a tar its values are."""
    return pa.types.is_struct(kind) and {f.name for f in kind} == {"tar", "offset", "size"}


def holds_media(kind: pa.DataType) -> bool:
    """Whether a column is a `{"bytes", "path"}` struct, or a list of them."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return holds_media(kind.value_type)
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def unwrap_media(root: Path | None, cell: Any) -> Any:
    """The bytes of a media struct, or else the file it names."""
    if isinstance(cell, list):
        return [unwrap_media(root, value) for value in cell]
    if cell is None or isinstance(cell, Broken):
        return cell
    if cell["bytes"] is not None:
        return cell["bytes"]
    return None if not cell["path"] else locate(root, cell["path"])


def arrow_list_lengths(column: pa.ChunkedArray) -> NDArray[np.int64] | None:
    """The lengths of the lists in an Arrow column (0 for a null); None if it holds no lists."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return None
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    return np.asarray(lengths.to_numpy(), dtype=np.int64)


def locate(root: Path | None, text: str) -> Path | Broken:
    """The file a cell names, which must be in the folder of the data."""
    if "://" in text:
        return Broken(
            f"'{text}' is an address; expected a file. Download it first", "is an address"
        )
    if root is None:
        return Broken(f"'{text}' names a file, but these rows have no folder of their own")
    try:
        found = os.path.realpath(root / text, strict=True)
        kind = os.stat(found).st_mode  # noqa: PTH116
    except FileNotFoundError:
        return Broken(f"no such file: {root / text}", "names a file that is not there")
    except (OSError, ValueError) as error:
        return Broken(f"'{text}' cannot be opened: {error}")
    inside = _real(root)
    if os.path.commonpath([found, inside]) != inside:
        reason = "leads out of the folder"
        return Broken(f"'{text}' {reason} {root}; put the file into it", reason)
    if not stat.S_ISREG(kind):  # a pipe would be waited for, without end
        reason = "is a folder, not a file" if stat.S_ISDIR(kind) else "is no plain file"
        return Broken(f"'{text}' {reason}", reason)
    return Path(found)


@lru_cache
def _real(root: Path) -> str:
    return os.path.realpath(root)


def spread(rows: Rows, limit: int) -> Rows:
    """At most `limit` of the rows, ascending: one at random of each of as many equal parts.

    Not every n-th row: what repeats in the order of rows would be seen in part only.
    """
    if len(rows) <= limit:
        return rows
    bounds = np.arange(limit + 1) * len(rows) // limit
    within = draws.uniform("spread", np.arange(limit)) * np.diff(bounds)
    return rows[bounds[:-1] + within.astype(np.int64)]


def chunked(rows: Rows, size: int = 1024) -> Iterator[Rows]:
    """The rows in parts."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def parse_parameters(text: str) -> dict[str, Any]:
    """`objects=2&pictures=200` as a mapping; numbers, true and false are read as such.

    Raises:
        UserError: a part is not of the form NAME=VALUE.
    """
    parameters: dict[str, Any] = {}
    for part in filter(None, text.split("&")):
        name, separator, value = part.partition("=")
        if not separator or not name:
            raise UserError(f"parameter '{part}': expected NAME=VALUE, joined by '&'")
        try:
            parameters[name] = json.loads(value)
        except json.JSONDecodeError:
            parameters[name] = value
    return parameters
