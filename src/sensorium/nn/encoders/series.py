"""Series from scratch: a token for each sample, and a transformer."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sensorium.modalities.series import SeriesView, num_channels
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders.base import Prepared, TransformerEncoder
from sensorium.nn.encoders.scalars import sines
from sensorium.types import Field


class SeriesEncoder(TransformerEncoder):
    """A pre-norm transformer over the samples of a series.

    A sample becomes a token by a convolution over it and its two neighbours (kernel 3, no bias), of
    the values of all channels and of which of them are there. Its place is its time: sines and
    cosines of how many usual steps it lies after the first sample, so that gaps count as what they
    are and an earlier or later start changes nothing.

    Args:
        field: fitted, with the channels.
        view: of the series.
        width: of the vectors.
        depth: number of layers.
        heads: of the attention.
        activation: of the feed-forward networks.
    """

    view: SeriesView

    def __init__(
        self,
        field: Field,
        view: SeriesView,
        width: int,
        depth: int,
        heads: int,
        *,
        activation: str = "gelu",
    ) -> None:
        super().__init__(width, view)
        self.samples = nn.Conv1d(2 * num_channels(field), width, 3, padding=1, bias=False)
        self.layers = transformer(depth, width, heads, activation=activation)
        self.norm = nn.LayerNorm(width)

    def prepare(
        self,
        values: Float[Tensor, "entries samples features"],
        mask: Bool[Tensor, "entries samples"] | None,
    ) -> Prepared:
        """A vector for each sample."""
        if mask is None:
            mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        # What follows the last sample is nothing, in a batch as for a series alone.
        values = values * mask.unsqueeze(2)
        x = self.samples(values[..., 1:].transpose(1, 2)).transpose(1, 2)
        return x + sines(values[..., 0], self.width), mask[:, None, None], mask
