"""Changes to the weights of a network that several share, kept beside it."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ALPHA = 16.0


class Deltas(nn.Module):
    """What one user of a shared network adds to its weights; at first nothing.

    A matrix gets the product of two narrow ones, `alpha / rank * up @ down` (LoRA; Hu et al., 2022,
    arXiv 2106.09685), or, like any other weight, a change of its own size. As the sums are made before
    the network runs, it computes no more than without them. `torch.func.functional_call` runs it.

    Args:
        shared: the network, which does not become a part of this module.
        low_rank: patterns of the names of its matrices that get the product.
        rank: of the product.
        whole: patterns of the names of weights that get a change of their own size.
    """

    def __init__(
        self, shared: nn.Module, low_rank: Sequence[str], rank: int, whole: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.scale = ALPHA / rank
        self.down, self.up, self.change = (nn.ParameterDict() for _ in range(3))
        for name, weight in shared.named_parameters():
            key = name.replace(".", "/")  # no name of a parameter may hold a dot
            if _fits(name, low_rank):
                self.down[key] = nn.Parameter(torch.empty(rank, weight.shape[1]))
                nn.init.kaiming_uniform_(self.down[key], a=math.sqrt(5))
                self.up[key] = nn.Parameter(torch.zeros(weight.shape[0], rank))
            elif _fits(name, whole):
                self.change[key] = nn.Parameter(torch.zeros_like(weight))

    def forward(self, shared: nn.Module) -> dict[str, Tensor]:
        """The changed weights of the network, by name."""
        weights = dict(shared.named_parameters())
        changed = {}
        for key, up in self.up.items():
            name = key.replace("/", ".")
            changed[name] = weights[name] + self.scale * (up @ self.down[key])
        for key, change in self.change.items():
            name = key.replace("/", ".")
            changed[name] = weights[name] + change
        return changed


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
