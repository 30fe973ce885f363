"""WebDataset tars: members of one key make a row; media stay in the tar and are read by offset."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from sensorium.data.folders import SPLIT_COLUMN, media_suffixes
from sensorium.data.hub import splits_of_files
from sensorium.data.sources import ArrowSource, Broken, Rows, is_member
from sensorium.data.tables import fingerprint, first_line, is_text
from sensorium.types import Fault, UserError

# Members read while the tar is listed; all others wait until their row is read.
_TEXT_SUFFIXES = (".txt", ".text", ".caption", ".cls", ".cls2", ".id", ".index")
_MAX_TEXT_BYTES = 2**20

_KEY = "key"


class TarSource(ArrowSource):
    """Rows of tars.

    Args:
        table: one row for each key; a member that stays in its tar is a struct of the number of the
            tar, offset and size.
        tars: the files.
        settings: see `ArrowSource`.
    """

    def __init__(self, table: pa.Table, tars: Sequence[Path], **settings: Any) -> None:
        super().__init__(table, **settings)
        self._tars = list(tars)
        self._members = frozenset(
            name for name in table.column_names if is_member(table.schema.field(name).type)
        )
        self._open: dict[int, int] = {}

    def columns(self, names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
        """The cells; members are read from their tars."""
        cells = super().columns(names, rows)
        for name in self._members & set(names):
            cells[name] = [member and self._read(**member) for member in cells[name]]
        return cells

    def _read(self, tar: int, offset: int, size: int) -> bytes | Broken:
        # `pread` has no position, so that forked workers can share what the parent opened.
        try:
            if tar not in self._open:
                self._open[tar] = os.open(self._tars[tar], os.O_RDONLY)
            content = os.pread(self._open[tar], size, offset)
        except OSError as error:
            return Broken(f"{self._tars[tar]} cannot be read: {error.strerror}")
        if len(content) < size:
            return Broken(f"{self._tars[tar]} is cut short", "is cut short")
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # a default, because names of modules may be gone when the interpreter ends
        for handle in self._open.values():
            close(handle)


def open_tars(paths: Sequence[Path]) -> TarSource:
    """List the rows of tars.

    Columns are named by the endings of members; a picture's or a recording's by its modality, and
    the keys of a JSON object are columns of their own. A name such as `train-0001.tar` says the
    split.

    Raises:
        UserError: a file is no tar, or cut short; no row is found.
    """
    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    suffixes = media_suffixes()
    kinds: dict[str, str] = {}
    parts: list[str] = []
    for number, (path, split) in enumerate(zip(paths, splits_of_files(paths), strict=True)):
        parts += [path.name, str(path.stat().st_size)]
        row: dict[str, Any] = {}
        for member, content in _members(path, faults):
            key, _, ending = _split_name(member.name)
            parts.append(f"{member.name} {member.size}")
            if key != row.get(_KEY):
                row = {_KEY: key}
                if split:
                    row[SPLIT_COLUMN] = split
                rows.append(row)
            if content is None:
                modality = suffixes.get("." + ending.rpartition(".")[2])
                column = (
                    modality if modality and "." not in ending and modality not in row else ending
                )
                kinds |= {column: modality} if modality else {}
                row[column] = {"tar": number, "offset": member.offset_data, "size": member.size}
            else:
                _add_text(row, ending, content, f"{path}, {member.name}", faults)
    if not rows:
        raise UserError(f"{paths[0]} holds no rows: expected members such as 000.jpg and 000.txt")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    return TarSource(
        pa.table(columns),
        paths,
        name=paths[0].name if len(paths) == 1 else paths[0].parent.resolve().name,
        version=fingerprint(*parts),
        hints=kinds,
        key=_KEY,
        faults=faults,
    )


def _members(path: Path, faults: list[Fault]) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """The plain files of a tar, with their content if it is a short text."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0:  # `tarfile` would go back, and so on for ever
                    raise tarfile.ReadError("a member of less than no length")
                if member.isdir() or PurePosixPath(member.name).name.startswith("."):
                    continue
                if reason := _refusal(member):
                    name = member.name.encode("utf-8", "backslashreplace").decode()
                    faults.append(Fault(f"{path.name}/{name}", "", reason, reason))
                    continue
                _, dot, ending = _split_name(member.name)
                if not dot:
                    continue
                content = None
                if f".{ending}" in (*_TEXT_SUFFIXES, ".json") and member.size <= _MAX_TEXT_BYTES:
                    file = tar.extractfile(member)
                    content = file.read() if file else b""
                yield member, content
            if not _is_whole(tar, path):
                raise tarfile.ReadError("unexpected end of data")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # `tarfile` lets through what its parts raise on damaged headers
        raise UserError(
            f"{path}: not a whole plain tar ({first_line(error)}). Copy it again; unpack a "
            "compressed one (.tar.gz) first, its members cannot be read by offset"
        ) from None


def _is_whole(tar: tarfile.TarFile, path: Path) -> bool:
    """Whether the last member lies in the file; `tarfile` doesn't look at what it skips."""
    members = tar.getmembers()
    return not members or members[-1].offset_data + members[-1].size <= path.stat().st_size


def _refusal(member: tarfile.TarInfo) -> str:
    """Why an entry of a tar isn't read; empty if it is."""
    if not is_text(member.name):
        return "its name is not UTF-8"
    parts = PurePosixPath(member.name)
    if parts.is_absolute() or ".." in parts.parts:
        return "its path leads out of the archive"
    if member.issym() or member.islnk():
        return "it is a link"
    if not member.isfile():
        return "it is a device or another special file"
    if member.issparse():
        return "it has holes, so that it cannot be read by offset"
    return ""


def _split_name(name: str) -> tuple[str, str, str]:
    """`a/001.seg.png` as `a/001`, `.` and `seg.png`."""
    match = re.match(r"^((?:.*/)?[^/.]+)(\.?)([^/]*)$", name.removeprefix("./"))
    return (match[1], match[2], match[3].lower()) if match else (name, "", "")


def _add_text(
    row: dict[str, Any], ending: str, content: bytes, place: str, faults: list[Fault]
) -> None:
    column = "text" if ending == "txt" else ending
    try:
        text = content.decode("utf-8-sig")
        if ending != "json":
            row[column] = text.strip() if ending.startswith("cls") else text
            return
        value = json.loads(text)
        if isinstance(value, dict) and not all(map(is_text, value)):
            raise ValueError("the name of a value is no text")
    except (ValueError, RecursionError) as error:
        faults.append(Fault(place, column, f"not readable: {error}", "not readable"))
        return
    if not isinstance(value, dict):
        row[column] = value
        return
    for name, cell in value.items():
        row.setdefault(name, cell)


def _column(cells: list[Any]) -> pa.Array:
    try:
        return pa.array(cells)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        # JSON of many authors: what doesn't fit one type is kept as it was written.
        return pa.array([cell if cell is None else json.dumps(cell) for cell in cells])
