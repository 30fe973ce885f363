"""A view of the playground as a source; rows are made when they are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sensorium.data.sources import Rows, Source, parse_parameters
from sensorium.data.tables import fingerprint
from sensorium.playground import view as open_view
from sensorium.types import Field, Schema


class PlaygroundSource(Source):
    """Rows of a view.

    Args:
        reference: `VIEW` or `VIEW?objects=2&pictures=200`.
    """

    most_scanned = 2_000  # a row must be drawn to be read

    def __init__(self, reference: str) -> None:
        name, _, parameters = reference.partition("?")
        self._view = open_view(name, **parse_parameters(parameters))
        self.name = f"playground:{reference}"
        self.version = fingerprint(
            name, str(self._view.version), json.dumps(self._view.parameters, sort_keys=True)
        )
        self.column_names = tuple(self._view[0])
        self.schema = Schema(
            fields=tuple(Field(**field) for field in self._view.fields),
            group="group" if "group" in self.column_names else None,
        )

    def __len__(self) -> int:
        return len(self._view)

    def columns(self, names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
        """The cells of some columns in some rows."""
        found: dict[str, list[Any]] = {name: [] for name in names}
        for number in rows.tolist():
            row = self._view[number]  # with clips and all: not more than one is in memory at once
            for name in names:
                found[name].append(row.get(name))
        return found

    def split_rows(self) -> dict[str, Rows]:
        """The view's splits, which share no scene."""
        return {split: self._view.split_indices(split) for split in ("train", "validation", "test")}
