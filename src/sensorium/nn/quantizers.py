"""From vectors to codes and back: finite scalars, and a codebook that follows what it is given."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Summed = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Sums of tensors over processes."""


class Quantized(NamedTuple):
    """Vectors as codes.

    Attributes:
        values: of the codes; gradients pass as if nothing had been rounded.
        codes: their numbers.
        commitment: how far each vector was from its code, squared; 0 where nothing pulls them together.
    """

    values: Float[Tensor, "*shape width"]
    codes: Int[Tensor, "*shape"]
    commitment: Float[Tensor, "*shape"]


class Quantizer(nn.Module, ABC):
    """A finite number of vectors.

    Attributes:
        width: of the vectors.
        num_codes: how many there are.
    """

    width: int
    num_codes: int

    @abstractmethod
    def forward(self, x: Float[Tensor, "*shape width"]) -> Quantized:
        """The code of each vector."""

    @abstractmethod
    def decode(self, codes: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        """The vectors of codes."""

    def after_step(self, summed: Summed) -> None:
        """What changes beside the optimizer, after a step."""
        return


class FiniteScalar(Quantizer):
    """Each channel is rounded to a few levels (Mentzer et al., 2023, arXiv 2309.15505).

    No codebook is learned, so none of its codes can die.

    Args:
        levels: of each channel; their product is the number of codes.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels {tuple(levels)}: expected two or more for each channel")
        self.width, self.num_codes = len(levels), math.prod(levels)
        basis = [math.prod(levels[:place]) for place in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def forward(self, x: Float[Tensor, "*shape width"]) -> Quantized:
        """Bounded by a hyperbolic tangent, and rounded."""
        levels = self.levels.to(torch.float32)
        # an even number of levels has none at zero
        half, offset = (levels - 1) * 1.001 / 2, (1 - levels % 2) / 2
        bounded = (x.float() + (offset / half).atanh()).tanh() * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        whole = rounded.detach().round().long() + self.levels // 2
        values = (rounded / (self.levels // 2)).to(x.dtype)
        return Quantized(values, (whole * self.basis).sum(-1), x.new_zeros(x.shape[:-1]))

    def decode(self, codes: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        """Numbers between -1 and 1."""
        half = self.levels // 2
        return (codes[..., None] // self.basis % self.levels - half) / half


class Codebook(Quantizer):
    """The nearest of learned unit vectors (VQ-VAE with running means; Van den Oord et al., 2017).

    Vectors and codes have length 1. A code is the running mean of the vectors it stands for; one that is
    hardly used takes the place of a vector of the step (Dhariwal et al., 2020, arXiv 2005.00341).

    Args:
        width: of the vectors.
        num_codes: how many.
        decay: of the running means.
        least: a code whose running number of vectors in a step is below is given a new place.
    """

    codes: Tensor
    counts: Tensor

    def __init__(
        self, width: int, num_codes: int, decay: float = 0.99, least: float = 0.05
    ) -> None:
        super().__init__()
        self.width, self.num_codes = width, num_codes
        self.decay, self.least = decay, least
        self.register_buffer("codes", F.normalize(torch.randn(num_codes, width), dim=1))
        self.register_buffer("counts", torch.ones(num_codes))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Float[Tensor, "*shape width"]) -> Quantized:
        """The code at the smallest angle."""
        unit = F.normalize(x.float(), dim=-1)
        codes = (unit.detach() @ self.codes.T).argmax(-1)
        if self.training and torch.is_grad_enabled():
            self._seen.append((unit.detach().flatten(0, -2), codes.flatten()))
        found = self.decode(codes)
        commitment = (unit - found).square().sum(-1)
        return Quantized((unit + (found - unit).detach()).to(x.dtype), codes, commitment)

    def decode(self, codes: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        """Unit vectors."""
        return self.codes[codes]

    @torch.no_grad()
    def after_step(self, summed: Summed) -> None:
        """Move codes to what they stand for: all micro-batches and processes count alike."""
        counts, sums = torch.zeros_like(self.counts), torch.zeros_like(self.codes)
        for vectors, codes in self._seen:
            counts.index_add_(0, codes, torch.ones_like(codes, dtype=counts.dtype))
            sums.index_add_(0, codes, vectors)
        offered = torch.zeros_like(self.codes)
        if self._seen:
            vectors = self._seen[0][0]
            # of several processes, the mean of what each offers
            places = torch.linspace(0, len(vectors) - 1, self.num_codes, device=vectors.device)
            offered = vectors[places.long()]
        self._seen.clear()
        found = summed({"counts": counts, "sums": sums, "offered": offered})
        counts, sums = found["counts"], found["sums"]
        used = counts > 0
        if not bool(used.any()):
            return
        means = F.normalize(sums[used], dim=1)
        self.codes[used] = F.normalize(self.codes[used].lerp(means, 1 - self.decay), dim=1)
        self.counts.lerp_(counts, 1 - self.decay)
        dead = self.counts < self.least
        self.codes[dead] = F.normalize(found["offered"][dead], dim=1)
        self.counts[dead] = 1.0


class Usage(NamedTuple):
    """How codes are used.

    Attributes:
        share: of the codes, those that occur.
        perplexity: how many would occur as evenly; `num_codes` if all are as frequent.
    """

    share: float
    perplexity: float


def usage(codes: Int[Tensor, "..."], num_codes: int) -> Usage:
    """How some codes are used."""
    counts = codes.flatten().bincount(minlength=num_codes).double()
    chances = counts[counts > 0] / counts.sum()
    entropy = -(chances * chances.log()).sum()
    return Usage(float((counts > 0).double().mean()), float(entropy.exp()))
