"""The view `majority`: one of two classes, by three facts that picture, table and sound tell."""

from __future__ import annotations

from typing import Any

from sensorium.playground.attributes import Attributes

LABELS = ("minus", "plus")


class Majority(Attributes):
    """The rows of `attributes`, with a label of two classes: plus if two of the three facts hold.

    The facts are warm, heavy and rising, each told surely by one modality and hinted at by another,
    as in `attributes`. There is no caption among the fields. `noise` percent of labels are drawn at
    random, so that half as many are wrong. The best possible accuracy:

    | of | without noise | with `noise` = 20 |
    |---|---|---|
    | one modality | 0.75 | 0.7 |
    | two | 0.875 | 0.8 |
    | all three | 1 | 0.9 |
    """

    name = "majority"
    defaults = Attributes.defaults | {"size": 32, "objects": 1, "noise": 20}

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [field for field in super().fields if field["name"] not in ("caption", "value")]

    def _label(self, warm: bool, heavy: bool, rising: bool) -> str:
        return LABELS[warm + heavy + rising >= 2]
