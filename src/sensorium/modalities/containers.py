"""Files that hold a clip and its sound: MP4, MOV, Matroska, WebM and AVI."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sensorium.modalities.media import label
from sensorium.types import BadValue, Field, MissingExtra, UserError

if TYPE_CHECKING:
    from av.container import InputContainer

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")

# FFmpeg also reads playlists, which name other files and addresses; those are not for strangers.
_OPTIONS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"}
_QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_MATROSKA = b"\x1aE\xdf\xa3"


def is_container(source: Path | bytes) -> bool:
    """Whether the first bytes are those of such a file, whatever it is called."""
    if isinstance(source, bytes):
        head = source[:12]
    else:
        with source.open("rb") as file:
            head = file.read(12)
    is_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return is_avi or head[4:8] in _QUICKTIME or head.startswith(_MATROSKA)


@contextmanager
def opened(source: Path | bytes, field: Field, feature: str) -> Iterator[InputContainer]:
    """An open file; whatever goes wrong with it in the block is a `BadValue` that names it.

    Args:
        source: the file or its bytes.
        field: for messages.
        feature: what needs the extra, for the message.

    Raises:
        BadValue: it is no such file, or damaged.
        MissingExtra: the `video` extra is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtra(feature, "video") from None
    try:
        if not is_container(source):
            raise bad(source, field, "is no clip of a known kind (MP4, MOV, MKV, WebM, AVI)")
        file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        with av.open(file, "r", options=_OPTIONS, metadata_errors="replace") as container:
            yield container
    except UserError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever they like
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise bad(source, field, "cannot be decoded", reason) from None


def bad(source: Path | bytes, field: Field, kind: str, more: str = "") -> BadValue:
    """What is wrong with a file, with `more` that is of this row only."""
    reason = f"{kind}: {more}" if more else kind
    return BadValue(f"field '{field.name}': {label(source)} {reason}", kind)


def read_track(
    source: Path | bytes, field: Field, seconds: float, max_rate: int
) -> tuple[Float[np.ndarray, "samples channels"], int] | None:
    """The sound of a clip, from its start; None if it has none.

    A sound that begins later than the clip is preceded by silence.

    Args:
        source: the file or its bytes.
        field: for messages.
        seconds: how much of it to decode; a little more may come.
        max_rate: the highest sampling rate to take.

    Returns:
        Samples between -1 and 1, and the sampling rate.

    Raises:
        BadValue: the file is damaged, or its sampling rate too high.
        MissingExtra: the `video` extra is not installed.
    """
    with opened(source, field, "reading the sound of clips") as container:
        if not container.streams.audio:
            if not container.streams.video:  # what is damaged must not pass for a silent clip
                raise bad(source, field, "holds neither pictures nor sound")
            return None
        stream = container.streams.audio[0]
        rate = stream.rate
        if not 0 < rate <= max_rate:
            raise bad(source, field, f"has a sampling rate that is not in 1-{max_rate}", str(rate))
        wanted = int(rate * seconds) + 1
        parts: list[NDArray[np.float32]] = []
        length = 0
        for frame in container.decode(stream):
            if not parts and frame.time is not None:
                late = frame.time - (container.start_time or 0) / 1e6
                silent = min(max(0, round(late * rate)), wanted)
                parts.append(np.zeros((silent, frame.layout.nb_channels), np.float32))
                length = silent
            parts.append(_samples(frame))
            length += len(parts[-1])
            if length >= wanted:
                break
        if not parts:
            return np.zeros((0, 1), np.float32), rate
        return np.concatenate(parts), rate


def _samples(frame: Any) -> Float[np.ndarray, "samples channels"]:
    """The samples of a frame of any format as fractions."""
    channels = frame.layout.nb_channels
    values: NDArray[Any] = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, channels)
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    half = 2.0 ** (8 * values.dtype.itemsize - 1)
    centre = half if values.dtype.kind == "u" else 0.0
    return ((values.astype(np.float64) - centre) / half).astype(np.float32)
