from dataclasses import replace

import numpy as np
import pytest

from sensorium.playground.pictures import extent, sprite
from sensorium.playground.world import OPPOSITE, SHADES, Scene, Thing

SIZE = 64


def thing(left: int, top: int, picture: int = 0, side: int = 20, tile: int | None = None) -> Thing:
    height, width = extent(picture, side)
    return Thing(picture, False, side, left, top, width, height, tile)


def scene(*things: Thing, background: int = 4) -> Scene:
    return Scene(SIZE, background, (0, 0, 0), things)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((40, 2), "left"),
        ((40, 10), "left"),
        ((40, 22), None),  # too much across for its distance
        ((22, 2), None),  # boxes nearly touch
        ((2, 40), "above"),
        ((12, 40), "above"),
        ((40, 40), None),
    ],
)
def test_relations_are_told_only_where_they_are_clear(place, expected):
    square = next(p for p in range(50) if extent(p, 20) == (20, 20))
    first, second = thing(2, 2, square), thing(*place, square)
    pair = scene(first, second)
    assert pair.relation(0, 1) == expected
    assert pair.relation(1, 0) == (OPPOSITE[expected] if expected else None)


def test_pixels_are_mixed_by_alpha():
    one = thing(5, 9, picture=12)
    image = scene(one).image()
    colour, rest = sprite(12, 20)
    ground = np.array(SHADES[4])
    expected = colour + np.round(ground * rest / 255)
    assert np.array_equal(image[one.top : one.bottom, one.left : one.right], expected)
    image[one.top : one.bottom, one.left : one.right] = ground
    assert (image == ground).all()


def test_tint_moves_the_ground():
    image = replace(scene(), tint=(3, -2, 1)).image()
    assert image[0, 0].tolist() == [SHADES[4][0] + 3, SHADES[4][1] - 2, SHADES[4][2] + 1]


def test_a_tile_is_square_around_its_thing():
    for picture in range(20):
        one = thing(20, 20, picture, tile=0)
        image = scene(replace(one, picture=picture)).image()
        changed = np.argwhere((image != SHADES[4]).any(axis=2))
        top, left = changed.min(0)
        bottom, right = changed.max(0) + 1
        assert bottom - top == right - left == one.side + 4
        assert top < one.top and bottom > one.bottom and left < one.left and right > one.right


def test_masks_show_visible_pixels_only():
    below, above = thing(10, 10, 0, 24), thing(20, 20, 5, 24)
    masks = scene(below, above).masks()
    assert masks.shape == (2, SIZE, SIZE) and masks.dtype == np.uint8
    alone = scene(below).masks()[0]
    assert not (masks[0] & masks[1]).any()
    assert np.array_equal(masks[0], alone & ~masks[1])
    assert 0 < masks[0].sum() < alone.sum()
    for mask, box in zip(masks, scene(below, above).boxes() * SIZE, strict=True):
        rows, columns = np.nonzero(mask)
        assert columns.min() >= box[0] and columns.max() < box[2]
        assert rows.min() >= box[1] and rows.max() < box[3]


def test_swapping_exchanges_places():
    pair = scene(thing(2, 2, 0), thing(40, 4, 1))
    swapped = pair.swapped(0, 1)
    assert [t.picture for t in swapped.things] == [0, 1]
    assert swapped.relation(0, 1) == "right"
    assert pair.tidy() and swapped.tidy()


def test_tidy_sees_overlap_and_edges():
    assert scene(thing(2, 2), thing(30, 30)).tidy()
    assert not scene(thing(2, 2), thing(10, 10)).tidy()
    assert not scene(thing(-1, 2)).tidy()
    assert not scene(thing(50, 2)).tidy()
    assert not scene(thing(1, 1, tile=0)).tidy()
