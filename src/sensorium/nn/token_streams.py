"""An encoder and a decoder for tokens of any streams (4M; Mizrahi et al., 2023, arXiv 2312.06647).

read:  word or patch ─ + place + stream ─ encoder ─ norm ─ linear ─ + place + stream ─ context ─┐
asked: mask token (grids) or the word before (sequences) ─ + place + stream ─ decoder ──────────┴─ norm ─ scores

In the decoder a token sees those of its own stream alone: of a grid all that are asked, of a sequence
those up to it. Scores of words are products with the vectors that they have in the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sensorium.nn.blocks import Layers, ReadingLayer, transformer

EPSILON = 1e-6
SPREAD = 0.02

Numbers = Mapping[int, Float[Tensor, "batch patches numbers"]]
"""By the number of a stream of patches, what stands in them."""


class Picked(NamedTuple):
    """Tokens of each row, of any streams.

    Attributes:
        stream: which stream each is of.
        place: its place in the grid, or its position among the tokens of the sequence that are there.
        word: its number in the vocabulary of its stream; of patches, nothing.
        real: which are no padding.
    """

    stream: Int[Tensor, "batch tokens"]
    place: Int[Tensor, "batch tokens"]
    word: Int[Tensor, "batch tokens"]
    real: Bool[Tensor, "batch tokens"]

    @classmethod
    def of(
        cls,
        stream: int,
        word: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],
        place: Int[Tensor, "batch tokens"] | None = None,
    ) -> Self:
        """Tokens of one stream, at the places 0, 1, 2, ... unless others are named."""
        if place is None:
            place = torch.arange(word.shape[1], device=word.device).expand(word.shape)
        return cls(torch.full_like(word, stream), place, word, real)

    def take(self, order: Int[Tensor, "batch taken"]) -> Self:
        """Some of them in some order."""
        return type(self)(*(part.gather(1, order) for part in self))


def first_real(real: Bool[Tensor, "batch tokens"], most: int) -> Int[Tensor, "batch taken"]:
    """Where what is no padding stands, at most so many of a row; behind it, some padding."""
    return (~real).long().argsort(dim=1, stable=True)[:, :most]


def side_by_side(parts: Sequence[Picked], most: int | None = None) -> Picked:
    """Tokens of several streams, padding behind them; at most so many of a row, or all."""
    whole = Picked(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))
    # attention wants something to look at, be it padding
    width = max(1, int(whole.real.sum(1).amax())) if most is None else most
    return whole.take(first_real(whole.real, width))


class Stream(nn.Module):
    """What tokens of one stream have in common.

    Args:
        positions: a vector for each place, not learned.

    Attributes:
        is_sequence: whether tokens follow one another, each said after those before it.
    """

    positions: Float[Tensor, "places width"]
    is_sequence = False

    def __init__(self, positions: Float[Tensor, "places width"]) -> None:
        super().__init__()
        self.width = positions.shape[1]
        self.kind = nn.Parameter(torch.empty(self.width))
        self.register_buffer("positions", positions, persistent=False)
        nn.init.normal_(self.kind, std=SPREAD)


class WordStream(Stream):
    """Tokens of a vocabulary, which are read and said.

    Args:
        positions: as for all.
        vocabulary: how many words there are.
        is_sequence: whether tokens follow one another.
    """

    def __init__(
        self, positions: Float[Tensor, "places width"], vocabulary: int, *, is_sequence: bool
    ) -> None:
        super().__init__(positions)
        self.is_sequence = is_sequence
        self.read = nn.Embedding(vocabulary, self.width)
        self.said = nn.Embedding(vocabulary, self.width)
        for words in (self.read, self.said):
            nn.init.normal_(words.weight, std=SPREAD)


class PatchStream(Stream):
    """Patches of pictures, which are read and never said.

    Args:
        positions: as for all.
        numbers: of a patch.
    """

    def __init__(self, positions: Float[Tensor, "places width"], numbers: int) -> None:
        super().__init__(positions)
        self.project = nn.Linear(numbers, self.width, bias=False)
        nn.init.xavier_uniform_(self.project.weight)


class AnyToAny(nn.Module):
    """From tokens of any streams to tokens of any others.

    Args:
        streams: in the order of their numbers; their weights are not those of this module.
        width: of the tokens.
        depth: layers of the encoder, and as many of the decoder.
        heads: of all attention.
    """

    def __init__(self, streams: Sequence[Stream], width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.streams = tuple(streams)
        self.encoder = transformer(depth, width, heads, epsilon=EPSILON, lean=True)
        self.encoder_norm = nn.LayerNorm(width, eps=EPSILON, bias=False)
        # has a bias where nothing else has one, as published
        self.project = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.decoder = Layers(
            [ReadingLayer(width, heads, epsilon=EPSILON, lean=True) for _ in range(depth)]
        )
        self.decoder_norm = nn.LayerNorm(width, eps=EPSILON, bias=False)
        nn.init.normal_(self.mask_token, std=SPREAD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def encode(self, read: Picked, numbers: Numbers) -> Float[Tensor, "batch tokens width"]:
        """What the decoder reads of tokens.

        Args:
            read: which tokens.
            numbers: what stands in patches.
        """

        def vectors(stream: int, rows: Tensor, at: Tensor) -> Tensor:
            module = self.streams[stream]
            if isinstance(module, PatchStream):
                made: Tensor = module.project(numbers[stream][rows, read.place[rows, at]])
                return made
            found: Tensor = cast(WordStream, module).read(read.word[rows, at])
            return found

        where = self._where(read)
        x = self._laid_out(read, vectors) + where
        x = self.encoder_norm(self.encoder.walk(x, read.real[:, None, None]))
        context: Tensor = self.project(x) + where
        return context

    def decode(
        self,
        asked: Picked,
        context: Float[Tensor, "batch tokens width"],
        seen: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch asked width"]:
        """From what scores of each asked token are made.

        Args:
            asked: of grids, places; of sequences, the words before those that are asked for.
            context: of the tokens that are read, and `seen`, which of them are no padding.
        """

        def vectors(stream: int, rows: Tensor, at: Tensor) -> Tensor:
            module = cast(WordStream, self.streams[stream])
            if module.is_sequence:
                said: Tensor = module.said(asked.word[rows, at])
                return said
            return self.mask_token.expand(len(rows), -1)

        y = self._laid_out(asked, vectors) + self._where(asked)
        mask = self.sees(asked)
        for layer in self.decoder:
            y = layer(y, context, mask, seen[:, None, None])
        out: Tensor = self.decoder_norm(y)
        return out

    def sees(self, asked: Picked) -> Bool[Tensor, "batch 1 asked asked"]:
        """Of each asked token, which others it sees."""
        is_sequence = torch.tensor([s.is_sequence for s in self.streams], device=asked.real.device)
        own = asked.stream[:, :, None] == asked.stream[:, None]
        before = asked.place[:, None] <= asked.place[:, :, None]
        within = own & (before | ~is_sequence[asked.stream][:, :, None])
        return (within & asked.real[:, None])[:, None]

    def scores(
        self, stream: int, states: Float[Tensor, "*shape width"]
    ) -> Float[Tensor, "*shape vocabulary"]:
        """Of each word of a stream, how well it fits."""
        return states @ cast(WordStream, self.streams[stream]).said.weight.T

    def _where(self, picked: Picked) -> Float[Tensor, "batch tokens width"]:
        """The vectors of places and streams."""

        def vectors(stream: int, rows: Tensor, at: Tensor) -> Tensor:
            module = self.streams[stream]
            return module.kind + module.positions[picked.place[rows, at]]

        return self._laid_out(picked, vectors)

    def _laid_out(
        self, picked: Picked, vectors: Callable[[int, Tensor, Tensor], Tensor]
    ) -> Float[Tensor, "batch tokens width"]:
        """Vectors that each stream makes for its tokens, each at its place; zeros for padding."""
        batch, tokens = picked.real.shape
        parts, places = [], []
        for stream in range(len(self.streams)):
            rows, at = ((picked.stream == stream) & picked.real).nonzero(as_tuple=True)
            parts.append(vectors(stream, rows, at))
            places.append(rows * tokens + at)
        made = torch.cat(parts)
        out = made.new_zeros(batch * tokens, made.shape[1])
        return out.index_copy(0, torch.cat(places), made).view(batch, tokens, made.shape[1])
