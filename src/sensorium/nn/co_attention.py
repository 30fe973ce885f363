"""Co-attention: two streams that look at each other (Lu et al., 2019, ViLBERT, arXiv 1908.02265)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sensorium.nn.blocks import Layer
from sensorium.nn.masks import bidirectional
from sensorium.types import Tokens


class CoAttention(nn.Module):
    """One exchange: each stream's queries meet the keys and values of the other.

    Args:
        first: the layer of the first stream.
        second: the layer of the second.
    """

    def __init__(self, first: Layer, second: Layer) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, first: Tokens, second: Tokens) -> tuple[Tokens, Tokens]:
        """Both streams after having seen what the other was before."""
        seen = self.first(first.values, bidirectional.dense(first, second), second.values)
        read = self.second(second.values, bidirectional.dense(second, first), first.values)
        return first.with_values(seen), second.with_values(read)


def exchanges(
    depth: int,
    width: int,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
) -> nn.ModuleList:
    """Several exchanges between two streams of one width.

    Args:
        depth: how many.
        width: of the tokens.
        first: settings of the first stream's layers, `heads` among them.
        second: those of the second stream's.
    """
    return nn.ModuleList(
        CoAttention(Layer(width, **first), Layer(width, **second)) for _ in range(depth)
    )
