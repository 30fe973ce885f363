"""Point clouds from scratch: a transformer over groups of points, and a hierarchy of point sets.

Both look at spread centres and the points near them, whatever the order in which a file lists them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.points import PointsView
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders.base import Encoded, Encoder
from sensorium.nn.points import group_points
from sensorium.nn.pooling import Pooling, pool
from sensorium.types import Field, UserError

PointNorm = Literal["layer", "batch"]
"""`batch` is what was published; with `layer` a cloud does not depend on the others of its batch."""


class BatchNorm(nn.BatchNorm1d):
    """Batch norm of vectors, of whatever shape their array is.

    A single vector has no statistics of its own, so it is normalised by the running ones.
    """

    def forward(self, x: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape width"]:
        """Normalise each dimension."""
        flat = x.flatten(0, -2)
        if self.training and len(flat) == 1:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(flat, mean, variance, self.weight, self.bias, eps=self.eps).view_as(
                x
            )
        return super().forward(flat).view_as(x)


class DropPath(nn.Module):
    """Leaves a residual branch out of some rows in training (Huang et al., 2016, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "rows *shape"]) -> Float[Tensor, "rows *shape"]:
        """The branch; what is kept is scaled so that the mean stays."""
        if not self.training or not self.rate:
            return x
        kept = x.new_ones(len(x), *(1,) * (x.dim() - 1))
        return x * F.dropout(kept, self.rate)


def shared_mlp(*widths: int, norm: PointNorm) -> nn.Sequential:
    """Linear maps, each with a norm and ReLU, applied to every point alike."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), _norm(norm, after), nn.ReLU()]
    return nn.Sequential(*layers)


def _norm(norm: PointNorm, width: int) -> nn.Module:
    return BatchNorm(width) if norm == "batch" else nn.LayerNorm(width)


class GroupEncoder(nn.Module):
    """A small PointNet: one vector for each group (Yu et al., 2022, arXiv 2111.14819, section 3.1).

    Args:
        channels: of a point.
        unit: the width of the first layer; the others are 2, 4 and 2 times as wide.
        norm: after the first layer of each half.
    """

    def __init__(self, channels: int, unit: int, norm: PointNorm) -> None:
        super().__init__()
        self.first = shared_mlp(channels, unit, norm=norm).append(nn.Linear(unit, 2 * unit))
        self.second = shared_mlp(4 * unit, 4 * unit, norm=norm).append(
            nn.Linear(4 * unit, 2 * unit)
        )

    def forward(
        self, groups: Float[Tensor, "clouds groups near channels"]
    ) -> Float[Tensor, "clouds groups width"]:
        """The maximum over a group, beside each of its points, and the maximum of that."""
        each = self.first(groups)
        whole = each.amax(2, keepdim=True).expand_as(each)
        vectors: Tensor = self.second(torch.cat([whole, each], 3))
        return vectors.amax(2)


class PointTransformer(Encoder):
    """A transformer over groups of near points, as in Point-BERT (arXiv 2111.14819).

    Its vectors are half as wide as what it gives: each comes beside the maximum over all groups, so
    that the first, that of the class token, is the published feature. The place of a group's centre is
    added before every layer. Queries, keys and values have a bias here, which is zero at first.

    Args:
        field: which field.
        view: how many points of which channels.
        width: of what it gives; even.
        depth: number of layers.
        heads: of the attention.
        groups: how many centres, and `neighbours`, how many points around each.
        norm: in the network of a group.
        drop_path: how often a row skips the last layer's branches; the first layer's never.
    """

    view: PointsView
    pooling = "first"

    def __init__(
        self,
        field: Field,
        view: PointsView,
        width: int,
        depth: int,
        heads: int,
        *,
        groups: int = 32,
        neighbours: int = 16,
        norm: PointNorm = "layer",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(width, view)
        inner, rest = divmod(width, 2)
        if rest or inner % heads:
            raise UserError(
                f"points field '{field.name}': the width {width} of a points transformer must be a "
                f"multiple of twice its {heads} heads"
            )
        self.groups, self.neighbours = groups, neighbours
        unit = max(8, inner // 3)
        self.group = GroupEncoder(view.num_channels, unit, norm)
        self.reduce = nn.Linear(2 * unit, inner)
        self.place = nn.Sequential(nn.Linear(3, unit), nn.GELU(), nn.Linear(unit, inner))
        self.class_token = nn.Parameter(torch.randn(inner) * 0.02)
        self.class_place = nn.Parameter(torch.randn(inner) * 0.02)
        self.layers = transformer(depth, inner, heads)
        for number, layer in enumerate(self.layers):
            layer.dropout = DropPath(drop_path * number / max(1, depth - 1))
        self.norm = nn.LayerNorm(inner)

    def forward(
        self,
        values: Float[Tensor, "entries points channels"],
        mask: Bool[Tensor, "entries points"] | None = None,
    ) -> Encoded:
        """A vector for the cloud and one for each group, each beside the maximum over the groups."""
        x, real = self._walk(values, mask)
        whole = _largest(x, real).unsqueeze(1).expand_as(x)
        return torch.cat([x, whole], 2), real

    def embed(
        self,
        values: Float[Tensor, "entries points channels"],
        mask: Bool[Tensor, "entries points"] | None,
        pooling: Pooling,
    ) -> Float[Tensor, "entries width"]:
        """One vector for each cloud; the published one is that of the class token and the maximum."""
        if pooling != "first":
            return super().embed(values, mask, pooling)
        x, real = self._walk(values, mask)
        return torch.cat([x[:, 0], _largest(x, real)], 1)

    def _walk(
        self, values: Tensor, mask: Tensor | None
    ) -> tuple[Float[Tensor, "entries tokens inner"], Bool[Tensor, "entries tokens"] | None]:
        groups, centres, real = group_points(values, mask, self.groups, self.neighbours)
        x: Tensor = self.reduce(self.group(groups))
        place: Tensor = self.place(centres)
        x = torch.cat([self.class_token.to(x.dtype).expand(len(x), 1, -1), x], 1)
        place = torch.cat([self.class_place.to(place.dtype).expand(len(x), 1, -1), place], 1)
        if real is not None:
            real = F.pad(real, (1, 0), value=True)
        seen = None if real is None else real[:, None, None]
        for layer in self.layers:
            x = layer(x + place, seen)
        return self.norm(x), real


def _largest(x: Tensor, real: Tensor | None) -> Tensor:
    """The maximum of each dimension over the groups, which follow the class token."""
    return pool(x[:, 1:], None if real is None else real[:, 1:], "max")


class SetAbstraction(nn.Module):
    """A PointNet around each of some spread centres (Qi et al., 2017, arXiv 1706.02413, section 3.2).

    Args:
        channels: of what is known of a point, beside its place.
        widths: of the layers.
        norm: after each.
        centres: how many.
        neighbours: how many points around each, at most.
        radius: how far away they may lie.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...],
        norm: PointNorm,
        *,
        centres: int,
        neighbours: int,
        radius: float,
    ) -> None:
        super().__init__()
        self.centres, self.neighbours, self.radius = centres, neighbours, radius
        self.network = shared_mlp(3 + channels, *widths, norm=norm)

    def forward(
        self,
        points: Float[Tensor, "clouds points channels"],
        mask: Bool[Tensor, "clouds points"] | None,
    ) -> tuple[Float[Tensor, "clouds centres out"], Bool[Tensor, "clouds centres"] | None]:
        """The centres, as places and what was found there, and which of them are real."""
        near, centres, real = group_points(points, mask, self.centres, self.neighbours, self.radius)
        found = self.network(near).amax(2)
        return torch.cat([centres, found.float()], 2), real


class PointNet(Encoder):
    """Sets of points within sets of points, as in PointNet++ with one scale (arXiv 1706.02413).

    It gives one vector for a cloud. Of the points within the radius it takes the nearest, not those
    that happen to come first. It has no layers of attention, so `depth` and `heads` are not used.

    Args:
        field: which field.
        view: how many points of which channels; on the unit sphere, to which the radii belong.
        width: of the vector; the layers are multiples of a quarter of it.
        depth: not used.
        heads: not used.
        centres: of both levels.
        neighbours: points around each centre, of both levels.
        norm: after each layer.
        dropout: after the last two layers.
    """

    view: PointsView
    radii = (0.2, 0.4)

    def __init__(
        self,
        field: Field,
        view: PointsView,
        width: int,
        depth: int,
        heads: int,
        *,
        centres: tuple[int, int] = (64, 16),
        neighbours: tuple[int, int] = (16, 16),
        norm: PointNorm = "layer",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(width, view)
        unit, rest = divmod(width, 4)
        if rest:
            raise UserError(
                f"points field '{field.name}': the width {width} of a PointNet must be a multiple of 4"
            )
        widths = ((unit, unit, 2 * unit), (2 * unit, 2 * unit, 4 * unit))
        channels = (view.num_channels - 3, 2 * unit)
        self.levels = nn.ModuleList(
            SetAbstraction(before, after, norm, centres=number, neighbours=near, radius=radius)
            for before, after, number, near, radius in zip(
                channels, widths, centres, neighbours, self.radii, strict=True
            )
        )
        self.whole = shared_mlp(3 + 4 * unit, 4 * unit, 8 * unit, 16 * unit, norm=norm)
        self.head = nn.Sequential(
            shared_mlp(16 * unit, 8 * unit, norm=norm),
            nn.Dropout(dropout),
            shared_mlp(8 * unit, width, norm=norm),
            nn.Dropout(dropout),
        )

    def forward(
        self,
        values: Float[Tensor, "entries points channels"],
        mask: Bool[Tensor, "entries points"] | None = None,
    ) -> Encoded:
        """One vector for each cloud."""
        for level in self.levels:
            values, mask = level(values, mask)
        vectors: Tensor = self.head(pool(self.whole(values), mask, "max"))
        return vectors.unsqueeze(1), None
