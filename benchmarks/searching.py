"""One question at a time among 200,000 vectors of width 256, against LanceDB's flat search and hnswlib.

Vectors lie around 2,000 centres in 32 dimensions, in noise, much as embeddings do; questions are drawn as
the vectors are, and are none of them. A question to us is all of `Index.search`: with the key, columns and
words of ten rows; so it is to LanceDB, on the same table. hnswlib gives ten numbers, and ours beside it as
well. Graphs search as wide as is needed for a recall@10 of 0.95; ours measures that itself, when it is built.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from drawn import write_index
from harness import Figure, Result, Settings, Target, rates, take_turns
from sensorium.search.graph import NUM_NEAREST, recall_of
from sensorium.search.index import Index
from sensorium.search.layout import Column, Layout, Maker, Searched

ROWS, WIDTH, QUESTIONS = 200_000, 256, 500
IN_A_TURN = 50


def measure(settings: Settings) -> Result:
    """Questions a second, and what is found."""
    with tempfile.TemporaryDirectory() as folder:
        return measure_in(Path(folder), settings)


def measure_in(folder: Path, settings: Settings) -> Result:
    """The same in a folder."""
    questions = draw(QUESTIONS, 1)
    index, building = build(folder / "graph", graph_from=1)
    exact, _ = build(folder / "exact", graph_from=ROWS + 1)
    searched = index.layout.fields[0]
    assert searched.graph is not None
    vectors = exact._vectors[searched.name]
    truth = vectors.nearest(questions, NUM_NEAREST)[1]
    table = exact._storage._table

    def flat(question: np.ndarray) -> list[str]:
        query = table.search(question, vector_column_name="vector_0").distance_type("dot")
        found = (
            query.select(["id", "key", "text", "column_0", "_distance"])
            .limit(NUM_NEAREST)
            .to_arrow()
        )
        return found["id"].to_pylist()

    def numbers(question: np.ndarray) -> Any:
        return index._in_field(searched, question[None], NUM_NEAREST, None)[1][0]

    def rows(question: np.ndarray) -> list[int]:
        return [int(hit.key) for hit in index.search(question, limit=NUM_NEAREST)]

    def all_rows(question: np.ndarray) -> list[int]:
        return [int(hit.key) for hit in exact.search(question, limit=NUM_NEAREST)]

    def one_percent(question: np.ndarray) -> list[int]:
        hits = index.search(question, where="price < 1", limit=NUM_NEAREST)
        return [int(hit.key) for hit in hits]

    ways: dict[str, Callable[[np.ndarray], Any]] = {
        "graph, rows": rows,
        "exact, rows": all_rows,
        "graph, numbers": numbers,
        "lancedb, rows": flat,
        "one percent": one_percent,
    }
    skipped = []
    try:
        ways["hnswlib, numbers"], width = hnswlib_of(vectors.values, settings.threads, truth)
    except ImportError as error:
        width = 0
        skipped.append(f"hnswlib, which must be compiled (pip install hnswlib): {error}")
    recalls = {
        name: recall_of([way(question) for question in questions], truth)
        for name, way in ways.items()
        if name != "one percent"
    }
    kept = np.flatnonzero(prices(ROWS) < 1)
    of_kept = vectors.nearest(questions, NUM_NEAREST, kept)[1]
    filtered = recall_of([one_percent(question) for question in questions], of_kept)
    turns = cycle(questions)

    def ask(way: Callable[[np.ndarray], Any]) -> Callable[[], None]:
        def step() -> None:
            for _ in range(IN_A_TURN):
                way(next(turns))

        return step

    seconds = take_turns({name: ask(way) for name, way in ways.items()}, settings.repeats)
    speed = {name: rates(IN_A_TURN, each) for name, each in seconds.items()}
    size = f"{ROWS:,} x {WIDTH}"

    def figure(name: str, ours: str, theirs: str, least: float | None = None) -> Figure:
        target = None if least is None else Target("at least", least)
        return Figure(f"{size}: {name}", "/s", speed[ours], theirs, speed[theirs], target)

    figures = [
        figure("questions by the graph, with rows", "graph, rows", "lancedb, rows", 10.0),
        figure("questions to all vectors, with rows", "exact, rows", "lancedb, rows"),
        figure("questions within 1 % of the rows, with rows", "one percent", "lancedb, rows"),
    ]
    if not skipped:
        figures.append(
            figure(
                "questions by the graph, numbers alone", "graph, numbers", "hnswlib, numbers", 0.5
            )
        )
    figures += [
        Figure(
            "recall@10 of the graph", "", [recalls["graph, rows"]], target=Target("at least", 0.95)
        ),
        Figure(
            "recall@10 of exact search", "", [recalls["exact, rows"]], target=Target("at least", 1)
        ),
        Figure("recall@10 within 1 % of the rows", "", [filtered], target=Target("at least", 1)),
    ]
    notes = [
        f"The graph was built in {building:.0f} s with {settings.threads} threads, which measured its recall "
        f"as {searched.graph.recall:.3f} and searches with {searched.graph.expansion} candidates.",
        *([] if skipped else [f"hnswlib: recall {recalls['hnswlib, numbers']:.3f} with {width}."]),
    ]
    packages = ["lancedb", "faiss-cpu", *([] if skipped else ["hnswlib"])]
    return Result(figures, notes, packages, skipped)


def draw(number: int, seed: int) -> np.ndarray:
    """Unit vectors, (number, WIDTH)."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    basis = shared.normal(size=(32, WIDTH)).astype(np.float32) / np.sqrt(8)
    centres = shared.normal(size=(2000, 32)).astype(np.float32)
    places = centres[own.integers(0, len(centres), number)]
    places += 0.7 * own.normal(size=places.shape).astype(np.float32)
    values = places @ basis + 0.28 * own.normal(size=(number, WIDTH)).astype(np.float32)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def prices(number: int) -> np.ndarray:
    """Of which one in a hundred is below 1."""
    return 100 * np.random.default_rng(3).random(number)


def build(path: Path, graph_from: int) -> tuple[Index, float]:
    """An index of drawn vectors, as if a model had made them, and how long it took to publish it."""
    layout = Layout(
        maker=Maker(identity="drawn", system="drawn", path=""),
        fields=(Searched(name="vector", modality="image", width=WIDTH, stored="vector_0"),),
        columns=(Column(name="price", kind="number", stored="column_0"),),
        texts=("words",),
        graph_from=graph_from,
    )
    seconds = write_index(path, layout, draw(ROWS, 2), prices(ROWS))
    return Index(path), seconds


def hnswlib_of(
    values: np.ndarray, threads: int, truth: np.ndarray
) -> tuple[Callable[[np.ndarray], Any], int]:
    """A graph of hnswlib with the settings of ours, searching as wide as is needed."""
    import hnswlib

    graph = hnswlib.Index("ip", WIDTH)
    graph.init_index(len(values), M=16, ef_construction=128)
    graph.set_num_threads(threads)
    graph.add_items(values, np.arange(len(values)))
    graph.set_num_threads(1)

    def ask(question: np.ndarray) -> Any:
        return graph.knn_query(question, NUM_NEAREST)[0][0]

    questions = draw(QUESTIONS, 1)
    for width in (10, 16, 24, 32, 48, 64, 128, 256):
        graph.set_ef(width)
        if recall_of([ask(question) for question in questions], truth) >= 0.95:
            break
    return ask, width
