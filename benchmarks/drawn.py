"""Indexes of drawn vectors, as if a model had made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from harness import timed
from sensorium.search.layout import IndexFolder, Layout
from sensorium.search.publishing import publish
from sensorium.search.storage import Storage, arrow_schema

PART = 10_000


def write_index(path: Path, layout: Layout, values: np.ndarray, prices: np.ndarray) -> float:
    """Write an index with one field and one column, a row for each vector; the seconds of publishing.

    Args:
        path: its folder.
        layout: that of an index without rows.
        values: unit vectors, (rows, width).
        prices: (rows,).
    """
    folder = IndexFolder(path)
    folder.create()
    storage = Storage(folder.rows, layout)
    schema, width = arrow_schema(layout), values.shape[1]
    for start in range(0, len(values), PART):
        ids = np.arange(start, min(start + PART, len(values)))
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values[ids].ravel()), width)
        columns = {"id": pa.array(ids), "key": pa.array([str(n) for n in ids])}
        columns |= {"content": pa.array(ids), "shown": pa.array(ids)}
        columns |= {"text": pa.array([f"thing {n}" for n in ids]), "vector_0": vectors}
        columns |= {"picture": pa.nulls(len(ids), pa.binary()), "column_0": pa.array(prices[ids])}
        rows = pa.table([columns[field.name] for field in schema], schema=schema)
        storage.replace(np.empty(0, np.int64), rows)
    return timed(lambda: publish(folder, storage, layout))
