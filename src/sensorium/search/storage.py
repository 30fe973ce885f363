"""The rows of an index in a table of LanceDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from sensorium.search.content import key_number
from sensorium.search.layout import Column, Layout
from sensorium.types.errors import MissingExtra

if TYPE_CHECKING:
    import pyarrow as pa

Ids = Int[NDArray[np.int64], "rows"]

_AT_ONCE = 1024
"""Rows that are named in one condition."""

_PART = 2 * _AT_ONCE
"""Rows that are read or written at once; of a whole table, LanceDB reads two gigabytes ahead."""


@dataclass(frozen=True)
class Known:
    """What is there, in the order of `numbers`: 32 bytes for each row, however long its key.

    Attributes:
        numbers: that stand for the keys.
        ids: of the rows.
        content: digests of what was embedded.
        shown: digests of all else.
    """

    numbers: Ids
    ids: Ids
    content: Ids
    shown: Ids

    def find(self, numbers: Ids) -> tuple[Ids, Bool[NDArray[np.bool_], "rows"]]:
        """Where keys are, and which are there at all."""
        at = np.minimum(np.searchsorted(self.numbers, numbers), max(0, len(self.numbers) - 1))
        there = self.numbers[at] == numbers if len(self.numbers) else np.zeros(len(numbers), bool)
        return at, there


class Storage:
    """A table, as its last writer left it or at a version.

    Args:
        folder: of tables.
        layout: which of them it is, and what its columns are.
        version: that is read; the last one, which can be written, if None.
    """

    def __init__(self, folder: Path, layout: Layout, version: int | None = None) -> None:
        self._folder, self._layout = folder, layout
        self._database = _lancedb().connect(folder)
        if layout.table in self._database.list_tables().tables:
            self._table = self._database.open_table(layout.table)
        else:
            self._table = self._database.create_table(layout.table, schema=arrow_schema(layout))
        if version is not None:
            self._table.checkout(version)

    @property
    def table(self) -> str:
        """Its name."""
        return self._layout.table

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those of the layout that this version has; further ones are there once they are published."""
        there = set(self._table.schema.names)
        return tuple(column for column in self._layout.columns if column.stored in there)

    @property
    def version(self) -> int:
        """Changes with every write."""
        return int(self._table.version)

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def known(self) -> Known:
        """The digests of all rows."""
        columns: list[list[np.ndarray]] = [[], [], [], []]
        for part in self._parts(["key", "id", "content", "shown"]):
            numbers = [key_number(key) for key in part["key"].to_pylist()]
            columns[0].append(np.asarray(numbers, dtype=np.int64))
            for name, found in zip(("id", "content", "shown"), columns[1:], strict=True):
                found.append(part[name].to_numpy())
        whole = [np.concatenate([np.empty(0, np.int64), *parts]) for parts in columns]
        order = np.argsort(whole[0], kind="stable")
        return Known(*(part[order] for part in whole))

    def add_columns(self, columns: Sequence[Column]) -> None:
        """Make room for further columns, in which the rows so far have nothing."""
        kinds = {"number": "double", "text": "string", "truth": "boolean"}
        there = set(self._table.schema.names)
        new = {c.stored: f"CAST(NULL AS {kinds[c.kind]})" for c in columns if c.stored not in there}
        if new:
            self._table.add_columns(new)

    def replace(self, gone: Ids, rows: pa.Table | None) -> None:
        """Take out rows by their ids, and add others."""
        for start in range(0, len(gone), _AT_ONCE):
            self._table.delete(_among(gone[start : start + _AT_ONCE]))
        if rows is not None and rows.num_rows:
            self._table.add(rows, on_bad_vectors="null")

    def rewritten(self) -> Storage:
        """A new table with the same rows, and with an index of their words.

        So nothing is left in it of rows that were deleted, which LanceDB keeps in files most of which is in
        use, and in indexes; and their places are in the order of their ids. It is written in parts, since
        what is written at once is all in memory. This one is as it was, should that be interrupted.
        """
        from lancedb.index import FTS

        number = int(self._layout.table.partition("_")[2]) + 1
        layout = self._layout.changed(table=f"rows_{number}")
        self._database.drop_table(layout.table, ignore_missing=True)  # of a run that was killed
        new = Storage(self._folder, layout)
        nobody = np.empty(0, np.int64)
        for part in self._parts(arrow_schema(layout).names):
            new.replace(nobody, part)
        if layout.has_text and len(new):
            # Words are divided as Unicode says, in any language; none is left out or cut.
            words = FTS(
                base_tokenizer="icu", stem=False, remove_stop_words=False, with_position=False
            )
            new._table.create_index("text", config=words)
        return new

    def drop_others(self) -> None:
        """Remove all tables but this one."""
        for name in self._database.list_tables().tables:
            if name != self._layout.table:
                self._database.drop_table(name)

    def vectors(
        self, name: str
    ) -> Iterator[tuple[Ids, Float[NDArray[np.float32], "entries width"]]]:
        """The ids and vectors of the rows that have one of a field, some at a time."""
        for part in self._parts(["id", name]):
            there = part.filter(part[name].is_valid())
            yield there["id"].to_numpy(), _matrix(there[name])

    def ids(self) -> Iterator[Ids]:
        """Those of all rows, some at a time, in their order."""
        for part in self._parts(["id"]):
            yield part["id"].to_numpy()

    def vectors_of(self, ids: Ids) -> dict[int, dict[str, Any]]:
        """The vectors of rows by id; None where a row has none."""
        names = ["id", *(field.stored for field in self._layout.fields)]
        rows: dict[int, dict[str, Any]] = {}
        for start in range(0, len(ids), _AT_ONCE):
            query = self._table.search().where(_among(ids[start : start + _AT_ONCE]))
            rows |= {row.pop("id"): row for row in query.select(names).to_arrow().to_pylist()}
        return rows

    def fetch(self, places: Ids) -> list[dict[str, Any]]:
        """What is kept of rows, but for their vectors, by their places in the table."""
        if not len(places):
            return []
        names = ["key", "text", "picture", *(c.stored for c in self.columns)]
        order = np.argsort(places)
        query = self._table.take_offsets(places[order].tolist()).select(names)
        rows = query.to_arrow().to_pylist()  # in the order of the table, whatever was asked
        return [rows[at] for at in np.argsort(order)]

    def fitting(self, condition: str) -> Ids:
        """The ids of the rows that a condition, in SQL, holds for."""
        ids: Ids = self._table.search().where(condition).select(["id"]).to_arrow()["id"].to_numpy()
        return ids

    def with_words(self, words: str, count: int, condition: str | None) -> list[tuple[int, float]]:
        """The rows in which words stand, by BM25: their ids and scores, falling."""
        from lancedb.query import MatchQuery

        if not words.strip() or not len(self):
            return []
        query = self._table.search(MatchQuery(words, "text"), query_type="fts")
        if condition is not None:
            query = query.where(condition, prefilter=True)
        found = query.select(["id", "_score"]).limit(count).to_arrow()
        pairs = zip(found["id"].to_pylist(), found["_score"].to_pylist(), strict=True)
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def _parts(self, names: list[str]) -> Iterator[pa.Table]:
        """Columns of all rows, some at a time, in their order."""
        number = len(self)
        for start in range(0, number, _PART):
            places = list(range(start, min(start + _PART, number)))
            yield self._table.take_offsets(places).select(names).to_arrow()


def arrow_schema(layout: Layout) -> pa.Schema:
    """The columns of the table."""
    import pyarrow as pa

    kinds = {"number": pa.float64(), "text": pa.string(), "truth": pa.bool_()}
    return pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("key", pa.string()),
            pa.field("content", pa.int64()),
            pa.field("shown", pa.int64()),
            pa.field("text", pa.string()),
            pa.field("picture", pa.binary()),
            *(pa.field(f.stored, pa.list_(pa.float32(), f.width)) for f in layout.fields),
            *(pa.field(c.stored, kinds[c.kind]) for c in layout.columns),
        ]
    )


def _among(ids: Ids) -> str:
    return f"id IN ({', '.join(map(str, ids.tolist()))})"


def _matrix(column: pa.ChunkedArray) -> Float[NDArray[np.float32], "entries width"]:
    width = column.type.list_size
    values: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, width)


def _lancedb() -> Any:
    try:
        import lancedb
    except ImportError:
        raise MissingExtra("An index", "search") from None
    return lancedb
