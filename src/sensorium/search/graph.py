"""A graph over the vectors of a field, for collections in which comparing all takes too long.

What it finds is nearly, not surely, what is nearest; so how much of it is, is measured against exact
search each time the graph changes, with vectors of rows whose own row does not count: half of them of
this field, half of the others, since a question is often of another modality than what it finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sensorium.search.layout import Graph
from sensorium.search.vectors import Ids, Vectors
from sensorium.types import draws
from sensorium.types.errors import MissingExtra

GRAPH_FROM = 100_000
"""From how many vectors on a field has a graph. See `benchmarks/LOG.md` for what was measured."""

ENOUGH = 0.95
"""The recall below which an index warns."""

NUM_NEAREST = 10
NUM_QUERIES = 256
EXPANSIONS = (32, 64, 128, 256, 512, 1024)
_NEIGHBOURS, _EXPANSION_BUILDING = 16, 128
_MOST_REMOVED = 0.2
_AT_ONCE = 4096


class NearGraph:
    """A graph whose nodes are the ids of rows, with their vectors in half precision.

    Args:
        width: of the vectors.
        path: where it was saved; a new, empty one if None.
        fixed: leave it on the disk, from where it can be searched but not changed.
    """

    def __init__(self, width: int, path: Path | None = None, fixed: bool = False) -> None:
        try:
            from usearch.index import Index
        except ImportError:
            raise MissingExtra("A graph of vectors", "search") from None
        self._graph = Index(
            ndim=width,
            metric="ip",
            dtype="f16",
            connectivity=_NEIGHBOURS,
            expansion_add=_EXPANSION_BUILDING,
        )
        if path is not None:
            self._graph.view(str(path)) if fixed else self._graph.load(str(path))

    def __len__(self) -> int:
        return len(self._graph)

    def save(self, path: Path) -> None:
        """Write it into a file."""
        self._graph.save(str(path))

    def update(self, vectors: Vectors) -> int:
        """Take out what is no longer there, and add what is new; how many were taken out."""
        before = np.sort(np.asarray(self._graph.keys, dtype=np.int64))
        gone = np.setdiff1d(before, vectors.ids, assume_unique=True)
        new = np.flatnonzero(~np.isin(vectors.ids, before, assume_unique=True))
        if len(gone):
            self._graph.remove(gone.astype(np.uint64))
        for start in range(0, len(new), _AT_ONCE):
            at = new[start : start + _AT_ONCE]
            self._graph.add(vectors.ids[at].astype(np.uint64), vectors.values[at])
        return len(gone)

    def nearest(
        self,
        query: Float[NDArray[np.float32], "width"],
        count: int,
        expansion: int,
        vectors: Vectors,
    ) -> tuple[Float[NDArray[np.float32], "found"], Int[NDArray[np.int64], "found"]]:
        """As `Vectors.nearest` for one query, nearly: exact inner products, falling, and ids."""
        self._graph.expansion_search = max(expansion, count)
        found = np.asarray(self._graph.search(query, count).keys).astype(np.int64)
        at = vectors.positions(found)
        scores = vectors.values[at] @ query
        order = np.argsort(-scores, kind="stable")
        return scores[order], vectors.ids[at[order]]


def build_graph(
    vectors: Vectors, others: Sequence[Vectors], path: Path, before: tuple[Path, Graph] | None
) -> Graph:
    """Build or update the graph of a field, choose how wide it searches, measure, and save it.

    Args:
        vectors: of the field.
        others: of the other fields of the same rows.
        path: where it is saved.
        before: an earlier graph of the field, and what was known of it.
    """
    graph, removed = NearGraph(vectors.values.shape[1], before and before[0]), 0
    if before is not None:
        removed = before[1].removed + graph.update(vectors)
    if before is None or removed > _MOST_REMOVED * len(vectors):
        graph, removed = NearGraph(vectors.values.shape[1]), 0
        graph.update(vectors)
    graph.save(path)
    queries, own = _queries(vectors, others)
    truth = _others_than(own, list(vectors.nearest(queries, NUM_NEAREST + 1)[1]))
    for expansion in EXPANSIONS:
        found = [graph.nearest(query, NUM_NEAREST + 1, expansion, vectors)[1] for query in queries]
        recall = recall_of(_others_than(own, found), truth)
        if recall >= ENOUGH:
            break
    return Graph(recall=recall, queries=len(queries), expansion=expansion, removed=removed)


def recall_of(found: Sequence[Any], truth: Sequence[Any]) -> float:
    """The mean share of what is true that was found."""
    shares = [np.isin(true, some).mean() for some, true in zip(found, truth, strict=True)]
    return float(np.mean(shares))


def _queries(
    vectors: Vectors, others: Sequence[Vectors]
) -> tuple[Float[NDArray[np.float32], "queries width"], Ids]:
    """Vectors drawn from all fields, and the rows they are of."""
    sources = [vectors, *(other for other in others if len(other))]
    values, ids = [], []
    for number, source in enumerate(sources):
        wanted = NUM_QUERIES if len(sources) == 1 else NUM_QUERIES // 2
        wanted = wanted if number == 0 else wanted // (len(sources) - 1)
        at = np.sort(draws.permutation(len(source), "queries", number)[:wanted])
        values.append(source.values[at])
        ids.append(source.ids[at])
    return np.concatenate(values), np.concatenate(ids)


def _others_than(own: Ids, found: Sequence[Any]) -> list[Any]:
    """What was found for each query without its own row, no more than asked for."""
    return [ids[ids != row][:NUM_NEAREST] for row, ids in zip(own, found, strict=True)]
