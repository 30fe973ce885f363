"""The view `maps`: scenes as other eyes see them, by distance, by heat and by kind."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensorium.playground.base import CAPTIONED, PlaygroundView, Row
from sensorium.playground.pictures import pictures, sprite
from sensorium.playground.stream import Stream
from sensorium.playground.world import Scene

# In millimetres: a thing as wide as the picture, and the farthest place of a thing.
NEAREST, FARTHEST = 700, 5500
# Where the ground is, in millimetres, and how warm, in tenths of a degree Celsius.
NEAR, FAR = (6000, 7000), (9000, 10000)
COLD, WARM = (80, 140), (200, 260)
THINGS = (280, 950)
# Of a palette: how many colours, and how wide the steps of each channel.
COLOURS, STEP = 3, 32
PALETTE = [
    f"colour {number} {part}"
    for number in range(1, COLOURS + 1)
    for part in ("red", "green", "blue", "share")
]


class Ground(NamedTuple):
    """What lies behind the things.

    Attributes:
        warm: whether it is warm.
        far: whether it is far away.
        heat: in tenths of a degree Celsius.
        distance: in millimetres.
    """

    warm: bool
    far: bool
    heat: int
    distance: int


@lru_cache(maxsize=4096)
def temperature(picture: int) -> int:
    """How warm what a picture shows always is, in tenths of a degree Celsius."""
    return Stream("playground temperature " + pictures()[picture].emoji).between(*THINGS)


@lru_cache(maxsize=1)
def kinds() -> tuple[str, ...]:
    """The groups of pictures, in the order of their numbers in a segmentation, from 1."""
    return tuple(sorted({picture.group for picture in pictures()}))


class Maps(PlaygroundView):
    """Scenes with maps of them.

    Columns: image, depth, infrared, segments, caption and objects as in `scenes`, language, label.

    - depth: uint16 millimetres. Things that look smaller are farther, all in front of the ground; at
      their outlines nothing is measured (0).
    - infrared: uint16 tenths of a degree Celsius. Each picture has a temperature of its own, the same
      in every scene; nothing of its colours is seen.
    - segments: uint8, 0 for the ground, else the number of the group of pictures, from 1.

    The label has four classes, such as "warm far": whether the ground is warm is seen in infrared
    only, whether it is far in depth only. So the best accuracy is 0.5 from one of them, 1 from both,
    0.25 from everything else.
    """

    name = "maps"
    defaults = CAPTIONED

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        of_image = {"modality": "maps", "of": "image"}
        classes = {"kind": "classes", "classes": list(range(len(kinds()) + 1))}
        return [
            {"name": "image", "modality": "image", "role": "query"},
            {
                **of_image,
                "name": "depth",
                "options": {"range": [0, FAR[1]], "invalid": 0},
            },
            {**of_image, "name": "infrared", "options": {"range": [0, 1000]}},
            {**of_image, "name": "segments", "role": "ignore", "options": classes},
            {"name": "caption", "modality": "text", "role": "target"},
            {"name": "label", "modality": "category", "role": "label"},
        ]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data."""
        return self._scene(*self._place(index))

    def ground(self, index: int) -> Ground:
        """What lies behind the things of a row."""
        return self._ground(*self._place(index))

    def _ground(self, split: str, number: int) -> Ground:
        stream = self._stream("ground", split, number)
        warm, far = stream.chance(50), stream.chance(50)
        heat = stream.between(*(WARM if warm else COLD))
        return Ground(warm, far, heat, stream.between(*(FAR if far else NEAR)))

    def _row(self, split: str, number: int) -> Row:
        scene = self._scene(split, number)
        ground = self._ground(split, number)
        columns = self._caption(split, number, scene, self._mention(split, number, scene))
        del columns["phrases"]
        depth, infrared, segments = _maps(scene, ground)
        temper, place = "warm" if ground.warm else "cold", "far" if ground.far else "near"
        return {
            "image": scene.image(),
            "depth": depth,
            "infrared": infrared,
            "segments": segments,
            **columns,
            "label": f"{temper} {place}",
        }


class Layers(Maps):
    """Scenes with maps of them, and how many things there are.

    Columns: those of `maps`. The label is the number of things, which may lie on each other; picture,
    depth and segments may be read, infrared not.
    """

    name = "layers"
    defaults = CAPTIONED | {"objects": "1-4"}

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        roles = {"infrared": "ignore", "segments": "input", "caption": "ignore"}
        fields = super().fields
        return [
            field | {"role": roles.get(field["name"], field.get("role", "input"))}
            for field in fields
        ]

    def _row(self, split: str, number: int) -> Row:
        things = len(self._scene(split, number).things)
        return super()._row(split, number) | {"label": str(things)}


class Aligned(Maps):
    """Scenes with all that can be told of them: what each field says of the others.

    Columns: those of `maps`; boxes, one for each thing; of a palette, the three colours that most pixels
    have, and what share of them (`colour 1 red`, ..., `colour 1 share`); `count` of things, and `covered`,
    the share of the picture that they cover. Infrared and the label may not be read, all else may. Of the
    distance of the ground nothing but depth tells.
    """

    name = "aligned"

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        roles = {"infrared": "ignore", "segments": "input", "label": "ignore"}
        fields = [
            field | ({"role": roles[field["name"]]} if field["name"] in roles else {})
            for field in super().fields
        ]
        return [
            *fields,
            {"name": "boxes", "modality": "boxes", "of": "image"},
            {"name": "things", "modality": "category", "of": "boxes", "column": "objects"},
            {"name": "palette", "modality": "table", "columns": dict.fromkeys(PALETTE, "number")},
            {
                "name": "about",
                "modality": "table",
                "columns": {"count": "category", "covered": "number"},
            },
        ]

    def _row(self, split: str, number: int) -> Row:
        row, scene = super()._row(split, number), self._scene(split, number)
        covered = int((row["segments"] > 0).sum()) / row["segments"].size
        about = {"count": str(len(scene.things)), "covered": covered}
        return row | {"boxes": scene.boxes(), **palette(row["image"]), **about}


def palette(image: NDArray[np.uint8]) -> dict[str, float | None]:
    """The colours that most pixels of a picture have, in steps of 32; nothing where there are fewer."""
    steps = (image // STEP).reshape(-1, 3).astype(np.int64)
    colours, counts = np.unique(steps @ (1, STEP, STEP * STEP), return_counts=True)
    order = np.lexsort((colours, -counts))[:COLOURS]
    numbers: list[float] = []
    for code, count in zip(colours[order].tolist(), counts[order].tolist(), strict=True):
        parts = (code % STEP, code // STEP % STEP, code // (STEP * STEP))
        numbers += [float(STEP * part + STEP // 2) for part in parts]
        numbers.append(count / len(steps))
    return dict(zip(PALETTE, [*numbers, *[None] * (len(PALETTE) - len(numbers))], strict=True))


def _maps(
    scene: Scene, ground: Ground
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint8]]:
    """(size, size) each: depth, infrared and segments; later things lie on top, as in the picture."""
    shape = (scene.size, scene.size)
    depth = np.full(shape, ground.distance, dtype=np.uint16)
    infrared = np.full(shape, ground.heat, dtype=np.uint16)
    segments = np.zeros(shape, dtype=np.uint8)
    for thing in scene.things:
        rest = sprite(thing.picture, thing.side).rest[..., 0]
        place = (slice(thing.top, thing.bottom), slice(thing.left, thing.right))
        solid = rest < 128
        depth[place][solid] = min(NEAREST * scene.size // thing.side, FARTHEST)
        depth[place][(rest >= 64) & (rest < 192)] = 0
        infrared[place][solid] = temperature(thing.picture)
        segments[place][solid] = 1 + kinds().index(pictures()[thing.picture].group)
    return depth, infrared, segments
