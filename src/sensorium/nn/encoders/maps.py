"""Maps from scratch: as pictures are read, from channels of their own."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sensorium.modalities.maps import MapView, class_numbers, num_channels
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders.base import Prepared, TransformerEncoder
from sensorium.nn.encoders.image import check_patches, convolutional_stem
from sensorium.types import Field

CLASS_WIDTH = 8


class MapEncoder(TransformerEncoder):
    """A convolutional stem over numbers, what says which of them are real, and a transformer.

    Pixels of classes become learned vectors first.

    Args:
        field: which field; its options say how many channels, or it was fitted to classes.
        view: with the size of the square maps it reads, in pixels.
        width: of the vectors.
        depth: number of layers.
        heads: of the attention.
        patch: pixels of a patch along each side; must divide the size.
        activation: of the feed-forward networks.
    """

    view: MapView

    def __init__(
        self,
        field: Field,
        view: MapView,
        width: int,
        depth: int,
        heads: int,
        *,
        patch: int = 8,
        activation: str = "gelu",
    ) -> None:
        super().__init__(width, view)
        check_patches(field, view.size, patch)
        self.pooling = "max"  # for the reason that pictures have
        self.classes: nn.Embedding | None = None
        channels = CLASS_WIDTH
        if field.options.get("kind") == "classes":
            # The last stands for pixels that say nothing.
            self.classes = nn.Embedding(len(class_numbers(field)) + 1, CLASS_WIDTH)
        else:
            channels = num_channels(field)
        self.stem = convolutional_stem(width, patch, channels)
        self.positions = nn.Parameter(torch.randn((view.size // patch) ** 2, width) * 0.02)
        self.layers = transformer(depth, width, heads, activation=activation)
        self.norm = nn.LayerNorm(width)

    def prepare(
        self,
        values: Float[Tensor, "entries rows columns channels"]
        | Int[Tensor, "entries rows columns"],
        mask: Bool[Tensor, "entries length"] | None,
    ) -> Prepared:
        """A vector for each patch, row by row from the top left."""
        # Numbers come in [0, 1]; around zero, as pictures do.
        numbers = self.classes(values) if self.classes is not None else values * 2 - 1
        patches = self.stem(numbers.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        return patches + self.positions, None, None
