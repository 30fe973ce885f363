"""The view `videos`: clips in which one thing moves, what that sounds like, and a caption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensorium.playground.base import COMMON, PlaygroundView, Row
from sensorium.playground.pictures import name
from sensorium.playground.synthesis import RATE, following
from sensorium.playground.words import (
    DIRECTIONS,
    MOTIONS,
    STILL,
    WORDS,
    Phrase,
    fill,
    join,
    naming,
)
from sensorium.playground.world import Scene, Thing

FRAME_RATE = 16
SAMPLES = RATE // FRAME_RATE  # of sound, while a frame is seen
SPEEDS = ("slow", "fast")
# How far a thing moves from the first frame to the last, in percent of the side.
_WAYS = ((18, 24), (42, 48))
_STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


class Motion(NamedTuple):
    """What moves, and how.

    Attributes:
        thing: which thing of the scene.
        direction: where to.
        fast: whether it goes far in the time.
        way: how far, in pixels.
    """

    thing: int
    direction: str
    fast: bool
    way: int

    def shift(self, frame: int, frames: int) -> tuple[int, int]:
        """How far right and down it is then, from its place in the scene, where it is halfway."""
        step = (self.way * (2 * frame - (frames - 1)) + (frames - 1)) // (2 * (frames - 1))
        right, down = _STEPS[self.direction]
        return right * step, down * step


class Videos(PlaygroundView):
    """Clips of scenes in which one thing moves on a straight line, and the others stand still.

    Columns: video (`frames` frames, 16 a second), sound (16 kHz, as long), caption ("duck moves left,
    umbrella stands still"), label, direction, objects (names), language.

    Halfway the clip shows the scene that `scenes` has for the same seed and row. The sound is that of
    the thing that moves: it has its timbre, its pitch follows its height, its loudness how far right
    it is. The label is slow or fast, which caption and single frames do not tell; `direction` is in
    the caption.
    """

    name = "videos"
    defaults = COMMON | {"frames": 16}

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "video", "modality": "video", "role": "query"},
            {"name": "sound", "modality": "audio", "role": "input", "of": "video"},
            {"name": "caption", "modality": "text", "role": "target"},
            {"name": "label", "modality": "category", "role": "label"},
            {"name": "direction", "modality": "category", "role": "ignore"},
        ]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data, halfway through the clip."""
        return self._scene(*self._place(index))

    def motion(self, index: int) -> Motion:
        """What moves in a row, and how."""
        split, number = self._place(index)
        return self._motion(split, number, self._scene(split, number))

    def _motion(self, split: str, number: int, scene: Scene) -> Motion:
        stream = self._stream("motion", split, number)
        thing = stream.below(len(scene.things))
        direction = DIRECTIONS[stream.below(len(DIRECTIONS))]
        fast = stream.chance(50)
        low, high = _WAYS[fast]
        return Motion(thing, direction, fast, scene.size * stream.between(low, high) // 100)

    def _row(self, split: str, number: int) -> Row:
        scene = self._scene(split, number)
        motion = self._motion(split, number, scene)
        language = self._language_of(split, number)
        frames = self._number("frames")
        return {
            "video": {"array": _frames(scene, motion, frames), "fps": FRAME_RATE},
            "sound": {"array": _sound(scene, motion, frames), "sampling_rate": RATE},
            "caption": _caption(scene, motion, language).text,
            "label": SPEEDS[motion.fast],
            "direction": motion.direction,
            "objects": [name(thing.picture, language) for thing in scene.things],
            "language": language,
        }


def _frames(scene: Scene, motion: Motion, frames: int) -> NDArray[np.uint8]:
    """(frames, size, size, 3): the thing that moves lies on top of the others."""
    moving = scene.things[motion.thing]
    others = tuple(thing for thing in scene.things if thing is not moving)
    ground = replace(scene, things=others).image()
    clip = np.repeat(ground[None], frames, axis=0)
    for number, frame in enumerate(clip):
        scene.paint(frame, _moved(moving, *motion.shift(number, frames)))
    return clip


def _sound(scene: Scene, motion: Motion, frames: int) -> NDArray[np.int16]:
    moving = scene.things[motion.thing]
    ends = [_moved(moving, *motion.shift(number, frames)) for number in (0, frames - 1)]
    across = (ends[0].left + ends[0].right, ends[1].left + ends[1].right)
    along = (ends[0].top + ends[0].bottom, ends[1].top + ends[1].bottom)
    return following(moving.picture, across, along, 2 * scene.size, frames * SAMPLES)


def _moved(thing: Thing, right: int, down: int) -> Thing:
    return replace(thing, left=thing.left + right, top=thing.top + down)


def _caption(scene: Scene, motion: Motion, language: str) -> Phrase:
    """What moves and where to, then what stands still."""
    clauses = [_clause(scene, motion.thing, MOTIONS[language][motion.direction], language)]
    clauses += [
        _clause(scene, number, STILL[language], language)
        for number in range(len(scene.things))
        if number != motion.thing
    ]
    return join(clauses, WORDS[language].separator)


def _clause(scene: Scene, number: int, template: str, language: str) -> Phrase:
    return fill(template, a=naming(number, name(scene.things[number].picture, language)))
