"""What can be made a picture: three channels around zero, as the tower of pictures reads them."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from sensorium.modalities.audio import AudioView
from sensorium.modalities.base import View
from sensorium.modalities.map_pixels import is_classes
from sensorium.modalities.maps import MapView
from sensorium.modalities.video import VideoView
from sensorium.nn.encoders.audio import LogMel
from sensorium.nn.encoders.image import ImageEncoder, Pixels
from sensorium.types import Field


def as_picture(
    field: Field, tower: ImageEncoder, *, seconds: float, frames: int
) -> tuple[View, nn.Module] | None:
    """What to read of a field, and the module that makes pictures of it; None if it is no kind of one.

    Args:
        field: which.
        tower: of pictures.
        seconds: of a recording at most.
        frames: of a video at most.
    """
    size, fit = tower.view.size, tower.view.fit
    if field.modality == "audio":
        audio = AudioView(seconds=seconds)
        return audio, SoundPicture(audio, size // tower.patch * tower.patch, tower.patch)
    if field.modality == "maps" and not is_classes(field):
        return MapView(size=size, fit=fit), MapPicture(tower.pixels)
    if field.modality == "video":
        return VideoView(frames=frames, size=size, fit=fit), Frames(tower.pixels)
    if field.modality == "image":
        return tower.view, Frames(tower.pixels)
    return None


class Frames(nn.Module):
    """Pictures as they are: bytes to the numbers of the tower."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(
        self,
        values: UInt8[Tensor, "entries rows columns 3"],
        mask: Bool[Tensor, "entries length"] | None,
    ) -> Float[Tensor, "entries 3 rows columns"]:
        """Normalise."""
        return cast(Tensor, self.pixels(values))


class MapPicture(nn.Module):
    """A map by its range, one channel three times; pixels that say nothing are black."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(
        self,
        values: Float[Tensor, "entries rows columns channels"],
        mask: Bool[Tensor, "entries length"] | None,
    ) -> Float[Tensor, "entries 3 rows columns"]:
        """Repeat and normalise; the last channel says which pixels are real."""
        numbers = values[..., :-1]
        if numbers.shape[-1] != 3:
            numbers = numbers.mean(-1, keepdim=True).expand(*numbers.shape[:-1], 3)
        return numbers.permute(0, 3, 1, 2) * 255 * self.pixels.scale + self.pixels.shift


class SoundPicture(nn.Module):
    """A recording as a picture: mel bands upwards, time to the right, three times the same.

    A recording that ends early is repeated until the end (LanguageBind, section 3.2).

    Args:
        view: of the recordings.
        bands: the height, in pixels.
        patch: the width is cut to a multiple of it.
    """

    def __init__(self, view: AudioView, bands: int, patch: int) -> None:
        super().__init__()
        self.spectrogram = LogMel(view.rate, bands)
        self.columns = self.spectrogram.frames(view.num_samples) // patch * patch

    def forward(
        self,
        values: Float[Tensor, "entries samples"],
        mask: Bool[Tensor, "entries samples"] | None,
    ) -> Float[Tensor, "entries 3 bands columns"]:
        """The picture."""
        if mask is not None:
            length = mask.sum(1, keepdim=True).clamp(min=1)
            at = torch.arange(values.shape[1], device=values.device) % length
            values = values.gather(1, at)
        spectrum: Tensor = self.spectrogram(values)[:, : self.columns]
        return spectrum.transpose(1, 2)[:, None].expand(-1, 3, -1, -1)
