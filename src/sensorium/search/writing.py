"""Rows into the table of an index: what is new or has changed is embedded, the rest is left as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from sensorium.data import Data, MediaCache
from sensorium.data.decoding import collate, decode_rows
from sensorium.data.sources import chunked
from sensorium.search.content import (
    Chunk,
    cell_value,
    full_text,
    joined,
    key_number,
    read_chunk,
    small_picture,
)
from sensorium.search.layout import Layout
from sensorium.search.model import Model
from sensorium.search.storage import Storage, arrow_schema
from sensorium.training.run import default_cache
from sensorium.types import Fault, UserError

ROWS_AT_ONCE = 256
"""Whose raw values are in memory at once."""

BATCH_SIZE = 64
MOST_WAITING = 2048
SECONDS_BETWEEN_WRITES = 20.0
"""At most this many embedded rows, or seconds of embedding, are lost by a kill."""

Report = Callable[[int, int], None]


@dataclass
class Indexed:
    """What indexing did.

    Attributes:
        layout: of the index as it is now.
        added: new rows.
        updated: rows that had changed.
        unchanged: rows that were there.
        deleted: rows that were taken out.
        embedded: rows that went through the model; others kept the vectors they had.
        faults: rows that were set aside, of which no earlier version is kept either.
        seconds_in_model: that it spent in its forward pass.
    """

    layout: Layout
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    embedded: int = 0
    faults: list[Fault] = field(default_factory=list)
    seconds_in_model: float = 0.0


class Writer:
    """Compares rows with what is there, embeds what is new, and stores it.

    Args:
        model: makes the vectors.
        storage: the table.
        layout: what its columns are.
        report: called with how many rows are done, of how many.

    Attributes:
        layout: with the numbers that were given to rows.
        done: what it did.
    """

    def __init__(self, model: Model, storage: Storage, layout: Layout, report: Report) -> None:
        self.model, self.storage, self.report = model, storage, report
        known = storage.known()
        # ids are never used twice, not even one that was deleted before it was published
        next_id = max(layout.next_id, 1 + int(known.ids.max(initial=-1)))
        self.layout = layout.changed(next_id=next_id)
        self.known = known
        self.done = Indexed(self.layout)
        self._files = MediaCache(default_cache())
        self._waiting: list[dict[str, Any]] = []
        self._gone: list[int] = []
        self._written = time.monotonic()

    def write(self, rows: Data, prune: bool) -> None:
        """Add rows, or replace those of the same keys."""
        schema = self.model.schema
        embedded = [n for field in self.layout.fields for n in schema.family(field.name)]
        pending: list[Chunk] = []
        seen = np.zeros(len(self.known.ids), dtype=bool)
        repeated = _repeated(rows)
        looked_at = 0
        for numbers in chunked(rows.rows("all"), ROWS_AT_ONCE):
            chunk = read_chunk(rows, self.layout, embedded, numbers, self._files)
            at, there = self.known.find(
                np.asarray([key_number(key) for key in chunk.keys], np.int64)
            )
            seen[at[there]] = True
            changed = []
            for place, row in enumerate(numbers.tolist()):
                if row in repeated:
                    self._set_aside(
                        rows, Fault(chunk.keys[place], "", repeated[row], "repeats", row)
                    )
                elif there[place] and self._is_unchanged(chunk, place, int(at[place])):
                    self.done.unchanged += 1
                else:
                    changed.append(place)
            if changed:
                pending.append(chunk.take(changed))
            if sum(len(part.keys) for part in pending) >= ROWS_AT_ONCE:
                self._take(rows, joined(pending))
                pending = []
            looked_at += len(numbers)
            self.report(looked_at, len(rows))
        if pending:
            self._take(rows, joined(pending))
        if prune:
            self._gone += self.known.ids[~seen].tolist()
            self.done.deleted += int((~seen).sum())
        self._flush()
        if len(self.done.faults) == len(rows):
            raise UserError(
                f"{rows.name}: no row can be used. The first is row '{self.done.faults[0].key}': "
                f"{self.done.faults[0].reason}"
            )

    def delete(self, keys: Sequence[str], path: Path) -> None:
        """Take out rows by key."""
        if not keys:
            return
        known = self.storage.known()
        at, there = known.find(np.asarray([key_number(key) for key in keys], np.int64))
        for key, is_there in zip(keys, there, strict=True):
            if not is_there:
                raise UserError(
                    f"--delete {key}: {path} has no row of that key; nothing was deleted"
                )
        gone = np.unique(known.ids[at])
        self.storage.replace(gone, None)
        self.done.deleted += len(gone)

    def _is_unchanged(self, chunk: Chunk, place: int, at: int) -> bool:
        return bool(
            self.known.content[at] == chunk.content[place]
            and self.known.shown[at] == chunk.shown[place]
        )

    def _set_aside(self, rows: Data, fault: Fault) -> None:
        self.done.faults.append(fault if rows.samples else fault.without_content())

    def _take(self, rows: Data, chunk: Chunk) -> None:
        """Embed and store the rows of a chunk."""
        at, there = self.known.find(np.asarray([key_number(key) for key in chunk.keys], np.int64))
        before = self.known.ids[at] if len(self.known.ids) else at
        same = there & (self.known.content[at] == chunk.content) if there.any() else there
        kept = self.storage.vectors_of(before[same])
        vectors = [kept.get(int(row)) if s else None for row, s in zip(before, same, strict=True)]
        for start in range(0, len(chunk.keys), BATCH_SIZE):
            part = range(start, min(start + BATCH_SIZE, len(chunk.keys)))
            self._embed(rows, chunk, [place for place in part if vectors[place] is None], vectors)
        for place, (key, found) in enumerate(zip(chunk.keys, vectors, strict=True)):
            was_there = bool(there[place])
            self._gone += [int(before[place])] if was_there else []
            if found is None:  # it was set aside
                self.done.deleted += was_there
                continue
            text = full_text(chunk, self.layout, rows, place)
            if not text and all(vector is None for vector in found.values()):
                self.done.deleted += was_there
                lacks = "has none of the fields that are searched"
                self._set_aside(rows, Fault(key, "", lacks, lacks, int(chunk.rows[place])))
                continue
            self.done.added += not was_there
            self.done.updated += was_there
            self._waiting.append(self._row(rows, chunk, place, text) | found)
        late = time.monotonic() - self._written > SECONDS_BETWEEN_WRITES
        if late or len(self._waiting) + len(self._gone) >= MOST_WAITING:
            self._flush()

    def _row(self, rows: Data, chunk: Chunk, place: int, text: str) -> dict[str, Any]:
        number = self.layout.next_id
        self.layout = self.layout.changed(next_id=number + 1)
        picture = self.layout.picture
        return {
            "id": number,
            "key": chunk.keys[place],
            "content": int(chunk.content[place]),
            "shown": int(chunk.shown[place]),
            "text": text,
            "picture": small_picture(chunk.raws[picture][place], rows.schema[picture])
            if picture in chunk.raws
            else None,
        } | {
            column.stored: cell_value(chunk.cells[column.name][place], column)
            for column in self.layout.columns
            if column.name in chunk.cells
        }

    def _embed(
        self, rows: Data, chunk: Chunk, places: list[int], vectors: list[dict[str, Any] | None]
    ) -> None:
        """Fill in the vectors of some rows; those that cannot be read keep none."""
        if not places:
            return
        part = chunk.take(places)
        model_views = self.model.run.system.views()
        views = {name: view for name, view in model_views.items() if name in part.raws}
        samples, faults = decode_rows(
            np.arange(len(places)),
            part.keys,
            part.raws,
            schema=rows.schema,
            views=views,
            cache=None,
            augment=None,
        )
        for fault in faults:
            assert fault.row is not None
            row = int(part.rows[fault.row])
            self._set_aside(rows, Fault(fault.key, fault.field, fault.reason, fault.kind, row))
        if not samples:
            return
        batch = collate(samples, rows.schema, views, 0, ())
        self.done.embedded += batch.size
        found: list[dict[str, Any]] = [{} for _ in samples]
        begin = time.perf_counter()
        for searched in self.layout.fields:
            there = batch.present(searched.name).tolist()
            values = self.model.embed(batch, searched.name) if any(there) else None
            for number, is_there in enumerate(there):
                found[number][searched.stored] = (
                    values[number] if is_there and values is not None else None
                )
        self.done.seconds_in_model += time.perf_counter() - begin
        for sample, own in zip(samples, found, strict=True):
            vectors[places[sample.index]] = own

    def _flush(self) -> None:
        """Write what waits: first what is replaced goes."""
        import pyarrow as pa

        schema = arrow_schema(self.layout)
        rows = pa.Table.from_pylist(self._waiting, schema=schema) if self._waiting else None
        if self._gone or rows is not None:
            self.storage.replace(np.asarray(self._gone, dtype=np.int64), rows)
        self._waiting, self._gone, self._written = [], [], time.monotonic()


def _repeated(rows: Data) -> dict[int, str]:
    """Rows whose key an earlier row has, and what is wrong with them."""
    keys: list[NDArray[np.int64]] = []
    for numbers in chunked(rows.rows("all")):
        own = [key_number(key) for key in rows.keys(numbers)]
        keys.append(np.asarray(own, dtype=np.int64))
    every: Int[NDArray[np.int64], "rows"] = np.concatenate(keys)
    _, first, which = np.unique(every, return_index=True, return_inverse=True)
    later = np.flatnonzero(first[which] != np.arange(len(every)))
    return {int(row): f"row {int(first[which[row]])} has the same key" for row in later}
