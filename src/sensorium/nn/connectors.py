"""From the vectors of an encoder to vectors that a language model reads."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sensorium.nn.attention import Attention, FeedForward
from sensorium.nn.encoders.base import Encoded
from sensorium.types import UserError

Kind = Literal["linear", "mlp", "resampler"]


class Projection(nn.Module):
    """A map of each vector by itself: linear (LLaVA), or with a hidden layer (LLaVA-1.5).

    Args:
        source: width of what comes in.
        width: of what goes out.
        is_deep: with a hidden layer.
    """

    def __init__(self, source: int, width: int, is_deep: bool) -> None:
        super().__init__()
        deep = nn.Sequential(nn.Linear(source, width), nn.GELU(), nn.Linear(width, width))
        self.map = deep if is_deep else nn.Linear(source, width)

    def forward(
        self,
        values: Float[Tensor, "entries tokens source"],
        mask: Bool[Tensor, "entries tokens"] | None = None,
    ) -> Encoded:
        """As many vectors as came in."""
        return self.map(values), mask


class Resampler(nn.Module):
    """A few latent vectors that gather what is in many (the Perceiver resampler of Flamingo).

    In each layer the latents attend to what came in and to themselves.

    Args:
        source: width of what comes in.
        width: of what goes out.
        num_latents: how many vectors go out.
        depth: number of layers; `heads`, of their attention.
    """

    def __init__(
        self, source: int, width: int, num_latents: int, depth: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(num_latents, source) * source**-0.5)
        self.layers = nn.ModuleList(_ResamplerLayer(source, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(source)
        self.output = nn.Linear(source, width)

    def forward(
        self,
        values: Float[Tensor, "entries inputs source"],
        mask: Bool[Tensor, "entries inputs"] | None = None,
    ) -> Encoded:
        """As many vectors as there are latents."""
        latents = self.latents.expand(len(values), -1, -1)
        for layer in self.layers:
            latents = layer(latents, values, mask)
        return self.output(self.norm(latents)), None


class _ResamplerLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.latent_norm, self.value_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, 4 * width)

    def forward(self, latents: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        asked = self.latent_norm(latents)
        context = torch.cat([self.value_norm(values), asked], 1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(latents.shape[:2])], 1)[:, None, None]
        latents = latents + self.attention(asked, mask, context)
        out: Tensor = latents + self.feed_forward(self.feed_forward_norm(latents))
        return out


def build_connector(
    kind: Kind, source: int, width: int, *, num_latents: int, depth: int = 2, heads: int = 4
) -> Projection | Resampler:
    """A connector by its name; the numbers are those of a resampler."""
    if kind != "resampler":
        return Projection(source, width, kind == "mlp")
    if source % heads:
        raise UserError(
            f"setting connector: {heads} heads do not divide the encoder's width {source}"
        )
    return Resampler(source, width, num_latents, depth, heads)
