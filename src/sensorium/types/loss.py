"""A loss that knows over how many items it is a mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """Losses of items and the number they are divided by.

    The trainer divides the sum by the count summed over micro-batches and processes. So the step is
    the same whether a batch is computed at once, in parts, or on several processes, also when the
    parts hold different numbers of masked words.

    Attributes:
        per_item: the loss of each item that counts; empty when none does.
        count: the divisor this part of the batch contributes; usually `len(per_item)`.
        weight: the factor of this loss in the objective.
    """

    per_item: Float[Tensor, "items"]
    count: Float[Tensor, ""]
    weight: float = 1.0

    @classmethod
    def mean(cls, per_item: Float[Tensor, "items"], weight: float = 1.0) -> Loss:
        """A loss that is the mean over its items."""
        return cls(per_item, per_item.new_tensor(float(per_item.numel())), weight)

    @property
    def value(self) -> Float[Tensor, ""]:
        """The loss of this part alone: sum over items, divided by the count (0 if there is none)."""
        return self.per_item.sum() / self.count.clamp(min=torch.finfo(self.count.dtype).tiny)
