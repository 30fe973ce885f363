"""A graph over the vectors of a field, for collections in which comparing all takes too long.

What it finds is nearly, not surely, what is nearest; so how much of it is, is measured against exact
search each time the graph changes. It is asked with some hundred vectors of the field that are held out
of it (and compared one by one whenever somebody searches), and as many of other fields, since a question
is often of another modality than what it finds; a vector's own row does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sensorium.search.layout import Graph
from sensorium.search.vectors import Ids, Positions, Vectors
from sensorium.types import draws
from sensorium.types.errors import MissingExtra

GRAPH_FROM = 100_000
"""From how many vectors on a field has a graph. See `benchmarks/LOG.md` for what was measured."""

ENOUGH = 0.95
"""The recall below which an index warns."""

NUM_NEAREST = 10
NUM_QUERIES = 256
"""Of the field and, if there are others, of those: how many vectors ask."""

EXPANSIONS = (16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
_NEIGHBOURS, _EXPANSION_BUILDING = 16, 128
_MOST_REMOVED = 0.2
_AT_ONCE = 4096


class NearGraph:
    """A graph of vectors in half precision (HNSW, by faiss), whose nodes stand for rows.

    Args:
        vectors: that are searched; nodes of other rows are only passed through.
        path: where it was saved, with the ids of its nodes beside it; a new, empty one if None.
        fixed: leave it on the disk, from where it can be searched but not changed.
    """

    def __init__(self, vectors: Vectors, path: Path | None = None, fixed: bool = False) -> None:
        faiss = _faiss()
        self._vectors = vectors
        if path is not None:
            how = faiss.IO_FLAG_MMAP_IFC if fixed else 0
            self._graph = faiss.read_index(str(path), how)
            self._nodes: Ids = np.fromfile(_nodes_file(path), np.int64)
        else:
            width, half = vectors.values.shape[1], faiss.ScalarQuantizer.QT_fp16
            self._graph = faiss.IndexHNSWSQ(width, half, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            self._graph.hnsw.efConstruction = _EXPANSION_BUILDING
            self._graph.is_trained = True  # there is nothing to be learned for half precision
            self._nodes = np.empty(0, np.int64)
        self._find_places()

    def __len__(self) -> int:
        return len(self._nodes)

    def _find_places(self) -> None:
        """Where the vector of each node is, -1 where its row is gone; and which have no node."""
        at = np.minimum(np.searchsorted(self._vectors.ids, self._nodes), len(self._vectors) - 1)
        there = self._vectors.ids[at] == self._nodes if len(at) else np.empty(0, bool)
        self._places = np.where(there, at, -1)
        self.held_out: Positions = np.flatnonzero(~np.isin(self._vectors.ids, self._nodes))
        self._held_out_values = self._vectors.values[self.held_out]

    def save(self, path: Path) -> None:
        """Write it into two files."""
        _faiss().write_index(self._graph, str(path))
        self._nodes.tofile(_nodes_file(path))

    def update(self) -> int:
        """Add the vectors that it has not, but for some, and forget those that are gone.

        Returns:
            How many of its nodes stand for rows that are gone.
        """
        # By their ids, so that mostly the same ones stay held out.
        drawn = draws.integers("held out", self._vectors.ids[self.held_out])
        most = min(NUM_QUERIES, 1 + len(self._vectors) // 10)
        new = np.sort(self.held_out[np.argsort(drawn)[most:]])
        for start in range(0, len(new), _AT_ONCE):
            self._graph.add(self._vectors.values[new[start : start + _AT_ONCE]])
        self._nodes = np.concatenate([self._nodes, self._vectors.ids[new]])
        self._find_places()
        gone = np.flatnonzero(self._places < 0)
        if len(gone):
            self._forget(gone)
        return len(gone)

    def _forget(self, gone: Positions) -> None:
        """Give nodes whose row is gone the vector of the nearest that is there.

        So nothing is left of theirs, and they still lead to where they led.
        """
        faiss = _faiss()
        storage = faiss.downcast_index(self._graph.storage)
        codes = faiss.vector_to_array(storage.codes).reshape(len(self), -1)
        for node in gone.tolist():
            vector = storage.reconstruct(node)
            _, rows = self.nearest(vector, 1, _EXPANSION_BUILDING)
            near = self._vectors.positions(rows)
            codes[node] = self._vectors.values[near[0]].astype(np.float16).view(np.uint8)
        faiss.copy_array_to_vector(codes.reshape(-1), storage.codes)

    def nearest(
        self, query: Float[NDArray[np.float32], "width"], count: int, expansion: int
    ) -> tuple[Float[NDArray[np.float32], "found"], Int[NDArray[np.int64], "found"]]:
        """As `Vectors.nearest` for one query, nearly: exact inner products, falling, and ids."""
        settings = _faiss().SearchParametersHNSW()  # not shared, for several may ask at once
        wanted = min(count, len(self))
        at = np.empty(0, np.int64)
        while wanted:
            settings.efSearch = max(expansion, wanted)
            _, nodes = self._graph.search(query[None], wanted, params=settings)
            at = self._places[nodes[0][nodes[0] >= 0]]
            at = at[at >= 0]
            if len(at) >= count or wanted == len(self):
                break
            wanted = min(2 * wanted, len(self))  # what is gone stood in the way
        scores = np.concatenate([self._vectors.values[at] @ query, self._held_out_values @ query])
        at = np.concatenate([at, self.held_out])
        order = np.argsort(-scores, kind="stable")[:count]
        return scores[order], self._vectors.ids[at[order]]


def build_graph(
    vectors: Vectors, others: Sequence[Vectors], path: Path, before: Path | None
) -> Graph:
    """Build or update the graph of a field, choose how wide it searches, measure, and save it.

    Args:
        vectors: of the field.
        others: of the other fields of the same rows.
        path: where it is saved.
        before: an earlier graph of the field.
    """
    graph = NearGraph(vectors, before)
    removed = graph.update()
    if removed > _MOST_REMOVED * len(vectors):
        graph = NearGraph(vectors)
        removed = graph.update()
    graph.save(path)
    queries, own = _queries(vectors, graph.held_out, others)
    truth = _others_than(own, list(vectors.nearest(queries, NUM_NEAREST + 1)[1]))
    for expansion in EXPANSIONS:
        found = [graph.nearest(query, NUM_NEAREST + 1, expansion)[1] for query in queries]
        recall = recall_of(_others_than(own, found), truth)
        if recall >= ENOUGH:
            break
    return Graph(recall=recall, queries=len(queries), expansion=expansion, removed=removed)


def _nodes_file(path: Path) -> Path:
    return path.with_suffix(".nodes")


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingExtra("A graph of vectors", "search") from None
    return faiss


def recall_of(found: Sequence[Any], truth: Sequence[Any]) -> float:
    """The mean share of what is true that was found."""
    shares = [np.isin(true, some).mean() for some, true in zip(found, truth, strict=True)]
    return float(np.mean(shares))


def _queries(
    vectors: Vectors, held_out: Positions, others: Sequence[Vectors]
) -> tuple[Float[NDArray[np.float32], "queries width"], Ids]:
    """Vectors that ask, and the rows they are of."""
    values, ids = [vectors.values[held_out]], [vectors.ids[held_out]]
    for number, other in enumerate(others):
        at = np.sort(draws.permutation(len(other), "queries", number)[: NUM_QUERIES // len(others)])
        values.append(other.values[at])
        ids.append(other.ids[at])
    return np.concatenate(values), np.concatenate(ids)


def _others_than(own: Ids, found: Sequence[Any]) -> list[Any]:
    """What was found for each query without its own row, no more than asked for."""
    return [ids[ids != row][:NUM_NEAREST] for row, ids in zip(own, found, strict=True)]
