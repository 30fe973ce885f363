"""Clips from scratch: attention over time and over space in turn."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor, nn

from sensorium.modalities.video import VideoView
from sensorium.nn.attention import Attention
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders.base import Encoded, Encoder
from sensorium.nn.encoders.image import Pixels, check_patches, convolutional_stem
from sensorium.nn.pooling import pool
from sensorium.types import Field, UserError


class TimeAttention(nn.Module):
    """What each place of a frame sees of the same place in the other frames; at first, nothing.

    Args:
        width: of the tokens.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        for linear in (self.attention.query, self.attention.key, self.attention.value):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.attention.output.weight)
        nn.init.zeros_(self.attention.output.bias)

    def forward(
        self,
        x: Float[Tensor, "entries frames patches width"],
        real: Bool[Tensor, "entries frames"] | None,
    ) -> Float[Tensor, "entries frames patches width"]:
        """The frames, with what they saw of each other added."""
        patches = x.shape[2]
        lines = rearrange(self.norm(x), "m f p w -> (m p) f w")
        seen = None if real is None else real.repeat_interleave(patches, 0)[:, None, None]
        attended = rearrange(self.attention(lines, seen), "(m p) f w -> m f p w", p=patches)
        added: Tensor = x + attended
        return added


class VideoEncoder(Encoder):
    """A pre-norm transformer with divided attention (Bertasius et al., 2021, arXiv 2102.05095, 3.3).

    In each layer a patch first attends to the patches at its place in all frames, then to those of its
    own frame. Frames that are padding are not computed.

    Differs from the paper: a convolutional stem instead of plain patches, and no class token, for the
    reasons that the encoder of pictures has; the linear map after the attention over time is the
    attention's own, which starts at zero.

    Args:
        field: which field.
        view: with the number of frames and their size in pixels.
        width: of the vectors.
        depth: number of layers.
        heads: of each attention.
        patch: pixels of a patch along each side; must divide the size.
        activation: of the feed-forward networks.
    """

    view: VideoView

    def __init__(
        self,
        field: Field,
        view: VideoView,
        width: int,
        depth: int,
        heads: int,
        *,
        patch: int = 8,
        activation: str = "gelu",
    ) -> None:
        super().__init__(width, view)
        check_patches(field, view.size, patch)
        self.pooling = "max"
        self.pixels = Pixels()
        self.stem = convolutional_stem(width, patch)
        self.places = nn.Parameter(torch.randn((view.size // patch) ** 2, width) * 0.02)
        self.times = nn.Parameter(torch.randn(view.frames, width) * 0.02)
        self.over_time = nn.ModuleList(TimeAttention(width, heads) for _ in range(depth))
        self.over_space = transformer(depth, width, heads, activation=activation)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        values: UInt8[Tensor, "entries frames rows columns 3"],
        mask: Bool[Tensor, "entries frames"] | None = None,
    ) -> Encoded:
        """A vector for each patch of each frame; frame by frame, row by row from the top left."""
        *_, (vectors, real) = self._walk(values, mask)
        return vectors, real

    def each_level(
        self,
        values: UInt8[Tensor, "entries frames rows columns 3"],
        mask: Bool[Tensor, "entries frames"] | None,
        number: int,
    ) -> list[Float[Tensor, "entries width"]]:
        """One vector for each entry after each of the last layers, from shallow to deep."""
        if number > len(self.over_time):
            raise UserError(f"{number} levels of an encoder that has {len(self.over_time)} layers")
        found = [pool(vectors, real, self.pooling) for vectors, real in self._walk(values, mask)]
        return found[len(found) - number :]

    def _walk(
        self,
        values: UInt8[Tensor, "entries frames rows columns 3"],
        mask: Bool[Tensor, "entries frames"] | None,
    ) -> Iterator[Encoded]:
        """What is known after each layer, behind the last norm."""
        frames = values.shape[1]
        if mask is not None and bool(mask.all()):
            mask = None
        patches = self.stem(self.pixels(_real(values, mask))).flatten(2).transpose(1, 2)
        x = _grid(patches + self.places, mask, frames) + self.times[:frames, None]
        real = None if mask is None else mask.repeat_interleave(x.shape[2], 1)
        for time, space in zip(self.over_time, self.over_space, strict=True):
            x = _grid(space(_real(time(x, mask), mask)), mask, frames)
            yield self.norm(x).flatten(1, 2), real


def _real(
    grid: Shaped[Tensor, "entries frames ..."], mask: Bool[Tensor, "entries frames"] | None
) -> Shaped[Tensor, "real ..."]:
    """The frames that are no padding, one after another."""
    return grid.flatten(0, 1) if mask is None else grid[mask]


def _grid(
    real: Float[Tensor, "real patches width"],
    mask: Bool[Tensor, "entries frames"] | None,
    frames: int,
) -> Float[Tensor, "entries frames patches width"]:
    """The frames in their places, zeros elsewhere; undoes `_real`."""
    if mask is None:
        return real.view(-1, frames, *real.shape[1:])
    grid = real.new_zeros(*mask.shape, *real.shape[1:])
    grid[mask] = real
    return grid
