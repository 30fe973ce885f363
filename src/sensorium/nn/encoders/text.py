"""Text from scratch: word and position embeddings, and a transformer."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sensorium.modalities.text import TextView
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders.base import Prepared, TransformerEncoder
from sensorium.nn.masks import bidirectional, causal
from sensorium.types import Field, Tokens, UserError


class TextEmbedding(nn.Module):
    """Word embeddings plus learned positions.

    Args:
        size: the number of ids.
        width: of the vectors.
        max_tokens: the longest sequence.
        deviation: of the initial word embeddings.
    """

    def __init__(self, size: int, width: int, max_tokens: int, deviation: float = 0.02) -> None:
        super().__init__()
        self.words = nn.Embedding(size, width)
        self.positions = nn.Embedding(max_tokens, width)
        nn.init.normal_(self.words.weight, std=deviation)
        nn.init.normal_(self.positions.weight, std=0.01)

    def forward(self, ids: Int[Tensor, "entries length"]) -> Float[Tensor, "entries length width"]:
        """Look both up and add them."""
        words: Tensor = self.words(ids)
        return words + self.positions.weight[: ids.shape[1]]


class TextEncoder(TransformerEncoder):
    """A pre-norm transformer over the ids of a text.

    Args:
        field: which field.
        view: with the tokenizer whose ids it reads, and the longest text.
        width: of the vectors.
        depth: number of layers.
        heads: of the attention.
        is_causal: a token sees what stands before it only, and the last one, which closes the text,
            sums it up (CLIP); otherwise all see all, and the mean does.
        activation: of the feed-forward networks.
    """

    view: TextView

    def __init__(
        self,
        field: Field,
        view: TextView,
        width: int,
        depth: int,
        heads: int,
        *,
        is_causal: bool = False,
        activation: str = "gelu",
    ) -> None:
        super().__init__(width, view)
        if view.tokenizer is None:
            raise UserError(f"text field '{field.name}': there is no tokenizer to read it with")
        self.pooling = "last" if is_causal else "mean"
        self.rule = causal if is_causal else bidirectional
        # Words that differ much from the beginning are told apart sooner: on scenes, half the steps
        # for the same recall. CLIP's own deviation stays with CLIP's causal tower.
        deviation = 0.02 if is_causal else 0.5
        self.embedding = TextEmbedding(view.tokenizer.size, width, view.max_tokens, deviation)
        self.layers = transformer(depth, width, heads, activation=activation)
        self.norm = nn.LayerNorm(width)

    def prepare(
        self,
        values: Int[Tensor, "entries length"],
        mask: Bool[Tensor, "entries length"] | None,
    ) -> Prepared:
        """A vector for each id."""
        if mask is None:
            mask = torch.ones_like(values, dtype=torch.bool)
        position = torch.arange(values.shape[1], device=values.device).expand(values.shape)
        tokens = Tokens(self.embedding(values), mask, {"position": position})
        return tokens.values, self.rule.dense(tokens), mask
