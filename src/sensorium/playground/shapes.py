"""The view `shapes`: point clouds of solid things, with pictures, captions and names."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensorium.modalities.points import normalised, seen_from, splat, turning
from sensorium.playground.base import GeneratedView, Row
from sensorium.playground.options import PlaygroundError
from sensorium.playground.pictures import LANGUAGES
from sensorium.playground.solids import KINDS, Triangles
from sensorium.playground.stream import Stream
from sensorium.types.draws import permutation, uniform

# Coordinates are rounded, so that the last bits of a sine, which differ between machines, are gone.
GRID = 4096
SAMPLES = 2000  # points that a picture is made of, at least
ANGLES = 30  # from which things are seen, all around: every 12 degrees
LIGHT = np.array([-0.4, 0.7, 0.6])

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "height": ("", "tall ", "flat "),
        "taper": ("", "tapered ", "top-heavy "),
        "forms": ("{}", "picture of {}", "model of {}", "view of {}"),
    },
    "de": {
        "height": ("", "hoch ", "flach "),
        "taper": ("", "oben schmal ", "oben breit "),
        "forms": ("{}", "bild von {}", "modell von {}", "ansicht von {}"),
    },
    "id": {
        "height": ("", "tinggi ", "pipih "),
        "taper": ("", "atas sempit ", "atas lebar "),
        "forms": ("{}", "gambar {}", "model {}", "tampilan {}"),
    },
    "zh": {
        "height": ("", "高", "扁"),
        "taper": ("", "上窄", "上宽"),
        "forms": ("{}", "{}的图片", "{}的模型", "{}的视图"),
    },
}
STRETCH = (1.0, 1.7, 0.55)
TOP, BOTTOM = (1.0, 0.5, 1.35), (1.0, 1.35, 0.5)


class Shape(NamedTuple):
    """One thing.

    Attributes:
        kind: which of `KINDS`.
        proportions: of it, in thousandths.
        height: 0, or 1 if it is tall, 2 if it is flat.
        taper: 0, or 1 if it is narrower above, 2 if below.
        turn: about the vertical, and `tilt`, about the other two axes, in tenths of a degree.
    """

    kind: int
    proportions: tuple[int, int]
    height: int
    taper: int
    turn: int
    tilt: tuple[int, int]


class Shapes(GeneratedView):
    """Clouds of points on the surface of things, in any pose, with what they look like.

    Columns: points (x, y, z with y upwards, in a sphere of radius 1), image (the same thing from one
    of 30 angles around it, in some colour), caption (kind, height and taper), label (the kind),
    language. Labels take turns. Colours tell nothing.

    Parameters of its own: `classes` (the first so many of 36 kinds), `unseen` (of how many of them
    there are no points, but pictures and captions, in training and validation rows), `points` (of a
    cloud), `size` (of a picture in pixels), `depth` (percent of pictures that are depth maps),
    `renders` (pictures of a row; a list if there are several).
    """

    name = "shapes"
    defaults: ClassVar[dict[str, int | str]] = {
        "seed": 0,
        "train": 20000,
        "validation": 1000,
        "test": 1000,
        "size": 64,
        "language": "en",
        "classes": len(KINDS),
        "unseen": 0,
        "points": 1024,
        "depth": 0,
        "renders": 1,
    }

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self._size, self._classes = self._number("size"), self._number("classes")
        unseen = self._number("unseen")
        if unseen >= self._classes:
            raise PlaygroundError(
                f"unseen={unseen} of {self._classes} classes leaves none to learn from; give fewer"
            )
        self.unseen = held_out(self._classes, unseen)

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        return [
            {"name": "points", "modality": "points", "role": "query"},
            {"name": "image", "modality": "image", "role": "input"},
            {"name": "caption", "modality": "text", "role": "target"},
            {"name": "label", "modality": "category", "role": "label"},
        ]

    def shape(self, index: int) -> Shape:
        """The thing of a row as data."""
        return self._shape(*self._place(index))

    def is_unseen(self, index: int) -> bool:
        """Whether a row is of a kind whose points are held out."""
        return self.shape(index).kind in self.unseen

    def _shape(self, split: str, number: int) -> Shape:
        stream = self._stream("shape", split, number)
        return Shape(
            number % self._classes,
            (stream.below(1000), stream.below(1000)),
            stream.below(3),
            stream.below(3),
            stream.below(3600),
            (stream.between(-100, 100), stream.between(-100, 100)),
        )

    def _row(self, split: str, number: int) -> Row:
        shape = self._shape(split, number)
        places, normals = self._surface(split, number, shape)
        hidden = shape.kind in self.unseen and split != "test"
        count = self._number("points")
        stream = self._stream("render", split, number)
        images = [self._render(stream, places, normals) for _ in range(self._number("renders"))]
        language = self._language_of(split, number)
        return {
            "points": None if hidden else places[:count].astype(np.float32),
            "image": images if len(images) > 1 else images[0],
            "caption": self._caption(split, number, shape, language),
            "label": KINDS[shape.kind].names[language],
            "language": language,
        }

    def _language_of(self, split: str, number: int) -> str:
        language = str(self.parameters["language"])
        if language == "mixed":
            return LANGUAGES[self._stream("language", split, number).below(len(LANGUAGES))]
        return language

    def _caption(self, split: str, number: int, shape: Shape, language: str) -> str:
        words = WORDS[language]
        form = words["forms"][self._stream("form", split, number).below(len(words["forms"]))]
        told = words["height"][shape.height] + words["taper"][shape.taper]
        return form.format(told + KINDS[shape.kind].names[language])

    def _surface(
        self, split: str, number: int, shape: Shape
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Places on the surface of a thing in its pose, and which way it faces there."""
        count = max(SAMPLES, self._number("points"), self._size**2)
        place = self._stream("surface", split, number).next() >> 1
        draw = uniform("playground surface", place, np.arange(count)[:, None], np.arange(3))
        places, normals = sampled(posed(shape), draw)
        return np.rint(normalised(places) * GRID) / GRID, normals

    def _render(
        self, stream: Stream, places: NDArray[np.float64], normals: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """A picture from a random side, a little from above."""
        azimuth = 360 / ANGLES * stream.below(ANGLES)
        elevation = float(stream.between(0, 35))
        tint = np.array([stream.between(60, 255) for _ in range(3)])
        ground = stream.between(160, 255)
        seen = np.rint(seen_from(places, azimuth, elevation) * GRID) / GRID
        if stream.chance(self._number("depth")):
            return splat(seen, self._size)
        facing = seen_from(normals, azimuth, elevation)
        facing *= np.where(facing[:, 2:] < 0, -1, 1)
        light = np.rint(64 + 190 * (facing @ (LIGHT / np.linalg.norm(LIGHT))).clip(0, 1))
        colours = (light.astype(np.int64)[:, None] * tint // 255).astype(np.uint8)
        return splat(seen, self._size, colours, ground=ground)


def held_out(classes: int, unseen: int) -> frozenset[int]:
    """The kinds whose points are held out, if there are so many of them among so many kinds."""
    return frozenset(permutation(classes, "playground holdout shapes")[:unseen].tolist())


def posed(shape: Shape) -> Triangles:
    """The solid of a thing with its proportions, in its pose."""
    one, other = shape.proportions
    solid = KINDS[shape.kind].build(one / 1000, other / 1000)
    low, high = solid[..., 1].min(), solid[..., 1].max()
    share = ((solid[..., 1] - low) / (high - low))[..., None]
    wide = BOTTOM[shape.taper] * (1 - share) + TOP[shape.taper] * share
    solid = solid * np.concatenate([wide, np.full_like(wide, STRETCH[shape.height]), wide], -1)
    x, z = (np.deg2rad(angle / 10) for angle in shape.tilt)
    turn = turning(2, z) @ turning(0, x) @ turning(1, np.deg2rad(shape.turn / 10))
    return np.asarray(solid @ turn.T)


def sampled(
    solid: Triangles, draw: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points spread evenly over a surface, and the normals there, from three numbers each."""
    across = np.cross(solid[:, 1] - solid[:, 0], solid[:, 2] - solid[:, 0])
    length = np.linalg.norm(across, axis=1)
    area = np.cumsum(length)
    which = np.searchsorted(area, draw[:, 0] * area[-1], side="right").clip(max=len(area) - 1)
    root, other = np.sqrt(draw[:, 1:2]), draw[:, 2:3]
    a, b, c = solid[which].swapaxes(0, 1)
    places = (1 - root) * a + root * (1 - other) * b + root * other * c
    return places, across[which] / length[which, None]
