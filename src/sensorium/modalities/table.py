"""A row of a table: numbers, classes and dates side by side, any of which may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sensorium.modalities.base import Predictable, View, is_missing
from sensorium.modalities.cells import LARGEST, to_class, to_days, to_number
from sensorium.modalities.scalars import most_frequent, spread
from sensorium.types import BadValue, Field, UserError
from sensorium.types.names import did_you_mean

KINDS = ("number", "category", "date")

MAX_CLASSES = 1000


class TableView(View):
    """Nothing to ask for: a row has the size its columns give it."""


class Table(Predictable):
    """Columns of the kinds `number`, `category` and `date`, named in `field.columns`.

    Numbers and dates (days since 1970) are standardised by the training rows. Categories are codes
    from 1 on, by falling frequency; 0 stands for what no training row has, and for all classes
    after the first 1,000. Options: `decimal` (`,` for the decimal comma) and `date_format`.
    """

    name = "table"
    View = TableView
    options = MappingProxyType({"decimal": (".", ","), "date_format": str})

    def entries(self, raw: Any, field: Field) -> list[Any]:
        """The row, if any of its cells is filled."""
        rows = raw if isinstance(raw, (list, tuple)) else [raw]
        return [
            row
            for row in rows
            if not isinstance(row, Mapping)
            or any(not is_missing(row.get(column)) for column in field.columns)
        ]

    def check(self, field: Field) -> None:
        """Refuse columns of unknown kinds, too."""
        super().check(field)
        for column, kind in field.columns.items():
            if kind not in KINDS:
                raise UserError(
                    f"field '{field.name}', column '{column}': unknown kind '{kind}'. "
                    + did_you_mean(kind, KINDS)
                )

    def fit(self, field: Field, values: Iterable[Any]) -> dict[str, Any]:
        """For each column mean and spread, or the classes."""
        found: dict[str, list[Any]] = {column: [] for column in field.columns}
        for row in values:
            for column, kind in field.columns.items():
                cell = row.get(column)
                if not is_missing(cell):
                    try:
                        found[column].append(_read(cell, column, kind, field))
                    except BadValue:  # the row will be set aside when it is loaded
                        continue
        return {
            "columns": {
                column: {"classes": most_frequent(found[column], MAX_CLASSES)}
                if kind == "category"
                else spread(found[column])
                for column, kind in field.columns.items()
            }
        }

    def decode(self, raw: Any, field: Field, view: Any) -> Float[np.ndarray, "columns"]:
        """One number for each column, NaN where the cell is empty.

        Raises:
            BadValue: a cell cannot be read; the message names the column.
        """
        if not isinstance(raw, Mapping):
            raise BadValue(
                f"field '{field.name}': expected a mapping from column to cell, found "
                f"{type(raw).__name__}"
            )
        fitted = _fitted(field)
        row = np.full(len(field.columns), np.nan, dtype=np.float32)
        for at, (column, kind) in enumerate(field.columns.items()):
            cell = raw.get(column)
            if is_missing(cell):
                continue
            value = _read(cell, column, kind, field)
            if kind == "category":
                row[at] = self._codes(column, fitted[column]["classes"]).get(value, 0)
            else:
                number = (value - fitted[column]["mean"]) / fitted[column]["std"]
                if abs(number) > LARGEST:
                    reason = "is far outside of the training rows"
                    raise BadValue(f"column '{column}': {cell} {reason}", reason)
                row[at] = number
        return row

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[str], dict[str, int]]] = {}

    def _codes(self, column: str, classes: list[str]) -> dict[str, int]:
        # By the identity of the list, which is kept: hashing its content each time would be slow.
        if id(classes) not in self._known:
            codes = {name: code for code, name in enumerate(classes, start=1)}
            self._known[id(classes)] = (classes, codes)
        return self._known[id(classes)][1]

    def collate(
        self, values: Sequence[Float[np.ndarray, "columns"]], field: Field, view: Any
    ) -> tuple[Float[Tensor, "entries columns"], Bool[Tensor, "entries columns"]]:
        """The rows with 0 in empty cells, and which cells are filled."""
        rows = torch.from_numpy(np.stack(values))
        filled = ~rows.isnan()
        return rows.nan_to_num(nan=0.0), filled

    def uncollate(
        self, value: Float[Tensor, "columns"], field: Field, view: Any
    ) -> Float[np.ndarray, "columns"]:
        """The row; whoever predicts it fills all cells."""
        return value.float().cpu().numpy()

    def as_cell(self, value: Float[np.ndarray, "columns"], field: Field) -> dict[str, Any]:
        """The cell of each column, in its own unit; nothing for a class that no training row has."""
        cells: dict[str, Any] = {}
        for number, (column, kind) in zip(value, field.columns.items(), strict=True):
            known = _fitted(field)[column]
            if kind == "category":
                cells[column] = known["classes"][int(number) - 1] if number else None
            else:
                original = float(number) * known["std"] + known["mean"]
                cells[column] = original if kind == "number" else str(_day(original))
        return cells

    def show(self, value: Any, field: Field) -> str:
        """`age: 61, sex: f`; empty cells are left out."""
        if isinstance(value, Mapping):
            cells = {c: value.get(c) for c in field.columns if not is_missing(value.get(c))}
            return ", ".join(f"{column}: {cell}" for column, cell in cells.items())
        fitted, parts = _fitted(field), []
        for number, (column, kind) in zip(value, field.columns.items(), strict=True):
            if np.isnan(number):
                continue
            known = fitted[column]
            if kind == "category":
                cell = known["classes"][int(number) - 1] if number else "(unknown)"
            else:
                original = float(number) * known["std"] + known["mean"]
                cell = f"{original:.4g}" if kind == "number" else str(_day(original))
            parts.append(f"{column}: {cell}")
        return ", ".join(parts)


def cardinalities(field: Field) -> list[int]:
    """For each column the number of its codes, the unknown one included; 0 if it has none."""
    fitted = _fitted(field)
    return [
        len(fitted[column]["classes"]) + 1 if kind == "category" else 0
        for column, kind in field.columns.items()
    ]


def _fitted(field: Field) -> dict[str, Any]:
    if "columns" not in field.fitted:
        raise ValueError(f"field '{field.name}' was not fitted to training rows")
    fitted: dict[str, Any] = field.fitted["columns"]
    return fitted


def _read(cell: Any, column: str, kind: str, field: Field) -> Any:
    if kind == "number":
        return to_number(cell, column, field.options.get("decimal", "."))
    if kind == "date":
        return to_days(cell, column, field.options.get("date_format"))
    return to_class(cell)


def _day(days: float) -> np.datetime64:
    return np.datetime64("1970-01-01") + np.timedelta64(round(days), "D")
