"""Exact search against a plain one, and the graph against exact search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.search import graph as graphs
from sensorium.search import vectors as exact
from sensorium.search.graph import NearGraph, build_graph
from sensorium.search.vectors import Vectors, write_vectors


def plain(values, ids, query, count, among=None):
    """Sort all, by falling product and rising id."""
    at = range(len(ids)) if among is None else among
    order = sorted(at, key=lambda place: (-float(values[place] @ query), ids[place]))[:count]
    return [int(ids[place]) for place in order]


def written(folder, values, ids):
    half = len(ids) // 2
    parts = [(ids[:half], values[:half]), (ids[half:], values[half:])]
    assert write_vectors(folder, "v", parts) == len(ids)
    return Vectors(folder, "v", values.shape[1])


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_exact_search_is_a_sort_of_all(tmp_path_factory, block, data):
    number = data.draw(st.integers(0, 60))
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    # small whole numbers: many vectors are equal, and products are exact
    values = draw.integers(-1, 2, (number, 3)).astype(np.float32)
    ids = np.cumsum(draw.integers(1, 5, number)).astype(np.int64)
    vectors = written(tmp_path_factory.mktemp("v"), values, ids)
    vectors._block = block
    queries = draw.integers(-1, 2, (data.draw(st.integers(1, 3)), 3)).astype(np.float32)
    count = data.draw(st.integers(1, 12))
    kept = np.flatnonzero(draw.random(number) < 0.5) if data.draw(st.booleans()) else None
    scores, found = vectors.nearest(queries, count, kept)
    for query, own_scores, own in zip(queries, scores, found, strict=True):
        assert own.tolist() == plain(values, ids, query, count, kept)
        assert own_scores.tolist() == sorted(own_scores.tolist(), reverse=True)
    wanted = np.asarray([1, 2, 5, 10_000, *ids[:3]], dtype=np.int64)
    at = vectors.positions(np.unique(wanted))
    assert vectors.ids[at].tolist() == [i for i in ids.tolist() if i in wanted]


def test_a_block_is_not_larger_than_it_may_be(tmp_path):
    vectors = written(tmp_path, np.zeros((4, 256), np.float32), np.arange(4))
    assert vectors._block * 256 * 4 == exact.BLOCK_BYTES


def test_rows_out_of_order_are_a_fault(tmp_path):
    with pytest.raises(RuntimeError, match="not in the order of their ids"):
        written(tmp_path, np.zeros((4, 2), np.float32), np.asarray([1, 3, 2, 4]))


def clustered(number, seed, width=32):
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(20, width))
    values = centres[draw.integers(0, 20, number)] + 0.5 * draw.normal(size=(number, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_a_graph_is_measured_and_follows_what_changes(tmp_path):
    values, ids = clustered(1500, 1), np.arange(1500)
    vectors = written(tmp_path, values, ids)
    known = build_graph(vectors, [vectors], tmp_path / "v.graph", None)
    assert known.recall >= 0.95 and known.queries == 151 + 256 and known.removed == 0
    # what was measured is so for other questions
    graph = NearGraph(vectors, tmp_path / "v.graph", fixed=True)
    queries = clustered(50, 2)
    truth = vectors.nearest(queries, 10)[1]
    found = [graph.nearest(query, 10, known.expansion) for query in queries]
    assert graphs.recall_of([rows for _, rows in found], list(truth)) > 0.93
    scores, rows = found[0]
    np.testing.assert_allclose(scores, values[rows] @ queries[0], rtol=1e-6)
    # rows go, others come
    (tmp_path / "next").mkdir()
    kept = np.concatenate([ids[100:], np.arange(2000, 2050)])
    later = written(tmp_path / "next", np.concatenate([values[100:], clustered(50, 3)]), kept)
    place = tmp_path / "next" / "v.graph"
    updated = build_graph(later, [later], place, tmp_path / "v.graph")
    assert 80 < updated.removed <= 100 and updated.recall >= 0.95
    graph = NearGraph(later, place, fixed=True)
    assert len(graph.held_out) == 146 and len(graph) == 1450 - 146 + updated.removed
    for row in later.ids[graph.held_out]:  # what is held out is found all the same
        assert graph.nearest(later.values[later.ids == row][0], 1, 16)[1].tolist() == [row]
    for row in (2000, 2049):
        assert graph.nearest(later.values[later.ids == row][0], 1, 64)[1].tolist() == [row]
    for query in values[:100]:
        found = graph.nearest(query, 10, 64)[1]
        assert len(found) == 10 and set(found) <= set(kept)
    truth = later.nearest(values[:100], 30)[1]
    found = [graph.nearest(query, 30, 64)[1] for query in values[:100]]
    assert (
        all(len(set(rows)) == 30 for rows in found) and graphs.recall_of(found, list(truth)) > 0.95
    )
    # nothing is left of what is gone
    half = values[:100].astype(np.float16)
    assert sum(vector.tobytes() in (tmp_path / "v.graph").read_bytes() for vector in half) > 80
    assert not any(vector.tobytes() in place.read_bytes() for vector in half)
    # a graph of which much was taken out is built anew
    (tmp_path / "last").mkdir()
    last = written(tmp_path / "last", later.values[700:], kept[700:])
    built = build_graph(last, [], tmp_path / "last" / "v.graph", place)
    assert built.removed == 0 and len(NearGraph(last, tmp_path / "last" / "v.graph")) < len(last)
    scores, rows = NearGraph(last, tmp_path / "last" / "v.graph").nearest(queries[0], 2000, 16)
    assert len(rows) > 0.9 * len(last)  # as many as can be reached


def test_most_of_a_graph_may_be_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST_REMOVED", 9.0)
    values = clustered(1500, 1)
    build_graph(written(tmp_path, values, np.arange(1500)), [], tmp_path / "v.graph", None)
    (tmp_path / "next").mkdir()
    few = written(tmp_path / "next", values[1200:], np.arange(1200, 1500))
    place = tmp_path / "next" / "v.graph"
    assert build_graph(few, [], place, tmp_path / "v.graph").removed > 1000
    graph, queries = NearGraph(few, place), clustered(50, 2)
    found = [graph.nearest(query, 20, 20)[1] for query in queries]
    assert graphs.recall_of(found, list(few.nearest(queries, 20)[1])) > 0.9


def test_a_graph_that_finds_too_little_is_known_to(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    values = draw.normal(size=(3000, 128)).astype(np.float32)  # nothing is near anything
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    vectors = written(tmp_path, values, np.arange(3000))
    monkeypatch.setattr(graphs, "_NEIGHBOURS", 4)
    monkeypatch.setattr(graphs, "_EXPANSION_BUILDING", 8)
    monkeypatch.setattr(graphs, "EXPANSIONS", (12,))
    poor = build_graph(vectors, [], tmp_path / "v.graph", None)
    assert poor.recall < 0.8
    monkeypatch.setattr(graphs, "EXPANSIONS", (12, 24, 1024))
    known = build_graph(vectors, [], tmp_path / "v.graph", None)
    assert known.recall > poor.recall + 0.1 and known.expansion > 12
