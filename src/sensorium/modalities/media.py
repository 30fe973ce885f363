"""Where the bytes of a picture or a recording are, before anything is decoded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sensorium.modalities.base import is_missing
from sensorium.types import BadValue, Field

MAX_BYTES = 2**30


def locate(raw: Any) -> Path | bytes | None:
    """The file or the bytes of an encoded value; None for one that is an array or object already.

    A mapping with `bytes` and `path`, as Parquet files of media hold, counts by its bytes first.
    """
    if isinstance(raw, Mapping):
        content = raw.get("bytes")
        raw = content if content is not None else raw.get("path")
    if isinstance(raw, (bytes, bytearray, memoryview)):
        return bytes(raw)
    if isinstance(raw, str):
        return Path(raw)
    return raw if isinstance(raw, Path) else None


def checked(raw: Any, field: Field, expected: str) -> Path | bytes:
    """The file or the bytes of an encoded value, known to exist and to be of a sane size.

    Raises:
        BadValue: it is neither, is missing, empty, or larger than `MAX_BYTES`.
    """
    source = locate(raw)
    if source is None:
        raise BadValue(f"field '{field.name}': expected {expected}, found {type(raw).__name__}")
    if isinstance(source, bytes):
        size = len(source)
    elif isinstance(raw, str) and "://" in raw:
        raise BadValue(f"field '{field.name}': {raw} is not downloaded; give a local file")
    else:
        try:
            size = source.stat().st_size
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise BadValue(
                f"field '{field.name}': {source} cannot be read: {reason}", "cannot be read"
            ) from None
        if not source.is_file():  # a pipe would be waited for, without end
            reason = "is a folder, not a file" if source.is_dir() else "is no plain file"
            raise BadValue(f"field '{field.name}': {source} {reason}", reason)
    if size == 0:
        raise BadValue(f"field '{field.name}': {label(source)} is empty (0 bytes)", "is empty")
    if size > MAX_BYTES:
        reason = f"has more than {MAX_BYTES} bytes"
        raise BadValue(f"field '{field.name}': {label(source)} {reason}", reason)
    return source


def label(source: Path | bytes) -> str:
    """What messages call a source."""
    return str(source) if isinstance(source, Path) else "the value"


def share_of_files(values: Sequence[Any], suffixes: Collection[str]) -> float:
    """Which share of the cells that are not empty names a file of one of these types."""
    cells = [c for v in values for c in (v if isinstance(v, (list, tuple)) else [v])]
    cells = [cell for cell in cells if not is_missing(cell)]
    named = [cell.get("path") if isinstance(cell, Mapping) else cell for cell in cells]
    files = sum(
        isinstance(name, (str, Path)) and Path(name).suffix.lower() in suffixes for name in named
    )
    return files / len(cells) if cells else 0.0
