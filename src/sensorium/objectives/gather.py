"""Rows of all processes, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def gather_rows(x: Shaped[Tensor, "rows ..."]) -> tuple[Shaped[Tensor, "all_rows ..."], int]:
    """The rows of all processes in the order of their ranks, and where the own ones begin.

    Processes may hold different numbers of rows, none included. The gradient of a row is the sum of
    what all processes have for it, so the sum of the processes' losses has the gradient that one
    process with all the rows would compute. Every process must call this, and backward through it.

    With one process it gives `x` itself.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return x, 0
    count = torch.tensor([len(x)], device=x.device)
    counts = [torch.zeros_like(count) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, count)
    sizes = [int(size) for size in torch.cat(counts).tolist()]
    first = sum(sizes[: distributed.get_rank()])
    gathered: Tensor = _Gather.apply(x, sizes)  # type: ignore[no-untyped-call]
    return gathered, first


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        start = sum(ctx.sizes[: distributed.get_rank()])
        return total[start : start + ctx.sizes[distributed.get_rank()]], None
