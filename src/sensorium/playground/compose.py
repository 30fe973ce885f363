"""Draw scenes: what is in them, and where."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from math import isqrt

from sensorium.playground.holdout import Holdout
from sensorium.playground.options import PlaygroundError
from sensorium.playground.pictures import extent
from sensorium.playground.stream import Stream
from sensorium.playground.world import COLOURS, Scene, Thing, tile_margin

ATTEMPTS = 5000
TINT = 12
# The longer side of things, in percent of the room that one has.
SMALL, BIG = (64, 74), (86, 98)


@dataclass(frozen=True)
class Wish:
    """What a scene must have; None leaves it to chance.

    Attributes:
        things: how many.
        background: the colour of the ground.
        backgrounds: the colours to choose from.
        big: whether all things are big (or all small).
        relation: a relation that two of the things are to have clearly.
        pair: whether two of the things must have some clear relation.
        pool: the pictures to choose from, if not all of the split.
    """

    things: int
    background: int | None = None
    backgrounds: tuple[int, ...] = field(default=tuple(range(len(COLOURS))))
    big: bool | None = None
    relation: str | None = None
    pair: bool = True
    pool: tuple[int, ...] | None = None


def compose(
    stream: Stream, split: str, holdout: Holdout, wish: Wish, *, size: int, tiles: bool
) -> Scene:
    """Draw a scene of a split.

    Raises:
        PlaygroundError: none was found, since too few pictures were asked for.
    """
    background, shown, colours = _content(stream, split, holdout, wish, tiles)
    tint = (
        stream.below(2 * TINT + 1) - TINT,
        stream.below(2 * TINT + 1) - TINT,
        stream.below(2 * TINT + 1) - TINT,
    )
    for _ in range(ATTEMPTS):
        things = _layout(stream, size, shown, colours, wish.big)
        scene = Scene(size, background, tint, things)
        if _as_wished(scene, wish):
            return scene
    raise PlaygroundError(f"found no place for {wish.things} things on {size} pixels; give more")


def draw_picture(
    stream: Stream,
    split: str,
    holdout: Holdout,
    *,
    pool: tuple[int, ...],
    colour: int,
    without: Collection[int],
) -> int | None:
    """Draw a picture of the pool that may be on this colour and is not one of `without`."""
    for _ in range(64):
        picture = pool[stream.below(len(pool))]
        if picture not in without and holdout.may_hold(split, picture, colour):
            return picture
    return None


def _content(
    stream: Stream, split: str, holdout: Holdout, wish: Wish, tiles: bool
) -> tuple[int, list[int], list[int | None]]:
    pool = holdout.pool(split) if wish.pool is None else wish.pool
    for _ in range(ATTEMPTS if pool else 0):
        background = wish.background
        if background is None:
            background = wish.backgrounds[stream.below(len(wish.backgrounds))]
        shown: list[int] = []
        colours: list[int | None] = []
        for _ in range(wish.things):
            # A tile of the ground's colour could not be seen.
            step = stream.between(1, len(COLOURS) - 1) if tiles else 0
            colour = (background + step) % len(COLOURS)
            picture = draw_picture(stream, split, holdout, pool=pool, colour=colour, without=shown)
            if picture is None:
                break
            shown.append(picture)
            colours.append(colour if tiles else None)
        if len(shown) == wish.things and holdout.may_be(split, shown, background):
            return background, shown, colours
    raise PlaygroundError(
        f"found no {split} scene of {wish.things} things among {len(pool)} pictures with "
        f"holdout={holdout.rule}; give a larger number of pictures"
    )


def room(size: int, things: int) -> int:
    """The side of the square that each of so many things has to itself."""
    return size // (isqrt(things - 1) + 1)


def draw_side(stream: Stream, size: int, things: int, big: bool, tiles: bool) -> int:
    """Draw the longer side of a thing."""
    free = room(size, things) - 2 - (2 * tile_margin(size) if tiles else 0)
    low, high = BIG if big else SMALL
    return stream.between(free * low // 100, free * high // 100)


def _layout(
    stream: Stream, size: int, shown: list[int], tiles: list[int | None], big: bool | None
) -> tuple[Thing, ...]:
    """Put each thing somewhere in a square of its own, so that none lies on another."""
    columns = isqrt(len(shown) - 1) + 1
    square = room(size, len(shown))
    squares = stream.shuffled(columns * columns)
    things = []
    for picture, tile, place in zip(shown, tiles, squares, strict=False):
        is_big = stream.below(2) == 1 if big is None else big
        side = draw_side(stream, size, len(shown), is_big, tile is not None)
        height, width = extent(picture, side)
        # A tile is square and needs its own room, whatever the picture's shape.
        taken_x, taken_y = (width, height) if tile is None else (side, side)
        margin = 0 if tile is None else tile_margin(size)
        edge = 1 + margin
        left = edge + stream.below(square - 2 * edge - taken_x + 1) + (taken_x - width) // 2
        top = edge + stream.below(square - 2 * edge - taken_y + 1) + (taken_y - height) // 2
        row, column = divmod(place, columns)
        corner_x, corner_y = column * size // columns, row * size // columns
        things.append(
            Thing(picture, is_big, side, corner_x + left, corner_y + top, width, height, tile)
        )
    return tuple(things)


def _as_wished(scene: Scene, wish: Wish) -> bool:
    if wish.things < 2 or not (wish.pair or wish.relation):
        return True
    numbers = range(wish.things)
    for one in numbers:
        for other in numbers:
            if one != other:
                relation = scene.relation(one, other)
                if relation and wish.relation in (None, relation):
                    return True
    return False
