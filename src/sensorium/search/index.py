"""An index that is asked: by vector, by words, by both, within a condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sensorium.search.conditions import read_condition
from sensorium.search.graph import ENOUGH, NearGraph
from sensorium.search.layout import IndexFolder, Layout, Searched
from sensorium.search.model import Model, Vector
from sensorium.search.publishing import ROWS_FILE
from sensorium.search.safe_sql import to_sql
from sensorium.search.storage import Storage
from sensorium.search.vectors import Vectors, read_ids
from sensorium.types import UserError
from sensorium.types.names import did_you_mean

Mode = Literal["vector", "text", "hybrid"]

Found = TypeVar("Found")

DEPTH = 100
"""How many rows of each ranking are fused."""

FUSION = 60
"""Of reciprocal rank fusion: a row's score is the sum of 1 / (60 + its rank) (Cormack et al., 2009)."""


@dataclass(frozen=True)
class Hit:
    """A row that was found.

    Attributes:
        place: 1 for the first.
        key: its name.
        score: an inner product of unit vectors, BM25, or the sum of reciprocal ranks.
        field: whose vector is nearest; empty where only words were searched.
        ranks: its place by `vector` and by `text`, where it has one.
        values: what its columns hold, where they hold anything.
        text: its words.
        picture: a small WebP file; None if it has none.
    """

    place: int
    key: str
    score: float
    field: str
    ranks: Mapping[str, int]
    values: Mapping[str, float | str | bool]
    text: str
    picture: bytes | None


class Index:
    """A collection of rows.

    What it finds are the rows of the last `index_rows` that ended; it opens those anew when they have
    changed.

    Args:
        path: its folder.

    Raises:
        UserError: this is no index, or none that was ever finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = IndexFolder(path)
        self._open()

    def _open(self) -> None:
        self._published = self.folder.published()
        layout = self.folder.read_layout()
        if not layout.version:
            raise UserError(
                f"{self.folder.path} was never finished; run the same `sensorium index` again to go on"
            )
        self.layout: Layout = layout
        self._storage = Storage(self.folder.rows, layout, layout.version)
        folder = self.folder.path / layout.vectors
        self._columns = self._storage.columns
        self._rows = read_ids(folder / ROWS_FILE)
        self._vectors = {f.name: Vectors(folder, f.stored, f.width) for f in layout.fields}
        self._graphs = {
            f.name: NearGraph(self._vectors[f.name], folder / f"{f.stored}.graph", fixed=True)
            for f in layout.fields
            if f.graph is not None
        }

    def model(self, run: str | Path | None = None, device: str | None = None) -> Model:
        """The model that made its vectors.

        Args:
            run: where its folder is now, if it was moved.
            device: as for `load`.

        Raises:
            UserError: it is gone, or another one.
        """
        maker = self.layout.maker
        if run is None and not Path(maker.path).exists():
            raise UserError(
                f"the run that made {self.folder.path} is no longer at {maker.path}; say where it is with --run"
            )
        model = Model(run or maker.path, device)
        if model.identity != maker.identity:
            raise UserError(
                f"{self.folder.path} was made by another model than {model.folder.path} is now, and what "
                "that asks cannot be compared with what is in there. Name the run that made it with --run, "
                "or index with this one into another folder"
            )
        return model

    def search(
        self,
        vector: Vector | None = None,
        words: str = "",
        *,
        mode: Mode = "vector",
        where: str | None = None,
        fields: Sequence[str] = (),
        limit: int = 10,
    ) -> list[Hit]:
        """The rows that fit best, the best first.

        A row counts by the best of its fields. Rows found by vector and by words are fused by
        reciprocal ranks, from the first hundred of each. A condition is applied before anything is
        ranked, so that it loses no row, and then search is exact.

        Args:
            vector: a unit vector, as `Model.ask` gives.
            words: that are searched in texts.
            mode: what is compared: `vector`, `text`, or both (`hybrid`).
            where: a condition on columns; see `conditions`.
            fields: whose vectors are compared; all if empty.
            limit: how many rows are wanted.

        Raises:
            UserError: the condition or a field does not fit, or what the mode compares is not there.
        """
        if mode not in get_args(Mode):
            raise UserError(f"--mode {mode}: {did_you_mean(mode, get_args(Mode))}")
        if limit < 1:
            raise UserError(f"--limit {limit}: expected 1 or more")
        if mode != "text" and vector is None:
            raise UserError("nothing is asked: give a text, or a picture or recording")
        return self._up_to_date(lambda: self._search(vector, words, mode, where, fields, limit))

    def search_vectors(
        self,
        vectors: Float[np.ndarray, "questions width"],
        *,
        where: str | None = None,
        fields: Sequence[str] = (),
        limit: int = 10,
    ) -> list[list[Hit]]:
        """What `search` finds for each of several vectors, in less time than one after another."""
        return self._up_to_date(lambda: self._search_vectors(vectors, where, fields, limit))

    def _up_to_date(self, search: Callable[[], Found]) -> Found:
        """What is found in the rows that are published now."""
        self._refresh()
        try:
            return search()
        except UserError:
            raise
        except Exception:
            # Rows that were just published are in another place than those that were opened.
            if not self._refresh():
                raise
            return search()

    def _search_vectors(
        self,
        vectors: Float[np.ndarray, "questions width"],
        where: str | None,
        fields: Sequence[str],
        limit: int,
    ) -> list[list[Hit]]:
        nearest = self._nearest(vectors, fields, limit, self._condition(where))
        rows = sorted({row for found in nearest for row, *_ in found})
        kept = dict(zip(rows, self._fetch(rows), strict=True))
        return [
            [
                self._hit(place, score, kept[row], field, {"vector": place})
                for place, (row, score, field) in enumerate(found, start=1)
            ]
            for found in nearest
        ]

    def _search(
        self,
        vector: Vector | None,
        words: str,
        mode: Mode,
        where: str | None,
        fields: Sequence[str],
        limit: int,
    ) -> list[Hit]:
        condition = self._condition(where)
        depth = max(limit, DEPTH) if mode == "hybrid" else limit
        by_vector = []
        if mode != "text":
            (by_vector,) = self._nearest(np.asarray(vector)[None], fields, depth, condition)
        by_words = self._with_words(words, depth, condition) if mode != "vector" else []
        nearest = {row: field for row, _, field in by_vector}
        rankings = {
            "vector": {row: rank for rank, (row, *_) in enumerate(by_vector, 1)},
            "text": {row: rank for rank, (row, _) in enumerate(by_words, 1)},
        }
        if mode == "hybrid":
            scored = fused(list(rankings.values()))
        else:
            scored = [(row, score) for row, score, *_ in by_vector or by_words]
        scored = scored[:limit]
        kept = self._fetch([row for row, _ in scored])
        return [
            self._hit(place, score, held, nearest.get(row, ""), _ranks(row, rankings))
            for place, ((row, score), held) in enumerate(zip(scored, kept, strict=True), start=1)
        ]

    def _condition(self, where: str | None) -> str | None:
        """In SQL."""
        return None if where is None else to_sql(read_condition(where), self._columns)

    def _fetch(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """What is kept of rows, by their ids."""
        return self._storage.fetch(np.searchsorted(self._rows, np.asarray(rows, dtype=np.int64)))

    def warnings(self) -> list[str]:
        """What whoever searches should know of the index."""
        return [
            f"search in '{field.name}' finds {field.graph.recall:.0%} of the ten nearest rows, less than "
            f"{ENOUGH:.0%}. To compare all rows, index again with --graph-from {field.rows + 1}"
            for field in self.layout.fields
            if field.graph is not None and field.graph.recall < ENOUGH
        ]

    def _refresh(self) -> bool:
        """Open what is published now; whether that is other than before."""
        changed = self.folder.published() != self._published
        if changed:
            self._open()
        return changed

    def _fields(self, names: Sequence[str]) -> list[Searched]:
        known = {field.name: field for field in self.layout.fields}
        for name in names:
            if name not in known:
                raise UserError(f"--in {name}: {did_you_mean(name, known)}")
        return [known[name] for name in names] or list(known.values())

    def _nearest(
        self,
        vectors: Float[np.ndarray, "questions width"],
        names: Sequence[str],
        count: int,
        condition: str | None,
    ) -> list[list[tuple[int, float, str]]]:
        """For each question, rows by the best of their fields: id, inner product, field."""
        fields = self._fields(names)
        queries = np.asarray(vectors, dtype=np.float32)
        for field in fields:
            if queries.shape[1:] != (field.width,):
                raise UserError(
                    f"the question is a vector of {queries[0].size} numbers, and those of '{field.name}' "
                    f"have {field.width}; ask with the model that made the index"
                )
        kept = None if condition is None else self._storage.fitting(condition)
        best: list[dict[int, tuple[float, str]]] = [{} for _ in queries]
        for field in fields:
            for found, *near in zip(
                best, *self._in_field(field, queries, count, kept), strict=True
            ):
                for score, row in zip(*near, strict=True):
                    if row not in found or score > found[row][0]:
                        found[int(row)] = (float(score), field.name)
        return [
            [(row, score, name) for row, (score, name) in _first(found, count)] for found in best
        ]

    def _in_field(
        self,
        field: Searched,
        queries: Float[NDArray[np.float32], "questions width"],
        count: int,
        kept: Int[NDArray[np.int64], "rows"] | None,
    ) -> tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]]]:
        vectors = self._vectors[field.name]
        if kept is None and field.graph is not None:
            graph, wide = self._graphs[field.name], field.graph.expansion
            scores, rows = zip(
                *(graph.nearest(query, count, wide) for query in queries), strict=True
            )
            return scores, rows
        among = None if kept is None else vectors.positions(kept)
        return vectors.nearest(queries, count, among)  # type: ignore[return-value]

    def _with_words(self, words: str, count: int, condition: str | None) -> list[tuple[int, float]]:
        if not self.layout.has_text:
            raise UserError(f"{self.folder.path} has no words to search; use --mode vector")
        if not words.strip():
            raise UserError("no words are given to search; give a text, or use --mode vector")
        return self._storage.with_words(words, count, condition)

    def _hit(
        self, place: int, score: float, row: Mapping[str, Any], field: str, ranks: dict[str, int]
    ) -> Hit:
        values = {column.name: row[column.stored] for column in self._columns}
        there = {name: value for name, value in values.items() if value is not None}
        picture = cast(bytes | None, row["picture"])
        return Hit(place, row["key"], score, field, ranks, there, row["text"], picture)


def fused(rankings: Sequence[Mapping[int, int]]) -> list[tuple[int, float]]:
    """Rows by reciprocal rank fusion, the best first; of equal ones, the first by the first ranking.

    Args:
        rankings: of each, the rank of rows, from 1 on.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for row, rank in ranking.items():
            scores[row] = scores.get(row, 0.0) + 1 / (FUSION + rank)
    first = rankings[0]
    last = len(first) + 1
    return sorted(scores.items(), key=lambda item: (-item[1], first.get(item[0], last), item[0]))


def _first(
    found: Mapping[int, tuple[float, str]], count: int
) -> list[tuple[int, tuple[float, str]]]:
    """The rows with the highest scores; of equal ones, the first."""
    return sorted(found.items(), key=lambda item: (-item[1][0], item[0]))[:count]


def _ranks(row: int, rankings: Mapping[str, Mapping[int, int]]) -> dict[str, int]:
    return {name: ranking[row] for name, ranking in rankings.items() if row in ranking}
