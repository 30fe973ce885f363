"""A stream of vectors with a mask and with integers that say what each vector is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Inserted:
    """Vectors of a field's entries, each to be put where a text has a placeholder for it.

    Attributes:
        modality: of the field.
        values: the vectors of each entry.
        mask: which of them are real; None if all are.
        row: the row of the batch each entry belongs to, ascending.
        item: its place among the entries of the row.
    """

    modality: str
    values: Float[Tensor, "entries length width"]
    mask: Bool[Tensor, "entries length"] | None
    row: Int[Tensor, "entries"]
    item: Int[Tensor, "entries"]


def splice(text: Tokens, words: Int[Tensor, "batch length"], streams: Sequence[Inserted]) -> Tokens:
    """Put each entry's vectors at its placeholder.

    The j-th placeholder of a stream in a row is that of its j-th entry. In a row that has no entry of
    a stream at all, its placeholders vanish. The vectors of an entry take over the ids of the
    placeholder, but for `modality` and `item`, and `part`, which is "media". Positions count anew.

    Args:
        text: vectors and ids of the words; what stands at a placeholder is not looked at.
        words: their numbers; that of a placeholder of the k-th stream is -1 - k.
        streams: what is put in.

    Raises:
        ValueError: a row has other numbers of placeholders and of entries.
    """
    real = text.mask
    size = (real & (words >= 0)).long()
    places = []
    for number, stream in enumerate(streams):
        is_place = (words == -1 - number) & real
        entries = torch.bincount(stream.row, minlength=len(words))
        is_place &= (entries > 0)[:, None]
        if bool((is_place.sum(1) != entries).any()):
            row = int((is_place.sum(1) != entries).nonzero()[0])
            raise ValueError(
                f"row {row} has {int(is_place[row].sum())} placeholders for {int(entries[row])} "
                f"entries of modality {stream.modality}"
            )
        lengths = _lengths(stream)
        size[is_place] = lengths
        places.append(is_place)
    ends = size.cumsum(1)
    start = ends - size
    total = int(size.sum(1).max()) if words.numel() else 0
    is_word = real & (words >= 0)
    rows, at = is_word.nonzero(as_tuple=True)
    values = text.values.new_zeros(len(words), total, text.values.shape[2])
    where = (rows, start[rows, at])
    values = values.index_put(where, text.values[rows, at])
    names = dict.fromkeys((*text.ids, "modality", "item", "part"))
    ids = {
        name: torch.zeros(values.shape[:2], dtype=torch.long, device=real.device) for name in names
    }
    for name in names:
        ids[name][where] = text.id(name)[rows, at]
    ids["modality"][where] = number_of("text")
    for stream, is_place in zip(streams, places, strict=True):
        rows, at = is_place.nonzero(as_tuple=True)
        lengths = _lengths(stream)
        entry = torch.repeat_interleave(torch.arange(len(rows), device=real.device), lengths)
        within = torch.arange(len(entry), device=real.device) - (lengths.cumsum(0) - lengths)[entry]
        where = (rows[entry], start[rows, at][entry] + within)
        kept = stream.values.flatten(0, 1) if stream.mask is None else stream.values[stream.mask]
        values = values.index_put(where, kept.to(values.dtype))
        for name in names:
            ids[name][where] = text.id(name)[rows, at][entry]
        ids["modality"][where] = number_of(stream.modality)
        ids["item"][where] = stream.item[entry]
        ids["part"][where] = number_of("media")
    place = torch.arange(total, device=real.device).expand(len(words), total)
    return Tokens(values, place < size.sum(1, keepdim=True), {**ids, "position": place})


def _lengths(stream: Inserted) -> Int[Tensor, "entries"]:
    if stream.mask is not None:
        return stream.mask.sum(1)
    return torch.full_like(stream.row, stream.values.shape[1])


def packed_rows(tokens: Tokens, capacity: int) -> tuple[Tokens, Int[Tensor, "batch tokens"]]:
    """Rows of a batch one behind another, so that little of what is computed is padding.

    Each row keeps its positions and gets an id `sample` of its own (from 1 on); under the rule `packed`
    rows do not see each other.

    Args:
        tokens: rows of any lengths.
        capacity: the longest packed row; a longer row stands alone.

    Returns:
        The packed rows, and for each token of the original its place among all of theirs, flattened
        (0 for padding).
    """
    lengths = tokens.mask.sum(1).tolist()
    room: list[int] = []
    target, offset = [0] * len(lengths), [0] * len(lengths)
    longest = max(capacity, *lengths) if lengths else capacity
    # first fit, the longest first: few bins, and the same for the same lengths
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        bin_number = next((b for b, used in enumerate(room) if used + lengths[row] <= longest), -1)
        if bin_number < 0:
            bin_number = len(room)
            room.append(0)
        target[row], offset[row] = bin_number, room[bin_number]
        room[bin_number] += lengths[row]
    device, width = tokens.mask.device, max(room, default=0)
    rows, at = tokens.mask.nonzero(as_tuple=True)
    within = tokens.mask.long().cumsum(1)[rows, at] - 1
    to_row = torch.tensor(target, device=device)[rows]
    to_place = torch.tensor(offset, device=device)[rows] + within
    values = tokens.values.new_zeros(len(room), width, tokens.values.shape[2])
    values = values.index_put((to_row, to_place), tokens.values[rows, at])
    mask = torch.zeros(len(room), width, dtype=torch.bool, device=device)
    mask[to_row, to_place] = True
    ids = {}
    for name in (*tokens.ids, "sample"):
        ids[name] = torch.zeros(mask.shape, dtype=torch.long, device=device)
        ids[name][to_row, to_place] = rows + 1 if name == "sample" else tokens.id(name)[rows, at]
    places = torch.zeros(tokens.mask.shape, dtype=torch.long, device=device)
    places[rows, at] = to_row * width + to_place
    return Tokens(values, mask, ids), places
