"""Graphs from scratch: a token for each node and each edge, and a transformer."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.graph import (
    CODE,
    EDGE,
    FIRST,
    KIND,
    NUMBERS,
    SECOND,
    GraphView,
    cardinalities,
    is_directed,
)
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders.base import Prepared, TransformerEncoder
from sensorium.types import Field


class Messages(nn.Module):
    """Each node hears from its neighbours: what its edges bring is averaged and added.

    The mean grows with the logarithm of how many there are, or a node could not tell (the
    amplification of Corso et al., 2020, arXiv 2004.05718, section 2.2).

    Args:
        width: of the vectors.
        is_directed: whether what goes along an edge differs from what comes back.
    """

    def __init__(self, width: int, *, is_directed: bool) -> None:
        super().__init__()
        self.forth = nn.Linear(width, width)
        self.back = nn.Linear(width, width) if is_directed else None
        self.update = nn.Linear(width, width)

    def forward(
        self,
        nodes: Float[Tensor, "entries rows width"],
        types: Float[Tensor, "entries rows width"],
        first: Int[Tensor, "entries rows"],
        second: Int[Tensor, "entries rows"],
        is_edge: Bool[Tensor, "entries rows"],
    ) -> Float[Tensor, "entries rows width"]:
        """The nodes after one round; rows that are no edges bring nothing."""
        back = self.forth if self.back is None else self.back
        ahead = F.gelu(self.forth(at(nodes, first)) + types) * is_edge.unsqueeze(2)
        behind = F.gelu(back(at(nodes, second)) + types) * is_edge.unsqueeze(2)
        heard = _sum_at(ahead, second) + _sum_at(behind, first)
        edges = is_edge.to(heard.dtype).unsqueeze(2)
        number = _sum_at(edges, first) + _sum_at(edges, second)
        number = number.clamp(min=1)
        out: Tensor = nodes + self.update(heard / number * (1 + number).log2())
        return out


class GraphEncoder(TransformerEncoder):
    """A pre-norm transformer over nodes and edges (after TokenGT; Kim et al., 2022, section 3).

    The token of a node is the vector of its class, plus its numbers, plus what its neighbours tell in
    a few rounds; that of an edge is the vector of its type, plus its two nodes, each through a map of
    its own (through the same, if edges have no direction). A vector tells the two kinds apart.

    TokenGT marks which edge belongs to which node with orthonormal vectors drawn at random, or with
    eigenvectors, both of which depend on a draw or a sign. Here the nodes themselves are the marks,
    so that neither the order of nodes nor that of edges changes anything; nodes of equal content and
    equal surroundings are not told apart.

    Args:
        field: fitted, with the classes, types and numbers.
        view: of the graphs.
        width: of the vectors.
        depth: number of layers.
        heads: of the attention.
        rounds: how far a node hears, in edges.
        activation: of the feed-forward networks.
    """

    view: GraphView

    def __init__(
        self,
        field: Field,
        view: GraphView,
        width: int,
        depth: int,
        heads: int,
        *,
        rounds: int = 2,
        activation: str = "gelu",
    ) -> None:
        super().__init__(width, view)
        num_classes, num_types, num_numbers = cardinalities(field)
        self.classes = nn.Embedding(num_classes, width)
        self.types = nn.Embedding(num_types, width)
        self.kinds = nn.Embedding(2, width)
        for table in (self.classes, self.types, self.kinds):
            nn.init.uniform_(table.weight, -(width**-0.5), width**-0.5)
        self.numbers = nn.Linear(2 * num_numbers, width) if num_numbers else None
        directed = is_directed(field)
        self.rounds = nn.ModuleList([Messages(width, is_directed=directed) for _ in range(rounds)])
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width) if directed else None
        self.layers = transformer(depth, width, heads, activation=activation)
        self.norm = nn.LayerNorm(width)

    def prepare(
        self,
        values: Float[Tensor, "entries rows features"],
        mask: Bool[Tensor, "entries rows"] | None,
    ) -> Prepared:
        """A vector for each node and each edge."""
        if mask is None:
            mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        values = values * mask.unsqueeze(2)
        kind, first, second, code = (
            values[..., part].long() for part in (KIND, FIRST, SECOND, CODE)
        )
        is_edge = mask & (kind == EDGE)
        is_node = (mask & (kind != EDGE)).unsqueeze(2)
        nodes = self.classes(torch.where(is_edge, 0, code))
        if self.numbers is not None:
            nodes = nodes + self.numbers(values[..., NUMBERS:])
        nodes = nodes * is_node
        types = self.types(torch.where(is_edge, code, 0))
        for messages in self.rounds:
            nodes = messages(nodes, types, first, second, is_edge) * is_node
        to_second = self.first if self.second is None else self.second
        edges = types + self.first(at(nodes, first)) + to_second(at(nodes, second))
        x = torch.where(is_edge.unsqueeze(2), edges, nodes) + self.kinds(kind)
        return x, mask[:, None, None], mask


def at(
    rows: Float[Tensor, "entries rows width"], places: Int[Tensor, "entries rows"]
) -> Float[Tensor, "entries rows width"]:
    """The rows at some places of each entry."""
    return rows.gather(1, places.unsqueeze(2).expand_as(rows))


def _sum_at(
    rows: Float[Tensor, "entries rows features"], places: Int[Tensor, "entries rows"]
) -> Float[Tensor, "entries rows features"]:
    """For each place, the sum of the rows that name it."""
    return torch.zeros_like(rows).scatter_add(1, places.unsqueeze(2).expand_as(rows), rows)
