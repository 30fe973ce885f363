"""Hiding fields in some rows, to ask what their absence does.

Who lacks a field can depend on nothing (`image:0.3`, completely at random), on what another column
says (`image:0.5:by=age>60`, at random), or on what is to be predicted (`image:0.8:by=label=1`, not at
random). Several entries may speak of one field: a row lacks it at the highest rate that applies to it.

Training and test rows may lack fields for different reasons. With the one mechanism for training,
`image:0.8:by=label=1`, and its contrary for the test, `image:0.8:by=label!=1`, what a system read
from the mere absence is now wrong.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from sensorium.data.decoding import nothing
from sensorium.data.sources import Broken, Rows, chunked, spread
from sensorium.modalities.base import is_missing
from sensorium.modalities.cells import to_class
from sensorium.types import Schema, UserError, draws
from sensorium.types.names import did_you_mean

if TYPE_CHECKING:
    from sensorium.data.dataset import Data

Relation = Literal["=", "!=", "<", ">"]

NOWHERE = "none"
"""What is written where nothing is to be hidden."""

_CONDITION = re.compile(r"by=([^=!<>]+)(!=|=|<|>)(.*)", re.DOTALL)
_PROBE_ROWS = 256


@dataclass(frozen=True)
class Missing:
    """A field that is hidden at a rate, with all that hangs on it.

    Attributes:
        field: its name.
        rate: the share of rows in which it is hidden, from 0 to 1.
        column: if given, it is hidden only in rows where what this column holds stands in `relation`
            to `value`. Where the column is empty it is never hidden.
        value: as written; numbers are compared as numbers, all else as text (so dates should be
            written year first).
        relation: equal, unequal, less or greater.
    """

    field: str
    rate: float
    column: str | None = None
    value: str = ""
    relation: Relation = "="

    def hidden(
        self, rows: Rows, cells: Sequence[Any] | None, seed: int
    ) -> Bool[NDArray[np.bool_], "rows"]:
        """Where the field is hidden: a function of the seed and the row alone.

        Args:
            rows: row numbers.
            cells: of `column` in these rows; None if it doesn't depend on a column.
            seed: another seed hides other rows.
        """
        chosen = np.asarray(draws.uniform(f"missing {self.field}", seed, rows) < self.rate)
        if cells is not None:
            chosen &= np.asarray([self.applies_to(cell) for cell in cells], dtype=bool)
        return chosen

    def applies_to(self, cell: Any) -> bool:
        """Whether a cell of the column is one in whose rows the field may be hidden."""
        if isinstance(cell, Broken) or is_missing(cell):
            return False
        mine, theirs = _comparable(cell, self.value)
        if self.relation == "=":
            return bool(mine == theirs)
        if self.relation == "!=":
            return bool(mine != theirs)
        return bool(mine < theirs if self.relation == "<" else mine > theirs)

    def __str__(self) -> str:
        by = "" if self.column is None else f":by={self.column}{self.relation}{self.value}"
        # All digits: the same rows must be hidden when it is read again.
        return f"{self.field}:{np.format_float_positional(self.rate, trim='-')}{by}"


def _comparable(cell: Any, value: str) -> tuple[Any, Any]:
    if isinstance(cell, (int, float, np.number)) and not isinstance(cell, bool):
        try:
            return float(cell), float(value)
        except ValueError:
            pass
    return to_class(cell), value.strip()


def parse_missing(text: str) -> Missing:
    """Read `FIELD:RATE` or `FIELD:RATE:by=COLUMN=VALUE` (also `!=`, `<` and `>`).

    Raises:
        UserError: it is neither.
    """
    field, _, rest = text.partition(":")
    rate_text, _, condition = rest.partition(":")
    try:
        rate = float(rate_text)
    except ValueError:
        rate = -1.0
    found = _CONDITION.fullmatch(condition)
    if not field or not 0 <= rate <= 1 or (condition and not found):
        raise UserError(
            f"--missing {text}: expected FIELD:RATE or FIELD:RATE:by=COLUMN=VALUE (or !=, <, > in "
            "place of the second =) with a rate from 0 to 1, such as image:0.3 or "
            f"image:0.8:by=label=1; or {NOWHERE} alone"
        )
    if found is None:
        return Missing(field, rate)
    column, relation, value = found.groups()
    return Missing(field, rate, column, value, cast(Relation, relation))


def read_missing(texts: Sequence[str]) -> tuple[Missing, ...]:
    """Read several; `none` alone stands for none.

    Raises:
        UserError: one of them cannot be read.
    """
    return () if list(texts) == [NOWHERE] else tuple(map(parse_missing, texts))


def check_missing(missing: Iterable[Missing], schema: Schema, columns: Sequence[str]) -> None:
    """Raise a `UserError` for a field or column that isn't there."""
    for entry in missing:
        if entry.field not in schema:
            raise UserError(
                f"--missing {entry}: there is no field '{entry.field}'. "
                + did_you_mean(entry.field, schema.names)
            )
        if entry.column is not None and entry.column not in columns:
            raise UserError(
                f"--missing {entry}: there is no column '{entry.column}'. "
                + did_you_mean(entry.column, columns)
            )


def check_conditions(missing: Iterable[Missing], data: Data, rows: Rows) -> None:
    """Raise a `UserError` for a condition that none of some rows fulfils: a value misspelt, say."""
    looked_at = spread(rows, data.source.most_scanned)
    for entry in missing:
        if entry.column is None or not len(rows):
            continue
        seen: dict[str, None] = {}
        for chunk in (spread(looked_at, _PROBE_ROWS), *chunked(looked_at)):
            cells = data.columns([entry.column], chunk)[entry.column]
            if any(map(entry.applies_to, cells)):
                break
            seen |= dict.fromkeys(to_class(c) for c in cells[:_PROBE_ROWS] if not is_missing(c))
        else:
            known = f" {did_you_mean(entry.value, seen)}" if data.samples else ""
            raise UserError(
                f"--missing {entry}: in none of {len(looked_at)} rows is column '{entry.column}' "
                f"so.{known}"
            )


def with_missing_now(data: Data, texts: Sequence[str], rows: Rows) -> Data:
    """The same data with what is written hidden, instead of what was, for questions about some rows.

    Raises:
        UserError: what is written cannot be read, or does not fit the data.
    """
    missing = read_missing(texts)
    changed = data.with_missing(*missing)
    check_conditions(missing, changed, rows)
    return changed


def columns_asked(data: Data, names: Collection[str]) -> list[str]:
    """The columns on which it depends where some fields are hidden."""
    return [
        entry.column
        for entry in (*data.missing, *(data.missing_test or ()))
        if entry.column is not None
        and (_members(entry, data.schema, names) or _parts(entry, data.schema, names))
    ]


def hide(
    values: Mapping[str, list[Any]], data: Data, rows: Rows, cells: Mapping[str, Sequence[Any]]
) -> None:
    """Take out of rows what their data hide.

    Args:
        values: raw ones of fields in these rows; changed in place.
        data: say what is hidden.
        rows: their numbers.
        cells: of the columns on which that depends.
    """
    if data.missing_test is None:
        _hide(values, data.missing, data, rows, cells, np.ones(len(rows), dtype=bool))
    else:
        in_test = _among(rows, data.splits["test"])
        _hide(values, data.missing, data, rows, cells, ~in_test)
        _hide(values, data.missing_test, data, rows, cells, in_test)


def _hide(
    values: Mapping[str, list[Any]],
    missing: Iterable[Missing],
    data: Data,
    rows: Rows,
    cells: Mapping[str, Sequence[Any]],
    where: Bool[NDArray[np.bool_], "rows"],
) -> None:
    for entry in missing:
        names = _members(entry, data.schema, values)
        parts = _parts(entry, data.schema, values)
        if not names and not parts:
            continue
        condition = None if entry.column is None else cells[entry.column]
        for place in np.flatnonzero(entry.hidden(rows, condition, data.seed) & where):
            for name in names:
                values[name][place] = nothing(data.schema[name])
            for name, columns in parts.items():
                values[name][place] = {**values[name][place], **dict.fromkeys(columns)}


def _members(entry: Missing, schema: Schema, names: Collection[str]) -> list[str]:
    """Those of some fields that an entry hides: the one it names, and what hangs on that."""
    return [name for name in schema.family(entry.field) if name in names]


def _parts(entry: Missing, schema: Schema, names: Collection[str]) -> dict[str, set[str]]:
    """For each of some other fields the columns that an entry hides: what is read twice, say in a
    conversation that is put together of a text and its answer, is hidden in both.
    """
    family = schema.family(entry.field)
    hidden = {column for name in family for column in schema[name].source_columns}
    shared = {name: hidden & set(schema[name].columns) for name in names if name not in family}
    return {name: columns for name, columns in shared.items() if columns}


def _among(rows: Rows, others: Rows) -> Bool[NDArray[np.bool_], "rows"]:
    """Which rows are among others, that are in ascending order."""
    place = np.searchsorted(others, rows)
    inside = place < len(others)
    inside[inside] = others[place[inside]] == rows[inside]
    return inside


def describe_missing(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What a recipe of data hides, and what in test rows if that is something else, in words."""
    found = {"hidden": ", ".join(recipe.get("missing", ()))}
    if "missing_test" in recipe:
        found["hidden in test rows"] = ", ".join(recipe["missing_test"]) or NOWHERE
    return {name: text for name, text in found.items() if text}
