import re

import numpy as np
import pytest

from sensorium.playground import pictures as library
from sensorium.playground.pictures import LANGUAGES, extent, name, pictures, rgba, sprite


def test_there_are_many_pictures_in_a_small_file():
    assert len(pictures()) >= 1500
    assert library.FILE.stat().st_size <= 5_000_000


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_name_is_unique(language):
    names = [picture.names[language].casefold() for picture in pictures()]
    assert all(names)
    assert len(set(names)) == len(names)
    assert not any(re.search(r"[_:{}]|^\s|\s$|\s\s", name) for name in names if name != ":")


def test_pictures_differ():
    assert len({rgba(index).tobytes() for index in range(len(pictures()))}) == len(pictures())


def test_no_skin_tones_flags_of_countries_or_keycaps():
    for picture in pictures():
        codes = {ord(sign) for sign in picture.emoji}
        assert not codes & set(range(0x1F3FB, 0x1F400))
        assert not codes & set(range(0x1F1E6, 0x1F200))
        assert 0x20E3 not in codes


def test_names_with_colour_words_are_marked():
    marked = {picture.names["en"] for picture in pictures() if picture.colour_word}
    assert {"red heart", "green apple", "rainbow", "orange book"} <= marked
    assert "rabbit" not in marked
    plain = [picture for picture in pictures() if not picture.colour_word]
    assert len(plain) > 1000
    for picture in plain:
        names = picture.names
        words = set(re.findall(r"\w+", names["en"].lower()))
        assert not words & {"red", "orange", "yellow", "green", "blue", "purple", "white", "black"}
        words = set(re.findall(r"\w+", names["id"].lower()))
        assert not words & {"merah", "oranye", "kuning", "hijau", "biru", "ungu", "putih", "hitam"}
        assert not set(names["zh"]) & set("红橙黄绿蓝紫白黑")
        german = r"\b(rot|gelb|grün|blau|lila|weiß|schwarz)(e|er|es|en|em)?\b"
        assert not re.search(german, names["de"].lower())


def test_a_sprite_is_as_long_as_asked_and_keeps_its_shape():
    for picture in range(0, len(pictures()), 97):
        seen = np.argwhere(rgba(picture)[..., 3] > 0)
        tall, wide = seen.max(0) - seen.min(0) + 1
        for side in (9, 20, 48):
            height, width = extent(picture, side)
            assert max(height, width) == side
            assert abs(height * wide - width * tall) <= max(tall, wide)


def test_a_sprite_is_the_mean_of_the_areas_its_pixels_cover():
    """The fast product against whole-number sums over a grid on which all edges meet."""
    pixels, side = library._library().pixels[7], 20
    top, bottom, left, right = library._visible()[7]
    source = pixels[top:bottom, left:right].astype(np.int64)
    height, width = extent(7, side)
    fine = source.repeat(height, axis=0).repeat(width, axis=1)
    blocks = fine.reshape(height, bottom - top, width, right - left, 4).sum(axis=(1, 3))
    unit = 63 * (bottom - top) * (right - left)
    expected = (blocks * 255 + unit // 2) // unit
    assert np.array_equal(sprite(7, side).colour, expected[..., :3])
    assert np.array_equal(sprite(7, side).rest, 255 - expected[..., 3:])


def test_a_sprite_in_its_own_size_is_the_picture():
    colour, rest = sprite(3, 48)
    stored = library._library().pixels[3].astype(int)
    top, bottom, left, right = library._visible()[3]
    cut = (stored[top:bottom, left:right] * 255 + 31) // 63
    assert np.array_equal(np.concatenate([colour, 255 - rest], axis=2), cut)


def test_things_come_first_and_have_short_names():
    first = pictures()[:200]
    things = {"Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects"}
    assert {picture.group for picture in first} == things
    assert max(len(picture.names["en"].split()) for picture in first) <= 3
    assert name(0, "de") == first[0].names["de"]
