"""The view `known`: rows of which it is known which modality tells the label."""

from __future__ import annotations

from typing import Any

from sensorium.playground.attributes import COLD, WARM
from sensorium.playground.base import COMMON, PlaygroundView, Row
from sensorium.playground.compose import Wish
from sensorium.playground.world import Scene

LABELS = ("minus", "plus")


class Known(PlaygroundView):
    """Pictures on warm or cold ground, tables with a heavy or light weight, and a label.

    Columns: image, weight, price (the table; the price tells nothing), label. `signal` says what
    tells the label:

    | signal | warm ground | heavy | best accuracy |
    |---|---|---|---|
    | table | at random | if plus | 1 |
    | image | if plus | at random | 1 |
    | xor | at random | if plus and not warm, or minus and warm | 1, from both together only |
    | redundant | if plus | if plus | 1, from either |
    | missing | if plus; half of the pictures are absent | if plus | 1; 0.75 from pictures alone |
    | noise | at random | at random | 0.5 |
    """

    name = "known"
    defaults = COMMON | {"signal": "redundant", "size": 32, "objects": 1}

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        columns = {"weight": "number", "price": "number"}
        return [
            {"name": "image", "modality": "image", "role": "input"},
            {"name": "table", "modality": "table", "role": "input", "columns": columns},
            {"name": "label", "modality": "category", "role": "label"},
        ]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data, also where the row lacks its picture."""
        return self._told(*self._place(index))[0]

    def _row(self, split: str, number: int) -> Row:
        scene, is_absent, cells = self._told(split, number)
        return {"image": None if is_absent else scene.image(), **cells}

    def _told(self, split: str, number: int) -> tuple[Scene, bool, Row]:
        """The scene, whether the row lacks its picture, and its other columns."""
        signal = str(self.parameters["signal"])
        stream = self._stream("known", split, number)
        plus, warm, heavy = (stream.chance(50) for _ in range(3))
        if signal in ("image", "redundant", "missing"):
            warm = plus
        if signal in ("table", "redundant", "missing"):
            heavy = plus
        if signal == "xor":
            heavy = plus != warm
        is_absent = signal == "missing" and stream.chance(50)
        weight = stream.between(202, 300) if heavy else stream.between(100, 198)
        price = stream.between(100, 9999) / 100
        wish = Wish(self._fewest, backgrounds=WARM if warm else COLD)
        cells = {"weight": weight / 10, "price": price, "label": LABELS[plus]}
        return self._compose(stream, split, wish), is_absent, cells
