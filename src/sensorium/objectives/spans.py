"""Sequences with spans cut out: what is left is read, what was cut out is to be said (T5, 2020).

    a b c d e f g      cut out: b c, f
    a S0 d e S1 g      is read: a sentinel stands for each span
    S0 b c S1 f S2     is said: each span behind its sentinel, and a sentinel that closes

All draws are uniform numbers of rows, so that a row is cut alike in whatever batch it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from sensorium.nn.token_streams import first_real
from sensorium.objectives.masked import below
from sensorium.types import Draw

SHORTER = 0.9
"""By how much less is kept each time, of rows of which too much is left."""

MOST_TRIES = 200


class Cut(NamedTuple):
    """Sequences of which spans were cut out.

    Attributes:
        read: what is left, with sentinels; `read_mask`, which are no padding.
        said: the spans, with sentinels; `said_mask`, which are no padding.
    """

    read: Int[Tensor, "batch read"]
    read_mask: Bool[Tensor, "batch read"]
    said: Int[Tensor, "batch said"]
    said_mask: Bool[Tensor, "batch said"]


def cut_spans(
    ids: Int[Tensor, "batch length"],
    real: Bool[Tensor, "batch length"],
    kept: Bool[Tensor, "batch length"],
    sentinel: int,
) -> Cut:
    """Cut out what is not kept.

    Args:
        ids: of the words.
        real: which are no padding.
        kept: which stay.
        sentinel: the id of the first sentinel; others follow it.
    """
    cut = real & ~kept
    starts = cut & ~F.pad(cut, (1, 0))[:, :-1]
    number = starts.long().cumsum(1) - 1  # of the span that a word lies in
    read, read_mask = close_up(torch.where(starts, sentinel + number, ids), starts | (real & kept))
    # a word stands behind all words cut out before it and the sentinels up to its own
    before = cut.long().cumsum(1) - 1
    length = int((cut.sum(1) + starts.sum(1)).amax()) + 1 if len(ids) else 1
    said = ids.new_zeros(len(ids), length + 1)  # the last place takes what is not written
    nowhere = torch.full_like(ids, length)
    said.scatter_(1, torch.where(cut, before + number + 1, nowhere), ids)
    said.scatter_(1, torch.where(starts, before + number, nowhere), sentinel + number)
    spans, total = starts.sum(1, keepdim=True), cut.sum(1, keepdim=True)
    said.scatter_(1, total + spans, sentinel + spans)
    place = torch.arange(length, device=ids.device)
    return Cut(read, read_mask, said[:, :length], place <= total + spans)


def draw_spans(
    ids: Int[Tensor, "batch length"],
    real: Bool[Tensor, "batch length"],
    draw: Draw,
    sentinel: int,
    most_read: Int[Tensor, "batch"],
    most_said: Int[Tensor, "batch"],
    chunks: Int[Tensor, "batch length"] | None = None,
) -> Cut:
    """Keep each word with a chance that is drawn for the row, within the budgets of both sides.

    Where too much is left, less is kept and drawn anew; where too much would be said, it begins with a
    span that is drawn (never with the closing sentinel), or one before it if more fits, and ends where
    the budget does. A row that may read nothing keeps nothing, and has no sentinel either (4M, official
    code).

    Args:
        ids: of the words.
        real: which are no padding.
        draw: the random numbers of the rows.
        sentinel: the id of the first sentinel.
        most_read: how many words and sentinels each row may read.
        most_said: how many it may say.
        chunks: words of the same number stay or go together; None if each is one by itself.
    """
    chance = draw("kept", 1)
    kept = torch.zeros_like(real)
    waiting = most_read > 0
    for attempt in range(MOST_TRIES):
        drawn = draw(f"kept, try {attempt}", ids.shape[1])
        drawn = drawn if chunks is None else drawn.gather(1, chunks)
        kept = torch.where(waiting[:, None], (drawn < chance) & real, kept)
        cut = real & ~kept
        starts = cut & ~F.pad(cut, (1, 0))[:, :-1]
        waiting = waiting & (kept.sum(1) + starts.sum(1) > most_read)
        if not bool(waiting.any()):
            break
        chance = torch.where(waiting[:, None], SHORTER * chance, chance)
    kept = kept & ~waiting[:, None]
    found = cut_spans(ids, real, kept, sentinel)
    read_mask = found.read_mask & (most_read > 0)[:, None]
    return Cut(found.read, read_mask, *_within(found, draw, sentinel, most_said))


def _within(
    found: Cut, draw: Draw, sentinel: int, most: Int[Tensor, "batch"]
) -> tuple[Int[Tensor, "batch said"], Bool[Tensor, "batch said"]]:
    """What is said, from some sentinel on where it is too much."""
    said, mask = found.said, found.said_mask
    length, steps = mask.sum(1), torch.arange(said.shape[1], device=said.device)
    is_start = (said >= sentinel) & mask & (steps < length[:, None] - 1)
    number = is_start.sum(1)
    chosen = below(draw("first said", 1).squeeze(1), number)
    rank = is_start.long().cumsum(1) - 1
    at = (is_start & (rank == chosen[:, None])).long().argmax(1)
    fits = is_start & (length[:, None] - steps <= most[:, None])
    earliest = torch.where(fits.any(1), fits.long().argmax(1), said.shape[1])
    first = torch.where((length > most) & (number > 0), torch.minimum(at, earliest), 0)
    shifted = said.gather(1, (first[:, None] + steps).clamp(max=said.shape[1] - 1))
    return shifted, steps < torch.minimum(length - first, most)[:, None]


def close_up(
    ids: Int[Tensor, "batch length"], there: Bool[Tensor, "batch length"]
) -> tuple[Int[Tensor, "batch left"], Bool[Tensor, "batch left"]]:
    """The words that are there, one behind another."""
    order = first_real(there, int(there.sum(1).amax()) if len(ids) else 0)
    return ids.gather(1, order), there.gather(1, order)
