"""A decoder of our own: rotary positions, grouped-query attention, norms before each part.

The layers are those of Llama (Touvron et al., 2023, arXiv 2302.13971), with the options of its
relatives (biases of Qwen2, norms of queries and keys of Qwen3). Projections that read the same
vectors are one matrix, and keys and values go into buffers made beforehand, which is what makes it
faster than the general implementation in `transformers` at the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.nn.language.base import Hooks, LanguageModel, LayerMasks, LayerRule
from sensorium.nn.language.cache import Cache
from sensorium.nn.masks import causal
from sensorium.types import Tokens


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder.

    Attributes:
        vocabulary_size: number of ids.
        width: of the vectors.
        depth: number of layers.
        heads: of the queries.
        key_heads: of keys and values; divides `heads`.
        head_width: of each head; `width / heads` if 0.
        hidden: inside the feed-forward network; 8/3 of `width`, as in Llama, if 0.
        max_tokens: the longest sequence.
        base: of the rotary angles.
        epsilon: of the norms.
        has_bias: of queries, keys and values (Qwen2).
        has_head_norm: queries and keys pass a norm (Qwen3).
        is_tied: words are read and said with the same vectors.
    """

    vocabulary_size: int
    width: int = 128
    depth: int = 4
    heads: int = 4
    key_heads: int = 2
    head_width: int = 0
    hidden: int = 0
    max_tokens: int = 4096
    base: float = 10000.0
    epsilon: float = 1e-5
    has_bias: bool = False
    has_head_norm: bool = False
    is_tied: bool = True


class DecoderLayer(nn.Module):
    """Attention and a gated feed-forward network, each behind a norm and beside a residual."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.key_heads = config.heads, config.key_heads
        self.head_width = config.head_width or config.width // config.heads
        inner = config.heads * self.head_width
        both = 2 * config.key_heads * self.head_width
        hidden = config.hidden or 8 * config.width // 3
        self.attention_norm = nn.RMSNorm(config.width, config.epsilon)
        self.query_key_value = nn.Linear(config.width, inner + both, bias=config.has_bias)
        self.query_norm: nn.Module = nn.Identity()
        self.key_norm: nn.Module = nn.Identity()
        if config.has_head_norm:
            self.query_norm = nn.RMSNorm(self.head_width, config.epsilon)
            self.key_norm = nn.RMSNorm(self.head_width, config.epsilon)
        self.output = nn.Linear(inner, config.width, bias=False)
        self.feed_forward_norm = nn.RMSNorm(config.width, config.epsilon)
        self.gate_up = nn.Linear(config.width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, config.width, bias=False)

    def heads_of(
        self,
        x: Float[Tensor, "batch tokens width"],
        turn: tuple[Float[Tensor, "batch 1 tokens half"], Float[Tensor, "batch 1 tokens half"]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values by head, the first two turned to their positions."""
        sizes = [self.heads, self.key_heads, self.key_heads]
        parts = self.query_key_value(self.attention_norm(x)).unflatten(2, (-1, self.head_width))
        queries, keys, values = parts.transpose(1, 2).split(sizes, 1)
        return rotate(self.query_norm(queries), turn), rotate(self.key_norm(keys), turn), values

    def finish(
        self, x: Float[Tensor, "batch tokens width"], attended: Float[Tensor, "batch h tokens d"]
    ) -> Float[Tensor, "batch tokens width"]:
        """What follows the attention."""
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.feed_forward_norm(x)).chunk(2, -1)
        out: Tensor = x + self.down(F.silu(gate) * up)
        return out


class Decoder(LanguageModel):
    """Embedding, layers, final norm and the way back to words.

    Args:
        config: its shape.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.num_layers = config.width, config.depth
        self.num_heads, self.num_key_heads = config.heads, config.key_heads
        if config.heads % config.key_heads:
            raise ValueError(
                f"{config.heads} heads are no multiple of {config.key_heads} key heads"
            )
        self.head_width = config.head_width or config.width // config.heads
        self.vocabulary_size, self.max_tokens = config.vocabulary_size, config.max_tokens
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, config.epsilon)
        self.head = nn.Linear(config.width, config.vocabulary_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # Llama's deviation of 0.02 is about this at its width; at a width of 64 scores of the
                # attention would begin so near to zero that nothing is found by what it is
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if config.is_tied:
            self.head.weight = self.embedding.weight
        steps = torch.arange(0, self.head_width, 2, dtype=torch.float32) / self.head_width
        self.register_buffer("frequencies", config.base**-steps)
        self.frequencies: Tensor

    def embed(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """The vectors of words."""
        vectors: Tensor = self.embedding(ids)
        return vectors

    def logits(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... vocabulary"]:
        """Scores of the word that follows."""
        scores: Tensor = self.head(states)
        return scores

    def final_norm(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """The norm with which `forward` ends."""
        normed: Tensor = self.norm(states)
        return normed

    def forward(
        self,
        tokens: Tokens,
        rule: LayerRule = causal,
        cache: Cache | None = None,
        hooks: Hooks | None = None,
    ) -> Tokens:
        """All layers and the final norm."""
        if cache is not None:
            cache.note(tokens)
        looks = hooks is not None and hooks.looks_at_attention
        masks = LayerMasks(rule, tokens, cache, self.num_heads)
        turn = angles(self.frequencies, tokens)
        for number, layer in enumerate(self.layers):
            if hooks is not None:
                tokens = hooks.enter(number, tokens)
            queries, keys, values = layer.heads_of(tokens.values, turn)  # type: ignore[operator]
            if cache is not None:
                keys, values = cache.extend(number, keys, values)
            if looks and hooks is not None:
                hooks.attend(number, queries, keys, masks.exact(number), self.head_width**-0.5)
            attended = grouped_attention(queries, keys, values, masks[number])
            tokens = tokens.with_values(layer.finish(tokens.values, attended))  # type: ignore[operator]
        return tokens.with_values(self.final_norm(tokens.values))


def angles(
    frequencies: Float[Tensor, " half"], tokens: Tokens
) -> tuple[Float[Tensor, "batch 1 tokens half"], Float[Tensor, "batch 1 tokens half"]]:
    """Cosines and sines of the rotary positions (Su et al., 2021, arXiv 2104.09864)."""
    turned = tokens.id("position")[:, None, :, None].float() * frequencies.float()
    return turned.cos().to(tokens.values.dtype), turned.sin().to(tokens.values.dtype)


def rotate(
    x: Float[Tensor, "batch heads tokens head_width"],
    turn: tuple[Float[Tensor, "batch 1 tokens half"], Float[Tensor, "batch 1 tokens half"]],
) -> Float[Tensor, "batch heads tokens head_width"]:
    """Turn each pair of channels (one of the first half, one of the second) by its angle."""
    cosine, sine = turn
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def grouped_attention(
    queries: Float[Tensor, "batch heads queries head_width"],
    keys: Float[Tensor, "batch key_heads keys head_width"],
    values: Float[Tensor, "batch key_heads keys head_width"],
    mask: Bool[Tensor, "batch #heads #queries keys"] | None,
    scale: float | None = None,
) -> Float[Tensor, "batch heads queries head_width"]:
    """Attention in which several heads of queries share one of keys; without a mask, causal.

    A query that may see no key gets the value zero.
    """
    groups = queries.shape[1] // keys.shape[1]
    if queries.shape[2] > 1 or mask is None or groups == 1:
        return F.scaled_dot_product_attention(
            queries, keys, values, mask, is_causal=mask is None, scale=scale, enable_gqa=groups > 1
        )
    # One query of each of several heads is several queries of one head: nothing is repeated.
    together = rearrange(queries, "b (h g) 1 d -> b h g d", g=groups)
    if mask.shape[1] > 1:
        mask = rearrange(mask, "b (h g) 1 k -> b h g k", g=groups)
    attended = F.scaled_dot_product_attention(together, keys, values, mask, scale=scale)
    return attended.flatten(1, 2).unsqueeze(2)
