"""Tokens of a stream from those of others: grids in a random order, sequences word by word.

Grids: in each step some places, drawn at random, are asked for at once, and what is said goes to the
tokens that are read (4M's ROAR). Sequences: each word is said after those before it.

Guidance (Ho and Salimans, 2022, arXiv 2207.12598): scores without the guided streams, plus for each of
them a multiple of what it changes by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Setting
from torch import Tensor

from sensorium.nn.language.generation import choose_words
from sensorium.nn.token_streams import AnyToAny, Numbers, Picked, side_by_side
from sensorium.types import Draw

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


class Contexts:
    """What the decoder reads: all that is known, or with guidance, each part of it.

    Args:
        model: the encoder and decoder.
        read: what is known, by stream.
        numbers: what stands in patches.
        guided: streams that are guided by.
    """

    def __init__(
        self, model: AnyToAny, read: Sequence[Picked], numbers: Numbers, guided: Guided
    ) -> None:
        self._model = model
        every = frozenset[int]().union(*(streams for streams, _ in guided))
        parts = [(every - streams, weight) for streams, weight in guided]
        parts.append((every, 1.0 - sum(weight for _, weight in parts)))
        self._parts = []
        for hidden, weight in parts:
            shown = side_by_side(
                [
                    part._replace(real=part.real & (stream not in hidden))
                    for stream, part in enumerate(read)
                ]
            )
            self._parts.append((weight, model.encode(shown, numbers), shown.real))

    def scores(self, stream: int, asked: Picked) -> Float[Tensor, "batch asked vocabulary"]:
        """Of each word at each asked place."""
        return sum(
            weight * self._model.scores(stream, self._model.decode(asked, context, seen)).float()
            for weight, context, seen in self._parts
        )  # type: ignore[return-value]


def fill_grid(
    model: AnyToAny,
    read: Sequence[Picked],
    numbers: Numbers,
    stream: int,
    free: Bool[Tensor, "batch places"],
    how: Filling,
    guided: Guided,
    draw: Draw,
) -> Picked:
    """A grid with its free places filled; the others stay as they are.

    Args:
        model: the encoder and decoder.
        read: what is known, by stream; of the grid, all places in order, of which `real` are read.
        numbers: what stands in patches.
        stream: the grid.
        free: its places that are to be filled.
        how: tokens are chosen.
        guided: streams that are guided by.
        draw: the random numbers of the rows.
    """
    read = list(read)
    places = free.shape[1]
    rank = draw("order", places).masked_fill(~free, 2.0).argsort(1).argsort(1)
    turn = rank * how.steps // free.sum(1, keepdim=True).clamp(min=1)
    for step in range(how.steps):
        now = free & (turn == step)
        if not bool(now.any()):
            continue
        asked = side_by_side([read[stream]._replace(real=now)])
        scores = Contexts(model, read, numbers, guided).scores(stream, asked)
        aims = draw(f"words of step {step}", places).gather(1, asked.place)
        words = choose_words(
            scores.flatten(0, 1),
            aims.flatten(),
            temperature=how.temperature,
            top_k=how.top_k,
            top_p=how.top_p,
        ).view_as(asked.word)
        grid = read[stream].word.clone()
        grid[now] = words[asked.real]
        read[stream] = read[stream]._replace(word=grid, real=read[stream].real | now)
    return read[stream]


def write_sequence(
    model: AnyToAny,
    read: Sequence[Picked],
    numbers: Numbers,
    stream: int,
    free: Bool[Tensor, "batch"],
    how: Filling,
    guided: Guided,
    draw: Draw,
    *,
    sentinel: int,
    end: int,
    allowed: Bool[Tensor, "period vocabulary"],
) -> Picked:
    """A sequence, written in the rows that lack it.

    Args:
        model: the encoder and decoder.
        read: what is known, by stream; of the sequence, as many words as there may be.
        numbers: what stands in patches.
        stream: the sequence.
        free: rows in which it is written.
        how: tokens are chosen.
        guided: streams that are guided by.
        draw: the random numbers of the rows.
        sentinel: after which it begins.
        end: the word that ends it.
        allowed: which words may stand at each place of a pattern that repeats.
    """
    contexts = Contexts(model, read, numbers, guided)
    known = read[stream]
    length = known.word.shape[1]
    aims = draw("words", length)
    said = torch.full_like(known.word[:, :1], sentinel)
    over = ~free
    real = []
    for step in range(length):
        if bool(over.all()):
            break
        asked = Picked.of(stream, said, torch.ones_like(said, dtype=torch.bool))
        scores = contexts.scores(stream, asked)[:, -1]
        may = allowed[step % len(allowed)]
        words = choose_words(
            scores.masked_fill(~may, -torch.inf),
            aims[:, step],
            temperature=how.temperature,
            top_k=how.top_k,
            top_p=how.top_p,
        )
        said = torch.cat([said, words[:, None]], 1)
        real.append(~over)
        over = over | (words == end)
    written, there = known.word.clone(), known.real.clone()
    if real:
        now = torch.stack(real, 1)
        written[:, : now.shape[1]] = torch.where(now, said[:, 1:], written[:, : now.shape[1]])
        there[:, : now.shape[1]] |= now
    return known._replace(word=written, real=there)
