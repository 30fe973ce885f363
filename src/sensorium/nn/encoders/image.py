"""Images from scratch: patches or a small convolutional stem, and a transformer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.image import ImageView
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders.base import Encoded, Prepared, TransformerEncoder
from sensorium.types import Field, UserError

Triple = tuple[float, float, float]

CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION: Triple = (0.26862954, 0.26130258, 0.27577711)


class Pixels(nn.Module):
    """Bytes to numbers around zero, channels first: `(x / 255 - mean) / deviation`."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self, mean: Triple = (0.5, 0.5, 0.5), deviation: Triple = (0.25, 0.25, 0.25)
    ) -> None:
        super().__init__()
        spread = torch.tensor(deviation)
        # One multiplication and one addition a value; constants, so no part of saved weights.
        self.register_buffer("scale", (1 / (255 * spread))[:, None, None], persistent=False)
        shift = -torch.tensor(mean) / spread
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(
        self, images: UInt8[Tensor, "entries rows columns 3"]
    ) -> Float[Tensor, "entries 3 rows columns"]:
        """Normalise."""
        return images.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift


def check_patches(field: Field, size: int, patch: int) -> None:
    """Raise a `UserError` if patches do not fill a picture."""
    if size % patch:
        raise UserError(
            f"{field.modality} field '{field.name}': {size} pixels are no multiple of the patch size "
            f"{patch}; choose another of the two"
        )


def convolutional_stem(width: int, patch: int, channels: int = 3) -> nn.Sequential:
    """Convolutions of stride 2 down to a grid of `patch` x `patch` cells, and a linear map.

    A transformer over such features learns from few pictures far sooner than one over plain patches
    (Xiao et al., 2021, arXiv 2106.14881).

    Args:
        width: of the result.
        patch: pixels of a cell along each side; a power of two.
        channels: of what it reads.
    """
    steps = patch.bit_length() - 1
    if 2**steps != patch or not steps:
        raise UserError(f"a convolutional stem needs a patch size of 2, 4, 8, ...; not {patch}")
    widths = [max(16, width >> (steps - 1 - step)) for step in range(steps)]
    layers: list[nn.Module] = []
    for before, after in zip([channels, *widths], widths, strict=False):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(1, after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], width, 1))


class ImageEncoder(TransformerEncoder):
    """A pre-norm vision transformer (Dosovitskiy et al., 2021, arXiv 2010.11929).

    Args:
        field: which field.
        view: with the size of the square images it reads, in pixels.
        width: of the vectors.
        depth: number of layers.
        heads: of the attention.
        patch: pixels of a patch along each side; must divide the size.
        stem: how a patch becomes a vector: a `conv` stack, or one linear map (`patch`).
        class_token: put a learned token in front, which sums the image up; otherwise the maximum of
            each dimension does.
        norm_before: a layer norm before the first layer (CLIP).
        activation: of the feed-forward networks.
        mean: and `deviation`, of the channels, of bytes divided by 255.
    """

    view: ImageView

    def __init__(
        self,
        field: Field,
        view: ImageView,
        width: int,
        depth: int,
        heads: int,
        *,
        patch: int = 8,
        stem: Literal["conv", "patch"] = "conv",
        class_token: bool = False,
        norm_before: bool = False,
        activation: str = "gelu",
        mean: Triple = (0.5, 0.5, 0.5),
        deviation: Triple = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__(width, view)
        check_patches(field, view.size, patch)
        # The mean would drown a small thing in what surrounds it: on scenes of two things the
        # maximum reached four times the recall of the mean.
        self.pooling = "first" if class_token else "max"
        self.pixels = Pixels(mean, deviation)
        self.patch = patch
        self.stem: nn.Module = (
            convolutional_stem(width, patch)
            if stem == "conv"
            else nn.Conv2d(3, width, patch, stride=patch, bias=False)
        )
        num_patches = (view.size // patch) ** 2
        self.class_token = nn.Parameter(torch.randn(width) * 0.02) if class_token else None
        self.positions = nn.Parameter(torch.randn(num_patches + class_token, width) * 0.02)
        self.norm_before = nn.LayerNorm(width) if norm_before else nn.Identity()
        self.layers = transformer(depth, width, heads, activation=activation)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        values: UInt8[Tensor, "entries rows columns 3"] | Float[Tensor, "entries 3 height wide"],
        mask: Bool[Tensor, "entries patches"] | None = None,
        before_layer: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Encoded:
        """One vector for each token; `before_layer` may change the tokens on their way."""
        x, _, _ = self.prepare(values, mask)
        for number, layer in enumerate(self.layers):
            x = layer(x if before_layer is None else before_layer(number, x))
        return self.norm(x), None

    def prepare(
        self,
        values: UInt8[Tensor, "entries rows columns 3"] | Float[Tensor, "entries 3 height wide"],
        mask: Bool[Tensor, "entries patches"] | None,
    ) -> Prepared:
        """A vector for each patch, row by row from the top left, after that of the class token.

        Numbers that are no bytes are taken as they are, and may have any height and width: positions
        are read between those of the table. Of patches that a mask leaves out, as many in each
        picture, none is computed.
        """
        grid = self.stem(values if values.is_floating_point() else self.pixels(values))
        patches = grid.flatten(2).transpose(1, 2)
        patches = patches + self._table(*grid.shape[2:])
        if mask is not None:
            patches = patches[mask].view(len(patches), -1, self.width)
        if self.class_token is not None:
            front = (self.class_token + self.positions[:1]).expand(len(patches), 1, -1)
            patches = torch.cat([front.to(patches.dtype), patches], 1)
        return self.norm_before(patches), None, None

    def _table(self, rows: int, columns: int) -> Float[Tensor, "patches width"]:
        """The positions of the patches of a grid."""
        table = self.positions[0 if self.class_token is None else 1 :]
        side = math.isqrt(len(table))
        if (rows, columns) == (side, side):
            return table
        square = table.T.reshape(1, -1, side, side)
        resized = F.interpolate(square, (rows, columns), mode="bicubic", antialias=True)
        return resized[0].flatten(1).T
