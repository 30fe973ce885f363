"""What was written becomes what is searched."""

from __future__ import annotations

import shutil
from pathlib import Path

from sensorium.search.graph import build_graph
from sensorium.search.layout import Graph, IndexFolder, Layout, Searched
from sensorium.search.storage import Storage
from sensorium.search.vectors import Vectors, write_ids, write_vectors
from sensorium.training.files import write_folder_aside

ROWS_FILE = "rows.ids"
"""In the folder of vectors: the ids of all rows, as they lie in the table."""


def publish(folder: IndexFolder, storage: Storage, layout: Layout) -> Layout:
    """Have the table as it is now searched from now on, and remove what was before.

    Args:
        folder: of the index, locked.
        storage: the table.
        layout: as it was last published, with what has changed since.

    Returns:
        The layout that is published.
    """
    if storage.version != layout.version or _has_wrong_graphs(layout):
        storage = storage.rewritten()
        name = f"vectors-{storage.table}"
        found: list[Searched] = []
        before = folder.path / layout.vectors if layout.vectors else None
        write_folder_aside(
            folder.path / name, lambda aside: found.extend(_write(aside, before, storage, layout))
        )
        layout = layout.changed(
            table=storage.table,
            version=storage.version,
            rows=len(storage),
            vectors=name,
            fields=tuple(found),
        )
        folder.write_layout(layout)
    for old in folder.path.glob("vectors-*"):
        if old.name != layout.vectors:
            shutil.rmtree(old, ignore_errors=True)
    storage.drop_others()
    return layout


def _has_wrong_graphs(layout: Layout) -> bool:
    return any((f.graph is not None) != _is_many(f.rows, layout) for f in layout.fields)


def _is_many(vectors: int, layout: Layout) -> bool:
    return vectors >= max(1, layout.graph_from)


def _write(folder: Path, before: Path | None, storage: Storage, layout: Layout) -> list[Searched]:
    """The vectors of all fields, and graphs where there are many; what is to be said of each field."""
    write_ids(folder / ROWS_FILE, storage.ids())
    all_vectors = {}
    for field in layout.fields:
        write_vectors(folder, field.stored, storage.vectors(field.stored))
        all_vectors[field.stored] = Vectors(folder, field.stored, field.width)
    found = []
    for field in layout.fields:
        vectors = all_vectors[field.stored]
        graph: Graph | None = None
        if _is_many(len(vectors), layout):
            others = [other for name, other in all_vectors.items() if name != field.stored]
            old = before / f"{field.stored}.graph" if before and field.graph else None
            graph = build_graph(vectors, others, folder / f"{field.stored}.graph", old)
        found.append(field.changed(rows=len(vectors), graph=graph))
    return found
