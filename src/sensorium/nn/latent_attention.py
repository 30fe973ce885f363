"""From a sequence to one vector, by way of learned vectors that every token looks up (NV-Embed)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sensorium.nn.attention import Attention, GatedFeedForward
from sensorium.nn.pooling import pool


class LatentAttention(nn.Module):
    """Tokens ask learned vectors, and their mean is taken (Lee et al., 2024, arXiv 2405.17428, section 3.2).

    The tokens are the queries and the latents are keys and values, so that the sequence keeps its length
    up to the mean. Norms stand before both parts, and both have a residual.

    Args:
        width: of the tokens.
        num_latents: learned vectors.
        heads: of the attention.
        expansion: of the gated feed-forward network.
    """

    def __init__(self, width: int, num_latents: int, heads: int, expansion: int = 4) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(num_latents, width) * width**-0.5)
        self.token_norm, self.latent_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = GatedFeedForward(width, expansion * width, "gelu")

    def forward(
        self,
        tokens: Float[Tensor, "entries tokens width"],
        counts: Bool[Tensor, "entries tokens"],
    ) -> Float[Tensor, "entries width"]:
        """The mean over the tokens that count; zeros if none does."""
        latents = self.latent_norm(self.latents).expand(len(tokens), -1, -1)
        x = tokens + self.attention(self.token_norm(tokens), None, latents)
        return pool(x + self.feed_forward(self.feed_forward_norm(x)), counts, "mean")
