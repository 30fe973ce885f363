"""Decoded media on disk, so that a second epoch decodes nothing.

One file holds the arrays, one after another, and an index in SQLite says where, keyed by what was in
the file or the bytes and by what was asked of it: a result is the same whether it comes from here or
was decoded just now. (For the same reason there is one array for each size asked for, rather than
smaller ones made from the largest.) Of files it also remembers path, inode, length and times, so that
an unchanged one is not even read.

Several processes may read and write at once; one that is killed leaves what it had finished. What a
machine that lost its power had not yet written fails its checksum and is decoded anew. The folder
should be on a local disk: files cannot be shared safely over a network.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sensorium.modalities.base import Modality, View
from sensorium.modalities.media import locate
from sensorium.types import Field

# Raised when what decoding does, or how it is kept, changes: older entries are then not found.
_VERSION = 4

_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, state TEXT NOT NULL, content BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS arrays (
    content BLOB, view TEXT, dtype TEXT NOT NULL, shape TEXT NOT NULL, note TEXT NOT NULL,
    place INTEGER NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (content, view)
);
"""
_COLUMNS = "dtype, shape, note, place, checksum"
_BY_FILE = f"""
SELECT {_COLUMNS} FROM files JOIN arrays USING (content) WHERE path = ? AND state = ? AND view = ?
"""
_CONTENT = "SELECT content FROM files WHERE path = ? AND state = ?"
_BY_CONTENT = f"SELECT {_COLUMNS} FROM arrays WHERE content = ? AND view = ?"
_ADD_FILES = "INSERT OR REPLACE INTO files VALUES"
_ADD_ARRAYS = "INSERT OR REPLACE INTO arrays VALUES"
_AT_ONCE = 1000  # rows of a statement; SQLite allows 32,766 values

_PATIENCE_SECONDS = 30.0

# A file that is written twice within a tick of its file system's clock looks unchanged.
_TICK_SECONDS = 0.1


@dataclass
class _Waiting:
    """What will be written: rows of the index, and arrays with what the index says of each."""

    files: list[tuple[bytes, str, bytes]] = field(default_factory=list)
    arrays: list[tuple[bytes, str, NDArray[Any], str]] = field(default_factory=list)


class _Together(threading.local):
    """What a thread will write at the end of its block; None outside of one."""

    waiting: _Waiting | None = None


class MediaCache:
    """Where decoded media are kept.

    It never stands in the way: if the folder cannot be written or the disk is full, values are
    decoded each time, and `disabled_reason` says why.

    Args:
        folder: where the files lie; made when it is first needed.
        max_bytes: how large the arrays may grow; nothing more is stored then. None for no limit.

    Attributes:
        disabled_reason: why nothing (more) is stored; None while all is well.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self._folder, self._max_bytes = Path(folder), max_bytes
        self._reset()

    def _reset(self) -> None:
        self.disabled_reason: str | None = None
        self._readable = True
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._arrays = -1  # the file's descriptor, open as long as there is a connection
        self._inherited: list[sqlite3.Connection] = []
        # SQLite takes turns by itself, but Python shares prepared statements between threads.
        self._turn = threading.Lock()
        self._together = _Together()

    def __getstate__(self) -> tuple[Path, int | None]:
        return self._folder, self._max_bytes

    def __setstate__(self, state: tuple[Path, int | None]) -> None:
        self._folder, self._max_bytes = state
        self._reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
            os.close(self._arrays)
            self._connection = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is decoded in this block, by this thread, is written when it ends, all at once.

        That is several times faster. Until then it is not found: what comes twice is decoded twice.
        """
        waiting = self._together.waiting = _Waiting()
        try:
            yield
        finally:
            self._together.waiting = None
            self._write(waiting)

    def get_or_decode(self, raw: Any, modality: Modality, field: Field, view: View) -> Any:
        """The decoded value, from the cache if it is there.

        Raises:
            BadValue: it is not there, and cannot be decoded.
        """
        source = locate(raw) if modality.cached else None
        connection = None if source is None else self._open()
        if source is None or connection is None:
            return modality.decode(raw, field, view)
        options = json.dumps(field.options, sort_keys=True, default=str) if field.options else "{}"
        asked = f"{modality.name}/{_VERSION}/{view.key}/{options}"
        try:
            state = _state(source)
            content, found = self._find(connection, source, state, asked)
        except (OSError, ValueError):
            return modality.decode(raw, field, view)  # which says what is wrong with the file
        if found is not None:
            return modality.thaw(*found)
        value = modality.decode(raw, field, view)
        if value is not None and content and _is_unchanged(source, state):
            array, note = modality.freeze(value)
            with self._waiting() as waiting:
                waiting.arrays.append((content, asked, np.ascontiguousarray(array), note))
        return value

    def digest(self, path: Path) -> bytes:
        """The SHA-256 of a file; of one that has not changed since it was digested, without reading it.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        state, name = _state(path), os.fsencode(path.absolute())
        if (connection := self._open()) is not None:
            try:
                with self._turn:
                    row = connection.execute(_CONTENT, (name, state)).fetchone()
                if row is not None:
                    return bytes(row[0])
            except sqlite3.Error as error:
                if not _is_busy(error):
                    self._readable, self.disabled_reason = False, self._explain(error)
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        if _is_settled(path) and _is_unchanged(path, state):
            with self._waiting() as waiting:
                waiting.files.append((name, state, content))
        return content

    def _find(
        self, connection: sqlite3.Connection, source: Path | bytes, state: str, asked: str
    ) -> tuple[bytes, tuple[NDArray[Any], str] | None]:
        """The digest of a source (empty if it was not needed), and what is stored of it."""
        if isinstance(source, bytes):
            content = hashlib.sha256(source).digest()
            return content, self._read(connection, _BY_CONTENT, content, asked)
        path = os.fsencode(source.absolute())
        found = self._read(connection, _BY_FILE, path, state, asked)
        if found is not None:
            return b"", found
        content = self.digest(source)
        return content, self._read(connection, _BY_CONTENT, content, asked)

    def _read(
        self, connection: sqlite3.Connection, query: str, *values: Any
    ) -> tuple[NDArray[Any], str] | None:
        """An array and its note; None if it is not there, or not as it was written."""
        try:
            with self._turn:
                row = connection.execute(query, values).fetchone()
            if row is None:
                return None
            dtype, shape, note, place, checksum = row
            array = np.empty(json.loads(shape), dtype)
            content = array.reshape(-1).view(np.uint8)
            length = os.preadv(self._arrays, [content.data], place)
        except (sqlite3.Error, OSError) as error:
            if not _is_busy(error):
                self._readable, self.disabled_reason = False, self._explain(error)
            return None
        whole = length == len(content) and _checksum(content) == checksum
        return (array, note) if whole else None

    @contextmanager
    def _waiting(self) -> Iterator[_Waiting]:
        """Where to put what is to be written: now, or at the end of the block of this thread."""
        if self._together.waiting is not None:
            yield self._together.waiting
            return
        alone = _Waiting()
        yield alone
        self._write(alone)

    def _write(self, waiting: _Waiting) -> None:
        """First arrays, then where they are, so that the index names nothing unwritten."""
        connection = self._open() if waiting.files or waiting.arrays else None
        if connection is None or self.disabled_reason is not None:
            return
        try:
            with self._turn:
                rows = [self._append(*array) for array in waiting.arrays]
                _insert(connection, _ADD_FILES, waiting.files)
                _insert(connection, _ADD_ARRAYS, rows)
        except (sqlite3.Error, OSError) as error:
            if not _is_busy(error):  # then these are not kept, but the next may be
                self.disabled_reason = self._explain(error)

    def _append(
        self, content: bytes, asked: str, array: NDArray[Any], note: str
    ) -> tuple[Any, ...]:
        """Put an array at the end of the file; its row of the index."""
        data = array.reshape(-1).view(np.uint8)
        if self._max_bytes is not None:
            size = os.fstat(self._arrays).st_size + len(data)
            if size > self._max_bytes:
                raise OSError(f"it is full: {self._max_bytes} bytes")
        # The system moves to the end and writes in one step, whoever else is writing.
        if os.write(self._arrays, data.data) < len(data):
            raise OSError("the disk is full")
        place = os.lseek(self._arrays, 0, os.SEEK_CUR) - len(data)
        shape = json.dumps(array.shape)
        return content, asked, array.dtype.str, shape, note, place, _checksum(data)

    def _open(self) -> sqlite3.Connection | None:
        """The connection of this process; None if there can be none."""
        if self._process != os.getpid():
            # A forked process must neither use nor close what its parent opened. (The descriptor
            # has one position for both.)
            if self._connection is not None:
                self._inherited.append(self._connection)
                os.close(self._arrays)
            self._connection, self._process = None, os.getpid()
            self._turn = threading.Lock()  # a thread of the parent may have held the other
        with self._turn:
            if self._connection is None and self._readable:
                try:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    self._connection = self._connect()
                except (OSError, sqlite3.Error) as error:
                    self._readable, self.disabled_reason = False, self._explain(error)
        return self._connection if self._readable else None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._folder / "index.sqlite",
            timeout=_PATIENCE_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                # The switch to a write-ahead log, unlike all else, does not wait for its turn.
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.executescript(_TABLES)
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
                self._arrays = os.open(self._folder / "arrays.bin", flags, 0o666)
                return connection
            except (sqlite3.Error, OSError) as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    connection.close()
                    raise
                time.sleep(0.02)

    def _explain(self, error: Exception) -> str:
        return f"media cache in {self._folder}: {error}"


def _insert(
    connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Rows of one table; a statement is a transaction."""
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        places = ", ".join([f"({', '.join('?' * len(part[0]))})"] * len(part))
        connection.execute(f"{statement} {places}", list(chain.from_iterable(part)))


def _checksum(data: NDArray[np.uint8]) -> int:
    """A sum that what was never written (zeros) does not have; it costs less than the reading."""
    whole = len(data) // 8 * 8
    total = int(data[:whole].view(np.int64).sum()) + int(data[whole:].sum()) + len(data)
    return total & (2**63 - 1)


def _state(source: Path | bytes) -> str:
    """What changes when a file does."""
    if isinstance(source, bytes):
        return ""
    found = source.stat()
    if not S_ISREG(found.st_mode):  # a pipe would be waited for, without end
        raise OSError("is no plain file")
    return f"{found.st_ino}/{found.st_size}/{found.st_mtime_ns}/{found.st_ctime_ns}"


def _is_unchanged(source: Path | bytes, state: str) -> bool:
    """Whether a file is still the one that was digested, so that what was decoded belongs to it."""
    try:
        return _state(source) == state
    except OSError:
        return False


def _is_settled(path: Path) -> bool:
    found = path.stat()
    return time.time() - max(found.st_mtime, found.st_ctime) > _TICK_SECONDS


def _is_busy(error: Exception) -> bool:
    # Errors of Python's own, of other types, have no code.
    codes = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in codes
