"""The view `regions`: proposals as a detector gives them, and test scenes that are hard to tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorium.playground.base import CAPTIONED, PlaygroundView, Row
from sensorium.playground.captions import Mention, describe
from sensorium.playground.compose import ATTEMPTS, draw_picture, draw_side
from sensorium.playground.holdout import SPLITS
from sensorium.playground.options import PlaygroundError, span
from sensorium.playground.stream import Stream
from sensorium.playground.world import COLOURS, Scene, Thing

TRIES = 60  # to change a scene in one way before another is taken
FINE = 16  # proposals are placed on a grid this much finer than pixels


def jittered(stream: Stream, thing: Thing, size: int) -> tuple[int, int, int, int]:
    """Draw a box whose overlap with a thing's box (IoU) is from 0.5 to 0.8, in 1/16 pixels."""
    left, top, width, height = (
        FINE * length for length in (thing.left, thing.top, thing.width, thing.height)
    )
    for _ in range(ATTEMPTS):
        wide, high = (length * stream.between(75, 130) // 100 for length in (width, height))
        x = left + (width - wide) // 2 + width * stream.between(-30, 30) // 100
        y = top + (height - high) // 2 + height * stream.between(-30, 30) // 100
        right, bottom = min(x + wide, FINE * size), min(y + high, FINE * size)
        x, y = max(x, 0), max(y, 0)
        across = min(right, left + width) - max(x, left)
        along = min(bottom, top + height) - max(y, top)
        if across <= 0 or along <= 0:
            continue
        shared = across * along
        union = width * height + (right - x) * (bottom - y) - shared
        if 2 * shared >= union and 5 * shared <= 4 * union:
            return x, y, right, bottom
    raise PlaygroundError("found no proposal near a thing; give a larger size")


class Regions(PlaygroundView):
    """Scenes with overlapping proposals.

    Columns: image, regions (the box of each thing, then its `jitter` duplicates), region_class (the
    name of the thing in each), caption (2-3 of the things, by default dense), phrases and boxes
    as in `scenes`, objects, language, group.

    Test rows come in groups of `distractors`: the first scene, and scenes that differ from it in
    one thing only: two things changed places, another ground, another size, another picture (with
    tiles, another tile). The caption of each is true of its own scene alone. `group` is the same
    for all of one group, and different for all other rows.
    """

    name = "regions"
    defaults = CAPTIONED | {
        "size": 96,
        "objects": "4-6",
        "caption": "dense",
        "named": "2-3",
        "jitter": 2,
        "distractors": 10,
    }

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self._grouped = self._number("distractors")
        self._dense = self.parameters["caption"] == "dense"
        if self._grouped == 1:
            return
        trouble = None
        if self.parameters["caption"] == "noisy":
            trouble = "caption=noisy, which does not tell them apart"
        elif self.parameters["holdout"] == "combinations":
            trouble = "holdout=combinations, which fixes their colours"
        elif self._fewest < 2 or span(self.parameters["named"])[0] < 2:
            trouble = "fewer than 2 objects or names, which have no relation"
        elif self._holdout.rule == "scenes" and self._holdout.ground_counts(self._fewest):
            trouble = f"as few as {self._holdout.pictures} pictures"
        if trouble:
            raise PlaygroundError(
                f"playground view 'regions': distractors={self._grouped} does not go with "
                f"{trouble}; give distractors=1 to do without groups in the test split"
            )

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "image", "modality": "image", "role": "query"},
            {"name": "regions", "modality": "boxes", "of": "image"},
            {"name": "region_class", "modality": "category", "of": "regions"},
            {"name": "caption", "modality": "text", "role": "target"},
        ]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data."""
        return self._told(*self._place(index))[0]

    def _first(self, split: str, number: int) -> int:
        """The number of the first row of a row's group."""
        grouped = self._grouped if split == "test" else 1
        return number - number % grouped

    def _told(self, split: str, number: int) -> tuple[Scene, Mention]:
        """The scene of a row, and what its caption speaks of."""
        first = self._first(split, number)
        scene = self._scene(split, first)
        mention = self._mention(split, first, scene)
        changed = scene
        taken = {describe(scene, mention, "en", self._dense).text}
        for member in range(first + 1, number + 1):
            # Members before this one are made too, so that no two have the same caption.
            stream = self._stream("distractor", split, member)
            changed = self._distractor(stream, scene, mention, member - first, taken)
        return changed, mention

    def _distractor(
        self, stream: Stream, scene: Scene, mention: Mention, member: int, taken: set[str]
    ) -> Scene:
        """Change one thing that the caption tells, unlike all members before."""
        ways = ["picture", "places"]
        ways += ["ground", "size"] if self._dense else []
        ways += ["tile"] if self._tiles else []
        way = ways[member % len(ways)]
        for attempt in range(ATTEMPTS):
            if attempt == TRIES:  # places, grounds and sizes are used up first
                way = "picture"
            if attempt > ATTEMPTS // 2:  # so are pictures, where few may be in the split
                way = ways[attempt % len(ways)]
            changed = self._changed(stream, scene, mention, way)
            if changed is None or not changed.tidy():
                continue
            if any(changed.relation(*pair) is None for pair in mention.pairs):
                continue
            text = describe(changed, mention, "en", self._dense).text
            if text not in taken:
                taken.add(text)
                return changed
        raise PlaygroundError(
            f"found no distractor {member}; give fewer distractors or more pictures"
        )

    def _changed(self, stream: Stream, scene: Scene, mention: Mention, way: str) -> Scene | None:
        told = [thing for pair in mention.pairs for thing in pair] + list(mention.alone)
        index = told[stream.below(len(told))]
        thing = scene.things[index]
        if way == "places":
            return scene.swapped(*mention.pairs[stream.below(len(mention.pairs))])
        if way == "ground":
            ground = stream.below(len(COLOURS))
            hidden = any(thing.tile == ground for thing in scene.things)
            return None if hidden else replace(scene, background=ground)
        if way == "size":
            side = draw_side(
                stream, scene.size, len(scene.things), not thing.big, thing.tile is not None
            )
            return scene.with_thing(index, thing.sized(side, not thing.big))
        if way == "tile":
            tile = stream.below(len(COLOURS))
            if tile == scene.background:
                return None
            return scene.with_thing(index, replace(thing, tile=tile))
        shown = [other.picture for other in scene.things]
        pool = self._holdout.pool("test")
        picture = draw_picture(
            stream, "test", self._holdout, pool=pool, colour=scene.background, without=shown
        )
        if picture is None:
            return None
        shown[index] = picture
        if not self._holdout.may_be("test", shown, scene.background):
            return None
        return scene.with_thing(index, thing.showing(picture))

    def _row(self, split: str, number: int) -> Row:
        scene, mention = self._told(split, number)
        first = self._first(split, number)
        columns = self._caption(split, first, scene, mention)
        jitter = self._number("jitter")
        return {
            "image": scene.image(),
            "regions": self._proposals(self._stream("jitter", split, number), scene, jitter),
            "region_class": [each for each in columns["objects"] for _ in range(1 + jitter)],
            **columns,
            "boxes": scene.boxes(),
            "group": self._starts[SPLITS.index(split)] + first,
        }

    def _proposals(self, stream: Stream, scene: Scene, jitter: int) -> NDArray[np.float32]:
        corners = []
        for thing in scene.things:
            box = (thing.left, thing.top, thing.right, thing.bottom)
            corners.append(tuple(FINE * edge for edge in box))
            corners += [jittered(stream, thing, scene.size) for _ in range(jitter)]
        boxes = np.array(corners, dtype=np.float32).reshape(-1, 4)
        return boxes / np.float32(FINE * scene.size)
