"""Contrastive losses over a batch of pairs, with memory that grows linearly in the batch.

Both losses have the form

    loss of a row = f(its similarities to all candidates) - its similarity to its partners

The second part is linear in the embeddings, so it needs no matrix. Only the first one does: above a
size it is computed in tiles of rows, which backward computes again instead of keeping them.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sensorium.objectives.duplicates import merge_groups
from sensorium.objectives.gather import gather_rows

Duplicates = Literal["positive", "ignored"]

TILE = 512
"""Rows of a tile. Batches of up to twice as many keep their matrix, which is faster."""


class Temperature(nn.Module):
    """The factor on similarities: `scale = 1 / temperature`.

    Args:
        initial: temperature at the start.
        learned: whether it is trained, as the logarithm of the scale (CLIP); else it stays.
        largest_scale: the scale is kept at or below this.
    """

    def __init__(
        self, initial: float = 0.07, learned: bool = True, largest_scale: float = 100.0
    ) -> None:
        super().__init__()
        self.largest = math.log(largest_scale)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / initial)), requires_grad=learned)

    def forward(self) -> Float[Tensor, ""]:
        """The scale."""
        if self.training and self.log_scale.requires_grad:
            # In place, since a parameter that ran far above its limit would have no gradient there.
            with torch.no_grad():
                self.log_scale.clamp_(max=self.largest)
        return self.log_scale.clamp(max=self.largest).exp()


def info_nce(
    a: Float[Tensor, "pairs width"],
    b: Float[Tensor, "pairs width"],
    scale: Float[Tensor, ""],
    *,
    groups: Int[Tensor, "pairs kinds"] | None = None,
    duplicates: Duplicates = "ignored",
    soft: Float[Tensor, "pairs pairs"] | None = None,
    gather: bool = False,
) -> tuple[Float[Tensor, "pairs"], Float[Tensor, "pairs"]]:
    """The cross-entropy of finding the partner among all (van den Oord et al., 2018, eq. 4).

    The sum of both results, divided by twice the number of pairs, is the loss of CLIP (Radford et
    al., 2021, figure 3). As each row is compared with all others, a batch computed in parts is not
    the same as the whole one.

    Args:
        a: vectors of one side; of length 1, if the scale is to be a temperature.
        b: vectors of the other side, the partners row by row.
        scale: factor of the dot products.
        groups: integers; rows that have one of them in common are not each other's negatives.
        duplicates: what they are: partners too, that share the target equally, or left out.
        soft: instead of groups, how much row i of `a` belongs to row j of `b`; each direction takes
            the weights as a distribution over its candidates.
        gather: take candidates from all processes; all must call. Not together with `soft`.

    Returns:
        For each row of `a`, its loss over all of `b`; for each row of `b`, its loss over all of `a`.
    """
    with torch.autocast(a.device.type, enabled=False):
        pairs = _Pairs(a.float(), b.float(), groups, gather)
        hidden = pairs.group if duplicates == "ignored" else None
        partners = pairs.group if duplicates == "positive" else None
        if soft is not None:
            toward_b = F.normalize(soft, p=1, dim=1) @ pairs.b
            toward_a = F.normalize(soft.T, p=1, dim=1) @ pairs.a
        else:
            toward_b = _mean_partner(pairs.all_b, partners, pairs.own)
            toward_a = _mean_partner(pairs.all_a, partners, pairs.own)
        if pairs.all_a is pairs.a:
            from_a, from_b = _log_sum_exp(pairs.a, pairs.b, scale, hidden, 0, True)
        else:
            from_a, _ = _log_sum_exp(pairs.a, pairs.all_b, scale, hidden, pairs.own.start, False)
            from_b, _ = _log_sum_exp(pairs.b, pairs.all_a, scale, hidden, pairs.own.start, False)
        return (
            from_a - scale * (pairs.a * toward_b).sum(1),
            from_b - scale * (pairs.b * toward_a).sum(1),
        )


def info_nce_among(
    a: Float[Tensor, "pairs width"],
    b: Float[Tensor, "pairs width"],
    others: Float[Tensor, "others width"],
    scale: Float[Tensor, ""],
    *,
    groups: Int[Tensor, "pairs"],
    other_groups: Int[Tensor, "others"],
    gather: bool = False,
) -> Float[Tensor, "pairs"]:
    """The cross-entropy of finding the partner among all partners and further candidates, one way.

    Args:
        a: vectors that ask.
        b: their partners, row by row.
        others: candidates that are nobody's partner, such as hard negatives; those of all rows are there
            for all.
        scale: factor of the dot products.
        groups: integers; a candidate with the same as the partner is right as well, and left out.
        other_groups: of the further candidates.
        gather: take candidates from all processes; all must call.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, keys, group, own = a.float(), b.float(), groups, 0
        others = others.float()
        if gather:
            keys, own = gather_rows(keys)
            group, _ = gather_rows(group)
            others, _ = gather_rows(others)
            other_groups, _ = gather_rows(other_groups)
        keys, group = torch.cat([keys, others]), torch.cat([group, other_groups])
        among, _ = _log_sum_exp(a, keys, scale, group, own, False)
        return among - scale * (a * keys[own : own + len(a)]).sum(1)


def sigmoid_loss(
    a: Float[Tensor, "pairs width"],
    b: Float[Tensor, "pairs width"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    *,
    groups: Int[Tensor, "pairs kinds"] | None = None,
    duplicates: Duplicates = "ignored",
    gather: bool = False,
) -> Float[Tensor, "pairs"]:
    """Is this a pair, asked of every combination (SigLIP; Zhai et al., 2023, arXiv 2303.15343, eq. 1).

    Args:
        a: vectors of one side.
        b: vectors of the other side, the partners row by row.
        scale: factor of the dot products.
        bias: added to them; the paper starts at -10, since most combinations are no pairs.
        groups: integers; rows that have one of them in common are not each other's negatives.
        duplicates: what they are: partners too, or left out.
        gather: take candidates from all processes; all must call.

    Returns:
        For each row of `a`, the sum over its combinations with all of `b`; their sum divided by the
        number of pairs is the paper's loss.
    """
    with torch.autocast(a.device.type, enabled=False):
        pairs = _Pairs(a.float(), b.float(), groups, gather)
        hidden = pairs.group if duplicates == "ignored" else None
        every = _softplus_sum(pairs.a, pairs.all_b, scale, bias, hidden, pairs.own.start)
        # -log sigmoid(x) = softplus(x) - x: the pairs differ from the rest by a linear part.
        partners = pairs.group if duplicates == "positive" else None
        mean = _mean_partner(pairs.all_b, partners, pairs.own)
        count = 1 if partners is None else torch.bincount(partners)[partners][pairs.own]
        return every - count * (scale * (pairs.a * mean).sum(1) + bias)


class _Pairs:
    """Both sides here, both sides of all processes, and where the own ones are among those."""

    def __init__(self, a: Tensor, b: Tensor, groups: Tensor | None, gather: bool) -> None:
        self.a, self.b = self.all_a, self.all_b = a, b
        first = 0
        if gather:
            self.all_a, first = gather_rows(a)
            self.all_b, _ = gather_rows(b)
            groups = None if groups is None else gather_rows(groups)[0]
        self.own = slice(first, first + len(a))
        self.group = None if groups is None else merge_groups(groups)


def _mean_partner(
    keys: Float[Tensor, "all width"], group: Int[Tensor, "all"] | None, own: slice
) -> Float[Tensor, "pairs width"]:
    """The mean of the keys of a row's group, or its one partner."""
    if group is None:
        return keys[own]
    total = torch.zeros_like(keys).index_add(0, group, keys)
    count = torch.bincount(group, minlength=len(keys)).clamp(min=1)
    return (total / count.unsqueeze(1))[group[own]]


def _similarities(
    a: Float[Tensor, "tile width"],
    b: Float[Tensor, "keys width"],
    scale: Float[Tensor, ""],
    group: Int[Tensor, "keys"] | None,
    first: int,
) -> Float[Tensor, "tile keys"]:
    """Scaled dot products, with -infinity where a row of the same group is not the partner.

    `first` is the key that is the partner of the first row.
    """
    logits = (a @ b.T) * scale
    if group is None:
        return logits
    own = torch.arange(first, first + len(a), device=a.device)
    other = torch.arange(len(b), device=a.device) != own[:, None]
    return logits.masked_fill((group[own][:, None] == group) & other, -torch.inf)


def _tiles(num_rows: int) -> list[slice]:
    return [slice(start, min(start + TILE, num_rows)) for start in range(0, num_rows, TILE)]


def _log_sum_exp(
    a: Tensor, b: Tensor, scale: Tensor, group: Tensor | None, first: int, both: bool
) -> tuple[Tensor, Tensor]:
    """Over the row, and (if `both`) over the column, of each similarity matrix entry."""
    if len(a) > 2 * TILE:
        rows, columns = _TiledLogSumExp.apply(  # type: ignore[no-untyped-call]
            a, b, scale, group, first, both
        )
        return rows, columns
    logits = _similarities(a, b, scale, group, first)
    return logits.logsumexp(1), logits.logsumexp(0) if both else logits.new_zeros(0)


class _TiledLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, scale: Tensor, group: Tensor | None, first: int, both: bool
    ) -> tuple[Tensor, Tensor]:
        rows = a.new_empty(len(a))
        columns = a.new_full((len(b) if both else 0,), -torch.inf)
        for part in _tiles(len(a)):
            logits = _similarities(a[part], b, scale, group, first + part.start)
            rows[part] = logits.logsumexp(1)
            if both:
                columns = torch.logaddexp(columns, logits.logsumexp(0))
        ctx.save_for_backward(a, b, scale, group, rows, columns)
        ctx.first, ctx.both = first, both
        return rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, row_gradient: Tensor, column_gradient: Tensor) -> tuple[Any, ...]:
        a, b, scale, group, rows, columns = ctx.saved_tensors
        to_a, to_b, to_scale = torch.empty_like(a), torch.zeros_like(b), torch.zeros_like(scale)
        for part in _tiles(len(a)):
            logits = _similarities(a[part], b, scale, group, ctx.first + part.start)
            slope = (logits - rows[part, None]).exp_().mul_(row_gradient[part, None])
            if ctx.both:
                slope += (logits - columns).exp_().mul_(column_gradient)
            _collect(slope, a, b, scale, part, to_a, to_b, to_scale)
        return to_a, to_b, to_scale, None, None, None


def _collect(
    slope: Tensor,
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    part: slice,
    to_a: Tensor,
    to_b: Tensor,
    to_scale: Tensor,
) -> None:
    """Add a tile's gradients, given the slope of the loss in each of its similarities."""
    weighted = slope @ b
    to_scale += (weighted * a[part]).sum()
    to_a[part] = weighted * scale
    to_b.addmm_(slope.T, a[part] * scale)


def _softplus_sum(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, group: Tensor | None, first: int
) -> Tensor:
    if len(a) > 2 * TILE:
        total: Tensor = _TiledSoftplusSum.apply(  # type: ignore[no-untyped-call]
            a, b, scale, bias, group, first
        )
        return total
    return F.softplus(_similarities(a, b, scale, group, first) + bias).sum(1)


class _TiledSoftplusSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        bias: Tensor,
        group: Tensor | None,
        first: int,
    ) -> Tensor:
        rows = a.new_empty(len(a))
        for part in _tiles(len(a)):
            logits = _similarities(a[part], b, scale, group, first + part.start)
            rows[part] = F.softplus(logits + bias).sum(1)
        ctx.save_for_backward(a, b, scale, bias, group)
        ctx.first = first
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        a, b, scale, bias, group = ctx.saved_tensors
        to_a, to_b, to_scale = torch.empty_like(a), torch.zeros_like(b), torch.zeros_like(scale)
        to_bias = torch.zeros_like(bias)
        for part in _tiles(len(a)):
            logits = _similarities(a[part], b, scale, group, ctx.first + part.start)
            slope = (logits + bias).sigmoid_().mul_(gradient[part, None])
            to_bias += slope.sum()
            _collect(slope, a, b, scale, part, to_a, to_b, to_scale)
        return to_a, to_b, to_scale, to_bias, None, None
