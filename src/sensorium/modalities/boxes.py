"""Boxes of a picture, and spans of a text."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sensorium.modalities.base import Modality, Predictable, View, is_missing
from sensorium.modalities.cells import to_list
from sensorium.types import BadValue, Field

MAX_PER_ROW = 1000

# Boxes of tools that count pixels from 1, or round, reach a little over the edge.
_TOLERANCE = 0.02

Corners = tuple[float, float, float, float]


class BoxesView(View):
    """Nothing to ask for: a box has four numbers."""


class _Tuples(Modality):
    """What `Boxes` and `Spans` share: a cell is a list of tuples of numbers, each an entry."""

    length: int

    def entries(self, raw: Any, field: Field) -> list[Any]:
        """The tuples of a cell: a list of them, one alone, an array, or JSON text.

        Raises:
            BadValue: it is none of these, or there are more than `MAX_PER_ROW`.
        """
        if is_missing(raw):
            return []
        items = to_list(raw, field.name)
        if items and not isinstance(items[0], (list, tuple, np.ndarray)):
            items = [items]
        if len(items) > MAX_PER_ROW:
            raise BadValue(
                f"field '{field.name}': {len(items)} {self.name}, more than {MAX_PER_ROW}"
            )
        return items

    def _numbers(self, raw: Any, field: Field) -> list[float]:
        try:
            numbers = [float(number) for number in raw]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != self.length or not all(math.isfinite(n) for n in numbers):
            raise BadValue(
                f"field '{field.name}': expected {self.length} finite numbers, found {raw!r}"
            )
        return numbers

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Lists of tuples of that length that decode."""
        try:
            items = [item for value in values for item in self.entries(value, _ANY)]
            for item in items:
                self._check_guess(item)
        except BadValue:
            return 0.0
        named = self.name.rstrip("es") in column.lower()
        return (0.95 if named else 0.6) if items else 0.0

    @abstractmethod
    def _check_guess(self, item: Any) -> None:
        """Raise a `BadValue` if it does not look like one."""


class Boxes(_Tuples, Predictable):
    """Boxes as shares of the picture's width and height: x1, y1, x2, y2 in [0, 1].

    Options: `format` is `xyxy` or `xywh` (left, top, width, height), `unit` `fraction` or `pixel`.
    Pixels stay pixels until `modalities.augment.place_boxes`, which knows the picture.
    """

    name = "boxes"
    View = BoxesView
    options = MappingProxyType({"format": ("xyxy", "xywh"), "unit": ("fraction", "pixel")})
    length = 4

    def _check_guess(self, item: Any) -> None:
        x1, y1, x2, y2 = self._numbers(item, _ANY)
        if min(x1, y1, x2, y2) < 0:
            raise BadValue("negative")

    def decode(self, raw: Any, field: Field, view: Any) -> Float[np.ndarray, "4"]:
        """A box with its left before its right and its top above its bottom.

        Raises:
            BadValue: not four numbers, without area, or outside of the picture.
        """
        x1, y1, x2, y2 = self._numbers(raw, field)
        if field.options.get("format", "xyxy") == "xywh":
            x2, y2 = x1 + x2, y1 + y2
        if not (x1 < x2 and y1 < y2):
            raise BadValue(
                f"field '{field.name}': box {raw!r} has no area; expected x1 < x2 and y1 < y2 "
                "(option format: xywh if it is left, top, width, height)",
                "has no area",
            )
        box = (x1, y1, x2, y2)
        if not is_in_pixels(field):
            box = within_picture(box, field)
        return np.array(box, dtype=np.float32)

    def collate(
        self, values: Sequence[Float[np.ndarray, "4"]], field: Field, view: Any
    ) -> tuple[Float[Tensor, "entries 4"], None]:
        """The boxes."""
        return torch.from_numpy(np.stack(values)), None

    def uncollate(
        self, value: Float[Tensor, "4"], field: Field, view: Any
    ) -> Float[np.ndarray, "4"]:
        """The box."""
        return value.float().cpu().numpy()

    def as_cell(self, value: Float[np.ndarray, "4"], field: Field) -> list[float]:
        """The four numbers, as the field has them in tables, but as shares of width and height."""
        x1, y1, x2, y2 = map(float, value)
        is_xywh = field.options.get("format") == "xywh"
        return [x1, y1, x2 - x1, y2 - y1] if is_xywh else [x1, y1, x2, y2]

    def show(self, value: Any, field: Field) -> str:
        """The four numbers."""
        return "(" + ", ".join(f"{float(number):.3g}" for number in value) + ")"


class Spans(_Tuples):
    """Parts of a text: the characters from `start` to before `end`; 0, 0 is no part of it.

    Option `names`: the field of boxes that the spans name, one span for each box.
    """

    name = "spans"
    options = MappingProxyType({"names": str})
    length = 2

    def _check_guess(self, item: Any) -> None:
        self.decode(item, _ANY, None)

    def decode(self, raw: Any, field: Field, view: Any) -> Int[np.ndarray, "2"]:
        """Start and end.

        Raises:
            BadValue: not two whole numbers, or nothing between them.
        """
        start, end = self._numbers(raw, field)
        whole = start.is_integer() and end.is_integer()
        if not (whole and (0 <= start < end < 2**31 or start == end == 0)):
            raise BadValue(
                f"field '{field.name}': expected whole numbers with 0 <= start < end, found {raw!r}"
            )
        return np.array([start, end], dtype=np.int64)

    def collate(
        self, values: Sequence[Int[np.ndarray, "2"]], field: Field, view: Any
    ) -> tuple[Int[Tensor, "entries 2"], None]:
        """The spans."""
        return torch.from_numpy(np.stack(values)), None

    def show(self, value: Any, field: Field) -> str:
        """Start and end."""
        return f"{int(value[0])}-{int(value[1])}"


def is_in_pixels(field: Field) -> bool:
    """Whether boxes are given in pixels of the original."""
    return bool(field.options.get("unit", "fraction") == "pixel")


def within_picture(box: Sequence[float], field: Field) -> Corners:
    """A box clipped to [0, 1].

    Raises:
        BadValue: it reaches out of the picture by more than rounding explains.
    """
    if min(box) < -_TOLERANCE or max(box) > 1 + _TOLERANCE:
        raise BadValue(
            f"field '{field.name}': box {Boxes().show(box, field)} reaches out of the picture; "
            "expected shares in [0, 1] (option unit: pixel if it is in pixels)",
            "reaches out of the picture",
        )
    x1, y1, x2, y2 = (min(max(number, 0.0), 1.0) for number in box)
    if not (x1 < x2 and y1 < y2):
        raise BadValue(f"field '{field.name}': box {Boxes().show(box, field)} lies on the edge")
    return x1, y1, x2, y2


_ANY = Field(name="any", modality="boxes")
