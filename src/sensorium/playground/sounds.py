"""The view `sounds`: a picture, what it sounds like, and a caption."""

from __future__ import annotations

from typing import Any

from sensorium.playground.base import CAPTIONED, PlaygroundView, Row
from sensorium.playground.synthesis import RATE, mixture
from sensorium.playground.world import Scene


def left_to_right(scene: Scene) -> list[int]:
    """The pictures of a scene in the order of their centres."""
    things = sorted(scene.things, key=lambda thing: (thing.left + thing.right, thing.top))
    return [thing.picture for thing in things]


class Sounds(PlaygroundView):
    """Scenes that can be heard.

    Columns: image, sound (half a second, 16 kHz: the motif of each thing, from left to right),
    caption, objects, language. A picture's motif is the same in every scene.
    """

    name = "sounds"
    defaults = CAPTIONED

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "image", "modality": "image", "role": "query"},
            {"name": "sound", "modality": "audio", "role": "target"},
            {"name": "caption", "modality": "text", "role": "input"},
        ]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data."""
        return self._scene(*self._place(index))

    def _row(self, split: str, number: int) -> Row:
        scene = self._scene(split, number)
        columns = self._caption(split, number, scene, self._mention(split, number, scene))
        sound = {"array": mixture(left_to_right(scene)), "sampling_rate": RATE}
        del columns["phrases"]
        return {"image": scene.image(), "sound": sound, **columns}
