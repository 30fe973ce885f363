"""A stream of vectors with a mask and with integers that say what each vector is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from sensorium.types.names import number_of

ID_NAMES = ("modality", "item", "frame", "turn", "part", "sample", "position")


@dataclass(frozen=True)
class Tokens:
    """Vectors of one or several streams, side by side for each row of a batch.

    Attributes:
        values: the vectors.
        mask: which of them are real.
        ids: by name, what each vector is. `modality` is `number_of(name)`, `item` the place of its
            picture or box in the row, `position` its place in its own stream, whatever is beside it.
            An id that nobody set reads as 0.
        place: vectors that a system adds again in every layer, if it does so.
        lengths: the lengths of the streams that `cat` joined, so that `split` undoes it.
    """

    values: Float[Tensor, "batch tokens width"]
    mask: Bool[Tensor, "batch tokens"]
    ids: Mapping[str, Int[Tensor, "batch tokens"]] = field(default_factory=dict)
    place: Float[Tensor, "batch tokens width"] | None = None
    lengths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.values.shape[1]

    def id(self, name: str) -> Int[Tensor, "batch tokens"]:
        """One kind of id, zeros if nobody set it."""
        if name in self.ids:
            return self.ids[name]
        return torch.zeros(self.mask.shape, dtype=torch.long, device=self.mask.device)

    def replace(self, **changes: object) -> Tokens:
        """A copy with changes."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def with_values(self, values: Float[Tensor, "batch tokens width"]) -> Tokens:
        """The same stream with other vectors."""
        return replace(self, values=values)

    def narrow(self, start: int, length: int) -> Tokens:
        """A part of the stream."""
        part = slice(start, start + length)
        return Tokens(
            self.values[:, part],
            self.mask[:, part],
            {name: ids[:, part] for name, ids in self.ids.items()},
            None if self.place is None else self.place[:, part],
        )

    def split(self) -> tuple[Tokens, ...]:
        """The streams that `cat` joined."""
        starts = [sum(self.lengths[:i]) for i in range(len(self.lengths))]
        return tuple(self.narrow(a, n) for a, n in zip(starts, self.lengths, strict=True))

    def mean(self) -> Float[Tensor, "batch width"]:
        """The mean over real vectors (zeros for a row without any)."""
        weight = self.mask.to(self.values.dtype).unsqueeze(-1)
        return (self.values * weight).sum(1) / weight.sum(1).clamp(min=1)

    def first(self) -> Float[Tensor, "batch width"]:
        """The first vector of each row."""
        return self.values[:, 0]


def cat(*streams: Tokens) -> Tokens:
    """Streams one after another; `split` undoes it."""
    names = dict.fromkeys(name for stream in streams for name in stream.ids)
    places = [stream.place for stream in streams]
    place = None
    if any(p is not None for p in places):
        place = torch.cat(
            [s.values.new_zeros(s.values.shape) if s.place is None else s.place for s in streams], 1
        )
    return Tokens(
        torch.cat([stream.values for stream in streams], 1),
        torch.cat([stream.mask for stream in streams], 1),
        {name: torch.cat([stream.id(name) for stream in streams], 1) for name in names},
        place,
        tuple(len(stream) for stream in streams),
    )


def pack(
    values: Shaped[Tensor, "entries length width"],
    mask: Bool[Tensor, "entries length"] | None,
    row: Int[Tensor, "entries"],
    item: Int[Tensor, "entries"],
    size: int,
    modality: str,
) -> Tokens:
    """The sequences of a field's entries, laid side by side for each of `size` rows.

    A row with two pictures gets the tokens of both, one after another without gaps; a row with none
    gets a mask of zeros.
    """
    entries, length = values.shape[:2]
    if mask is None:
        mask = torch.ones(entries, length, dtype=torch.bool, device=values.device)
    if entries == size and bool((row == torch.arange(size, device=row.device)).all()):
        position = torch.arange(length, device=row.device).expand(size, length)
        items = item[:, None].expand(size, length)
        return Tokens(values, mask, _ids(items, position, modality))
    lengths = mask.sum(1)
    per_row = torch.zeros(size, dtype=torch.long, device=row.device).index_add_(0, row, lengths)
    width = int(per_row.max()) if entries else 0
    before = lengths.cumsum(0) - lengths
    row_start = per_row.cumsum(0) - per_row
    offset = before - row_start[row]
    at = offset[:, None] + mask.long().cumsum(1) - 1
    where = (row[:, None].expand(entries, length)[mask], at[mask])
    out = values.new_zeros((size, width, *values.shape[2:]))
    out[where] = values[mask]
    real = torch.zeros(size, width, dtype=torch.bool, device=values.device)
    real[where] = True
    items = torch.zeros(size, width, dtype=torch.long, device=values.device)
    items[where] = item[:, None].expand(entries, length)[mask]
    position = torch.arange(width, device=row.device).expand(size, width)
    return Tokens(out, real, _ids(items, position, modality))


def _ids(item: Tensor, position: Tensor, modality: str) -> dict[str, Tensor]:
    return {
        "modality": torch.full_like(position, number_of(modality)),
        "item": item,
        "position": position,
    }
