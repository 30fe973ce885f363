"""Regions of a picture: boxes, crops at the boxes, and features of the crops.

Boxes are `[x1, y1, x2, y2]` in [0, 1] of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.nn.encoders.scalars import with_area
from sensorium.types import Entries, Tokens
from sensorium.types.names import number_of

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Regions:
    """The regions of each row's picture, side by side.

    Attributes:
        features: what is to be seen in each.
        boxes: where each is.
        mask: which are real.
    """

    features: Float[Tensor, "batch regions width"]
    boxes: Float[Tensor, "batch regions 4"]
    mask: Bool[Tensor, "batch regions"]

    def take(self, rows: Int[Tensor, "taken"]) -> Regions:
        """The regions of the named rows, in that order."""
        return Regions(self.features[rows], self.boxes[rows], self.mask[rows])

    def hide(self, where: Bool[Tensor, "batch regions"]) -> Regions:
        """A copy in which some features are zeros; the boxes stay."""
        return replace(self, features=self.features.masked_fill(where.unsqueeze(-1), 0.0))

    def with_mean(self) -> Regions:
        """The whole picture put first: the mean of the features, at a box that covers everything.

        It is taken over what the features are now. So what was hidden before isn't in it.
        """
        mean = Tokens(self.features, self.mask).mean().unsqueeze(1)
        whole = self.boxes.new_tensor(WHOLE).expand(len(mean), 1, 4)
        return Regions(
            torch.cat([mean, self.features], 1),
            torch.cat([whole, self.boxes], 1),
            torch.cat([self.mask.any(1, keepdim=True), self.mask], 1),
        )


def side_by_side(
    entries: Entries, size: int, width: int
) -> tuple[Shaped[Tensor, "{size} {width} ..."], Bool[Tensor, "{size} {width}"]]:
    """The entries of each row at the places of their items, and where there are any.

    So boxes and the classes of boxes stand at the same places. Items from `width` on are left out.
    """
    kept = entries.item < width
    at = (entries.row[kept], entries.item[kept])
    values = entries.values.new_zeros((size, width, *entries.values.shape[1:]))
    values[at] = entries.values[kept]
    mask = torch.zeros(size, width, dtype=torch.bool, device=values.device)
    mask[at] = True
    return values, mask


def areas(boxes: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape"]:
    """The share of the picture each box covers."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(
    a: Float[Tensor, "batch first 4"], b: Float[Tensor, "batch second 4"]
) -> Float[Tensor, "batch first second"]:
    """Intersection over union of every two boxes; 0 where both are empty.

    It is the same for boxes in pixels: stretching an axis stretches intersection and union alike.
    """
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    union = areas(a)[:, :, None] + areas(b)[:, None, :] - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def grid_boxes(rows: int, columns: int) -> Float[Tensor, "cells 4"]:
    """The cells of a grid laid over the picture, line by line."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corners = torch.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], -1)
    return corners.reshape(-1, 4)


def crop(
    images: Float[Tensor, "batch channels height width"],
    boxes: Float[Tensor, "batch regions 4"],
    size: int,
    samples: int = 2,
) -> Float[Tensor, "batch regions channels {size} {size}"]:
    """The picture at each box, resampled to a square.

    Each pixel is the mean of `samples` x `samples` bilinear samples, as in RoIAlign (He et al.,
    2017), so that small crops of large pictures do not alias.
    """
    steps = (torch.arange(size * samples, device=boxes.device) + 0.5) / (size * samples)
    x = boxes[..., 0:1] + (boxes[..., 2:3] - boxes[..., 0:1]) * steps
    y = boxes[..., 1:2] + (boxes[..., 3:4] - boxes[..., 1:2]) * steps
    grid = torch.stack(
        [
            x.unsqueeze(-2).expand(*x.shape[:2], len(steps), len(steps)),
            y.unsqueeze(-1).expand(*y.shape[:2], len(steps), len(steps)),
        ],
        -1,
    )
    # All regions of a picture are one tall grid, so the picture isn't copied for each of them.
    tall = rearrange(grid * 2 - 1, "b n h w xy -> b (n h) w xy").to(images.dtype)
    sampled = F.grid_sample(images, tall, padding_mode="border", align_corners=False)
    return rearrange(F.avg_pool2d(sampled, samples), "b c (n h) w -> b n c h w", h=size)


class RegionEncoder(nn.Module):
    """Features of regions: crops of the picture, through a small convolutional network.

    It stands where the papers have a detector that was trained on a million boxes. It is trained with
    the rest, and takes a user's own pictures.

    Args:
        width: of the features.
        size: of the crops in pixels, a multiple of 8.
    """

    def __init__(self, width: int, size: int = 16) -> None:
        super().__init__()
        if size % 8:
            raise ValueError(f"crops of {size} pixels: expected a multiple of 8")
        self.size = size
        self.network = nn.Sequential(
            *_convolution(3, 32),
            *_convolution(32, 64),
            *_convolution(64, 128),
            nn.Flatten(),
            nn.Linear(128 * (size // 8) ** 2, width),
            nn.LayerNorm(width),  # or what is seen would drown where it is
        )

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        boxes: Float[Tensor, "batch regions 4"],
        mask: Bool[Tensor, "batch regions"],
    ) -> Float[Tensor, "batch regions features"]:
        """Features of the real regions, zeros for the others.

        Args:
            images: with values around zero.
            boxes: where the regions are.
            mask: which of them are real.
        """
        found: Tensor = self.network(crop(images, boxes, self.size)[mask])
        features = found.new_zeros((*mask.shape, found.shape[-1]))
        features[mask] = found
        return features


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1),
        nn.GroupNorm(8, channels_out),
        nn.GELU(),
    ]


class RegionEmbedding(nn.Module):
    """Feature and `[x1, y1, x2, y2, area]`, each through a linear layer, added and normed.

    Args:
        feature_width: of the features.
        width: of the tokens.
        dropout: of the tokens; `epsilon`: of the norm.
    """

    def __init__(
        self, feature_width: int, width: int, dropout: float = 0.0, epsilon: float = 1e-12
    ) -> None:
        super().__init__()
        self.feature = nn.Linear(feature_width, width)
        self.box = nn.Linear(5, width)
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, regions: Regions) -> Tokens:
        """One token for each region, of modality `image`; its number is item and position."""
        values = self.feature(regions.features) + self.box(with_area(regions.boxes))
        position = torch.arange(values.shape[1], device=values.device).expand(values.shape[:2])
        ids = {
            "modality": torch.full_like(position, number_of("image")),
            "item": position,
            "position": position,
        }
        return Tokens(self.dropout(self.norm(values)), regions.mask, ids)
