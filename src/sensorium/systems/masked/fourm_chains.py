"""What 4M says of rows: fields one after another, and how likely it holds a field to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from sensorium.nn.token_generation import Filler, Filling, Guided
from sensorium.nn.token_streams import AnyToAny, Picked, side_by_side
from sensorium.systems.masked.fourm_sequences import SequenceTokens
from sensorium.systems.masked.fourm_streams import Streams
from sensorium.types import Batch, Entries, UserError
from sensorium.types.names import did_you_mean

Kept = Mapping[str, Bool[Tensor, "batch _"]]
"""By grid that rows have, the places whose tokens are read; the others are as if they were not there."""


@dataclass(frozen=True)
class Chains:
    """A model, and what is read of rows when it is asked.

    Attributes:
        streams: of the model.
        model: that has learned.
        reads: the names of the fields that it reads, and `gives`, of those that it predicts.
    """

    streams: Streams
    model: AnyToAny
    reads: tuple[str, ...]
    gives: tuple[str, ...]

    @torch.no_grad()
    def say(
        self, batch: Batch, fields: Sequence[str], how: Filling, keep: Kept
    ) -> dict[str, Entries]:
        """As `FourM.chain`."""
        for name in fields:
            self._check(name)
        return self._say(fields, *self._begin(batch, how, keep))

    @torch.no_grad()
    def say_apart(self, batch: Batch, fields: Sequence[str], how: Filling) -> dict[str, Entries]:
        """Each field from what rows have, and from none of the others; what they have is read once."""
        for name in fields:
            self._check(name)
        begun = self._begin(batch, how, {})
        found: dict[str, Entries] = {}
        for name in fields:
            found |= self._say([name], *begun)
        return found

    def _begin(
        self, batch: Batch, how: Filling, keep: Kept
    ) -> tuple[Callable[[], Filler], Sequence[Bool[Tensor, "batch _"]]]:
        """Fillers that know what rows have, and what that is."""
        read, known = self._known(batch, keep)
        draw = Batch({}, batch.keys, batch.index, how.seed).uniform
        numbers = self.streams.numbers(batch)
        return partial(Filler, self.model, read, numbers, how, self._guided(how), draw), known

    def _say(
        self,
        fields: Sequence[str],
        filler_of: Callable[[], Filler],
        given: Sequence[Bool[Tensor, "batch _"]],
    ) -> dict[str, Entries]:
        filler, known = filler_of(), list(given)
        found: dict[str, Entries] = {}
        for name in fields:
            stream, tokens = self.streams.names.index(name), self.streams.of(name)
            made = tokens.filled(filler, stream, known[stream])
            # what is not read, such as codes beside patches, is known as well
            real = made.real | known[stream]
            known[stream] = real
            found |= tokens.restore(made.word, real)
        return found

    @torch.no_grad()
    def log_likelihood(
        self, batch: Batch, name: str, keep: Kept | None = None
    ) -> Float[Tensor, "batch"]:
        """How likely a field is from all else that rows have: the mean over its tokens, in nats.

        Places of a grid are asked for all at once, words of a sequence each behind those before it.

        Args:
            batch: rows; NaN for those without the field.
            name: of the field.
            keep: by grid that rows have, the places that are read; those of the field are not asked for.

        Raises:
            UserError: it does not predict the field.
        """
        self._check(name)
        keep = keep or {}
        stream, tokens = self.streams.names.index(name), self.streams.of(name)
        words = tokens.read(batch)
        shown = keep.get(name, torch.zeros_like(words.real))
        read, _ = self._known(batch.without(name) if name not in keep else batch, keep)
        if isinstance(tokens, SequenceTokens):
            before = F.pad(words.ids, (1, 0), value=tokens.sentinel)[:, :-1]
            asked = Picked.of(stream, before, words.real)
        else:
            asked = Picked.of(stream, words.ids, words.real & ~shown)
        seen = side_by_side(read)
        context = self.model.encode(seen, self.streams.numbers(batch))
        states = self.model.decode(asked, context, seen.real)
        scores = self.model.scores(stream, states).float().log_softmax(-1)
        each = scores.gather(2, words.ids[..., None])[..., 0].masked_fill(~asked.real, 0.0)
        return each.sum(1) / asked.real.sum(1)

    def _check(self, name: str) -> None:
        if name not in self.gives:
            raise UserError(f"fourm does not predict '{name}'. {did_you_mean(name, self.gives)}")

    def _known(
        self, batch: Batch, keep: Kept
    ) -> tuple[list[Picked], list[Bool[Tensor, "batch _"]]]:
        """What is read of each stream, and what is known of each field."""
        read, known = [], []
        for stream, tokens in enumerate(self.streams.tokens):
            name, words = tokens.field.name, tokens.read(batch)
            known.append(words.real & keep.get(name, words.real))
            # a picture is read as patches, unless these show what is not to be kept
            as_codes = name in keep or name not in self.streams.pictures
            shown = known[-1] & (as_codes and name in (*self.reads, *keep))
            read.append(Picked.of(stream, words.ids, shown))
        for stream, name in enumerate(self.streams.pictures, len(read)):
            there = batch.present(name)[:, None].expand(-1, self.streams.of(name).length)
            nothing = torch.zeros_like(there, dtype=torch.long)
            read.append(Picked.of(stream, nothing, there & (name not in keep)))
        return read, known

    def _guided(self, how: Filling) -> Guided:
        for name in how.guidance:
            if name not in self.reads:
                raise UserError(f"guidance: '{name}' is not read. {did_you_mean(name, self.reads)}")
        names = [*self.streams.names, *self.streams.pictures]
        return [
            (frozenset(s for s, other in enumerate(names) if other == name), weight)
            for name, weight in how.guidance.items()
        ]
