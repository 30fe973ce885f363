"""Fields as tokens that follow one another, and back: words, and boxes.

The last token is the end. The vocabulary ends with sentinels, which stand for spans that were cut out.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.scalars import class_names
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.positions import waves
from sensorium.nn.regions import side_by_side
from sensorium.nn.token_generation import Filler
from sensorium.nn.token_streams import Picked, first_real
from sensorium.systems.masked.fourm_tokens import FieldTokens, Made, Words, in_bins, one_each
from sensorium.types import Batch, Entries, Field

CORNERS = 4


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
