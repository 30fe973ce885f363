"""What the cells of a table say: numbers, dates, names of classes, lists."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from sensorium.modalities.base import is_missing
from sensorium.types import BadValue

LARGEST = float(np.finfo(np.float32).max)
"""The largest number that float32 holds."""

_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_CODE = re.compile(r"\s*[+-]?0\d")
_DATE_FORMATS = ("%Y/%m/%d", "%d.%m.%Y")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_number(value: Any, column: str, decimal: str = ".") -> float:
    """A finite number, from a number or its text.

    `1,234.5` is read with commas between thousands; with `decimal=","`, dots stand there.

    Raises:
        BadValue: it is none; the message names the column.
    """
    number = math.nan
    if isinstance(value, (bool, Real, Decimal, np.bool_)):
        with suppress(OverflowError):  # a whole number of more than 300 digits
            number = float(value)
    elif isinstance(value, str):
        text = value.strip()
        if decimal == ",":
            text = text.replace(".", "\0").replace(",", ".").replace("\0", ",")
        if _THOUSANDS.fullmatch(text):
            text = text.replace(",", "")
        try:
            number = float(text)
        except ValueError:
            raise BadValue(
                f"column '{column}': '{_short(value)}' is no number; write 3.5, or set the option "
                "decimal: ',' for numbers such as 3,5",
                "is no number",
            ) from None
    else:
        raise BadValue(f"column '{column}': expected a number, found {type(value).__name__}")
    if not abs(number) <= LARGEST:  # nor if it is NaN
        raise BadValue(f"column '{column}': {value} is no finite number", "is no finite number")
    return number


def to_days(value: Any, column: str, date_format: str | None = None) -> float:
    """Days since 1970-01-01 (UTC), from a date, a time, or its text.

    Args:
        value: the cell.
        column: for messages.
        date_format: as `datetime.strptime` takes it; else ISO 8601, 2024/12/31 or 31.12.2024.

    Raises:
        BadValue: it is no date; the message names the column.
    """
    if isinstance(value, np.datetime64):
        return float(value.astype("datetime64[us]").astype(np.int64)) / 86_400e6
    if isinstance(value, str):
        moment = _parse_date(value.strip(), date_format)
    elif isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day)
    else:
        moment = None
    if moment is None:
        raise BadValue(
            f"column '{column}': '{_short(value)}' is no date; write 2024-12-31, or set the option "
            "date_format, for example '%m/%d/%Y'",
            "is no date",
        )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH).total_seconds() / 86_400


def _parse_date(text: str, date_format: str | None) -> datetime | None:
    for pattern in (date_format,) if date_format else (None, *_DATE_FORMATS):
        try:
            if pattern is None:
                return datetime.fromisoformat(text)
            return datetime.strptime(text, pattern)
        except ValueError:
            continue
    return None


def to_class(value: Any) -> str:
    """The name of a class: text without blanks around it; 1, 1.0 and "1" are the same class."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def to_list(raw: Any, field_name: str) -> list[Any]:
    """A cell that holds a list: an array, a sequence, or JSON text such as `[[1, 2], [3, 4]]`.

    Raises:
        BadValue: it is none of these.
    """
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise BadValue(
                f"field '{field_name}': {_short(raw)} is no JSON list: {error}"
            ) from None
    if isinstance(raw, np.ndarray):
        return raw.tolist() if raw.ndim else [raw.item()]
    if isinstance(raw, (list, tuple)):
        return list(raw)
    raise BadValue(f"field '{field_name}': expected a list, found '{_short(raw)}'")


def column_kind(values: Sequence[Any]) -> str | None:
    """Whether a table reads a column as `number`, `category` or `date`; None if as none of them."""
    cells = [value for value in values if not is_missing(value)]
    if not cells or any(isinstance(cell, (list, tuple, dict, bytes, np.ndarray)) for cell in cells):
        return None
    if not any(isinstance(cell, (bool, np.bool_)) for cell in cells):
        if all(is_number(cell) for cell in cells):
            return "number"
        if all(_is_date(cell) for cell in cells):
            return "date"
    distinct = len({to_class(cell) for cell in cells})
    return "category" if distinct <= max(2, len(cells) // 2) else None


def is_number(cell: Any) -> bool:
    """Whether a cell reads as a number; truth values and codes such as 00123 do not."""
    if isinstance(cell, (bool, np.bool_)):
        return False
    if isinstance(cell, str) and _CODE.match(cell):
        return False
    try:
        to_number(cell, "")
    except BadValue:
        return False
    return True


def _is_date(cell: Any) -> bool:
    try:
        to_days(cell, "")
    except BadValue:
        return False
    return True


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
