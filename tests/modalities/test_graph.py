"""Graphs: nodes by any name, edges that must find them, features that are learned and missing."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sensorium.data import open_data
from sensorium.modalities import graph_cells
from sensorium.modalities.graph import (
    CODE,
    EDGE,
    FIRST,
    KIND,
    NUMBERS,
    SECOND,
    Graph,
    GraphView,
    cardinalities,
    is_directed,
)
from sensorium.types import BadValue, Field, Schema, UserError

GRAPH = Graph()
ROWS = [
    {
        "nodes": [
            {"id": "a", "type": "dog", "weight": 10, "tame": True},
            {"id": "b", "type": "cat", "weight": 4, "tame": True},
            {"id": "c", "type": "dog", "weight": None, "tame": False},
        ],
        "edges": [
            {"source": "a", "target": "b", "type": "left"},
            {"source": "c", "target": "a"},
        ],
    },
    {"nodes": [{"id": 7, "type": "dog", "weight": 7, "tame": False}], "edges": []},
]


def make(**options):
    return Field(name="scene", modality="graph", options=options)


def fitted(field, rows=ROWS):
    return field.replace(fitted=GRAPH.fit(field, iter(rows)))


@pytest.fixture
def field():
    return fitted(make())


def decode(raw, field, **view):
    return GRAPH.decode(raw, field, GraphView(**view))


def test_fit_by_hand(field):
    assert field.fitted["category"] == "type"
    assert field.fitted["classes"] == ["dog", "cat"]
    assert field.fitted["types"] == ["left"]
    assert field.fitted["numbers"]["weight"] == pytest.approx({"mean": 7, "std": 6**0.5})
    assert field.fitted["numbers"]["tame"] == {"mean": 0.5, "std": 0.5}
    assert cardinalities(field) == (3, 2, 2)


def test_fitted_values_survive_a_schema_file(tmp_path):
    for field in (fitted(make()), fitted(make(), [{"nodes": [{}]}])):
        Schema(fields=(field,)).save(tmp_path / "schema.yaml")
        assert Schema.load(tmp_path / "schema.yaml")["scene"].fitted == field.fitted


def test_decode_by_hand(field):
    table = decode(ROWS[0], field)
    high = 3 / 6**0.5
    wanted = [  # kind, both nodes, code, weight, tame, and which of both are there
        [0, 0, 0, 1, high, 1, 1, 1],
        [0, 1, 1, 2, -high, 1, 1, 1],
        [0, 2, 2, 1, 0, -1, 0, 1],
        [1, 0, 1, 1, 0, 0, 0, 0],
        [1, 2, 0, 0, 0, 0, 0, 0],
    ]
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, wanted, atol=1e-6)


def test_a_graph_without_edges_and_classes_that_are_new(field):
    found = decode({"nodes": [{"type": "cow"}, {"type": "cat"}, {}]}, field)
    assert found[:, KIND].tolist() == [0, 0, 0]
    assert found[:, CODE].tolist() == [0, 2, 0]
    new = {"nodes": ["dog", "dog"], "edges": [[0, 1, "above"], [1, 0, "left"]]}
    assert decode(new, field)[2:, CODE].tolist() == [0, 1]


def test_collate_pads_to_the_longest(field):
    values, mask = GRAPH.collate([decode(row, field) for row in ROWS], field, GraphView())
    assert values.shape == (2, 5, 8) and values.dtype == torch.float32
    assert mask.sum(1).tolist() == [5, 1]
    assert values[1, 1:].eq(0).all()


SAME = [
    {"nodes": ["dog", "cat"], "edges": [[0, 1, "left"]]},
    {
        "nodes": [{"type": "dog"}, {"type": "cat"}],
        "links": [{"source": 0, "target": 1.0, "type": "left"}],
    },
    {
        "nodes": [{"id": "0", "type": "dog"}, {"id": "1", "type": "cat"}],
        "edges": [["0", "1", "left"]],
    },
    {"nodes": np.array(["dog", "cat"]), "edges": '[[0, 1, "left"]]'},
    '{"nodes": ["dog", "cat"], "edges": [[0, 1, "left"]]}',
    b'{"nodes": ["dog", "cat"], "edges": [[0, 1, "left"]]}',
    {"bytes": b'{"nodes": ["dog", "cat"], "edges": [[0, 1, "left"]]}', "path": None},
]


@pytest.mark.parametrize("raw", SAME, ids=range(len(SAME)))
def test_cells_of_every_kind(field, raw):
    assert np.array_equal(decode(raw, field), decode(SAME[0], field))


def test_lists_of_numbers_are_features():
    raw = {"nodes": [[0.5, 2], [1.5, 4]], "edges": [[0, 1]]}
    field = fitted(make(), [raw])
    assert list(field.fitted["numbers"]) == ["0", "1"] and field.fitted["category"] is None
    assert decode(raw, field)[:2, NUMBERS:].tolist() == [[-1, -1, 1, 1], [1, 1, 1, 1]]


def test_options_choose_attributes():
    raw = {
        "nodes": [{"kind": "x", "type": 3, "size": "1.5"}, {"kind": "y", "type": 4, "size": 2}],
        "edges": [{"source": 0, "target": 1, "bond": 2}],
    }
    field = fitted(make(category="kind", numbers=["size"], type="bond", directed=False), [raw])
    assert field.fitted["classes"] == ["x", "y"] and field.fitted["types"] == ["2"]
    assert list(field.fitted["numbers"]) == ["size"]
    assert not is_directed(field) and is_directed(make())
    usual = fitted(make(), [raw])
    assert usual.fitted["classes"] == ["3", "4"] and usual.fitted["types"] == []


BAD = [
    ({"nodes": ["a", "b"], "edges": [[0, 2]]}, "from 0.0 to 2.0.*no node 2.0"),
    ({"nodes": [{"id": "a"}], "edges": [["a", "z", "left"]]}, "'a' to 'z'.*no node 'z'"),
    ({"nodes": [{"id": 1}, {"id": 1.0}]}, "two nodes have the id 1.0"),
    ({"nodes": []}, "without nodes"),
    ({"nodes": None, "edges": []}, "without nodes"),
    ({"edges": [[0, 1]]}, "expected a mapping of nodes"),
    ({"nodes": ["a"], "edges": [[0]]}, "expected an edge"),
    ({"nodes": ["a"], "edges": [[0, None]]}, "expected an edge"),
    ({"nodes": ["a"], "edges": [{"source": 0}]}, "expected an edge"),
    ({"nodes": ["a"], "edges": ["0-0"]}, "expected an edge"),
    ({"nodes": ["a"], "edges": {"source": 0}}, "edges.*expected a list"),
    ({"nodes": 3}, "nodes.*expected a list"),
    ({"nodes": [{"id": [1]}]}, "text or a number"),
    ({"nodes": [{"id": float("inf")}]}, "text or a number"),
    ({"nodes": [{"weight": "heavy"}]}, "'weight' of a node.*no number"),
    ({"nodes": [{"weight": float("inf")}]}, "'weight' of a node.*no finite"),
    ({"nodes": [{"weight": 10**400}]}, "'weight' of a node.*no finite"),
    ("graph.json", "option path: true"),
    ("[1, 2]", "expected a mapping"),
    ("[" * 100_000, "no JSON"),
    (b"\xff\xfe{", "no JSON"),
    (b"", "empty"),
    (3, "expected a mapping"),
]


@pytest.mark.parametrize(("raw", "reason"), BAD, ids=range(len(BAD)))
def test_bad_graphs(field, raw, reason):
    with pytest.raises(BadValue, match=f"(?s)scene.*{reason}"):
        decode(raw, field)


def test_limits(field, monkeypatch):
    raw = {"nodes": ["dog"] * 5, "edges": [[0, 1]] * 7}
    assert len(decode(raw, field, max_nodes=5, max_edges=7)) == 12
    with pytest.raises(BadValue, match="5 nodes, more than 4"):
        decode(raw, field, max_nodes=4)
    with pytest.raises(BadValue, match="7 edges, more than 6"):
        decode(raw, field, max_edges=6)
    monkeypatch.setattr(graph_cells, "MAX_FILE_BYTES", 100)
    with pytest.raises(BadValue, match="more than 100 bytes"):
        decode(json.dumps(raw).encode() + b" " * 100, field)


def test_values_beyond_float32_after_standardising_are_refused():
    field = fitted(make(), [{"nodes": [{"w": 0.0}, {"w": 1e-30}]}])
    with pytest.raises(BadValue, match="'w'.*far outside"):
        decode({"nodes": [{"w": 1e30}]}, field)


def test_bad_training_rows_do_not_spoil_the_fit():
    bad = [{"nodes": ["a"], "edges": [[0, 9]]}, "x", None, {"nodes": []}]
    assert GRAPH.fit(make(), [*ROWS, *bad]) == GRAPH.fit(make(), ROWS)


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (None, 0),
        ("", 0),
        ({"nodes": None, "edges": None}, 0),
        ({"nodes": []}, 1),
        ([ROWS[0], ROWS[1]], 2),
        ([], 0),
    ],
)
def test_entries_of_a_cell(field, raw, count):
    assert len(GRAPH.entries(raw, field)) == count


def test_rows_of_a_table_name_files(tmp_path):
    for place in range(6):
        graph = {"nodes": ["dog", "cat"], "edges": [[0, 1 + (place == 5)]]}
        (tmp_path / f"{place}.json").write_text(json.dumps(graph))
    lines = [f"{place}.json,{'ab'[place % 2]}" for place in range(6)]
    (tmp_path / "metadata.csv").write_text("\n".join(["scene,label", *lines]))
    schema = Schema(
        fields=(make(path=True), Field(name="label", modality="category", role="label"))
    )
    data = open_data(tmp_path / "metadata.csv", schema=schema).fit()
    samples, faults = data.read(data.rows("all"), {"scene": GraphView()})
    assert len(samples) == 5
    assert len(faults) == 1 and "no node 2.0" in faults[0].reason


def test_columns_that_a_table_makes_of_structs(tmp_path):
    graphs = [{"nodes": [{"type": "dog"}, {"type": "cat"}], "edges": [[0, 1]]}] * 4
    pq.write_table(pa.table({"g": graphs, "y": ["a", "b"] * 2}), tmp_path / "rows.parquet")
    columns = {"g_nodes": "nodes", "g_edges": "edges"}
    field = Field(name="scene", modality="graph", columns=columns)
    GRAPH.check(field)
    label = Field(name="y", modality="category", role="label")
    data = open_data(tmp_path / "rows.parquet", schema=Schema(fields=(field, label))).fit()
    samples, faults = data.read(data.rows("all"), {"scene": GraphView()})
    assert not faults
    assert samples[0].values["scene"][0][:, [KIND, FIRST, SECOND]].tolist() == [
        [0, 0, 0],
        [0, 1, 1],
        [EDGE, 0, 1],
    ]


def test_settings_that_make_no_sense():
    for options, message in (
        ({"undirected": True}, "Did you mean 'directed'"),
        ({"directed": "no"}, "directed"),
    ):
        with pytest.raises(UserError, match=message):
            GRAPH.check(make(**options))
    for columns, message in (
        ({"a": "node", "b": "edges"}, "Did you mean 'nodes'"),
        ({"a": "nodes"}, "one column of nodes and one of edges"),
    ):
        with pytest.raises(UserError, match=message):
            GRAPH.check(Field(name="x", modality="graph", columns=columns))


def test_guess():
    assert GRAPH.guess("scene", ROWS) > 0.9
    assert GRAPH.guess("scene", ['{"nodes": ["a"]}']) > 0.9
    for values in ([], ["a"], [{"a": 1}], [[1, 2]], [*ROWS, "x"]):
        assert GRAPH.guess("scene", values) == 0


def test_show_draws_nodes_and_lines(field):
    picture = np.asarray(GRAPH.show(ROWS[0], make())).astype(int)
    assert picture.shape == (256, 256, 3)
    colourful = picture.max(2) - picture.min(2) > 40
    grey = (picture.max(2) < 200) & ~colourful
    assert colourful.sum() > 3 * 400 and grey.sum() > 400
    alone = np.asarray(GRAPH.show({"nodes": ["a"]}, make())).astype(int)
    assert (alone.min(2) == 255).mean() > 0.9 and (alone[128, 128] < 255).any()
    decoded = np.asarray(GRAPH.show(decode(ROWS[0], field), field)).astype(int)
    assert np.array_equal(decoded.max(2) - decoded.min(2) > 40, colourful)
    GRAPH.show({"nodes": ["a"] * 3000, "edges": [[0, 1]]}, make())


def test_what_is_damaged_is_taken_or_refused(field):
    rng = np.random.default_rng(0)
    content = np.frombuffer(json.dumps(ROWS[0]).encode(), np.uint8)
    letters = np.frombuffer(b'0123456789[]{},:"truefalsn-.e', np.uint8)
    taken = 0
    for _ in range(400):
        damaged = content.copy()
        damaged[rng.integers(0, len(damaged), 2)] = rng.choice(letters, 2)
        try:
            found = decode(damaged.tobytes(), field)
        except BadValue:
            continue
        taken += 1
        assert np.isfinite(found).all()
        assert (found[:, [FIRST, SECOND]] < (found[:, KIND] == 0).sum()).all()
    assert 20 < taken < 380
