"""A scene as data, and as pixels.

A scene is things on a coloured ground. All its numbers are whole, so the same scene gives the same
pixels everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sensorium.playground.pictures import extent, sprite

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SHADES = (
    (205, 72, 72),
    (235, 140, 50),
    (238, 216, 96),
    (84, 160, 92),
    (82, 128, 206),
    (146, 96, 178),
    (238, 238, 238),
    (34, 34, 38),
)
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        picture: which picture it shows.
        big: whether it counts as big (else small).
        side: its longer side in pixels.
        left: its place; the box (left, top, left + width, top + height) is tight.
        top: see `left`.
        width: see `left`.
        height: see `left`.
        tile: the colour of the tile it lies on, None for no tile.
    """

    picture: int
    big: bool
    side: int
    left: int
    top: int
    width: int
    height: int
    tile: int | None = None

    @property
    def right(self) -> int:
        """The first column to the right of it."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """The first row below it."""
        return self.top + self.height

    def at(self, place: Thing) -> Thing:
        """A copy with the centre of another thing."""
        left = (place.left + place.right - self.width) // 2
        top = (place.top + place.bottom - self.height) // 2
        return replace(self, left=left, top=top)

    def showing(self, picture: int) -> Thing:
        """A copy that shows another picture at the same size and centre."""
        height, width = extent(picture, self.side)
        return replace(self, picture=picture, height=height, width=width).at(self)

    def sized(self, side: int, big: bool) -> Thing:
        """A copy of another size with the same centre."""
        height, width = extent(self.picture, side)
        return replace(self, side=side, big=big, height=height, width=width).at(self)

    def ground(self, margin: int) -> tuple[int, int, int, int]:
        """The box that it covers: its own, or that of its tile, which reaches a margin further.

        Tiles are square whatever the picture's shape, or their shape would tell it.
        """
        if self.tile is None:
            return self.left, self.top, self.right, self.bottom
        left = (self.left + self.right - self.side) // 2 - margin
        top = (self.top + self.bottom - self.side) // 2 - margin
        return left, top, left + self.side + 2 * margin, top + self.side + 2 * margin


@dataclass(frozen=True)
class Scene:
    """What there is to see.

    Attributes:
        size: width and height in pixels.
        background: the colour of the ground, an index into `COLOURS`.
        tint: what is added to each channel of that colour, so that it is not a code.
        things: the objects, in no particular order; later ones lie on top.
    """

    size: int
    background: int
    tint: tuple[int, int, int]
    things: tuple[Thing, ...]

    def boxes(self) -> NDArray[np.float32]:
        """(things, 4): left, top, right, bottom as shares of the side."""
        corners = [(t.left, t.top, t.right, t.bottom) for t in self.things]
        return np.array(corners, dtype=np.float32).reshape(-1, 4) / np.float32(self.size)

    def relation(self, one: int, other: int) -> str | None:
        """Where thing `one` is, seen from thing `other`; None if that could be disputed.

        A relation is clear if the boxes are apart in its direction and their centres are at least
        twice as far apart in it as across it. So never two relations are true of one pair.
        """
        a, b = self.things[one], self.things[other]
        gap = self.size // 32
        across = abs(a.left + a.right - b.left - b.right)
        along = abs(a.top + a.bottom - b.top - b.bottom)
        if across >= 2 * along:
            if a.right + gap <= b.left:
                return "left"
            if b.right + gap <= a.left:
                return "right"
        elif along >= 2 * across:
            if a.bottom + gap <= b.top:
                return "above"
            if b.bottom + gap <= a.top:
                return "below"
        return None

    def swapped(self, one: int, other: int) -> Scene:
        """A copy in which two things have changed places."""
        a, b = self.things[one], self.things[other]
        return self.with_thing(one, a.at(b)).with_thing(other, b.at(a))

    def with_thing(self, index: int, thing: Thing) -> Scene:
        """A copy in which one thing is exchanged."""
        return replace(self, things=(*self.things[:index], thing, *self.things[index + 1 :]))

    def tidy(self) -> bool:
        """Whether all things are inside and none lies on another."""
        margin = tile_margin(self.size)
        grounds = [thing.ground(margin) for thing in self.things]
        inside = all(min(box) >= 0 and max(box) <= self.size for box in grounds)
        return inside and not any(
            a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
            for number, a in enumerate(grounds)
            for b in grounds[:number]
        )

    def image(self) -> NDArray[np.uint8]:
        """(size, size, 3): the scene as pixels."""
        ground = bytearray(bytes(_shade(self.background, self.tint)) * self.size**2)
        canvas = np.frombuffer(ground, dtype=np.uint8).reshape(self.size, self.size, 3)
        for thing in self.things:
            self.paint(canvas, thing)
        return canvas

    def paint(self, canvas: NDArray[np.uint8], thing: Thing) -> None:
        """Lay a thing on a picture of this scene's size; what is beyond its edges is not seen."""
        if thing.tile is not None:
            left, top, right, bottom = thing.ground(tile_margin(self.size))
            canvas[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = _shade(
                thing.tile, self.tint
            )
        colour, rest = sprite(thing.picture, thing.side)
        if min(thing.left, thing.top) < 0:
            inside = (slice(max(-thing.top, 0), None), slice(max(-thing.left, 0), None))
            colour, rest = colour[inside], rest[inside]
        below = canvas[
            max(thing.top, 0) : max(thing.bottom, 0), max(thing.left, 0) : max(thing.right, 0)
        ]
        if below.shape != colour.shape:
            inside = (slice(below.shape[0]), slice(below.shape[1]))
            colour, rest = colour[inside], rest[inside]
        # An exact, rounded division of (below * rest) by 255 without dividing.
        through = below * rest
        through += 128
        through += through >> 8
        through >>= 8
        through += colour
        below[:] = through

    def masks(self) -> NDArray[np.uint8]:
        """(things, size, size): 1 where a thing can be seen, 0 elsewhere."""
        masks = np.zeros((len(self.things), self.size, self.size), dtype=np.uint8)
        for index, thing in enumerate(self.things):
            solid = sprite(thing.picture, thing.side).rest[..., 0] < 128
            place = (slice(thing.top, thing.bottom), slice(thing.left, thing.right))
            for earlier in masks[:index]:
                earlier[place][solid] = 0
            masks[index][place] = solid
        return masks


def tile_margin(size: int) -> int:
    """How far a tile reaches beyond its thing."""
    return max(1, size // 32)


def _shade(colour: int, tint: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = SHADES[colour]
    return red + tint[0], green + tint[1], blue + tint[2]
