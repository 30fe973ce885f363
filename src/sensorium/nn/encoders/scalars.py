"""Small things: boxes, categories, and any numbers whatever."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View
from sensorium.modalities.scalars import class_names
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders.base import Encoded, Encoder, Prepared, TransformerEncoder
from sensorium.nn.heads import mlp
from sensorium.types import Field


class BoxEncoder(Encoder):
    """An MLP over the corners and the area of a box; one token each.

    A box has no parts for layers of attention to relate, so `depth` and `heads` are not used.
    """

    def __init__(self, field: Field, view: View, width: int, depth: int, heads: int) -> None:
        super().__init__(width, view)
        self.mlp = mlp(5, width, hidden=width)

    def forward(
        self,
        values: Float[Tensor, "entries 4"],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """One vector for each box."""
        return self.mlp(with_area(values)).unsqueeze(1), None


def with_area(boxes: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 5"]:
    """Corners `x1, y1, x2, y2` in [0, 1] and the area they enclose."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([left, top, right, bottom, (right - left) * (bottom - top)], -1)


class CategoryEncoder(Encoder):
    """A learned vector for each class; of a set of classes, the sum of theirs.

    The last vector stands for classes that no training row has; it is zero.
    """

    def __init__(self, field: Field, view: View, width: int, depth: int, heads: int) -> None:
        super().__init__(width, view)
        unseen = len(class_names(field))
        self.classes = nn.Embedding(unseen + 1, width, padding_idx=unseen)
        nn.init.normal_(self.classes.weight[:unseen], std=0.02)

    def forward(
        self,
        values: Int[Tensor, "entries"] | Float[Tensor, "entries classes"],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """One vector for each entry."""
        codes = values.dim() == 1
        vectors = self.classes(values) if codes else values @ self.classes.weight[:-1]
        return vectors.unsqueeze(1), None


class NumberEncoder(Encoder):
    """An MLP over a number, standardised by the training rows."""

    def __init__(self, field: Field, view: View, width: int, depth: int, heads: int) -> None:
        super().__init__(width, view)
        self.mean, self.deviation = float(field.fitted["mean"]), float(field.fitted["std"])
        self.mlp = mlp(1, width, hidden=width)

    def forward(
        self,
        values: Float[Tensor, "entries"],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """One vector for each number."""
        return self.mlp(((values - self.mean) / self.deviation)[:, None, None]), None


class GeneralEncoder(TransformerEncoder):
    """A transformer over any numbers, for modalities that bring no encoder of their own.

    Entries of whatever shape are read as sequences: of their first dimension if they are padded
    along it or have several, and within that in pieces of 16 numbers. Since nothing is known of the
    range of the numbers, `asinh` tames large ones; positions are sine waves, so no length is too
    long.
    """

    piece = 16

    def __init__(self, field: Field, view: View, width: int, depth: int, heads: int) -> None:
        super().__init__(width, view)
        self.project = nn.Linear(self.piece, width)
        self.layers = transformer(depth, width, heads)
        self.norm = nn.LayerNorm(width)

    def prepare(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None,
    ) -> Prepared:
        """A vector for each piece."""
        steps = values.shape[1] if mask is not None or values.dim() > 2 else 1
        flat = values.reshape(len(values), steps, -1).float().asinh()
        flat = F.pad(flat, (0, -flat.shape[2] % self.piece))
        x = self.project(rearrange(flat, "m s (p c) -> m s p c", c=self.piece))
        pieces = x.shape[2]
        x = x.flatten(1, 2)
        x = x + sine_positions(x.shape[1], self.width).to(x)
        if mask is None:
            return x, None, None
        real = mask.repeat_interleave(pieces, 1)
        return x, real[:, None, None], real


def sine_positions(length: int, width: int) -> Float[Tensor, "length width"]:
    """Sines and cosines of the places from 0 on."""
    return sines(torch.arange(length), width)


def sines(places: Shaped[Tensor, "*shape"], width: int) -> Float[Tensor, "*shape width"]:
    """Sines and cosines of falling frequency (Vaswani et al., 2017, section 3.5)."""
    frequency = torch.exp(
        torch.arange(0, width, 2, device=places.device) * (-math.log(10000.0) / width)
    )
    angle = places.unsqueeze(-1) * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :width]
