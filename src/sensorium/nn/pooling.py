"""From the vectors of a sequence to one."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Pooling = Literal["mean", "max", "first", "last"]


def pool(
    values: Float[Tensor, "entries tokens width"],
    mask: Bool[Tensor, "entries tokens"] | None,
    how: Pooling,
) -> Float[Tensor, "entries width"]:
    """One vector for each sequence.

    Args:
        values: the vectors.
        mask: which are real; all if None.
        how: the `mean` of the real ones, the `max` of each of their dimensions (zeros if there
            are none), the `first` (a class token), or the `last` real one (the end-of-text token
            of CLIP).
    """
    if how in ("first", "last"):
        return at_place(values, end_place(values, mask, how))
    if how == "max":
        if mask is None:
            return values.amax(1)
        largest = values.masked_fill(~mask.unsqueeze(2), -torch.inf).amax(1)
        return largest.masked_fill(~mask.any(1, keepdim=True), 0.0)
    if mask is None:
        return values.mean(1)
    weight = mask.to(values.dtype)
    total = torch.einsum("mnw,mn->mw", values, weight)
    return total / weight.sum(1, keepdim=True).clamp(min=1)


def end_place(
    values: Float[Tensor, "entries tokens width"],
    mask: Bool[Tensor, "entries tokens"] | None,
    how: Literal["first", "last"],
) -> Int[Tensor, "entries"]:
    """The place of each sequence's first vector, or of its last real one."""
    if how == "first":
        return torch.zeros(len(values), dtype=torch.long, device=values.device)
    place = torch.arange(values.shape[1], device=values.device).expand(values.shape[:2])
    return (place if mask is None else place * mask).amax(1)


def at_place(
    values: Shaped[Tensor, "entries tokens width"], place: Int[Tensor, "entries"]
) -> Shaped[Tensor, "entries width"]:
    """The vector at one place of each sequence."""
    return values[torch.arange(len(values), device=values.device), place]
