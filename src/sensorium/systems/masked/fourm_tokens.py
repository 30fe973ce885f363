"""Fields as tokens, and tokens as fields: codes of patches, words, boxes, classes and numbers.

A token is a number in the vocabulary of its field. Tokens of grids have places of their own; those of
sequences follow one another, and the last is the end. The vocabulary of a sequence ends with sentinels,
which stand for spans that were cut out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.scalars import class_names
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.positions import grid_waves, waves
from sensorium.nn.regions import side_by_side
from sensorium.nn.token_generation import Filler
from sensorium.nn.token_streams import Picked, first_real
from sensorium.systems.baselines.patch_tokenizer import PatchTokenizer
from sensorium.systems.masked.fourm_codes import Coding, as_bytes, mark
from sensorium.types import Batch, Entries, Field, Schema, UserError

CORNERS = 4
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

    def read(self, batch: Batch) -> Words:
        """The codes."""
        return self.of_firsts(batch, self._tokens)

    @torch.no_grad()
    def _tokens(self, entries: Entries) -> Made:
        """In full precision, so that codes do not depend on that of the system."""
        with torch.autocast(entries.values.device.type, enabled=False):
            codes = self.tokenizer.encode(entries.values)
        return codes, torch.ones_like(codes, dtype=torch.bool)

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


class SequenceTokens(FieldTokens):
    """Tokens that follow one another.

    Args:
        field: which field.
        length: the largest number of tokens, with the end.
        end: which of them ends a sequence.
        allowed: which words may stand at each place of a pattern that repeats.

    Attributes:
        sentinel: the first of the sentinels, which follow the words.
        allowed: as given; a sentinel may stand nowhere.
    """

    is_sequence = True
    allowed: Bool[Tensor, "period vocabulary"]

    def __init__(
        self, field: Field, length: int, end: int, allowed: Bool[Tensor, "period words"]
    ) -> None:
        # as many as spans that could be cut out, and the one that closes
        sentinels, words = (length + 1) // 2 + 1, allowed.shape[1]
        super().__init__(field, length, words + sentinels)
        self.sentinel, self.end = words, end
        self.register_buffer("allowed", F.pad(allowed, (0, sentinels)), persistent=False)

    def filled(self, filler: Filler, stream: int, known: Bool[Tensor, "batch length"]) -> Picked:
        """A sequence for each row; one that is not known is written by a model."""
        return filler.write_sequence(
            stream,
            ~known.any(1),
            sentinel=self.sentinel,
            end=self.end,
            allowed=self.allowed,
        )

    def positions(self, width: int) -> Float[Tensor, "places width"]:
        """Of as many places as words and sentinels may take."""
        return waves(torch.arange(2 * self.length + 2).float(), width)

    def ended(
        self, ids: Int[Tensor, "rows length"], number: Int[Tensor, "rows"]
    ) -> tuple[Int[Tensor, "rows length"], Bool[Tensor, "rows length"]]:
        """The end behind so many words of each row."""
        place = torch.arange(self.length, device=ids.device)
        ids = torch.where(place < number[:, None], ids, self.end)
        return ids.masked_fill(place > number[:, None], 0), place <= number[:, None]


class TextTokens(SequenceTokens):
    """Words of a text.

    Args:
        field: the text.
        tokenizer: of its words.
        length: the largest number of tokens.
    """

    def __init__(self, field: Field, tokenizer: Tokenizer, length: int) -> None:
        allowed = torch.ones(1, tokenizer.size, dtype=torch.bool)
        allowed[:, list(tokenizer.special_ids)] = False
        allowed[:, tokenizer.sep_id] = True
        super().__init__(field, length, tokenizer.sep_id, allowed)
        self.tokenizer = tokenizer
        self.specials = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
        first, _ = tokenizer.encode(["a"], length + 2)
        self.begins = bool(first[0, 0] == tokenizer.cls_id)

    def views(self) -> dict[str, View]:
        """With the special tokens around it, in whose place the end comes."""
        return {self.field.name: TextView(tokenizer=self.tokenizer, max_tokens=self.length + 1)}

    def read(self, batch: Batch) -> Words:
        """Its words, and the end."""
        return self.of_firsts(batch, self._tokens)

    def _tokens(self, entries: Entries) -> Made:
        assert entries.mask is not None
        plain = entries.mask & ~torch.isin(entries.values, entries.values.new_tensor(self.specials))
        order = first_real(plain, self.length)
        ids = F.pad(entries.values.gather(1, order), (0, self.length - order.shape[1]))
        return self.ended(ids, plain.sum(1).clamp(max=self.length - 1))

    def restore(
        self, ids: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"]
    ) -> dict[str, Entries]:
        """The text, as the tokenizer gives it."""
        number = (real & (ids != self.end)).sum(1)
        words, mask = self.ended(ids, number.clamp(max=self.length - 1))
        words = words.masked_fill(~mask, self.tokenizer.pad_id)
        if self.begins:
            words = F.pad(words, (1, 0), value=self.tokenizer.cls_id)
            mask = F.pad(mask, (1, 0), value=True)
        return {self.field.name: one_each(words, mask)}


class BoxTokens(SequenceTokens):
    """Four corners of each box and its class, in the order of the row.

    Args:
        field: the boxes.
        classes: of the boxes; None if they have none.
        bins: into which a corner may fall; each of the four has tokens of its own.
        most: boxes of a row; those after are left out.
    """

    def __init__(self, field: Field, classes: Field | None, bins: int, most: int) -> None:
        # the last class is that of boxes whose own is not known; behind it stands the end
        num_classes = 0 if classes is None else len(class_names(classes)) + 1
        first, period = num_classes + 1, CORNERS + (classes is not None)
        allowed = torch.zeros(period, first + CORNERS * bins, dtype=torch.bool)
        for corner in range(CORNERS):
            allowed[corner, first + corner * bins : first + (corner + 1) * bins] = True
        allowed[0, num_classes] = True  # where a box could begin
        allowed[CORNERS:, :num_classes] = True
        super().__init__(field, most * period + 1, num_classes, allowed)
        self.classes, self.bins, self.most, self.period = classes, bins, most, period
        corners = torch.arange(CORNERS) * bins + first
        self.register_buffer("corners", corners, persistent=False)
        self.corners: Tensor

    def views(self) -> dict[str, View]:
        """Of the boxes, and of their classes."""
        fields = [self.field] if self.classes is None else [self.field, self.classes]
        return {field.name: get_modality(field.modality).View() for field in fields}

    def read(self, batch: Batch) -> Words:
        """All boxes of a row."""
        place = torch.arange(self.length, device=batch.device)
        chunks = (place // self.period).expand(batch.size, -1)
        ids = torch.zeros_like(chunks)
        if self.field.name not in batch:
            return Words(ids, ids > 0, chunks)
        boxes, there = side_by_side(batch[self.field.name], batch.size, self.most)
        words = in_bins(boxes, self.bins) + self.corners
        if self.classes is not None:
            classes = torch.full_like(words[..., :1], self.end - 1)
            if self.classes.name in batch:
                found, known = side_by_side(batch[self.classes.name], batch.size, self.most)
                classes = torch.where(known[..., None], found[..., None], classes)
            words = torch.cat([words, classes], 2)
        ids, real = self.ended(F.pad(words.flatten(1), (0, 1)), there.sum(1) * self.period)
        return Words(ids, real & there.any(1)[:, None], chunks)

    def restore(
        self, ids: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"]
    ) -> dict[str, Entries]:
        """The boxes that are whole, and their classes."""
        words = ids[:, :-1].reshape(-1, self.most, self.period)
        whole = (real & (ids != self.end))[:, :-1].reshape(words.shape).all(2)
        row = whole.nonzero()[:, 0]
        item = (whole.long().cumsum(1) - 1)[whole]
        one, other = (words[whole][:, :CORNERS] - self.corners).reshape(-1, 2, 2).unbind(1)
        low, high = torch.minimum(one, other), torch.maximum(one, other)
        # of corners in one bin, its edges, so that no box is without area
        apart = 0.5 * (low == high)
        boxes = torch.cat([low + 0.5 - apart, high + 0.5 + apart], 1) / self.bins
        found = {self.field.name: Entries(boxes, row, item)}
        if self.classes is not None:
            found[self.classes.name] = Entries(words[whole][:, CORNERS], row, item)
        return found


def in_bins(shares: Float[Tensor, "*shape"], bins: int) -> Int[Tensor, "*shape"]:
    """The bins that numbers from 0 to 1 fall into; those beyond, into the outermost."""
    return (shares * bins).floor().long().clamp(0, bins - 1)
