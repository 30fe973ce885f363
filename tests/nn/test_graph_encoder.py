"""The encoder of graphs: no order of nodes or edges, edges and their direction matter."""

import numpy as np
import pytest
import torch

from sensorium.modalities.graph import Graph, GraphView
from sensorium.nn.encoders import build_encoder
from sensorium.nn.encoders.graph import GraphEncoder, Messages
from sensorium.types import Field

GRAPH = Graph()
NODES = [
    {"id": "a", "type": "dog", "size": 1.0},
    {"id": "b", "type": "cat", "size": 2.0},
    {"id": "c", "type": "dog", "size": None},
    {"id": "d", "type": "cow", "size": 0.5},
]
EDGES = [
    ["a", "b", "left"],
    ["b", "c", "above"],
    ["d", "a", "left"],
    ["d", "a", "left"],
    ["c", "c"],
]
ROWS = [
    {"nodes": NODES, "edges": EDGES},
    {"nodes": NODES[:1], "edges": []},
    {"nodes": NODES[:2], "edges": EDGES[:1]},
]


def make(directed=True):
    field = Field(name="g", modality="graph", options={"directed": directed})
    field = field.replace(fitted=GRAPH.fit(field, ROWS))
    torch.manual_seed(0)
    return field, build_encoder(field, width=16, heads=2)


def batch(field, *rows):
    values = [GRAPH.decode(row, field, GraphView()) for row in rows]
    return GRAPH.collate(values, field, GraphView())


def vector(field, encoder, nodes, edges):
    return encoder.embed(*batch(field, {"nodes": nodes, "edges": edges}), "mean")[0]


@pytest.fixture(params=[True, False], ids=["directed", "undirected"])
def made(request):
    field, encoder = make(request.param)
    assert isinstance(encoder, GraphEncoder)
    return field, encoder


def test_a_graph_alone_is_the_same_as_in_a_batch(made):
    field, encoder = made
    together, real = encoder(*batch(field, *ROWS))
    assert real.sum(1).tolist() == [9, 1, 3]
    for place, row in enumerate(ROWS):
        values, mask = batch(field, row)
        for alone in (encoder(values, mask)[0], encoder(values)[0]):
            torch.testing.assert_close(alone[0], together[place][real[place]])


def test_what_is_padding_moves_nothing(made):
    field, encoder = made
    values, mask = batch(field, *ROWS)
    before, real = encoder(values, mask)
    after, _ = encoder(torch.where(mask[..., None], values, 1.0), mask)
    assert torch.equal(before[real], after[real])


def test_the_order_of_nodes_and_edges_changes_nothing(made):
    field, encoder = made
    base = vector(field, encoder, NODES, EDGES)
    tokens = encoder(*batch(field, ROWS[0]))[0][0]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(NODES))
        nodes = [NODES[place] for place in order]
        edges = [EDGES[place] for place in rng.permutation(len(EDGES))]
        torch.testing.assert_close(vector(field, encoder, nodes, edges), base)
        moved = encoder(*batch(field, {"nodes": nodes, "edges": edges}))[0][0]
        torch.testing.assert_close(moved[: len(NODES)], tokens[order])


def test_edges_matter(made):
    field, encoder = made
    base = vector(field, encoder, NODES, EDGES)
    for edges in (
        EDGES[1:],
        [],
        [["a", "b", "above"], *EDGES[1:]],  # another type
        [["a", "b"], *EDGES[1:]],  # none
        [["c", "b", "left"], *EDGES[1:]],  # from another node of the same class
    ):
        assert not torch.allclose(vector(field, encoder, NODES, edges), base, atol=1e-5)


def test_direction_matters_where_there_is_one(made):
    field, encoder = made
    base = vector(field, encoder, NODES, EDGES)
    turned = vector(field, encoder, NODES, [["b", "a", "left"], *EDGES[1:]])
    assert torch.allclose(turned, base, atol=1e-5) != field.options["directed"]


def test_structure_is_told_where_contents_are_equal(made):
    """A path and a star of as many equal nodes and edges."""
    field, encoder = made
    nodes = [{"type": "dog"}] * 7
    path = [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]]
    star = [[0, place] for place in range(1, 7)]
    assert not torch.allclose(
        vector(field, encoder, nodes, path), vector(field, encoder, nodes, star), atol=1e-4
    )


def test_a_missing_number_is_not_the_mean():
    field, encoder = make()
    mean = field.fitted["numbers"]["size"]["mean"]
    there, absent = (
        vector(field, encoder, [{"type": "dog", "size": size}], []) for size in (mean, None)
    )
    assert not torch.allclose(there, absent, atol=1e-5)


def test_messages_by_hand():
    messages = Messages(2, is_directed=True)
    nodes = torch.tensor([[[1.0, 0], [0, 1], [5, 5], [0, 0]]])
    types = torch.zeros_like(nodes)
    is_edge = torch.tensor([[False, False, False, True]])
    first, second = torch.tensor([[0, 1, 2, 0]]), torch.tensor([[0, 1, 2, 1]])
    with torch.no_grad():
        for linear in (messages.forth, messages.back, messages.update):
            linear.weight.copy_(torch.eye(2))
            linear.bias.zero_()
        messages.back.weight.mul_(10)
    found = messages(nodes, types, first, second, is_edge)
    one, ten = (float(torch.nn.functional.gelu(torch.tensor(x))) for x in (1.0, 10.0))
    wanted = torch.tensor([[[1, ten], [one, 1], [5, 5], [0, 0]]])
    torch.testing.assert_close(found, wanted)


def test_every_parameter_learns(made):
    field, encoder = made
    tokens, real = encoder(*batch(field, *ROWS))
    weight = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))
    (tokens * weight)[real].sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
