"""Fields as tokens, and tokens as fields: codes of patches, classes, numbers and cells of tables.

A token is a number in the vocabulary of its field, and has a place of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.scalars import class_names
from sensorium.modalities.table import cardinalities
from sensorium.nn.positions import grid_waves, waves
from sensorium.nn.token_generation import Filler
from sensorium.nn.token_streams import Picked
from sensorium.systems.baselines.known_codes import KnownCodes, as_bytes, digests_of, mark
from sensorium.systems.baselines.patch_tokenizer import PatchTokenizer
from sensorium.systems.masked.fourm_codes import Coding
from sensorium.types import Batch, Entries, Field, Schema, UserError

DEVIATIONS = 3.0
"""Numbers farther from the mean than so many standard deviations count as that far."""


Made = tuple[Int[Tensor, "entries length"], Bool[Tensor, "entries length"]]
"""Tokens of entries, and which there are."""


class Words(NamedTuple):
    """The tokens of a field in each row.

    Attributes:
        ids: their numbers.
        real: which there are.
        chunks: of sequences whose tokens stay together, which chunk each belongs to.
    """

    ids: Int[Tensor, "batch length"]
    real: Bool[Tensor, "batch length"]
    chunks: Int[Tensor, "batch length"] | None = None


class FieldTokens(nn.Module, ABC):
    """How a field becomes tokens.

    Args:
        field: which field.
        length: the largest number of tokens.
        vocabulary: how many different ones.

    Attributes:
        is_sequence: whether they follow one another.
    """

    is_sequence = False

    def __init__(self, field: Field, length: int, vocabulary: int) -> None:
        super().__init__()
        self.field, self.length, self.vocabulary = field, length, vocabulary

    def views(self) -> dict[str, View]:
        """What is wanted of the fields it reads."""
        return {self.field.name: get_modality(self.field.modality).View()}

    def positions(self, width: int) -> Float[Tensor, "places width"]:
        """Vectors of the places that tokens may have."""
        return waves(torch.arange(self.length).float(), width)

    @abstractmethod
    def read(self, batch: Batch) -> Words:
        """The tokens of each row, of its first entry if there are several."""

    def of_firsts(self, batch: Batch, tokens: Callable[[Entries], Made]) -> Words:
        """What is made of the first entry of each row that has one."""
        ids = torch.zeros(batch.size, self.length, dtype=torch.long, device=batch.device)
        real = torch.zeros(batch.size, self.length, dtype=torch.bool, device=batch.device)
        if self.field.name in batch:
            entries = batch[self.field.name].firsts(batch.size)
            ids[entries.row], real[entries.row] = tokens(entries)
        return Words(ids, real)

    def filled(self, filler: Filler, stream: int, known: Bool[Tensor, "batch length"]) -> Picked:
        """All tokens of each row; those that are not known are chosen by a model."""
        return filler.fill_grid(stream, ~known)

    @abstractmethod
    def restore(
        self, ids: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"]
    ) -> dict[str, Entries]:
        """The field that tokens stand for in each row, and what hangs on it."""


def one_each(values: Tensor, mask: Tensor | None = None) -> Entries:
    """One entry for each row."""
    row = torch.arange(len(values), device=values.device)
    return Entries(values, row, torch.zeros_like(row), mask)


class GridTokens(FieldTokens):
    """Codes of patches, by a tokenizer that learns nothing from the system.

    Args:
        field: a picture or map.
        coding: a tokenizer that was learned before; None if it is learned here.
        settings: of one that is learned here.

    Attributes:
        mark: of the tokenizer, from when it stays as it is; zeros before.
    """

    mark: UInt8[Tensor, "32"]

    def __init__(
        self, field: Field, coding: Coding | None, settings: PatchTokenizer.Config
    ) -> None:
        settings = settings if coding is None else coding.check(field).settings
        settings = settings.model_copy(update={"field": field.name})
        tokenizer = PatchTokenizer(settings, Schema(fields=(field.replace(of=None),)))
        super().__init__(field, tokenizer.patches.side**2, tokenizer.quantizer.num_codes)
        self.tokenizer, self.coding = tokenizer, coding
        self.register_buffer("mark", torch.zeros(32, dtype=torch.uint8))
        self.register_load_state_dict_post_hook(lambda module, _: module.check())  # type: ignore[no-untyped-call]

    def settle(self) -> None:
        """From now on the tokenizer, of another run or learned here, stays as it is.

        Raises:
            UserError: the other run is gone, or was made anew.
        """
        if self.coding is not None:
            self.tokenizer.load_state_dict(self.coding.weights())
        self.mark.copy_(as_bytes(self._mark()))

    @property
    def is_settled(self) -> bool:
        """Whether the tokenizer stays as it is."""
        return bool(self.mark.any())

    def check(self) -> None:
        """Refuse weights of a model whose codes were those of another tokenizer.

        Raises:
            UserError: they are.
        """
        expected = self._mark() if self.coding is None else self.coding.mark
        if self.is_settled and not torch.equal(self.mark.cpu(), as_bytes(expected)):
            raise UserError(
                f"the codes of '{self.field.name}' that this model has learned are those of another "
                "tokenizer; a model can only be used, or trained further, with its own"
            )

    def _mark(self) -> str:
        return mark(self.tokenizer.config, self.tokenizer.state_dict())

    def views(self) -> dict[str, View]:
        """As the tokenizer wants it."""
        return self.tokenizer.views()

    def positions(self, width: int) -> Float[Tensor, "places width"]:
        """Vectors of rows and columns."""
        return grid_waves(self.tokenizer.patches.side, width)

    def within(self, box: Sequence[float]) -> Bool[Tensor, "places"]:
        """The places whose middle lies in a box: x1, y1, x2, y2, as shares of the sides.

        Raises:
            UserError: it is no box, or none lies in it, or all do.
        """
        side = self.tokenizer.patches.side
        middles = (torch.arange(side) + 0.5) / side
        column, row = (
            (low <= middles) & (middles < high) for low, high in zip(box[:2], box[2:], strict=False)
        )
        found = (row[:, None] & column).flatten()
        if not 0 < int(found.sum()) < len(found):
            raise UserError(
                f"keep: of '{self.field.name}', {int(found.sum())} of {len(found)} places lie in the "
                f"box {', '.join(f'{edge:g}' for edge in box)}; expected x1, y1, x2, y2 between 0 and 1, "
                "around some of them"
            )
        return found.to(self.mark.device)

    def read(self, batch: Batch) -> Words:
        """The codes."""
        return self.of_firsts(batch, self._tokens)

    @torch.no_grad()
    def _tokens(self, entries: Entries) -> Made:
        """In full precision, so that codes do not depend on that of the system."""
        with torch.autocast(entries.values.device.type, enabled=False):
            codes = self._codes(entries.values)
        return codes, torch.ones_like(codes, dtype=torch.bool)

    def _codes(self, values: Shaped[Tensor, "entries size size ..."]) -> Int[Tensor, "entries _"]:
        """From those that were kept, where there are any; the others are made now."""
        if self._known is None:
            return self.tokenizer.encode(values)
        found, there = self._known.find(digests_of(values))
        codes = torch.empty(len(values), self.length, dtype=torch.long)
        codes[there] = found.long()
        codes = codes.to(values.device)
        if not bool(there.all()):
            codes[~there] = self.tokenizer.encode(values[~there])
        return codes

    @cached_property
    def _known(self) -> KnownCodes | None:
        return None if self.coding is None else self.coding.known()

    @torch.no_grad()
    def restore(
        self, ids: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"]
    ) -> dict[str, Entries]:
        """The picture or map."""
        with torch.autocast(ids.device.type, enabled=False):
            return {self.field.name: one_each(self.tokenizer.decode(ids))}


class CategoryTokens(FieldTokens):
    """A token for a class; a class that no training row has is none."""

    def __init__(self, field: Field) -> None:
        super().__init__(field, 1, len(class_names(field)))

    def read(self, batch: Batch) -> Words:
        """The code of the class."""
        return self.of_firsts(batch, self._tokens)

    def _tokens(self, entries: Entries) -> Made:
        known = entries.values < self.vocabulary
        return entries.values.masked_fill(~known, 0)[:, None], known[:, None]

    def restore(
        self, ids: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"]
    ) -> dict[str, Entries]:
        """The class."""
        return {self.field.name: one_each(ids[:, 0])}


class NumberTokens(FieldTokens):
    """A token for the bin that a number falls into; bins are equally wide around the mean.

    Args:
        field: the number.
        bins: how many.
    """

    def __init__(self, field: Field, bins: int) -> None:
        super().__init__(field, 1, bins)
        self.mean, self.deviation = float(field.fitted["mean"]), float(field.fitted["std"])

    def read(self, batch: Batch) -> Words:
        """The bin."""
        return self.of_firsts(batch, self._tokens)

    def _tokens(self, entries: Entries) -> Made:
        away = (entries.values - self.mean) / self.deviation
        ids = in_bins((away / DEVIATIONS + 1) / 2, self.vocabulary)[:, None]
        return ids, torch.ones_like(ids, dtype=torch.bool)

    def restore(
        self, ids: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"]
    ) -> dict[str, Entries]:
        """The middle of the bin."""
        away = ((ids[:, 0] + 0.5) / self.vocabulary * 2 - 1) * DEVIATIONS
        return {self.field.name: one_each(self.mean + self.deviation * away)}


class TableTokens(FieldTokens):
    """A token for each cell of a row of a table: the class, or the bin of a number or date.

    Columns are places, and each has words of its own; empty cells are no tokens, and what no training row
    has is a class by itself.

    Args:
        field: the table.
        bins: into which a number or date may fall.

    Attributes:
        allowed: the words of each column.
    """

    allowed: Bool[Tensor, "columns vocabulary"]
    first: Int[Tensor, "columns"]

    def __init__(self, field: Field, bins: int) -> None:
        sizes = [number or bins for number in cardinalities(field)]
        super().__init__(field, len(sizes), sum(sizes))
        self.bins = bins
        first = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        words, last = torch.arange(self.vocabulary), first + torch.tensor(sizes)
        is_class = torch.tensor([number > 0 for number in cardinalities(field)])
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("is_class", is_class, persistent=False)
        allowed = (words >= first[:, None]) & (words < last[:, None])
        self.register_buffer("allowed", allowed, persistent=False)
        self.is_class: Tensor

    def read(self, batch: Batch) -> Words:
        """The cells that are filled."""
        return self.of_firsts(batch, self._tokens)

    def _tokens(self, entries: Entries) -> Made:
        assert entries.mask is not None
        binned = in_bins((entries.values / DEVIATIONS + 1) / 2, self.bins)
        ids = self.first + torch.where(self.is_class, entries.values.long(), binned)
        return ids.masked_fill(~entries.mask, 0), entries.mask

    def filled(self, filler: Filler, stream: int, known: Bool[Tensor, "batch length"]) -> Picked:
        """All cells of each row."""
        return filler.fill_grid(stream, ~known, self.allowed)

    def restore(
        self, ids: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"]
    ) -> dict[str, Entries]:
        """The row, with the middles of bins."""
        own = ids - self.first
        middles = ((own + 0.5) / self.bins * 2 - 1) * DEVIATIONS
        values = torch.where(self.is_class, own.float(), middles).masked_fill(~real, 0.0)
        return {self.field.name: one_each(values, real)}


def in_bins(shares: Float[Tensor, "*shape"], bins: int) -> Int[Tensor, "*shape"]:
    """The bins that numbers from 0 to 1 fall into; those beyond, into the outermost."""
    return (shares * bins).floor().long().clamp(0, bins - 1)
