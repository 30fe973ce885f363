"""Decoded media on disk, so that a second epoch decodes nothing.

One SQLite file holds the arrays, keyed by what was in the file or the bytes and by what was asked
of it: a result is the same whether it comes from here or was decoded just now. (For the same reason
there is one array for each size asked for, rather than smaller ones made from the largest.) Of
files it also remembers path, inode, length and times, so that an unchanged one is not even read.

Several processes may read and write at once; one that is killed leaves what it had finished. The
folder should be on a local disk: SQLite cannot share a file safely over a network.
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
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Any, Self

import numpy as np

from sensorium.modalities.base import Modality, View
from sensorium.modalities.media import locate
from sensorium.types import Field

# Raised when what decoding does, or how it is kept, changes: older entries are then not found.
_VERSION = 2

_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, state TEXT NOT NULL, content BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS arrays (
    content BLOB, view TEXT, dtype TEXT NOT NULL, shape TEXT NOT NULL, note TEXT NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (content, view)
);
"""
_COLUMNS = "dtype, shape, note, data"
_BY_FILE = f"""
SELECT {_COLUMNS} FROM files JOIN arrays USING (content) WHERE path = ? AND state = ? AND view = ?
"""
_BY_CONTENT = f"SELECT {_COLUMNS} FROM arrays WHERE content = ? AND view = ?"
_ADD_FILE = "INSERT OR REPLACE INTO files VALUES"
_ADD_ARRAY = "INSERT OR IGNORE INTO arrays VALUES"
_AT_ONCE = 1000  # rows of a statement; SQLite allows 32,766 values

_DIGEST = 20
_PAGE_BYTES = (
    2**15
)  # most arrays are larger than SQLite's 4 KiB, and a page is what it moves at once
_PATIENCE_SECONDS = 30.0

# A file that is written twice within a tick of its file system's clock looks unchanged.
_TICK_SECONDS = 0.1

Row = tuple[str, str, str, bytes]


class _Waiting(threading.local):
    """What a thread will write at the end of its block, by statement; None outside of one."""

    rows: dict[str, list[tuple[Any, ...]]] | None = None


class MediaCache:
    """Where decoded media are kept.

    It never stands in the way: if the folder cannot be written or the disk is full, values are
    decoded each time, and `disabled_reason` says why.

    Args:
        folder: where the file lies; made when it is first needed.
        max_bytes: how large the file may grow; nothing more is stored then. None for no limit.

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
        self._inherited: list[sqlite3.Connection] = []
        # SQLite takes turns by itself, but Python shares prepared statements between threads.
        self._turn = threading.Lock()
        self._waiting = _Waiting()

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
            self._connection = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is decoded in this block, by this thread, is written when it ends, all at once.

        That is several times faster. Until then it is not found: what comes twice is decoded twice.
        """
        self._waiting.rows = {}
        try:
            yield
        finally:
            rows, self._waiting.rows = self._waiting.rows, None
            connection = self._open() if rows else None
            if connection is not None:
                for statement, all_values in rows.items():
                    for start in range(0, len(all_values), _AT_ONCE):
                        self._insert(connection, statement, all_values[start : start + _AT_ONCE])

    def get_or_decode(self, raw: Any, modality: Modality, field: Field, view: View) -> Any:
        """The decoded value, from the cache if it is there.

        Raises:
            BadValue: it is not there, and cannot be decoded.
        """
        source = locate(raw) if modality.cached else None
        connection = None if source is None else self._open()
        if source is None or connection is None:
            return modality.decode(raw, field, view)
        options = json.dumps(field.options, sort_keys=True, default=str)
        asked = f"{modality.name}/{_VERSION}/{view.key}/{options}"
        try:
            state = _state(source)
            content, row = self._find(connection, source, state, asked)
        except (OSError, ValueError):
            return modality.decode(raw, field, view)  # which says what is wrong with the file
        if row is not None:
            dtype, shape, note, data = row
            return modality.thaw(np.frombuffer(data, dtype).reshape(json.loads(shape)), note)
        value = modality.decode(raw, field, view)
        if content and _is_unchanged(source, state):
            array, note = modality.freeze(value)
            array = np.ascontiguousarray(array)
            shape = json.dumps(array.shape)
            self._write(connection, _ADD_ARRAY, content, asked, array.dtype.str, shape, note, array)
        return value

    def _find(
        self, connection: sqlite3.Connection, source: Path | bytes, state: str, asked: str
    ) -> tuple[bytes, Row | None]:
        """The digest of a source (empty if it was not needed), and what is stored of it."""
        if isinstance(source, bytes):
            content = hashlib.blake2b(source, digest_size=_DIGEST).digest()
            return content, self._read(connection, _BY_CONTENT, content, asked)
        path = os.fsencode(source.absolute())
        row = self._read(connection, _BY_FILE, path, state, asked)
        if row is not None:
            return b"", row
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST))
        content = digest.digest()
        if _is_settled(source):
            self._write(connection, _ADD_FILE, path, state, content)
        return content, self._read(connection, _BY_CONTENT, content, asked)

    def _read(self, connection: sqlite3.Connection, query: str, *values: Any) -> Row | None:
        try:
            with self._turn:
                row: Row | None = connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            if not _is_busy(error):
                self._readable, self.disabled_reason = False, self._explain(error)
            return None
        return row

    def _write(self, connection: sqlite3.Connection, statement: str, *values: Any) -> None:
        if self._waiting.rows is not None:
            self._waiting.rows.setdefault(statement, []).append(values)
        else:
            self._insert(connection, statement, [values])

    def _insert(
        self, connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Rows of one table; a statement is a transaction."""
        if self.disabled_reason is not None:
            return
        places = ", ".join([f"({', '.join('?' * len(rows[0]))})"] * len(rows))
        try:
            with self._turn:
                connection.execute(f"{statement} {places}", list(chain.from_iterable(rows)))
        except sqlite3.Error as error:
            if not _is_busy(error):  # then this value is not kept, but the next may be
                self.disabled_reason = self._explain(error)

    def _open(self) -> sqlite3.Connection | None:
        """The connection of this process; None if there can be none."""
        if self._process != os.getpid():
            # A forked process must neither use nor close what its parent opened.
            if self._connection is not None:
                self._inherited.append(self._connection)
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
            self._folder / "media.sqlite",
            timeout=_PATIENCE_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
                # The switch to a write-ahead log, unlike all else, does not wait for its turn.
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.executescript(_TABLES)
                if self._max_bytes is not None:
                    (page,) = connection.execute("PRAGMA page_size").fetchone()
                    connection.execute(f"PRAGMA max_page_count = {self._max_bytes // page}")
                return connection
            except sqlite3.Error as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    connection.close()
                    raise
                time.sleep(0.02)

    def _explain(self, error: Exception) -> str:
        return f"media cache in {self._folder}: {error}"


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


def _is_busy(error: sqlite3.Error) -> bool:
    # Errors of Python's own, of other types, have no code.
    codes = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in codes
