"""The view `scenes`: a picture of several things and a caption, with boxes and phrases."""

from __future__ import annotations

from typing import Any

from sensorium.playground.base import CAPTIONED, PlaygroundView, Row
from sensorium.playground.world import Scene


class Scenes(PlaygroundView):
    """Pictures and captions.

    Columns: image, caption, boxes (one for each thing), phrases (where the caption names it),
    objects (names), language; with masks=1 the pixels of each thing.

    Parameters of its own: `caption` (short: things, relations and tiles; dense: also sizes and the
    ground; noisy: as on the web), `unrelated` (percent of noisy captions about something else),
    `named` (how many things a caption names, a number or a range), `masks`.
    """

    name = "scenes"
    defaults = CAPTIONED | {"masks": 0}

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "image", "modality": "image", "role": "query"},
            {"name": "caption", "modality": "text", "role": "target"},
            {"name": "boxes", "modality": "boxes", "of": "image"},
            {"name": "things", "modality": "category", "of": "boxes", "column": "objects"},
            {
                "name": "phrases",
                "modality": "spans",
                "of": "caption",
                "options": {"names": "boxes"},
            },
        ]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data."""
        return self._scene(*self._place(index))

    def _row(self, split: str, number: int) -> Row:
        scene = self._scene(split, number)
        columns = self._caption(split, number, scene, self._mention(split, number, scene))
        row: Row = {"image": scene.image(), **columns, "boxes": scene.boxes()}
        if self.parameters["masks"]:
            row["masks"] = scene.masks()
        return row
