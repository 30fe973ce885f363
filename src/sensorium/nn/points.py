"""Points in space: spread centres, near neighbours, and the groups that they make.

All clouds of a batch at once. What is padded (`mask` false) is never chosen, and the order of the
points changes nothing but the numbers by which they are called (and which of two equally near points
is taken).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@torch.no_grad()
def farthest_points(
    places: Float[Tensor, "clouds points 3"],
    mask: Bool[Tensor, "clouds points"] | None,
    count: int,
) -> Int[Tensor, "clouds count"]:
    """The numbers of points that are spread over each cloud: each is the farthest from those before.

    The first is the one farthest from the mean of its cloud, so that the choice does not depend on the
    order of the points (Eldar et al., 1997; Qi et al., 2017, arXiv 1706.02413, begin anywhere). Where
    there are fewer points than asked for, some come again.
    """
    if mask is None:
        mask = places.new_ones(places.shape[:2], dtype=torch.bool)
    weight = mask.unsqueeze(2).to(places.dtype)
    mean = (places * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    cloud = torch.arange(len(places), device=places.device)
    distance = (places - mean).square().sum(2).masked_fill(~mask, -1.0)
    nearest = torch.full_like(distance, torch.inf).masked_fill_(~mask, -1.0)
    chosen = torch.empty(len(places), count, dtype=torch.long, device=places.device)
    for number in range(count):
        chosen[:, number] = at = distance.argmax(1)
        distance = (places - places[cloud, at].unsqueeze(1)).square().sum(2)
        nearest = distance = torch.minimum(nearest, distance)
    return chosen


@torch.no_grad()
def nearest_points(
    centres: Float[Tensor, "clouds centres 3"],
    places: Float[Tensor, "clouds points 3"],
    mask: Bool[Tensor, "clouds points"] | None,
    count: int,
    radius: float | None = None,
) -> Int[Tensor, "clouds centres near"]:
    """The numbers of the points that are nearest to each centre, the nearest first.

    The nearest stands in for those that are padded or farther away than `radius`.
    """
    # without the shortcut by matrix products, whose rounding depends on the place of a point
    distance = torch.cdist(centres, places, compute_mode="donot_use_mm_for_euclid_dist")
    if mask is not None:
        distance = distance.masked_fill(~mask.unsqueeze(1), torch.inf)
    near, which = distance.topk(min(count, places.shape[1]), dim=2, largest=False)
    return torch.where(near <= (radius or torch.finfo(near.dtype).max), which, which[..., :1])


def take_points(
    values: Shaped[Tensor, "clouds points width"], which: Int[Tensor, "clouds *taken"]
) -> Shaped[Tensor, "clouds *taken width"]:
    """The values of the points of these numbers, each from its own cloud."""
    cloud = torch.arange(len(values), device=values.device)
    return values[cloud.view(-1, *(1,) * (which.dim() - 1)), which]


def group_points(
    values: Float[Tensor, "clouds points width"],
    mask: Bool[Tensor, "clouds points"] | None,
    groups: int,
    neighbours: int,
    radius: float | None = None,
) -> tuple[
    Float[Tensor, "clouds groups near width"],
    Float[Tensor, "clouds groups 3"],
    Bool[Tensor, "clouds groups"] | None,
]:
    """Spread centres with the points near them.

    Args:
        values: x, y, z and what else is known of each point.
        mask: which points are real.
        groups: how many centres.
        neighbours: how many points of each; no more than there are.
        radius: how far they may lie, if there is a limit.

    Returns:
        The points of each group, their places as seen from the centre; the centres; and which groups
        are real, for clouds of fewer points than groups (None if all are).
    """
    places = values[..., :3].float()
    centres = take_points(places, farthest_points(places, mask, groups))
    near = take_points(values, nearest_points(centres, places, mask, neighbours, radius))
    near = torch.cat([near[..., :3] - centres.unsqueeze(2), near[..., 3:]], 3)
    if mask is None:
        return near, centres, None
    number = torch.arange(groups, device=values.device)
    return near, centres, number < mask.sum(1, keepdim=True)
