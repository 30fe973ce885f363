"""A picture as the colours it has, and nothing of where they are."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from sensorium.modalities.base import View
from sensorium.nn.encoders.base import Encoded, Encoder
from sensorium.nn.heads import mlp
from sensorium.types import Field, UserError

STEPS = 8  # of each channel


class ColourEncoder(Encoder):
    """One vector for a picture, from the shares of its 512 colours.

    The control for whoever asks whether a system looks at things, or whether their colours would do
    (Swain and Ballard, 1991, "Color indexing").
    """

    def __init__(self, field: Field, view: View, width: int) -> None:
        super().__init__(width, view)
        if field.modality != "image":
            raise UserError(f"encoder of '{field.name}': a {field.modality} has no colours")
        self.network = mlp(STEPS**3, width, 2 * width)

    def forward(
        self,
        values: UInt8[Tensor, "entries rows columns 3"],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """One vector an entry; of shares the square roots, so that small ones count as well."""
        return self.network(colour_shares(values).sqrt())[:, None], None


def colour_shares(
    images: UInt8[Tensor, "entries rows columns 3"],
) -> Float[Tensor, "entries colours"]:
    """The share of the pixels that has each colour."""
    red, green, blue = (images.flatten(1, 2).long() * STEPS // 256).unbind(-1)
    colours = (red * STEPS + green) * STEPS + blue
    ones = torch.ones(colours.shape, device=images.device)
    counts = ones.new_zeros(len(images), STEPS**3).scatter_add_(1, colours, ones)
    return counts / colours.shape[1]
