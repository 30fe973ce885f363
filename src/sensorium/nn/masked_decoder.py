"""A shallow decoder that says what stands in the masked patches of one stream (MultiMAE, 2022).

visible tokens ─ linear ─ + stream, + position ─┬───────────────── context ─┐
                                                │ those of the own stream   │
mask token ─ + own stream, + position ──────────┴─ in their places: queries ─ cross-attention ─ MLP
                                                               ─ layers over the own stream ─ linear
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.nn.attention import Attention, FeedForward
from sensorium.nn.blocks import transformer
from sensorium.nn.positions import grid_waves

EPSILON = 1e-6


class Visible(NamedTuple):
    """Patches that an encoder has seen.

    Attributes:
        encoded: their vectors, and behind them that of the global token.
        stream: which field each is of.
        place: and which of its patches.
        real: which are no padding; None if all are.
    """

    encoded: Float[Tensor, "batch visible_and_global width"]
    stream: Int[Tensor, "batch visible"]
    place: Int[Tensor, "batch visible"]
    real: Bool[Tensor, "batch visible"] | None

    def take(self, rows: Int[Tensor, "taken"]) -> Visible:
        """Those of some rows."""
        real = None if self.real is None else self.real[rows]
        return Visible(self.encoded[rows], self.stream[rows], self.place[rows], real)

    def shown(self, stream: int, patches: int) -> Bool[Tensor, "batch patches"]:
        """Which patches of a stream are among them."""
        is_own = self.stream == stream
        is_own = is_own if self.real is None else is_own & self.real
        shown = torch.zeros(len(is_own), patches, dtype=torch.long, device=is_own.device)
        return shown.scatter_add(1, self.place, is_own.long()) > 0


class MaskedDecoder(nn.Module):
    """From visible tokens of all streams to the patches of one.

    Args:
        encoder_width: of the visible tokens.
        width: inside.
        depth: layers over the own stream, after the cross-attention.
        heads: of all attention.
        side: patches along each side of the own stream, and of all others.
        num_streams: that may be visible.
        own: which of them it decodes; None for one that is never visible.
        outputs: numbers of a patch.
    """

    positions: Tensor

    def __init__(
        self,
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        *,
        side: int,
        num_streams: int,
        own: int | None,
        outputs: int,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        # a stream that is never visible comes after all others
        self.own = num_streams if own is None else own
        # vectors, not a matrix, which would decay
        vectors = [nn.Parameter(torch.empty(width)) for _ in range(num_streams + (own is None))]
        self.streams = nn.ParameterList(vectors)
        self.register_buffer("positions", grid_waves(side, width), persistent=False)
        self.query_norm = nn.LayerNorm(width, eps=EPSILON)
        self.context_norm = nn.LayerNorm(width, eps=EPSILON)
        self.cross_attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.feed_forward = FeedForward(width, 4 * width)
        self.layers = transformer(depth, width, heads, epsilon=EPSILON)
        self.output = nn.Linear(width, outputs)
        for vector in (self.mask_token, *vectors):
            nn.init.trunc_normal_(vector, std=0.02)

    def forward(self, visible: Visible) -> Float[Tensor, "batch patches outputs"]:
        """What stands in every patch of the own stream."""
        encoded, stream, place, real = visible
        projected, streams = self.project(encoded), torch.stack(list(self.streams))
        tokens = projected[:, :-1] + streams[stream] + self.positions[place]
        queries = self.mask_token + streams[self.own] + self.positions
        queries = queries.expand(len(encoded), -1, -1).to(tokens.dtype)
        is_own = stream == self.own
        rows, at = (is_own if real is None else is_own & real).nonzero(as_tuple=True)
        queries = queries.index_put((rows, place[rows, at]), tokens[rows, at])
        context = torch.cat([tokens, projected[:, -1:]], 1)
        seen = None if real is None else F.pad(real, (0, 1), value=True)[:, None, None]
        # nothing of the queries goes around the attention, so what is visible passes through it
        x = self.cross_attention(self.query_norm(queries), seen, self.context_norm(context))
        x = x + self.feed_forward(self.norm(x))
        out: Tensor = self.output(self.layers.walk(x))
        return out
