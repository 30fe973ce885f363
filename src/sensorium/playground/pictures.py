"""The pictures: some 1,600 emoji with names in four languages, and their scaled sprites.

The order goes from unlike to alike and things come first, so the first N pictures are N things
that can be told apart. The file is read when the first picture is asked for.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("pictures.xz")
LANGUAGES = ("en", "de", "id", "zh")


@dataclass(frozen=True)
class Picture:
    """What is known of one picture.

    Attributes:
        emoji: the character or sequence.
        names: its name by language; no two pictures share a name in any of them.
        group: its Unicode group, for example "Food & Drink".
        subgroup: its Unicode subgroup, for example "food-fruit".
        colour_word: whether a name in any language speaks of a colour, which would answer a
            question about colours without a look at the scene.
    """

    emoji: str
    names: dict[str, str]
    group: str
    subgroup: str
    colour_word: bool


class Sprite(NamedTuple):
    """A picture scaled for scenes.

    Attributes:
        colour: colour times alpha, (height, width, 3).
        rest: 255 minus alpha, (height, width, 1): how much of what lies below shines through.
    """

    colour: NDArray[np.uint16]
    rest: NDArray[np.uint16]


class _Library(NamedTuple):
    pictures: tuple[Picture, ...]
    pixels: NDArray[np.uint8]
    levels: int


@lru_cache(maxsize=1)
def _library() -> _Library:
    content = lzma.decompress(FILE.read_bytes())
    end = content.index(b"\n") + 1
    head = json.loads(content[:end])
    start = end + -end % 4  # pixels start at a multiple of four
    count, side = len(head["pictures"]), head["side"]
    flat = np.frombuffer(content, dtype=np.uint8, offset=start)
    pixels = flat.reshape(count, side, side, 4)
    pictures = tuple(
        Picture(
            emoji=entry["emoji"],
            names={language: entry[language] for language in LANGUAGES},
            group=entry["group"],
            subgroup=entry["subgroup"],
            colour_word=entry["colour_word"],
        )
        for entry in head["pictures"]
    )
    return _Library(pictures, pixels, head["levels"])


def pictures() -> tuple[Picture, ...]:
    """All pictures, in their fixed order."""
    return _library().pictures


def name(picture: int, language: str = "en") -> str:
    """The name of a picture."""
    return _library().pictures[picture].names[language]


def rgba(picture: int) -> NDArray[np.uint8]:
    """A picture as stored: 48 x 48 RGBA, colour not multiplied by alpha."""
    library = _library()
    pixels = library.pixels[picture].astype(np.int64)
    alpha = pixels[..., 3:]
    out = np.zeros_like(pixels)
    out[..., :3] = (pixels[..., :3] * 255 + alpha // 2) // np.maximum(alpha, 1)
    out[..., 3:] = (alpha * 255 + library.levels // 2) // library.levels
    image: NDArray[np.uint8] = out.astype(np.uint8)
    return image


@lru_cache(maxsize=4096)
def _shares(source: int, target: int) -> NDArray[np.float64]:
    """(target, source): how much of each source pixel falls into each target pixel.

    Lengths are counted in 1 / (source * target) of the side, so that all are whole numbers.
    They are held as floats for the fast product; far below 2**53 that product is exact.
    """
    start = np.arange(target)[:, None] * source
    place = np.arange(source)[None] * target
    overlap = np.minimum(start + source, place + target) - np.maximum(start, place)
    shares: NDArray[np.float64] = np.maximum(overlap, 0).astype(np.float64)
    return shares


@lru_cache(maxsize=1)
def _visible() -> NDArray[np.int64]:
    """(pictures, 4): top, bottom, left, right of what can be seen of each picture."""
    seen = _library().pixels[..., 3] > 0
    edges = []
    for axis in (2, 1):
        line = np.any(seen, axis=axis)
        edges += [line.argmax(axis=1), line.shape[1] - line[:, ::-1].argmax(axis=1)]
    return np.stack(edges, axis=1)


@lru_cache(maxsize=8192)
def sprite(picture: int, side: int) -> Sprite:
    """A picture, cut to what can be seen, with its longer side `side` pixels long.

    Each pixel is the mean of the area it covers, in whole numbers only.
    """
    library = _library()
    top, bottom, left, right = (int(edge) for edge in _visible()[picture])
    source = library.pixels[picture, top:bottom, left:right].astype(np.float64)
    tall, wide = bottom - top, right - left
    longer = max(tall, wide)
    height = max(1, (2 * tall * side + longer) // (2 * longer))
    width = max(1, (2 * wide * side + longer) // (2 * longer))
    shrunk = _shares(tall, height) @ source.reshape(tall, wide * 4)
    sums = (_shares(wide, width) @ shrunk.reshape(height, wide, 4)).astype(np.int64)
    unit = library.levels * tall * wide
    scaled = ((sums * 255 + unit // 2) // unit).astype(np.uint16)
    colour, rest = scaled[..., :3].copy(), 255 - scaled[..., 3:]
    colour.flags.writeable = rest.flags.writeable = False
    return Sprite(colour, rest)


@lru_cache(maxsize=65536)
def extent(picture: int, side: int) -> tuple[int, int]:
    """Height and width of `sprite(picture, side)`."""
    height, width = sprite(picture, side).rest.shape[:2]
    return height, width
