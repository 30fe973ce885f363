"""CSV, JSON Lines, JSON and Parquet as Arrow tables, with errors that name the file and the line.

CSV and JSON are read here and not by `datasets` or pandas, which read the text "NA" as missing, the
code "007" as 7 and a date as something else than was written.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sensorium.types import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")

_CHUNK = 50_000
# A number written so that reading it loses nothing: no leading zeros, which mark codes.
_WHOLE = r"^[+-]?(0|[1-9][0-9]{0,17})$"
_NUMBER = r"^[+-]?(0|[1-9][0-9]{0,14})?(\.[0-9]*)?([eE][+-]?[0-9]+)?$"


def read_table(path: Path) -> pa.Table:
    """The rows of a table file.

    Raises:
        UserError: the file is missing, empty, of an unknown kind, or damaged.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        table = read_csv(path)
    elif suffix in (".jsonl", ".ndjson"):
        table = read_jsonl(path)
    elif suffix == ".json":
        table = read_json(path)
    elif suffix == ".parquet":
        table = read_parquet(path)
    else:
        raise UserError(f"{path}: expected a table, one of {', '.join(TABLE_SUFFIXES)}")
    if table.num_rows == 0 or table.num_columns == 0:
        raise UserError(f"{path} is an empty table: it has no rows")
    return table


def read_csv(path: Path) -> pa.Table:
    """A CSV file with a header; comma, semicolon (if the header has no comma) or tab.

    A column is numeric if all its filled cells are, and written without leading zeros.
    """
    text = _read_text(path)
    csv.field_size_limit(2**31 - 1)
    header_line = text[: text.find("\n")] if "\n" in text else text
    delimiter = ","
    if path.suffix.lower() == ".tsv" or ("\t" in header_line and "," not in header_line):
        delimiter = "\t"
    elif ";" in header_line and "," not in header_line:
        delimiter = ";"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    chunks: list[list[pa.Array]] = []
    try:
        names = next(reader, None)
        if not names:
            raise UserError(f"{path} is an empty table: it has no header")
        names = _column_names(path, names)
        rows: list[list[str]] = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise UserError(
                    f"{path} line {reader.line_num}: expected {len(names)} cells as in the header, "
                    f"found {len(cells)}. Put quotes around cells that hold '{delimiter}'"
                )
            rows.append(cells)
            if len(rows) == _CHUNK:
                chunks.append(_string_columns(rows))
                rows = []
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not CSV: {error}") from None
    if rows or not chunks:
        chunks.append(_string_columns(rows) if rows else [pa.array([], pa.string())] * len(names))
    columns = [pa.chunked_array(parts) for parts in zip(*chunks, strict=True)]
    return pa.table([_as_numbers(column) for column in columns], names=names)


def _column_names(path: Path, names: list[str]) -> list[str]:
    names = [name.strip() or f"column_{place}" for place, name in enumerate(names, 1)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two columns are called '{name}'; give one another name")
    return names


def _string_columns(rows: list[list[str]]) -> list[pa.Array]:
    return [
        pa.array([cell or None for cell in column], pa.string())
        for column in zip(*rows, strict=True)
    ]


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    filled = column.drop_null()
    if len(filled) == 0:
        return column
    for pattern, kind in ((_WHOLE, pa.int64()), (_NUMBER, pa.float64())):
        fits = pc.match_substring_regex(filled, pattern)
        if pc.all(fits).as_py():
            try:
                return column.cast(kind)
            except pa.ArrowInvalid:
                continue  # such as a lone "." or "+"
    return column


def read_jsonl(path: Path) -> pa.Table:
    """JSON Lines: one object a line."""
    rows, lines = [], []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits too
            raise UserError(f"{path} line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: expected an object {{...}}, found {_kind(row)}")
        rows.append(row)
        lines.append(f"line {number}")
    return _from_rows(path, rows, lines)


def read_json(path: Path) -> pa.Table:
    """A JSON file that is a list of objects, or an object with one such list."""
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not JSON: {error}. If it has one object a line, call it .jsonl"
        ) from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else content
    if not isinstance(content, list):
        raise UserError(
            f"{path}: expected a list of objects [{{...}}, ...], found {_kind(content)}"
        )
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path} entry {number}: expected an object, found {_kind(row)}")
    return _from_rows(path, content, [f"entry {number}" for number in range(1, len(content) + 1)])


def _from_rows(path: Path, rows: list[dict[str, Any]], places: Sequence[str]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        if not is_text(name):
            raise UserError(f"{path}: a column's name is no text: {name!a}; rename it")
        cells = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(cells)
        except (
            pa.ArrowException,
            OverflowError,
            UnicodeEncodeError,
            TypeError,
            ValueError,
        ) as error:
            raise UserError(f"{path}: column '{name}': {_mixture(cells, places, error)}") from None
    return pa.table(columns)


def _mixture(cells: list[Any], places: Sequence[str], error: Exception) -> str:
    """What keeps cells from being a column: two kinds of value, or one impossible value."""
    first: tuple[str, str] | None = None
    for cell, place in zip(cells, places, strict=True):
        if cell is None:
            continue
        try:
            pa.array([cell])
        except (
            pa.ArrowException,
            OverflowError,
            UnicodeEncodeError,
            TypeError,
            ValueError,
        ) as wrong:
            return f"{place} holds a value that cannot be stored: {wrong}"
        kind = _kind(cell)
        if first is not None and kind != first[0]:
            return (
                f"{place} holds {kind} where {first[1]} holds {first[0]}; "
                "expected one kind of value (or null) in a column"
            )
        first = first or (kind, place)
    return f"its values are of different kinds inside: {error}"


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    kinds |= {list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def read_parquet(path: Path) -> pa.Table:
    """A Parquet file that is small enough for memory, such as metadata."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        _column_names(path, table.column_names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a whole Parquet file: {first_line(error)}") from None
    return table


def _read_text(path: Path) -> str:
    content = read_bytes(path)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} begins as UTF-16, but is not whole ({error}). Save the file as UTF-8"
            ) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path} line {line}: byte 0x{content[error.start]:02x} is not UTF-8. Save the file as "
            f"UTF-8, for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from None


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UserError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def is_text(text: str) -> bool:
    """Whether a string is Unicode, without the halves of surrogate pairs that names may hold."""
    return text.encode("utf-8", "replace").decode() == text


def fingerprint(*parts: str | bytes) -> str:
    """A short name for a content."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def fingerprint_files(paths: Sequence[Path]) -> str:
    """A name for the contents of files: their names, sizes, and the first and last megabyte."""
    parts: list[str | bytes] = []
    for path in paths:
        size = path.stat().st_size
        parts += [path.name, str(size)]
        with path.open("rb") as file:
            parts.append(file.read(2**20))
            file.seek(max(0, size - 2**20))
            parts.append(file.read())
    return fingerprint(*parts)


def first_line(error: Exception) -> str:
    """The first line of a message that may have many."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
