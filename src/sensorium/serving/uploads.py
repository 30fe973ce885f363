"""Pictures and recordings as they come in requests: checked before anything of them is decoded.

They are in the request itself. Nothing is ever fetched for a client, from whatever address.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from sensorium.modalities.image import check_size
from sensorium.serving.requests import ImagePart, Part, TextPart
from sensorium.types import UserError

_ADDRESS = re.compile(r"data:[a-z]+/[-+.\w]+;base64,", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """Of what comes in.

    Attributes:
        bytes: of a request, with all that is in it.
        pixels: of a picture.
        seconds: in which a request must have come.
    """

    bytes: int = 32 * 2**20
    pixels: int = 25_000_000
    seconds: float = 30.0


def read_part(part: Part, limits: Limits) -> tuple[str, str | bytes]:
    """The modality of a part, and the text or the file.

    Raises:
        UserError: no address of the right form, or too many pixels.
    """
    if isinstance(part, TextPart):
        return "text", part.text
    if isinstance(part, ImagePart):
        file = _file_of(part.image_url.url)
        check_size(file, limits.pixels)
        return "image", file
    return "audio", _decoded(part.input_audio.data)


def read_question(question: str | Part | list[Part], limits: Limits) -> dict[str, Any]:
    """What is asked, by modality.

    Raises:
        UserError: a part cannot be read, or two are of the same modality.
    """
    if isinstance(question, str):
        return {"text": question}
    parts = question if isinstance(question, list) else [question]
    read: dict[str, Any] = {}
    for part in parts:
        kind, raw = read_part(part, limits)
        if kind in read:
            raise UserError(f"input: two parts are of modality {kind}; give one of each")
        read[kind] = raw
    return read


def _file_of(address: str) -> bytes:
    head = _ADDRESS.match(address)
    if head is None:
        kind = address[:40].partition(",")[0]
        if address[:5].lower() in ("http:", "https"):
            raise UserError(
                f"image_url: {kind}... is not fetched: this server opens no address. Send the picture "
                "itself, as data:image/png;base64,..."
            )
        raise UserError(f"image_url: expected data:image/png;base64,..., found '{kind}'")
    return _decoded(address[head.end() :])


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"what should be base64 is not: {error}") from None
