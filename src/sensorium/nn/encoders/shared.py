"""Other modalities through the tower of pictures, whose weights they share but for small changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Shaped, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from sensorium.modalities.base import View
from sensorium.nn.adapters import Deltas
from sensorium.nn.blocks import Layer
from sensorium.nn.encoders.base import Encoded, Encoder
from sensorium.nn.encoders.image import ImageEncoder
from sensorium.nn.pooling import pool


class SharedEncoder(Encoder):
    """The encoder of pictures for another modality, with changes of its own to the weights.

    Args:
        tower: the encoder, which stays outside of this module.
        view: what is read.
        picture: from values and mask to three channels, near zero in the mean.
        low_rank: patterns of the matrices of the tower that get a change of low rank; see `Deltas`.
        rank: of these.
        whole: patterns of the weights that get a change of their own size.
        patch_dropout: the share of patches that are left out in training.
    """

    def __init__(
        self,
        tower: ImageEncoder,
        view: View,
        picture: nn.Module,
        *,
        low_rank: Sequence[str],
        rank: int,
        whole: Sequence[str],
        patch_dropout: float = 0.0,
    ) -> None:
        super().__init__(tower.width, view)
        self._tower = (tower,)  # a tuple, so that its weights are counted once
        self.picture = picture
        self.pooling = tower.pooling
        self.patch_dropout = patch_dropout
        self.deltas = Deltas(tower, low_rank, rank, whole)

    def forward(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """The vectors of the tower, with the changed weights."""
        (tower,) = self._tower
        picture = self.picture(values, mask)
        seen = self._seen(len(picture), picture.shape[-2:])
        encoded: Encoded = functional_call(tower, self.deltas(tower), (picture, seen))
        return encoded

    def _seen(
        self, num_entries: int, size: tuple[int, ...]
    ) -> Bool[Tensor, "entries patches"] | None:
        """Which patches are not left out this time; None for all."""
        (tower,) = self._tower
        if not self.training or not self.patch_dropout:
            return None
        number = (size[0] // tower.patch) * (size[1] // tower.patch)
        kept = max(1, round(number * (1 - self.patch_dropout)))
        draw = torch.rand(num_entries, number, device=tower.positions.device)
        return draw.argsort(1) < kept


class SharedVideoEncoder(SharedEncoder):
    """The encoder of pictures for videos: frames see each other before each of its layers.

    For each place of a picture, attention over the frames at that place; it has the weights of the
    layer's own attention and norm, with changes, and is added to what comes in, after a learned vector
    for each frame (LanguageBind, section 3.2). The layers themselves stay as they are. A video's vector
    is the mean over its frames.

    Args:
        tower: the encoder, which stays outside of this module.
        view: what is read.
        num_frames: of a video at most.
        picture: from frames to three channels.
        rank: of the changes of the attention over frames; None for changes of their own size.
        whole: patterns of further weights of the tower that get a change of their own size.
        patch_dropout: the share of patches that are left out in training, the same in all frames.
    """

    def __init__(
        self,
        tower: ImageEncoder,
        view: View,
        num_frames: int,
        picture: nn.Module,
        *,
        rank: int | None,
        whole: Sequence[str],
        patch_dropout: float = 0.0,
    ) -> None:
        super().__init__(
            tower, view, picture, low_rank=(), rank=1, whole=whole, patch_dropout=patch_dropout
        )
        self.pooling = "mean"
        matrices, all_weights = ("attention.*.weight",), ("attention.*", "attention_norm.*")
        self.temporal = nn.ModuleList(
            [
                Deltas(layer, () if rank is None else matrices, rank or 1, all_weights)
                for layer in tower.layers
            ]
        )
        spread = tower.width**-0.5
        self.frames = nn.Parameter(torch.randn(len(tower.layers), num_frames, tower.width) * spread)

    def forward(
        self,
        values: UInt8[Tensor, "entries frames rows columns 3"],
        mask: Bool[Tensor, "entries frames"] | None = None,
    ) -> Encoded:
        """A vector for each frame."""
        (tower,) = self._tower
        num_entries, num_frames = values.shape[:2]
        picture = self.picture(values.flatten(0, 1), None)
        seen = self._seen(num_entries, picture.shape[-2:])
        if seen is not None:
            seen = seen.repeat_interleave(num_frames, 0)

        def over_frames(number: int, x: Tensor) -> Tensor:
            if num_frames == 1:
                return x
            layer, deltas = cast(Layer, tower.layers[number]), self.temporal[number]
            weights = deltas(layer)
            x = (
                rearrange(x, "(b t) p d -> b p t d", t=num_frames)
                + self.frames[number, :num_frames]
            )
            normal = functional_call(
                layer.attention_norm, _inside(weights, "attention_norm."), (x,)
            )
            flat = normal.flatten(0, 1)
            real = None
            if mask is not None:
                real = mask.repeat_interleave(x.shape[1], 0)[:, None, None]
            attended = functional_call(
                layer.attention, _inside(weights, "attention."), (flat, real)
            )
            x = x + attended.view_as(x)
            return rearrange(x, "b p t d -> (b t) p d")

        settings = {"before_layer": over_frames}
        vectors, _ = functional_call(tower, self.deltas(tower), (picture, seen), settings)
        pooled = pool(vectors, None, tower.pooling)
        return pooled.view(num_entries, num_frames, -1), mask


def _inside(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The weights of one part of a module, by their names in it."""
    return {name.removeprefix(part): w for name, w in weights.items() if name.startswith(part)}
