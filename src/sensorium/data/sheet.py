"""A contact sheet: some rows of a data set on one picture."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sensorium.data.dataset import Data
from sensorium.data.sources import Broken, Rows, spread
from sensorium.modalities.base import View, get_modality, is_missing
from sensorium.modalities.image import ImageView
from sensorium.types import Fault, Field, Sample, UserError

_COLUMNS = 4
_SIDE = 192
_MARGIN = 12
_LINE = 15
_LINES = 5
_INK, _PALE, _RED, _PAPER = "#1d1f24", "#6b7280", "#b42318", "#ffffff"
_BOX_COLOURS = ("#e4572e", "#17bebb", "#ffc914", "#76b041", "#8e6bbf", "#2e86de")


def contact_sheet(data: Data, path: Path, num_rows: int = 12) -> None:
    """Write a PNG of some rows: their picture or wave form with boxes, and their values.

    Raises:
        UserError: the file cannot be written.
    """
    fields = [entry for entry in data.schema if entry.role != "ignore"]
    media = [entry for entry in fields if get_modality(entry.modality).cached]
    media.sort(key=lambda entry: entry.modality != "image")
    rows = _telling_rows(data, media[:1], num_rows)
    boxes = [f for f in fields if media and f.modality == "boxes" and f.of == media[0].name][:1]
    views: dict[str, View] = {entry.name: _view(entry) for entry in (*media, *boxes)}
    others = [entry for entry in fields if entry.modality != "spans" and entry.of is None]
    others = [entry for entry in others if entry not in media]
    others.sort(key=lambda entry: entry.role not in ("target", "label", "question", "answer"))
    raws = data.raw([entry.name for entry in others], rows)
    lines = [
        _lines({entry.name: _words(raws[entry.name][place]) for entry in others})
        for place in range(len(rows))
    ]
    picture_side = _SIDE if media else 0
    width = _SIDE + _MARGIN
    height = picture_side + (max(map(len, lines)) + 1) * _LINE + 2 * _MARGIN
    num_lines = -(-len(rows) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width + _MARGIN, num_lines * height + _MARGIN), _PAPER)
    for place, row in enumerate(rows.tolist()):
        left = _MARGIN + place % _COLUMNS * width
        top = _MARGIN + place // _COLUMNS * height
        samples, faults = data.read(np.asarray([row]), views)
        if media:
            card = _card(samples, faults, media, boxes)
            sheet.paste(card, (left, top))
        draw, below = ImageDraw.Draw(sheet), top + picture_side + 4
        key = data.keys(np.asarray([row]))[0]
        draw.text((left, below), _wrapped(key, _SIDE, 1)[0], _PALE, font=_font())
        for number, line in enumerate(lines[place], 1):
            draw.text((left, below + number * _LINE), line, _INK, font=_font())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _telling_rows(data: Data, media: list[Field], num_rows: int) -> Rows:
    """Rows from all over the data, preferably with a picture where some have none."""
    rows = spread(data.rows("all"), 16 * num_rows)
    if media:
        raws = data.raw([media[0].name], rows)[media[0].name]
        with_it = rows[[not is_missing(raw) for raw in raws]]
        rows = with_it if len(with_it) else rows
    return spread(rows, num_rows)


def _view(entry: Field) -> View:
    if entry.modality == "image":
        return ImageView(size=_SIDE, fit="pad")
    return get_modality(entry.modality).View()


def _card(
    samples: list[Sample], faults: list[Fault], media: list[Field], boxes: list[Field]
) -> Image.Image:
    """The first medium of a row, with its boxes; what is wrong with it, or that there is none."""
    card = Image.new("RGB", (_SIDE, _SIDE), "#f1f2f4")
    draw = ImageDraw.Draw(card)
    if faults:
        lines = _wrapped(faults[0].reason, _SIDE - 16, 10)
        for number, line in enumerate(lines):
            draw.text((8, 8 + number * _LINE), line, _RED, font=_font())
        return card
    values = samples[0].values
    medium = next((entry for entry in media if entry.name in values), None)
    if medium is None:
        draw.text((8, 8), f"no {media[0].name}", _PALE, font=_font())
        return card
    shown = get_modality(medium.modality).show(values[medium.name][0], medium)
    shown = shown.convert("RGB")
    shown.thumbnail((_SIDE, _SIDE))
    card.paste(shown, ((_SIDE - shown.width) // 2, (_SIDE - shown.height) // 2))
    for field in boxes:
        for number, box in enumerate(values.get(field.name, ())):
            corners = [float(share) * (_SIDE - 1) for share in box]
            draw.rectangle(corners, outline=_BOX_COLOURS[number % len(_BOX_COLOURS)], width=2)
    if len(values[medium.name]) > 1:
        draw.text((8, 8), f"1 of {len(values[medium.name])}", _RED, font=_font())
    return card


def _words(raw: Any) -> str:
    """A raw value in words; empty if there is none."""
    if isinstance(raw, dict):
        cells = (f"{name} {_words(cell)}" for name, cell in raw.items() if cell is not None)
        return ", ".join(cells)
    if isinstance(raw, list):
        return " / ".join(_words(part) for part in raw)
    if isinstance(raw, Path):
        try:
            raw = raw.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"({error.strerror})"
    if isinstance(raw, Broken):
        return f"({raw.reason})"
    if isinstance(raw, float):
        return f"{raw:.4g}"
    return "" if raw is None else " ".join(str(raw)[:300].split())


def _lines(values: dict[str, str]) -> list[str]:
    """What stands below a picture: the first value at length, the others in a line each."""
    lines: list[str] = []
    for name, text in values.items():
        if text:
            lines += _wrapped(f"{name}: {text}", _SIDE, 1 if lines else 3)
    return lines[:_LINES]


def _wrapped(text: str, width: int, num_lines: int) -> list[str]:
    """Text in lines that fit; the last one ends in dots if there is more."""
    font = _font()
    lines, line = [], ""
    for character in text:
        if font.getlength(line + character) <= width:
            line += character
            continue
        cut = line.rfind(" ")
        rest = line[cut + 1 :] if cut > 0 else ""
        lines.append(line[:cut] if cut > 0 else line)
        line = (rest + character).lstrip()
        if len(lines) == num_lines:
            last = lines[-1]
            while font.getlength(last + "...") > width:
                last = last[:-1]
            return [*lines[:-1], last + "..."]
    return [*lines, line]


@lru_cache
def _font() -> ImageFont.FreeTypeFont:
    # It has Greek, Cyrillic and more, which Pillow's own font has not.
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 11)
