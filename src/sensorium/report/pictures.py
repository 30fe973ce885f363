"""Values of rows as people see them: small pictures that live inside the page, or text."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from sensorium.data import Data
from sensorium.data.sources import Broken
from sensorium.modalities.base import get_modality
from sensorium.types import Field, UserError

SIDE = 128
MOST_CHARACTERS = 300
MOST_ENTRIES = 3  # pictures of one row that are shown


@dataclass(frozen=True)
class Shown:
    """A value: a picture as a `data:` address, or text."""

    text: str = ""
    picture: str = ""


def show_rows(data: Data, name: str, rows: Sequence[int]) -> dict[int, list[Shown]]:
    """A field's entries in some rows; none where it is absent."""
    field = data.schema[name]
    distinct = list(dict.fromkeys(rows))
    raws = data.raw([name], np.asarray(distinct, dtype=np.int64))[name]
    return {row: show_cell(raw, field) for row, raw in zip(distinct, raws, strict=True)}


def show_cell(raw: Any, field: Field) -> list[Shown]:
    """The first entries of a cell; the reason for one that cannot be shown."""
    if isinstance(raw, Broken):
        return [Shown(f"cannot be shown: {raw.reason}")]
    modality = get_modality(field.modality)
    try:
        entries = modality.entries(raw, field)
        return [show_value(modality.show(entry, field)) for entry in entries[:MOST_ENTRIES]]
    except UserError as error:
        return [Shown(f"cannot be shown: {error}")]


def show_value(value: Any) -> Shown:
    """What a modality's `show` gave."""
    if isinstance(value, PIL.Image.Image):
        return Shown(picture=thumbnail(value))
    text = " ".join(str(value).split())
    return Shown(text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…")


def thumbnail(picture: PIL.Image.Image, side: int = SIDE) -> str:
    """A picture of at most `side` pixels as a `data:` address."""
    return as_address(as_webp(picture, side))


def as_webp(picture: PIL.Image.Image, side: int = SIDE) -> bytes:
    """A picture of at most `side` pixels as a WebP file."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80)
    return file.getvalue()


def as_address(webp: bytes) -> str:
    """A WebP file as a `data:` address."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode()
