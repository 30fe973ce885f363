"""Hiding a field in some rows, to ask what its absence does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from sensorium.data.sources import Rows
from sensorium.types import Schema, UserError, draws
from sensorium.types.names import did_you_mean


@dataclass(frozen=True)
class Missing:
    """A field that is hidden at a rate.

    Attributes:
        field: its name.
        rate: the share of rows in which it is hidden, from 0 to 1.
        column: if given, it is hidden only in rows where this column holds `value`.
        value: as written; numbers are compared as numbers.
    """

    field: str
    rate: float
    column: str | None = None
    value: str = ""

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
            chosen &= np.asarray([_equal(cell, self.value) for cell in cells], dtype=bool)
        return chosen

    def __str__(self) -> str:
        by = "" if self.column is None else f":by={self.column}={self.value}"
        return f"{self.field}:{self.rate:g}{by}"


def _equal(cell: Any, value: str) -> bool:
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        try:
            return float(cell) == float(value)
        except ValueError:
            return False
    return str(cell) == value


def parse_missing(text: str) -> Missing:
    """Read `FIELD:RATE` or `FIELD:RATE:by=COLUMN=VALUE`.

    Raises:
        UserError: it is neither.
    """
    field, _, rest = text.partition(":")
    rate_text, _, condition = rest.partition(":")
    try:
        rate = float(rate_text)
    except ValueError:
        rate = -1.0
    column, equals, value = condition.removeprefix("by=").partition("=")
    if (
        not field
        or not 0 <= rate <= 1
        or (condition and not (condition.startswith("by=") and column and equals))
    ):
        raise UserError(
            f"--missing {text}: expected FIELD:RATE or FIELD:RATE:by=COLUMN=VALUE with a rate from "
            "0 to 1, such as image:0.3 or image:0.8:by=label=1"
        )
    return Missing(field, rate, column if condition else None, value)


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
