"""Rows on their way to a system: a decoded sample, and a batch of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from sensorium.types import draws
from sensorium.types.errors import UserError
from sensorium.types.names import did_you_mean

Draw = Callable[[str, int], Tensor]
"""From a purpose and a number to that many uniform numbers in [0, 1) for each row: `Batch.uniform`."""


@dataclass
class Sample:
    """One decoded row.

    Attributes:
        key: the name of the row, for messages and results.
        index: its number in the data set, which keys its random draws.
        values: for each field that is present, its decoded entries: one, or several images or boxes.
    """

    key: str
    index: int
    values: dict[str, list[Any]]


@dataclass(frozen=True)
class Fault:
    """A row that was set aside, and why.

    Attributes:
        key: the name of the row.
        field: whose value cannot be used; empty if it is the row as a whole.
        reason: why, with the value.
        kind: why, without anything of the row.
        row: its number in the data, if it is one of their rows.
    """

    key: str
    field: str
    reason: str
    kind: str = "cannot be used"
    row: int | None = None

    def without_content(self) -> Fault:
        """The same with nothing in it that stands in the row."""
        key = "" if self.row is None else str(self.row)
        return replace(self, key=key, reason=self.kind)


@dataclass(frozen=True)
class Entries:
    """One field of a batch, stored flat: only what is there, and which row it belongs to.

    A row without the field has no entries; a row with three images has three. So absent values cost
    nothing and cannot be mistaken for zeros.

    Attributes:
        values: the entries, padded to one shape where they are sequences.
        row: the row of the batch each entry belongs to, ascending.
        item: the place of the entry within its row: 0 for the first image, 1 for the second.
        mask: for sequences, which positions are real; for tables, which cells are filled.
        embedded: whether the values are the vectors that an encoder has made of the entries.
    """

    values: Shaped[Tensor, "entries ..."]
    row: Int[Tensor, "entries"]
    item: Int[Tensor, "entries"]
    mask: Bool[Tensor, "entries length"] | None = None
    embedded: bool = False

    def __len__(self) -> int:
        return int(self.row.numel())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Entries:
        """A copy on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return self._each(move)

    def counts(self, size: int) -> Int[Tensor, "batch"]:
        """How many entries each of `size` rows has."""
        return torch.bincount(self.row, minlength=size)

    def present(self, size: int) -> Bool[Tensor, "batch"]:
        """Which of `size` rows have at least one entry."""
        return self.counts(size) > 0

    def take(self, rows: Int[Tensor, "taken"], size: int) -> Entries:
        """The entries of the named rows of `size`, in that order; a row may be named repeatedly."""
        counts = self.counts(size)
        starts = counts.cumsum(0) - counts
        taken = counts[rows]
        row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), taken)
        within = torch.arange(len(row), device=rows.device) - (taken.cumsum(0) - taken)[row]
        at = starts[rows][row] + within
        return replace(self._each(lambda tensor: tensor[at]), row=row)

    def keep(self, rows: Bool[Tensor, "batch"]) -> Entries:
        """The entries of the rows that are marked; the others become rows without the field."""
        kept = rows[self.row]
        return self._each(lambda tensor: tensor[kept])

    def pin_memory(self) -> Entries:
        """A copy in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Entries:
        mask = None if self.mask is None else change(self.mask)
        return Entries(
            change(self.values), change(self.row), change(self.item), mask, self.embedded
        )

    def first(self, size: int) -> tuple[Shaped[Tensor, "batch ..."], Bool[Tensor, "batch"]]:
        """The first entry of each row (zeros where there is none), and where there is one."""
        firsts = self.firsts(size)
        values = self.values.new_zeros((size, *self.values.shape[1:]))
        values[firsts.row] = firsts.values
        return values, self.present(size)

    def firsts(self, size: int) -> Entries:
        """The first entry of each of `size` rows that has one."""
        counts = self.counts(size)
        starts = (counts.cumsum(0) - counts)[counts > 0]
        return self._each(lambda tensor: tensor[starts])


@dataclass(frozen=True)
class Batch:
    """Rows side by side.

    Attributes:
        fields: the entries of each field; a field that is absent in every row may be missing.
        keys: the names of the rows.
        index: their numbers in the data set.
        seed: what random draws of this step depend on, beside the rows.
        faults: rows that should be here and were set aside.
    """

    fields: Mapping[str, Entries]
    keys: Sequence[str]
    index: Int[Tensor, "batch"]
    seed: int = 0
    faults: tuple[Fault, ...] = ()

    @property
    def size(self) -> int:
        """The number of rows."""
        return len(self.keys)

    @property
    def device(self) -> torch.device:
        """Where the entries are."""
        return self.index.device

    def __getitem__(self, name: str) -> Entries:
        try:
            return self.fields[name]
        except KeyError:
            raise UserError(
                f"no row of this batch has the field '{name}'. {did_you_mean(name, self.fields)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """A copy on another device."""
        fields = {name: entries.to(device, non_blocking) for name, entries in self.fields.items()}
        return replace(self, fields=fields, index=self.index.to(device))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, for the loader."""
        fields = {name: entries.pin_memory() for name, entries in self.fields.items()}
        return replace(self, fields=fields)

    def present(self, name: str) -> Bool[Tensor, "batch"]:
        """Which rows have the field."""
        if name not in self.fields:
            return torch.zeros(self.size, dtype=torch.bool, device=self.device)
        return self.fields[name].present(self.size)

    def with_fields(self, **fields: Entries) -> Batch:
        """A copy in which some fields are exchanged."""
        return replace(self, fields={**self.fields, **fields})

    def without(self, *names: str) -> Batch:
        """A copy in which some fields are absent in every row."""
        return replace(
            self, fields={name: e for name, e in self.fields.items() if name not in names}
        )

    def take(self, rows: Int[Tensor, "taken"]) -> Batch:
        """The named rows, in that order; a row may be named repeatedly."""
        fields = {name: entries.take(rows, self.size) for name, entries in self.fields.items()}
        keys = [self.keys[row] for row in rows.tolist()]
        return replace(self, fields=fields, keys=keys, index=self.index[rows])

    def joined(self, other: Batch) -> Batch:
        """Rows of two batches as one: the fields of `self`, with those of `other` put in.

        Both must have the same number of rows; where both have a field, `other`'s counts. This is
        how a picture of one row meets the caption of another.
        """
        if self.size != other.size:
            raise ValueError(f"{self.size} rows cannot be joined with {other.size}")
        return replace(self, fields={**self.fields, **other.fields})

    def only(self, *names: str) -> Batch:
        """A copy with just these fields."""
        return replace(self, fields={name: e for name, e in self.fields.items() if name in names})

    def exchanged(self, *names: str) -> Batch:
        """A copy in which each row has some fields of another row, drawn by seed and rows."""
        order = self.uniform("exchanged", 1).squeeze(1).argsort()
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)
        return self.without(*names).joined(self.take(partner).only(*names))

    def drawn(self, name: str) -> Batch:
        """A copy with one of the entries of a field in each row, drawn by seed and row."""
        entries = self[name]
        counts = entries.counts(self.size)
        place = (self.uniform(f"entry of {name}", 1).squeeze(1) * counts).long()
        at = (counts.cumsum(0) - counts + place)[counts > 0]
        return self.with_fields(**{name: entries._each(lambda tensor: tensor[at])})

    def uniform(self, purpose: str, count: int) -> Float[Tensor, "batch count"]:
        """Numbers in [0, 1) that depend on the seed, the row and the purpose alone.

        The same row gets the same numbers in whatever batch, micro-batch or process it is.
        """
        index = self.index.cpu().numpy()[:, None]
        numbers = draws.uniform(purpose, self.seed, index, torch.arange(count).numpy()[None])
        return torch.from_numpy(numbers).to(self.device, torch.float32)


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Batches one after another, as one batch."""
    names = list(dict.fromkeys(name for batch in batches for name in batch))
    fields = {}
    for name in names:
        offset, parts = 0, []
        for batch in batches:
            if name in batch:
                entries = batch[name]
                parts.append(replace(entries, row=entries.row + offset))
            offset += batch.size
        fields[name] = _stack(parts)
    return replace(
        batches[0],
        fields=fields,
        keys=[key for batch in batches for key in batch.keys],
        index=torch.cat([batch.index for batch in batches]),
    )


def _stack(parts: Sequence[Entries]) -> Entries:
    masks = [part.mask for part in parts if part.mask is not None]
    values = [part.values for part in parts]
    if masks and len({value.shape[1] for value in values}) > 1:
        length = max(value.shape[1] for value in values)
        values = [_pad(value, length) for value in values]
        masks = [_pad(mask, length) for mask in masks]
    return Entries(
        torch.cat(values),
        torch.cat([part.row for part in parts]),
        torch.cat([part.item for part in parts]),
        torch.cat(masks) if masks else None,
        parts[0].embedded,
    )


def _pad(value: Tensor, length: int) -> Tensor:
    missing = value.new_zeros((value.shape[0], length - value.shape[1], *value.shape[2:]))
    return torch.cat([value, missing], dim=1)
