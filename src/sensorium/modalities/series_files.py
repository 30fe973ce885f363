"""Columns of numbers and times from CSV, Parquet and NPY files."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorium.modalities.media import checked, label
from sensorium.types import BadValue, Field

MAX_TABLE_BYTES = 2**28
"""The largest CSV or Parquet file that is read."""

_EMPTY = ("", "NaN", "nan", "NA", "N/A", "null", "NULL", "None")


def read_columns(raw: Any, field: Field, most: int) -> Mapping[str, Any] | NDArray[Any]:
    """The columns of a file by name, or the array of an NPY file.

    What a file is, its first bytes say; one that is neither Parquet nor NPY is read as CSV.

    Args:
        raw: a path, bytes, or a mapping with `bytes` and `path`.
        field: for messages.
        most: samples.

    Raises:
        BadValue: the file is missing, damaged or too large.
    """
    source = checked(raw, field, "a file of a series")
    if isinstance(source, bytes):
        head = source[:8]
    else:
        with source.open("rb") as file:
            head = file.read(8)
    if head.startswith(b"\x93NUMPY"):
        return read_npy(source, field)
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > MAX_TABLE_BYTES:
        reason = f"has more than {MAX_TABLE_BYTES} bytes"
        raise BadValue(f"field '{field.name}': {label(source)} {reason}", reason)
    return _read_table(source, field, most, is_parquet=head.startswith(b"PAR1"))


def read_npy(source: Path | bytes, field: Field) -> NDArray[Any]:
    """The array of an NPY file; nothing in it is run, and memory is taken only for what is there.

    Raises:
        BadValue: it is damaged, cut short, or holds objects.
    """
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
        file = io.BytesIO(content)
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, by_column, dtype = read(file)
        count = math.prod(shape)
        if dtype.hasobject or dtype.names is not None:
            raise ValueError("it holds objects, not numbers")
        if file.tell() + count * dtype.itemsize > len(content):
            raise ValueError("it is cut short")
        flat = np.frombuffer(content, dtype=dtype, count=count, offset=file.tell())
        return flat.reshape(shape, order="F" if by_column else "C")
    except (ValueError, KeyError, OSError, TypeError, SyntaxError, TokenError) as error:
        raise BadValue(
            f"field '{field.name}': {label(source)} is no whole NPY file: {error}",
            "cannot be decoded",
        ) from None


def _read_table(
    source: Path | bytes, field: Field, most: int, *, is_parquet: bool
) -> dict[str, NDArray[Any]]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        opened = pa.BufferReader(source) if isinstance(source, bytes) else str(source)
        if is_parquet:
            file = parquet.ParquetFile(opened)
            rows = file.metadata.num_rows
            table = file.read() if rows <= most else None
        else:
            convert = csv.ConvertOptions(null_values=list(_EMPTY), strings_can_be_null=True)
            table = csv.read_csv(opened, convert_options=convert)
            rows = table.num_rows
        if table is None or rows > most:
            raise BadValue(f"field '{field.name}': {label(source)} has more than {most} samples")
        return {
            name: np.asarray(column.to_numpy())
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise BadValue(
            f"field '{field.name}': {label(source)} cannot be read as a table: {reason}",
            "cannot be decoded",
        ) from None
