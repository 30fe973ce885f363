"""Rows that are seen together with a part of another row, which was chosen for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from sensorium.data.dataset import Data
from sensorium.data.sources import Rows
from sensorium.modalities.base import View

_NAME = "partner_{}"


def of_partner(name: str) -> str:
    """What a field of a row's partner is called in the row."""
    return _NAME.format(name)


@dataclass(frozen=True)
class Partnered(Data):
    """The same rows, each with some fields of another row beside its own.

    Attributes:
        partner: of each row, another's number; -1 where it has none, and these fields are absent.
        shared: by the name that they have here, the fields of the partner.
    """

    partner: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    shared: Mapping[str, str] = field(default_factory=dict)

    def viewed(self, views: Mapping[str, View]) -> dict[str, View]:
        """What is wanted of all fields, if a partner's are wanted as the row's own are."""
        return {**views, **{name: views[own] for name, own in self.shared.items()}}

    def raw(self, names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
        """The raw values of fields; those of a partner are read where they stand."""
        values = super().raw([name for name in names if name not in self.shared], rows)
        asked = [name for name in names if name in self.shared]
        if asked:
            partner = self.partner[rows]
            there = np.flatnonzero(partner >= 0)
            found = super().raw([self.shared[name] for name in asked], partner[there])
            for name in asked:
                cells: list[Any] = [None] * len(rows)
                for place, cell in zip(there.tolist(), found[self.shared[name]], strict=True):
                    cells[place] = cell
                values[name] = cells
        return values


def with_partners(data: Data, partner: Rows, names: Sequence[str]) -> Partnered:
    """Give each row some fields of another.

    Args:
        data: the rows.
        partner: of each row, another's number, or -1.
        names: the fields that are taken from it. They are called by `of_partner`.
    """
    shared = {of_partner(name): name for name in names}
    beside = [
        data.schema[own].replace(name=name, role="input", of=None) for name, own in shared.items()
    ]
    same = {each.name: getattr(data, each.name) for each in fields(Data)}
    same["schema"] = data.schema.replace(*beside)
    return Partnered(**same, partner=partner, shared=shared)
