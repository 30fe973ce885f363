"""Render the playground's pictures into src/sensorium/playground/pictures.xz.

Run once, by a maintainer, on Debian or Ubuntu; the file is committed:

    apt-get install fonts-noto-color-emoji unicode-data && pip install emoji pillow numpy
    python scripts/render_pictures.py [--sheet /tmp/sheet.png]

The file is one xz stream: a line of JSON that describes the pictures, then their pixels, 48 x 48
RGBA with colour already multiplied by alpha, 6 bits a channel. 6 bits because scenes show a
picture at half its size or less, where the difference cannot be seen and the file is 40 % smaller;
xz and not a picture format because decoding then cannot depend on the version of a library.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
from pathlib import Path

import emoji
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
LIST = Path("/usr/share/unicode/emoji/emoji-test.txt")
TARGET = Path(__file__).parents[1] / "src/sensorium/playground/pictures.xz"
STRIKE = 109  # the only size of the font's bitmaps
SIDE = 48
LEVELS = 63
LANGUAGES = ("en", "de", "id", "zh")
# Flags of countries look alike and keycaps are text.
DROPPED_SUBGROUPS = {"country-flag", "subdivision-flag", "keycap"}
SKIN_TONES = range(0x1F3FB, 0x1F400)
# Two pictures whose pixels differ by less than this (root mean square of 255) count as one: no
# model could tell them apart in a scene.
SAME = 12.0
# Things come first: faces, people and signs are harder to tell apart when small.
THINGS = {"Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects"}
COLOUR_WORDS = {
    "en": r"red|orange|yellow|green|blue|purple|violet|pink|brown|black|white|gr[ae]y|gold\w*"
    r"|silver|colou?r\w*|rainbow|tangerine",
    "de": r"(?:hell|dunkel)?(?:rot|orange|gelb|grün|blau|lila|violett|rosa|pink|braun|schwarz|weiß"
    r"|grau|gold|silber|farb|bunt|regenbogen)\w*",
    "id": r"merah|oranye|jingga|jeruk|kuning|hijau|biru|ungu|pink|cokelat|coklat|hitam|putih|abu"
    r"|emas|perak|warna|pelangi|berwarna",
}
COLOUR_SIGNS_ZH = "红橙黄绿蓝紫白黑粉棕褐灰金银青彩色虹"


def has_colour_word(names: dict[str, str]) -> bool:
    """Whether a name in any of the languages speaks of a colour (when in doubt, yes)."""
    return any(sign in names["zh"] for sign in COLOUR_SIGNS_ZH) or any(
        re.search(rf"\b(?:{words})\b", names[language], re.IGNORECASE)
        for language, words in COLOUR_WORDS.items()
    )


def candidates() -> list[dict[str, object]]:
    """Every emoji without a skin tone that has a name of its own in all languages."""
    emoji.config.load_language()
    group = subgroup = ""
    found: list[dict[str, object]] = []
    taken: dict[str, set[str]] = {language: set() for language in LANGUAGES}
    for line in LIST.read_text(encoding="utf8").splitlines():
        if line.startswith("# group:"):
            group = line.removeprefix("# group:").strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.removeprefix("# subgroup:").strip()
        if "; fully-qualified" not in line or subgroup in DROPPED_SUBGROUPS:
            continue
        text = "".join(chr(int(code, 16)) for code in line.split(";")[0].split())
        data = emoji.EMOJI_DATA.get(text, {})
        if any(ord(sign) in SKIN_TONES for sign in text) or not set(LANGUAGES) <= set(data):
            continue
        names = {k: " ".join(data[k].strip(":").replace("_", " ").split()) for k in LANGUAGES}
        if any(names[k].casefold() in taken[k] for k in LANGUAGES):
            continue
        for language, name in names.items():
            taken[language].add(name.casefold())
        colour = has_colour_word(names)
        entry = {"emoji": text, **names, "group": group, "subgroup": subgroup}
        found.append({**entry, "colour_word": colour})
    return found


def render(text: str, font: ImageFont.FreeTypeFont) -> NDArray[np.uint8] | None:
    """One emoji, cut to what can be seen, its longer side 48; None if the font lacks it."""
    left, _, right, _ = font.getbbox(text)
    if right - left > 140:  # a sequence that falls apart into several glyphs
        return None
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((8, 8), text, font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        return None
    pixels = np.asarray(canvas.crop(box)).astype(np.float64)
    pixels[..., :3] *= pixels[..., 3:] / 255
    height, width = pixels.shape[:2]
    longer = max(height, width)
    size = (max(1, round(width * SIDE / longer)), max(1, round(height * SIDE / longer)))
    cut = Image.fromarray(pixels.round().astype(np.uint8), "RGBA").resize(size, Image.LANCZOS)
    small = np.asarray(cut).astype(np.int64)
    small[..., :3] = np.minimum(small[..., :3], small[..., 3:])
    out = np.zeros((SIDE, SIDE, 4), dtype=np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = (small * LEVELS + 127) // 255
    return out


def distances(features: NDArray[np.float32], one: int) -> NDArray[np.float32]:
    """Root mean square difference of every picture from one of them."""
    return np.sqrt(((features - features[one]) ** 2).mean(axis=1)) * (255 / LEVELS)


def without_twins(pixels: NDArray[np.uint8]) -> list[int]:
    """The pictures that differ from every earlier one that was kept."""
    features = pixels.reshape(len(pixels), -1).astype(np.float32)
    kept: list[int] = []
    for index in range(len(pixels)):
        if not kept or distances(features, index)[kept].min() >= SAME:
            kept.append(index)
    return kept


def from_unlike_to_alike(pixels: NDArray[np.uint8], entries: list[dict[str, object]]) -> list[int]:
    """An order in which each picture is the one most unlike all before it, things first.

    So "the first 200 pictures" are 200 things that can be told apart.
    """
    blocks = pixels.reshape(len(pixels), 12, 4, 12, 4, 4).mean(axis=(2, 4)).astype(np.float32)
    features = blocks.reshape(len(pixels), -1)
    thing = [e["group"] in THINGS and len(str(e["en"]).split()) <= 3 for e in entries]
    order: list[int] = []
    nearest = np.full(len(pixels), np.inf, dtype=np.float32)
    for tier in (True, False):
        left = {index for index, is_thing in enumerate(thing) if is_thing is tier}
        while left:
            best = max(sorted(left), key=lambda index: float(nearest[index]))
            left.remove(best)
            order.append(best)
            nearest = np.minimum(nearest, distances(features, best))
    return order


def main() -> None:
    """Render, order, pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet to look at")
    arguments = parser.parse_args()
    font = ImageFont.truetype(str(FONT), STRIKE)
    rendered = [(entry, render(str(entry["emoji"]), font)) for entry in candidates()]
    entries = [entry for entry, picture in rendered if picture is not None]
    pixels = np.stack([picture for _, picture in rendered if picture is not None])
    kept = without_twins(pixels)
    entries, pixels = [entries[index] for index in kept], pixels[kept]
    order = from_unlike_to_alike(pixels, entries)
    entries, pixels = [entries[index] for index in order], np.ascontiguousarray(pixels[order])
    head = {"side": SIDE, "levels": LEVELS, "pictures": entries}
    line = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    # 4 bytes a pixel: telling the coder so saves one percent.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 2, "pb": 2}]
    packed = lzma.compress(line + b"\0" * (-len(line) % 4) + pixels.tobytes(), filters=filters)
    TARGET.write_bytes(packed)
    print(f"{TARGET}: {len(entries)} pictures, {len(packed) / 1e6:.2f} MB")
    if arguments.sheet:
        share = pixels.astype(np.float64) / LEVELS
        grey = 255 * share[..., :3] + 229 * (1 - share[..., 3:])
        columns = 40
        rows = -(-len(grey) // columns)
        sheet = np.full((rows * columns, SIDE, SIDE, 3), 229, dtype=np.uint8)
        sheet[: len(grey)] = grey.round().clip(0, 255)
        tiles = sheet.reshape(rows, columns, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
        Image.fromarray(tiles.reshape(rows * SIDE, columns * SIDE, 3)).save(arguments.sheet)


if __name__ == "__main__":
    main()
