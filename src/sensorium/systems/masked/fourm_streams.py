"""The streams of 4M: tokens of each field, then patches of pictures; and which of them are read and asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sensorium.nn.encoders.image import Pixels
from sensorium.nn.patches import to_patches
from sensorium.nn.token_streams import Numbers, Picked, side_by_side
from sensorium.objectives.budgets import token_counts
from sensorium.objectives.spans import draw_spans
from sensorium.systems.masked.fourm_sequences import SequenceTokens
from sensorium.systems.masked.fourm_tokens import FieldTokens, GridTokens, Words
from sensorium.types import Batch, Draw, Field, Schema, UserError
from sensorium.types.names import did_you_mean

READS = ("input", "query", "target")
GRIDS = ("image", "maps")
READABLE = (*GRIDS, "text", "boxes", "category", "number", "table")

ONLY = 1000.0
"""The concentration of pictures that are read alone: of several, about as much of each."""


@dataclass(frozen=True)
class Streams:
    """All streams, in the order of their numbers.

    Attributes:
        tokens: of each field.
        pictures: the names of those that are read as patches, which follow.
        pixels: the colours of pictures as patches hold them.
    """

    tokens: Sequence[FieldTokens]
    pictures: tuple[str, ...]
    pixels: Pixels

    @property
    def names(self) -> list[str]:
        """Of fields, in the order of their tokens."""
        return [tokens.field.name for tokens in self.tokens]

    def of(self, name: str) -> FieldTokens:
        """The tokens of a field."""
        return self.tokens[self.names.index(name)]

    def numbers(self, batch: Batch) -> Numbers:
        """What stands in the patches of pictures."""
        numbers: dict[int, Tensor] = {}
        for stream, name in enumerate(self.pictures, len(self.tokens)):
            grid = cast(GridTokens, self.of(name)).tokenizer.patches
            if name in batch:
                values, _ = batch[name].first(batch.size)
                colours = self.pixels(values).permute(0, 2, 3, 1)
                numbers[stream] = to_patches(colours, grid.patch)
            else:
                numbers[stream] = self.pixels.scale.new_zeros(
                    batch.size, grid.side**2, 3 * grid.patch**2
                )
        return numbers


@dataclass(frozen=True)
class Choice:
    """Which tokens of each row are read, and which are asked for: drawn, as many as planned.

    Attributes:
        streams: to choose from.
        reads: the names of the fields that are read, and `gives`, of those that are asked for.
        inputs: tokens of a row that are read, and `targets`, that are asked for.
        alpha: concentration of the Dirichlet distributions.
        pictures_alone: the share of rows of which only patches of pictures are read.
    """

    streams: Streams
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    inputs: int
    targets: int
    alpha: float
    pictures_alone: float

    def draw(self, batch: Batch) -> tuple[Picked, Picked, Int[Tensor, "batch targets"]]:
        """The tokens of each row that are read, those that are asked for, and what these are."""
        words = [tokens.read(batch) for tokens in self.streams.tokens]
        given, wanted = self.counts(batch, words)
        read, asked, answers = [], [], []
        for stream, (tokens, found) in enumerate(zip(self.streams.tokens, words, strict=True)):
            draw = named(batch.uniform, tokens.field.name)
            most = given[:, stream], wanted[:, stream]
            if isinstance(tokens, SequenceTokens):
                cut = draw_spans(found.ids, found.real, draw, tokens.sentinel, *most, found.chunks)
                read.append(Picked.of(stream, cut.read, cut.read_mask))
                # each word is asked for by the one before it, so the first is given
                asked.append(Picked.of(stream, cut.said[:, :-1], cut.said_mask[:, 1:]))
                answers.append(asked[-1]._replace(word=cut.said[:, 1:]))
                continue
            # of a table, cells that are filled come first
            order = draw("places", tokens.length).masked_fill(~found.real, 2.0)
            rank = order.argsort(1).argsort(1)
            shown = rank < most[0][:, None]
            hidden = ~shown & (rank < (most[0] + most[1])[:, None])
            read.append(Picked.of(stream, found.ids, shown))
            asked.append(Picked.of(stream, found.ids, hidden))
            answers.append(asked[-1])
        for stream, name in enumerate(self.streams.pictures, len(words)):
            rank = batch.uniform(f"{name}, patches", self.streams.of(name).length)
            shown = rank.argsort(1).argsort(1) < given[:, stream, None]
            read.append(Picked.of(stream, torch.zeros_like(shown, dtype=torch.long), shown))
        targets = side_by_side(answers, self.targets).word
        return side_by_side(read, self.inputs), side_by_side(asked, self.targets), targets

    def counts(
        self, batch: Batch, words: Sequence[Words]
    ) -> tuple[Int[Tensor, "batch streams"], Int[Tensor, "batch fields"]]:
        """How many tokens of each stream are read, and how many of each field are asked for."""
        draw, tokens = batch.uniform, self.streams.tokens
        present = torch.stack([found.real.any(1) for found in words], 1)
        pictures = self._pictures(batch)
        alone = pictures.any(1) & (draw("pictures alone", 1)[:, 0] < self.pictures_alone)
        read, given = (
            present & present.new_tensor([name in some for name in self.streams.names])
            for some in (self.reads, self.gives)
        )
        alpha = torch.full_like(alone, self.alpha, dtype=torch.float32)
        have = torch.stack([found.real.sum(1) for found in words], 1)
        patches = have.new_tensor([self.streams.of(n).length for n in self.streams.pictures])
        shown = token_counts(
            named(draw, "read"),
            alpha.masked_fill(alone, ONLY),
            torch.cat([read & ~alone[:, None], pictures], 1),
            self.inputs,
            torch.cat([have, patches.expand(batch.size, -1)], 1),
        )
        is_sequence = present.new_tensor([each.is_sequence for each in tokens])
        # a sequence that is cut apart is at most two sentinels longer, whatever was cut out
        left = torch.where(is_sequence, have + 2, have - shown[:, : len(words)])
        return shown, token_counts(named(draw, "asked"), alpha, given, self.targets, left)

    def _pictures(self, batch: Batch) -> Bool[Tensor, "batch pictures"]:
        """The pictures that each row has."""
        found = torch.zeros(batch.size, len(self.streams.pictures), dtype=torch.bool)
        found = found.to(batch.device)
        for place, name in enumerate(self.streams.pictures):
            found[:, place] = batch.present(name)
        return found


def named(draw: Draw, what: str) -> Draw:
    """The same draws for another purpose."""
    return lambda purpose, count: draw(f"{what}, {purpose}", count)


def readable(schema: Schema) -> list[Field]:
    """The fields of which tokens are made; classes of boxes belong to their boxes."""
    fields = schema.find(role=READS, modality=READABLE)
    boxes = {field.name for field in schema.find(modality="boxes")}
    return [field for field in fields if field.of not in boxes]


def chosen(fields: Sequence[Field], names: Sequence[str]) -> tuple[str, ...]:
    """The names of some fields; of all if none is named.

    Raises:
        UserError: there is none of a name.
    """
    known = [field.name for field in fields]
    for name in names:
        if name not in known:
            raise UserError(f"fourm: no field '{name}' to be read. {did_you_mean(name, known)}")
    return tuple(names) or tuple(known)
