"""Tables from scratch: one token for each column, and a transformer."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sensorium.modalities.table import TableView, cardinalities
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders.base import Prepared, TransformerEncoder
from sensorium.types import Field


class TableEncoder(TransformerEncoder):
    """Every cell a token, then a pre-norm transformer (FT-Transformer; Gorishniy et al., 2021, 3.3).

    The token of a number is a learned direction times the number, that of a class a learned vector;
    each plus a vector of its column. An empty cell has a learned vector of its own in that place: it
    may be seen, since that a value was not measured can mean something.

    Args:
        field: fitted, with the columns.
        view: of the table.
        width: of the vectors.
        depth: number of layers.
        heads: of the attention.
        activation: of the feed-forward networks.
    """

    offsets: Tensor
    has_classes: Tensor

    def __init__(
        self,
        field: Field,
        view: TableView,
        width: int,
        depth: int,
        heads: int,
        *,
        activation: str = "gelu",
    ) -> None:
        super().__init__(width, view)
        sizes = torch.tensor(cardinalities(field))
        # One table holds the classes of all columns, each column's after those before it.
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer("has_classes", sizes > 0, persistent=False)
        self.classes = nn.Embedding(max(1, int(sizes.sum())), width)
        self.directions = nn.Parameter(torch.empty(len(sizes), width))
        self.columns = nn.Parameter(torch.empty(len(sizes), width))
        self.missing = nn.Parameter(torch.empty(len(sizes), width))
        for parameter in (self.classes.weight, self.directions, self.columns, self.missing):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)
        self.layers = transformer(depth, width, heads, activation=activation)
        self.norm = nn.LayerNorm(width)

    def prepare(
        self,
        values: Float[Tensor, "entries columns"],
        mask: Bool[Tensor, "entries columns"] | None,
    ) -> Prepared:
        """A vector for each column."""
        codes = torch.where(self.has_classes, values.long() + self.offsets, 0)
        x = torch.where(
            self.has_classes[:, None],
            self.classes(codes),
            values.unsqueeze(2) * self.directions,
        )
        if mask is not None:
            x = torch.where(mask.unsqueeze(2), x, self.missing)
        return x + self.columns, None, None
