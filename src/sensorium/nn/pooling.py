"""From the vectors of a sequence to one."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
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
    if how == "first":
        return values[:, 0]
    if how == "max":
        if mask is None:
            return values.amax(1)
        largest = values.masked_fill(~mask.unsqueeze(2), -torch.inf).amax(1)
        return largest.masked_fill(~mask.any(1, keepdim=True), 0.0)
    if mask is None:
        return values[:, -1] if how == "last" else values.mean(1)
    if how == "last":
        place = torch.arange(mask.shape[1], device=mask.device)
        last = (place * mask).amax(1)
        return values[torch.arange(len(values), device=values.device), last]
    weight = mask.to(values.dtype)
    total = torch.einsum("mnw,mn->mw", values, weight)
    return total / weight.sum(1, keepdim=True).clamp(min=1)
