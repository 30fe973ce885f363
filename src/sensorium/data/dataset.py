"""A data set: rows of a source, read through a schema, divided into splits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from sensorium.data import splits as splitting
from sensorium.data.columns import check_columns, without_missing_columns
from sensorium.data.decoding import (
    Cache,
    collate,
    decode_rows,
    entries_of,
    field_values,
    is_filled,
)
from sensorium.data.missing import Missing, check_conditions, check_missing, columns_asked, hide
from sensorium.data.sources import Broken, Expanded, Rows, Source, chunked, spread
from sensorium.data.tables import fingerprint
from sensorium.modalities.base import Modality, View, get_modality, is_missing
from sensorium.types import BadValue, Batch, Fault, Field, Sample, Schema, UserError
from sensorium.types.names import did_you_mean

_TABLE_ROWS = 200_000
_MEDIA_ROWS = 1_000  # whose bytes are in memory at once
_PROBE_ROWS = 256


@dataclass(frozen=True)
class Data:
    """Rows with a schema and splits. Immutable: each change gives another `Data`.

    Attributes:
        source: the rows as numbered here (one for each caption where a picture has several).
        schema: the fields, with what `fit` learned.
        splits: the rows of `train`, `validation` and `test`.
        table: the rows as the user has them.
        split: how they are split, as written; None for the default.
        seed: of the split and of what is hidden.
        missing: fields that are hidden in some rows.
        missing_test: in test rows, instead of `missing`; None for the same.
        reasons: why the schema is as it is, by column, where it was guessed.
        new: whether these are new rows for a schema of other data, which may lack columns: the
            label of rows to predict, say. What they lack is absent.
        where: what `open_data` was given; empty if the data were put together otherwise.
        samples: whether rows may be shown: in reports, in lists of what is wrong with them, and
            wherever else a file would hold a part of them.
    """

    source: Source
    schema: Schema
    splits: dict[str, Rows]
    table: Source
    split: str | None = None
    seed: int = 0
    missing: tuple[Missing, ...] = ()
    missing_test: tuple[Missing, ...] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    new: bool = False
    where: str = ""
    samples: bool = True

    @classmethod
    def build(
        cls,
        table: Source,
        schema: Schema,
        *,
        split: str | None = None,
        seed: int = 0,
        reasons: Mapping[str, str] | None = None,
        new: bool = False,
        where: str = "",
        samples: bool = True,
    ) -> Data:
        """Put rows and schema together.

        Raises:
            UserError: the schema names a column that is not there; the split cannot be made.
        """
        if new:
            schema = without_missing_columns(schema, table)
        check_columns(schema, table, new)
        source = _expanded(table, schema)
        of_table = splitting.make(table, schema, split, seed)
        origin = source.origin(np.arange(len(source)))
        side = np.full(len(table), -1)
        for number, rows in enumerate(of_table.values()):
            side[rows] = number
        splits = {
            name: np.flatnonzero(side[origin] == number) for number, name in enumerate(of_table)
        }
        return cls(
            source=source,
            schema=schema,
            splits=splits,
            table=table,
            split=split,
            seed=seed,
            reasons=dict(reasons or {}),
            new=new,
            where=where,
            samples=samples,
        )

    @property
    def name(self) -> str:
        """What the data are called."""
        return self.table.name

    @property
    def recipe(self) -> dict[str, Any]:
        """The arguments of `open_data` that open the same rows with the same splits, fit for JSON.

        What was fitted is not part of it; it belongs to a run.
        """
        recipe: dict[str, Any] = {"where": self.where, "split": self.split, "seed": self.seed}
        if not self.samples:
            recipe["samples"] = False
        if not self.missing and self.missing_test is None:
            return recipe
        # What is hidden is said in the names of these fields, which a guess may not give.
        unfitted = [entry.replace(fitted={}) for entry in self.schema]
        schema = self.schema.replace(*unfitted).model_dump(exclude_defaults=True, mode="json")
        recipe |= {"schema": schema, "missing": [str(entry) for entry in self.missing]}
        if self.missing_test is not None:
            recipe["missing_test"] = [str(entry) for entry in self.missing_test]
        return recipe

    @property
    def version(self) -> str:
        """Changes when the rows, the roles, the split or what is hidden change."""
        schema = self.schema.model_dump_json(exclude={"fields": {"__all__": {"fitted"}}})
        hidden = [str(entry) for entry in self.missing]
        if self.missing_test is not None:
            hidden += ["in test rows", *map(str, self.missing_test)]
        return fingerprint(self.table.version, schema, str(self.split), str(self.seed), *hidden)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Entries that were refused while the rows were listed."""
        return self._shown(self.table.faults)

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, split: str) -> Rows:
        """The row numbers of a split, or of `all`.

        Raises:
            UserError: there is no such split.
        """
        if split == "all":
            return np.arange(len(self.source))
        if split not in self.splits:
            raise UserError(
                f"there is no split '{split}'. {did_you_mean(split, [*self.splits, 'all'])}"
            )
        return self.splits[split]

    def with_schema(self, schema: Schema) -> Data:
        """The same rows read another way; a split that the schema's columns decide follows them."""
        data = Data.build(
            self.table,
            schema,
            split=self.split,
            seed=self.seed,
            reasons=self.reasons,
            new=self.new,
            where=self.where,
            samples=self.samples,
        )
        return data.with_missing(*self.missing, test=self.missing_test)

    def with_missing(self, *missing: Missing, test: Iterable[Missing] | None = None) -> Data:
        """The same rows with fields hidden in some of them, in all splits.

        Args:
            missing: what is hidden, instead of what was.
            test: what is hidden in test rows, if that is something else.

        Raises:
            UserError: a field or column is not there.
        """
        in_test = None if test is None else tuple(test)
        check_missing((*missing, *(in_test or ())), self.schema, self.source.column_names)
        return replace(self, missing=missing, missing_test=in_test)

    def without_samples(self) -> Data:
        """The same rows, of which nothing is to be shown."""
        return replace(self, samples=False)

    def _shown(self, faults: Iterable[Fault]) -> tuple[Fault, ...]:
        return tuple(fault if self.samples else fault.without_content() for fault in faults)

    def keys(self, rows: Rows) -> list[str]:
        """The names of rows."""
        names = _names(self.schema, self.source, rows)
        if isinstance(self.source, Expanded):
            places = self.source.place(rows).tolist()
            return [f"{name}#{place}" for name, place in zip(names, places, strict=True)]
        return names

    def groups(self, rows: Rows) -> Int[NDArray[np.int64], "rows"]:
        """An integer for each row, equal for rows of one group (or of one original row)."""
        if self.schema.group is not None:
            cells = self.source.columns([self.schema.group], rows)[self.schema.group]
            return splitting.group_numbers(cells, self.source.origin(rows))
        return self.source.origin(rows)

    def identities(self, name: str, rows: Rows) -> Int[NDArray[np.int64], "rows"]:
        """An integer for each row, equal where a field's value is the same file, text or content.

        Other values are the same in the rows of one original row.
        """
        entry = self.schema[name]
        origin = self.source.origin(rows).tolist()
        if entry.columns:
            return np.asarray(origin)
        column = entry.source_columns[0]
        cells = self.source.columns([column], rows)[column]
        numbers = []
        for cell, row in zip(cells, origin, strict=True):
            content = cell.tobytes() if isinstance(cell, np.ndarray) else cell
            named = isinstance(content, (str, bytes, Path)) and content
            numbers.append(splitting.name_number(content) if named else row)
        return np.asarray(numbers, dtype=np.int64)

    def columns(self, names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
        """Raw cells of columns.

        Raises:
            UserError: there is no such column.
        """
        for name in names:
            if name not in self.source.column_names:
                raise UserError(
                    f"{self.name}: there is no column '{name}'. "
                    + did_you_mean(name, self.source.column_names)
                )
        return self.source.columns(names, rows)

    def raw(self, names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
        """The raw values of fields: for a table, mappings from column to cell."""
        fields = [self.schema[name] for name in names]
        needed = [column for entry in fields for column in entry.source_columns]
        needed += columns_asked(self, names)
        there = [name for name in dict.fromkeys(needed) if name in self.source.column_names]
        cells = self.source.columns(there, rows)
        cells |= {name: [None] * len(rows) for name in needed if name not in cells}
        root = self.source.root
        values = {entry.name: field_values(entry, cells, root) for entry in fields}
        hide(values, self, rows, cells)
        return values

    def texts(self, limit: int) -> Iterator[str]:
        """Texts of training rows, spread over them; what the tokenizer learns from."""
        fields = [f for f in self.schema if f.role != "ignore" and get_modality(f.modality).written]
        rows = spread(self.rows("train"), limit)
        for chunk in chunked(rows):
            raws = self.raw([entry.name for entry in fields], chunk)
            for entry in fields:
                modality = get_modality(entry.modality)
                view = modality.View()
                for cell in raws[entry.name]:
                    try:
                        values = entries_of(cell, entry, modality)
                        yield from (str(modality.decode(value, entry, view)) for value in values)
                    except BadValue:
                        continue  # the row is set aside, with the reason, when it is its turn

    def fit(self) -> Data:
        """The same data, with what the modalities learn from the training rows in the schema.

        Raises:
            UserError: there are no training rows; a field is empty in all of them; a label has one
                class or value only.
        """
        rows = self.rows("train")
        if not len(rows):
            raise UserError(f"{self.name}: there are no training rows")
        used = [entry for entry in self.schema if entry.role != "ignore"]
        check_conditions(self.missing, self, rows)
        check_conditions(self.missing_test or (), self, self.rows("test"))
        self._check_present(used, rows)
        learning = [
            entry for entry in used if type(get_modality(entry.modality)).fit is not Modality.fit
        ]
        values: dict[str, list[Any]] = {entry.name: [] for entry in learning}
        scanned = spread(rows, self.source.most_scanned)
        tables = [entry.name for entry in learning if entry.columns]
        media = [entry.name for entry in learning if get_modality(entry.modality).cached]
        for entries, chosen in (
            # A class that is overlooked would make its rows unusable; a mean is not missed by much.
            ([e.name for e in learning if e.name not in (*tables, *media)], scanned),
            (tables, spread(scanned, _TABLE_ROWS)),
            (media, spread(scanned, _MEDIA_ROWS)),
        ):
            for chunk in chunked(chosen) if entries else ():
                for name, cells in self.raw(entries, chunk).items():
                    values[name] += [None if isinstance(c, Broken) else c for c in cells]
        fitted = []
        for entry in learning:
            learned = get_modality(entry.modality).fit(entry, iter(values[entry.name]))
            fitted.append(entry.replace(fitted=learned))
            if entry.role in ("label", "answer"):
                _check_varied(self.name, entry, values[entry.name], self.samples)
        return replace(self, schema=self.schema.replace(*fitted))

    def _check_present(self, fields: Sequence[Field], rows: Rows) -> None:
        waiting = list(fields)
        for chunk in (spread(rows, _PROBE_ROWS), *chunked(rows)):
            raws = self.raw([entry.name for entry in waiting], chunk)
            waiting = [entry for entry in waiting if not any(map(is_filled, raws[entry.name]))]
            if not waiting:
                return
        names = ", ".join(f"'{entry.name}' (column {entry.source_columns[0]})" for entry in waiting)
        raise UserError(
            f"{self.name}: empty in all {len(rows)} training rows: {names}. Give the field the "
            "role 'ignore' in the schema, or check its column"
        )

    def sample(self, row: int, views: Mapping[str, View], cache: Cache | None = None) -> Sample:
        """One row, decoded.

        Raises:
            BadValue: one of its values cannot be used.
        """
        samples, faults = self.read(np.asarray([row]), views, cache)
        if faults:
            fault = faults[0]
            raise BadValue(f"row '{fault.key}', field '{fault.field}': {fault.reason}")
        return samples[0]

    def read(
        self,
        rows: Rows,
        views: Mapping[str, View],
        cache: Cache | None = None,
        augment: tuple[int, int] | None = None,
    ) -> tuple[list[Sample], list[Fault]]:
        """Rows, decoded, and those that cannot be, with the reason.

        Args:
            rows: row numbers.
            views: what is wanted of each field; others are not read.
            cache: where decoded media are kept.
            augment: the seed and the epoch of the random changes that views ask for; None for none.
        """
        raws = self.raw(list(views), rows)
        keys = self.keys(rows)
        samples, faults = decode_rows(
            rows, keys, raws, schema=self.schema, views=views, cache=cache, augment=augment
        )
        return samples, list(self._shown(faults))

    def collate(
        self,
        samples: Sequence[Sample],
        views: Mapping[str, View],
        seed: int = 0,
        faults: Iterable[Fault] = (),
    ) -> Batch:
        """Decoded rows side by side; none at all is a batch of size 0."""
        return collate(samples, self.schema, views, seed, faults)


def _check_varied(name: str, entry: Field, values: Sequence[Any], shown: bool) -> None:
    distinct = {str(value) for value in values if is_filled(value)}
    if len(distinct) == 1:
        value = f"'{distinct.pop()}'" if shown else "the same"
        raise UserError(
            f"{name}: the {entry.role} '{entry.name}' is {value} in all training rows; "
            "there is nothing to learn. Expected two values at least"
        )


def _expanded(table: Source, schema: Schema) -> Source:
    for entry in schema.find(role="target", modality="text"):
        column = entry.source_columns[0]
        lengths = table.list_lengths(column) if column in table.column_names else None
        if lengths is not None:
            return Expanded(table, column, lengths)
    return table


def _names(schema: Schema, source: Source, rows: Rows) -> list[str]:
    origin = source.origin(rows).tolist()
    if schema.key is None:
        return [str(row) for row in origin]
    cells = source.columns([schema.key], rows)[schema.key]
    return [str(row if is_missing(cell) else cell) for cell, row in zip(cells, origin, strict=True)]
