"""Transformer layers, and a stack of them that can be walked layer by layer."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sensorium.nn.attention import Attention, FeedForward, GatedFeedForward
from sensorium.nn.masks import Rule, bidirectional
from sensorium.nn.pooling import at_place
from sensorium.types import Tokens

Norm = Literal["pre", "post"]


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each with a residual and a layer norm.

    Args:
        width: of the tokens.
        heads: of the attention.
        hidden: width inside the feed-forward network; four times `width` if None.
        norm: `pre` (norm at the input of each part, as in GPT-2) or `post` (after each residual, as
            in BERT).
        activation: of the feed-forward network.
        dropout: after each part; `attention_dropout`: of the attention weights.
        epsilon: of the layer norms.
        lean: a gated feed-forward network, of two thirds of `hidden`, and no biases, of norms neither.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int | None = None,
        *,
        norm: Norm = "pre",
        activation: str = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        epsilon: float = 1e-5,
        lean: bool = False,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.attention = Attention(width, heads, attention_dropout, bias=not lean)
        self.attention_norm = nn.LayerNorm(width, eps=epsilon, bias=not lean)
        self.feed_forward = build_feed_forward(width, hidden or 4 * width, activation, lean=lean)
        self.feed_forward_norm = nn.LayerNorm(width, eps=epsilon, bias=not lean)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch 1 #tokens keys"] | None = None,
        context: Float[Tensor, "batch keys width"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """One layer; it attends to itself, or to a context (used as it is, without a norm)."""
        asked = self.attention_norm(x) if self.norm == "pre" else x
        return self._add(x, self.attention(asked, mask, context))

    def at(
        self,
        x: Float[Tensor, "batch tokens width"],
        place: Int[Tensor, "batch"],
        mask: Bool[Tensor, "batch 1 #tokens tokens"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        """What `forward` gives at one place of each sequence; the others are not computed."""
        seen = self.attention_norm(x) if self.norm == "pre" else x
        if mask is not None and mask.shape[2] > 1:
            mask = at_place(mask[:, 0], place)[:, None, None]
        attended = self.attention(at_place(seen, place)[:, None], mask, context=seen)
        return self._add(at_place(x, place)[:, None], attended).squeeze(1)

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows the attention: the first residual, and the second part with its own."""
        if self.norm == "pre":
            x = x + self.dropout(attended)
            x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        else:
            x = self.attention_norm(x + self.dropout(attended))
            x = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return x


class ReadingLayer(nn.Module):
    """A layer that reads a context between its self-attention and its feed-forward network.

    All three have a residual and a norm before them; the context has a norm too.

    Args:
        width: of the tokens and of the context.
        heads: of both attentions.
        epsilon: of the layer norms, and `lean`, as for `Layer`.
    """

    def __init__(
        self, width: int, heads: int, *, epsilon: float = 1e-5, lean: bool = False
    ) -> None:
        super().__init__()
        self.attention, self.reading = (Attention(width, heads, bias=not lean) for _ in range(2))
        self.attention_norm, self.reading_norm, self.context_norm, self.feed_forward_norm = (
            nn.LayerNorm(width, eps=epsilon, bias=not lean) for _ in range(4)
        )
        self.feed_forward = build_feed_forward(width, 4 * width, lean=lean)

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        context: Float[Tensor, "batch keys width"],
        mask: Bool[Tensor, "batch 1 #tokens tokens"] | None = None,
        context_mask: Bool[Tensor, "batch 1 #tokens keys"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """One layer; each mask says which of its keys may be seen."""
        x = x + self.attention(self.attention_norm(x), mask)
        x = x + self.reading(self.reading_norm(x), context_mask, self.context_norm(context))
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out


class Layers(nn.ModuleList):
    """A stack of layers under one attention rule.

    It is a list: a system that steps two trunks in lockstep, or injects between layers, walks it.
    """

    def forward(self, tokens: Tokens, rule: Rule = bidirectional) -> Tokens:
        """All layers, one after another."""
        return tokens.with_values(self.walk(tokens.values, rule.dense(tokens)))

    def walk(
        self,
        x: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch 1 #tokens tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """All layers on plain vectors, under a mask that is made already (None: all see all)."""
        for layer in self:
            x = layer(x, mask)
        return x

    def walk_to(
        self,
        x: Float[Tensor, "batch tokens width"],
        place: Int[Tensor, "batch"],
        mask: Bool[Tensor, "batch 1 #tokens tokens"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        """What `walk` gives at one place of each sequence: the last layer computes no other."""
        if not len(self):
            return at_place(x, place)
        for layer in self[:-1]:
            x = layer(x, mask)
        return self[-1].at(x, place, mask)  # type: ignore[operator,no-any-return]


def build_feed_forward(
    width: int, hidden: int, activation: str = "gelu", *, lean: bool = False
) -> nn.Module:
    """The last part of a layer; a lean one is gated and as large, so that `hidden` is cut by a third."""
    if lean:
        return GatedFeedForward(width, 2 * hidden // 3, bias=False)
    return FeedForward(width, hidden, activation)


def transformer(depth: int, width: int, heads: int, **settings: object) -> Layers:
    """`depth` equal layers, initialised as in BERT, GPT-2 and ViT.

    Small weights let what comes in pass nearly unchanged at first. PyTorch's own are three times as
    large at the usual widths and bury it: small contrastive models then learn later.
    """
    layers = Layers([Layer(width, heads, **settings) for _ in range(depth)])  # type: ignore[arg-type]
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return layers
