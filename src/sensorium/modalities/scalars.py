"""One class, several classes, or one number for each entry."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sensorium.modalities.base import LANGUAGES, Modality, Predictable, is_missing
from sensorium.modalities.cells import is_number, to_class, to_list, to_number
from sensorium.types import BadValue, Field
from sensorium.types.names import did_you_mean

NumberLike = (bool, int, float, np.bool_, np.integer, np.floating)


class Code(int):
    """The decoded form of a class, told apart from a raw whole number that names one."""


def class_names(field: Field) -> list[str]:
    """The classes of a field, in the order of their codes.

    Raises:
        ValueError: the field was not fitted.
    """
    if "classes" not in field.fitted:
        raise ValueError(f"field '{field.name}' was not fitted to training rows")
    names: list[str] = field.fitted["classes"]
    return names


PREDICTED = ("label", "answer")
"""Roles in which a class that no training row has makes the row unusable."""


class _Classes(Modality):
    """What `Category` and `Categories` share: names and their codes."""

    def __init__(self) -> None:
        self._codes: dict[int, tuple[list[str], dict[str, int]]] = {}

    def fit(self, field: Field, values: Iterable[Any]) -> dict[str, Any]:
        """The classes that occur, or the option `classes`, and how often each does."""
        found: Counter[str] = Counter()
        for raw in values:
            try:
                found.update(self._names(raw, field))
            except BadValue:  # the row will be set aside when it is loaded
                continue
        classes = sorted(found, key=_natural)
        if "classes" in field.options:
            classes = [to_class(name) for name in field.options["classes"]]
        return {"classes": classes, "counts": [found[name] for name in classes]}

    @abstractmethod
    def _names(self, raw: Any, field: Field) -> list[str]:
        """The names of the classes in a cell."""

    def _code(self, name: str, field: Field) -> int:
        # A list cannot be a key, and hashing its content for every value would be slow. The list is
        # kept, so that its id stays its own.
        names = class_names(field)
        if id(names) not in self._codes:
            self._codes[id(names)] = (names, {n: code for code, n in enumerate(names)})
        code = self._codes[id(names)][1].get(name)
        if code is None:
            raise BadValue(
                f"field '{field.name}': no training row has the class '{name}'. "
                + did_you_mean(name, names),
                "has a class that no training row has",
            )
        return code


class Category(_Classes, Predictable):
    """One of several classes; a list in a cell gives one class for each entry it is `of`.

    Option `classes`: their names in the order of the codes; else those of training rows, sorted.
    """

    name = "category"
    options = MappingProxyType({"classes": list, "language": LANGUAGES})

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Values that repeat: text, truth values, or few different whole numbers."""
        cells = [value for cell in values for value in _flat(cell)]
        if not cells or not all(isinstance(cell, (str, *NumberLike)) for cell in cells):
            return 0.0
        distinct = len({to_class(cell) for cell in cells})
        if all(isinstance(cell, (bool, np.bool_)) for cell in cells):
            return 0.95
        if all(is_number(cell) for cell in cells):
            whole = all(float(to_number(cell, column)).is_integer() for cell in cells)
            return 0.8 if whole and distinct <= 20 and len(cells) >= 3 * distinct else 0.1
        return 0.85 * (1 - distinct / len(cells))

    def _names(self, raw: Any, field: Field) -> list[str]:
        return [to_class(value) for value in self.entries(raw, field)]

    def decode(self, raw: Any, field: Field, view: Any) -> Code:
        """The code of a class; the number of classes for one that no training row has.

        Raises:
            BadValue: no training row has it, and it is to be predicted.
        """
        try:
            return Code(self._code(to_class(raw), field))
        except BadValue:
            if field.role in PREDICTED:
                raise
            return Code(len(class_names(field)))

    def collate(
        self, values: Sequence[Code], field: Field, view: Any
    ) -> tuple[Int[Tensor, "entries"], None]:
        """Codes."""
        return torch.tensor(values, dtype=torch.long), None

    def uncollate(self, value: Int[Tensor, ""], field: Field, view: Any) -> Code:
        """The code."""
        return Code(int(value))

    def as_cell(self, value: Code, field: Field) -> str | None:
        """The name of the class; nothing for one that no training row has."""
        names = class_names(field)
        return names[value] if value < len(names) else None

    def show(self, value: Any, field: Field) -> str:
        """The name of a class."""
        if not isinstance(value, Code):
            return to_class(value)
        names = class_names(field)
        return names[value] if value < len(names) else "(not seen in training)"


class Categories(_Classes):
    """Any number of classes for one entry: a list, or text such as `cat;dog`.

    Options: `separator` (`;`), and `classes` as for `Category`. An empty list means none of them.
    """

    name = "categories"
    options = MappingProxyType({"classes": list, "separator": str, "language": LANGUAGES})

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Lists of short texts that repeat, or texts of such with a separator."""
        cells = [cell for cell in values if isinstance(cell, (list, tuple))]
        if not cells:
            cells = [c.split(";") for c in values if isinstance(c, str) and c.strip()]
        names = [name for cell in cells for name in cell]
        several = sum(len(cell) > 1 for cell in cells)
        if several < 0.2 * len(cells) or not all(isinstance(n, str) for n in names) or not names:
            return 0.0
        repeated = 1 - len(set(names)) / len(names)
        if max(len(name.split()) for name in names) > 3 or repeated < 0.3:
            return 0.0
        return 0.5 + 0.45 * repeated

    def entries(self, raw: Any, field: Field) -> list[Any]:
        """The cell as a whole is the entry."""
        return [] if is_missing(raw) else [raw]

    def _names(self, raw: Any, field: Field) -> list[str]:
        if is_missing(raw):
            return []
        if isinstance(raw, str) and not raw.lstrip().startswith("["):
            raw = raw.split(field.options.get("separator", ";"))
        return [to_class(name) for name in to_list(raw, field.name) if not is_missing(name)]

    def decode(self, raw: Any, field: Field, view: Any) -> Float[np.ndarray, "classes"]:
        """1 for each class it has.

        Raises:
            BadValue: no training row has one of them, and they are to be predicted.
        """
        hot = np.zeros(len(class_names(field)), dtype=np.float32)
        for name in self._names(raw, field):
            try:
                hot[self._code(name, field)] = 1
            except BadValue:
                if field.role in PREDICTED:
                    raise
        return hot

    def collate(
        self, values: Sequence[Float[np.ndarray, "classes"]], field: Field, view: Any
    ) -> tuple[Float[Tensor, "entries classes"], None]:
        """Ones and zeros."""
        return torch.from_numpy(np.stack(values)), None

    def show(self, value: Any, field: Field) -> str:
        """The names, with commas."""
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            names = class_names(field)
            return ", ".join(names[code] for code in np.flatnonzero(value))
        return ", ".join(self._names(value, field))


class Number(Predictable):
    """A number, as it is; systems find the mean and the spread of training rows in `fitted`.

    Option `decimal`: `,` if text has the decimal comma.
    """

    name = "number"
    options = MappingProxyType({"decimal": (".", ",")})

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Numbers, or text that reads as such; fractions are the surest."""
        cells = [value for cell in values for value in _flat(cell)]
        if not cells or not all(is_number(cell) for cell in cells):
            return 0.0
        whole = all(to_number(cell, column).is_integer() for cell in cells)
        return 0.7 if whole else 0.9

    def fit(self, field: Field, values: Iterable[Any]) -> dict[str, Any]:
        """Mean and standard deviation (1 if all are equal)."""
        numbers: list[float] = []
        for raw in values:
            try:
                numbers += [self.decode(cell, field, None) for cell in self.entries(raw, field)]
            except BadValue:  # the row will be set aside when it is loaded
                continue
        return spread(numbers)

    def decode(self, raw: Any, field: Field, view: Any) -> float:
        """The number.

        Raises:
            BadValue: it is none, or not finite.
        """
        return to_number(raw, field.column or field.name, field.options.get("decimal", "."))

    def collate(
        self, values: Sequence[float], field: Field, view: Any
    ) -> tuple[Float[Tensor, "entries"], None]:
        """Numbers."""
        return torch.tensor(values, dtype=torch.float32), None

    def uncollate(self, value: Float[Tensor, ""], field: Field, view: Any) -> float:
        """The number."""
        return float(value)

    def show(self, value: Any, field: Field) -> str:
        """The number, with four digits if it is a fraction."""
        return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def spread(numbers: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation; 0 and 1 where there is nothing to measure."""
    if not numbers:
        return {"mean": 0.0, "std": 1.0}
    values = np.asarray(numbers, dtype=np.float64)
    mean, std = float(values.mean()), float(values.std())
    # Equal fractions have a spread of rounding errors, which must not be blown up to 1.
    return {"mean": mean, "std": std if std > 1e-9 * np.abs(values).max() else 1.0}


def most_frequent(names: Iterable[str], limit: int) -> list[str]:
    """Names by falling frequency, equals by name."""
    counts = Counter(names)
    return sorted(counts, key=lambda name: (-counts[name], name))[:limit]


def _natural(name: str) -> tuple[bool, float, str]:
    """Numbers by size before text by letters, so that 10 follows 9."""
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    return (False, number, name) if math.isfinite(number) else (True, 0.0, name)


def _flat(cell: Any) -> list[Any]:
    values = cell if isinstance(cell, (list, tuple)) else [cell]
    return [value for value in values if not is_missing(value)]
