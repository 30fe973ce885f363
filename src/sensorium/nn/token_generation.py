"""Tokens of a stream from those of others: grids in a random order, sequences word by word.

Grids: in each step some places, drawn at random, are asked for at once, and what is said goes to the
tokens that are read (4M's ROAR). Sequences: each word is said after those before it.

Guidance (Ho and Salimans, 2022, arXiv 2207.12598): scores without the guided streams, plus for each of
them a multiple of what it changes by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Setting
from torch import Tensor

from sensorium.nn.language.generation import choose_words
from sensorium.nn.token_streams import AnyToAny, Numbers, Picked, side_by_side
from sensorium.types import Draw

Contexts = Sequence[tuple[Float[Tensor, "batch _ width"], Bool[Tensor, "batch _"], float]]
"""Encoded tokens, which of them are no padding, and what their scores are multiplied with."""

Guided = Sequence[tuple[frozenset[int], float]]
"""Streams that are hidden and shown together, and the weight of what they change."""


class Filling(BaseModel):
    """How tokens are chosen.

    Attributes:
        steps: in which a grid is filled.
        temperature: 0 takes the likeliest token; above, tokens are drawn, the flatter the higher.
        top_k: draw among so many of the likeliest; 0 for all.
        top_p: draw among the fewest whose probabilities reach this sum.
        guidance: by field that is given, how many times what it changes counts: 1 as it is, more to
            follow it closely, less than 0 to avoid it.
        seed: of what is drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Setting(default=8, ge=1)
    temperature: float = Setting(default=0.0, ge=0.0)
    top_k: int = Setting(default=0, ge=0)
    top_p: float = Setting(default=1.0, gt=0.0, le=1.0)
    guidance: Mapping[str, float] = {}
    seed: int = 0


class Filler:
    """What is known of rows, and a model that goes on from it.

    Args:
        model: the encoder and decoder.
        read: what is known, by stream: of grids all places in order, of sequences as many words as there
            may be, of which `real` are read.
        numbers: what stands in patches.
        how: tokens are chosen.
        guided: streams that are guided by.
        draw: the random numbers of the rows.
    """

    def __init__(
        self,
        model: AnyToAny,
        read: Sequence[Picked],
        numbers: Numbers,
        how: Filling,
        guided: Guided,
        draw: Draw,
    ) -> None:
        self.read = list(read)
        self._model, self._numbers, self._how = model, numbers, how
        self._draw = draw
        every = frozenset[int]().union(*(streams for streams, _ in guided))
        self._hidden = [(every - streams, weight) for streams, weight in guided]
        self._hidden.append((every, 1.0 - sum(weight for _, weight in guided)))

    def fill_grid(
        self,
        stream: int,
        free: Bool[Tensor, "batch places"],
        allowed: Bool[Tensor, "places vocabulary"] | None = None,
    ) -> Picked:
        """A grid whose free places are filled; what is said is read from then on.

        Args:
            stream: the grid.
            free: its places that are to be filled; the others stay as they are.
            allowed: which words may stand at each place; None for any at all.
        """
        places, steps = free.shape[1], self._how.steps
        order = self._draw(f"stream {stream}, order", places).masked_fill(~free, 2.0)
        turn = order.argsort(1).argsort(1) * steps // free.sum(1, keepdim=True).clamp(min=1)
        aims = self._draw(f"stream {stream}, words", places)
        for step in range(steps):
            now = free & (turn == step)
            if not bool(now.any()):
                continue
            asked = side_by_side([self.read[stream]._replace(real=now)])
            scores = self._scores(self._contexts(), stream, asked)
            if allowed is not None:
                scores = scores.masked_fill(~allowed[asked.place], -torch.inf)
            words = self._choose(scores.flatten(0, 1), aims.gather(1, asked.place).flatten())
            grid = self.read[stream].word.clone()
            grid[now] = words.view_as(asked.word)[asked.real]
            self._know(stream, grid, now)
        return self.read[stream]

    def write_sequence(
        self,
        stream: int,
        free: Bool[Tensor, "batch"],
        *,
        sentinel: int,
        end: int,
        allowed: Bool[Tensor, "period vocabulary"],
    ) -> Picked:
        """A sequence, written in the rows that lack it; it is read from then on.

        Args:
            stream: the sequence.
            free: rows in which it is written.
            sentinel: after which it begins.
            end: the word that ends it.
            allowed: which words may stand at each place of a pattern that repeats.
        """
        contexts = self._contexts() if bool(free.any()) else []
        grid = self.read[stream].word.clone()
        now = torch.zeros_like(grid, dtype=torch.bool)
        aims = self._draw(f"stream {stream}, words", grid.shape[1])
        said = torch.full_like(grid[:, :1], sentinel)
        left = free
        for step in range(grid.shape[1]):
            if not bool(left.any()):
                break
            asked = Picked.of(stream, said, left[:, None].expand(said.shape))
            scores = self._scores(contexts, stream, asked)[:, -1]
            may = allowed[step % len(allowed)]
            words = self._choose(scores.masked_fill(~may, -torch.inf), aims[:, step])
            said = torch.cat([said, words[:, None]], 1)
            grid[:, step] = torch.where(left, words, grid[:, step])
            now[:, step] = left
            left = left & (words != end)
        self._know(stream, grid, now)
        return self.read[stream]

    def _know(
        self, stream: int, word: Int[Tensor, "batch places"], now: Bool[Tensor, "batch places"]
    ) -> None:
        known = self.read[stream]
        self.read[stream] = known._replace(word=word, real=known.real | now)

    def _contexts(self) -> Contexts:
        """What the decoder reads: all that is known, or with guidance, each part of it."""
        contexts = []
        for hidden, weight in self._hidden:
            parts = [
                part._replace(real=part.real & (stream not in hidden))
                for stream, part in enumerate(self.read)
            ]
            shown = side_by_side(parts)
            encoded = self._model.encode(shown, self._numbers)
            contexts.append((encoded, shown.real, weight))
        return contexts

    def _scores(
        self, contexts: Contexts, stream: int, asked: Picked
    ) -> Float[Tensor, "batch asked vocabulary"]:
        """Of each word at each asked place."""
        parts = [
            weight * self._model.scores(stream, self._model.decode(asked, encoded, seen)).float()
            for encoded, seen, weight in contexts
        ]
        return torch.stack(parts).sum(0)

    def _choose(
        self, scores: Float[Tensor, "words vocabulary"], aims: Float[Tensor, "words"]
    ) -> Int[Tensor, "words"]:
        how = self._how
        return choose_words(
            scores, aims, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p
        )
