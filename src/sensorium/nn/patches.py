"""Pictures and maps as rows of patches: to tokens, to what is predicted of them, and back.

A patch is a square of pixels; patches stand row by row from the top left. What stands in a patch is
flattened by rows, columns and channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.image import ImageView
from sensorium.modalities.map_pixels import channels_of, is_classes
from sensorium.modalities.maps import MapView, class_numbers, num_channels
from sensorium.nn.encoders.image import Pixels, Triple, check_patches
from sensorium.types import Field

CUT = 0.1
"""The share of the smallest and of the largest numbers of a map that its mean and deviation leave out."""

EPSILON = 1e-6

Errors = tuple[Float[Tensor, "entries patches"], Float[Tensor, "entries patches"]]
"""Of each patch the summed error of its pixels, and how many pixels count."""


class Patches(nn.Module, ABC):
    """The patches of one field.

    Args:
        field: which field.
        view: with the size of the square pictures or maps, in pixels.
        width: of the tokens.
        patch: pixels of a patch along each side; must divide the size.
        channels: numbers of a pixel that are predicted.
        read_channels: numbers of a pixel that are read.

    Attributes:
        side: patches along each side.
        numbers: how many say what stands in a patch.
    """

    view: ImageView | MapView

    def __init__(
        self,
        field: Field,
        view: ImageView | MapView,
        width: int,
        patch: int,
        channels: int,
        read_channels: int,
    ) -> None:
        super().__init__()
        check_patches(field, view.size, patch)
        self.field, self.view, self.patch = field, view, patch
        self.channels, self.side = channels, view.size // patch
        self.numbers = patch * patch * channels
        self.project = nn.Linear(patch * patch * read_channels, width)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    @abstractmethod
    def read(
        self, values: Shaped[Tensor, "entries size size ..."]
    ) -> Float[Tensor, "entries size size read"]:
        """What is read of pixels."""

    @abstractmethod
    def errors(
        self,
        predicted: Float[Tensor, "entries patches numbers"],
        values: Shaped[Tensor, "entries size size ..."],
    ) -> Errors:
        """How far what is predicted is from what is there."""

    @abstractmethod
    def restore(
        self, predicted: Float[Tensor, "entries patches numbers"]
    ) -> Shaped[Tensor, "entries size size ..."]:
        """What is predicted, in the form in which the field is collated."""

    def forward(
        self, values: Shaped[Tensor, "entries size size ..."]
    ) -> Float[Tensor, "entries patches width"]:
        """A token for each patch, without its position."""
        tokens: Tensor = self.project(to_patches(self.read(values), self.patch))
        return tokens


class PicturePatches(Patches):
    """Of pictures: squared errors of colours, each the mean over the channels.

    Args:
        field: as for all, and `view`, `width`, `patch`.
        mean: and `deviation`, of the channels, of bytes divided by 255.
    """

    def __init__(
        self,
        field: Field,
        view: ImageView,
        width: int,
        patch: int,
        *,
        mean: Triple = (0.5, 0.5, 0.5),
        deviation: Triple = (0.25, 0.25, 0.25),
    ) -> None:
        super().__init__(field, view, width, patch, 3, 3)
        self.pixels = Pixels(mean, deviation)

    def read(
        self, values: UInt8[Tensor, "entries size size 3"]
    ) -> Float[Tensor, "entries size size 3"]:
        """Colours around zero."""
        colours: Tensor = self.pixels(values)
        return colours.permute(0, 2, 3, 1)

    def errors(
        self,
        predicted: Float[Tensor, "entries patches numbers"],
        values: UInt8[Tensor, "entries size size 3"],
    ) -> Errors:
        """Squared."""
        return self._squared(predicted, to_patches(self.read(values), self.patch))

    def relative_errors(
        self,
        predicted: Float[Tensor, "entries patches numbers"],
        values: UInt8[Tensor, "entries size size 3"],
    ) -> Errors:
        """Squared, of colours less the mean of their patch and divided by its deviation."""
        target = to_patches(self.read(values), self.patch)
        variance, mean = torch.var_mean(target, dim=2, keepdim=True)
        return self._squared(predicted, (target - mean) / (variance + EPSILON).sqrt())

    def _squared(self, predicted: Tensor, target: Tensor) -> Errors:
        squared = (predicted.float() - target.float()).square().sum(2) / self.channels
        return squared, torch.full_like(squared, self.patch * self.patch)

    def restore(
        self, predicted: Float[Tensor, "entries patches numbers"]
    ) -> UInt8[Tensor, "entries size size 3"]:
        """Colours."""
        colours = from_patches(predicted.float(), self.patch)
        shift, scale = self.pixels.shift.flatten(), self.pixels.scale.flatten()
        return ((colours - shift) / scale).round().clamp(0, 255).to(torch.uint8)


class MapPatches(Patches):
    """Of maps of numbers: absolute errors of pixels that say something.

    Args:
        field: as for all, and `view`, `width`, `patch`.
        standardised: by the mean and deviation of each map, without its smallest and largest numbers;
            what is predicted then has no unit.
    """

    def __init__(
        self, field: Field, view: MapView, width: int, patch: int, *, standardised: bool = False
    ) -> None:
        super().__init__(field, view, width, patch, channels_of(field), num_channels(field))
        self.standardised = standardised

    def read(
        self, values: Float[Tensor, "entries size size read"]
    ) -> Float[Tensor, "entries size size read"]:
        """Numbers around zero (zero where nothing is said), and what says something."""
        numbers, valid = values[..., :-1], values[..., -1:]
        centred = standardise(numbers, valid > 0) if self.standardised else numbers * 2 - 1
        return torch.cat([centred * valid, valid], -1)

    def errors(
        self,
        predicted: Float[Tensor, "entries patches numbers"],
        values: Float[Tensor, "entries size size read"],
    ) -> Errors:
        """Absolute, each the mean over the channels."""
        target = by_pixel(to_patches(self.read(values), self.patch), self.channels + 1)
        away = by_pixel(predicted.float(), self.channels) - target[..., :-1].float()
        counts = target[..., -1].float()
        return (away.abs().mean(3) * counts).sum(2), counts.sum(2)

    def restore(
        self, predicted: Float[Tensor, "entries patches numbers"]
    ) -> Float[Tensor, "entries size size read"]:
        """Numbers in [0, 1], all of which say something; if they have no unit, around the middle."""
        numbers = from_patches(predicted.float(), self.patch)
        scaled = 0.5 + 0.25 * numbers if self.standardised else (numbers + 1) / 2
        return F.pad(scaled.clamp(0, 1), (0, 1), value=1.0)


class ClassPatches(Patches):
    """Of maps of classes: pixels become learned vectors; cross-entropy where a class is known.

    Args:
        field: as for all, and `view`, `width`, `patch`.
        class_width: of the vectors of classes.
    """

    def __init__(
        self, field: Field, view: MapView, width: int, patch: int, *, class_width: int = 64
    ) -> None:
        num_classes = len(class_numbers(field))
        super().__init__(field, view, width, patch, num_classes, class_width)
        # the last stands for pixels that say nothing
        self.classes = nn.Embedding(num_classes + 1, class_width)
        nn.init.trunc_normal_(self.classes.weight, std=0.02)

    def read(
        self, values: Int[Tensor, "entries size size"]
    ) -> Float[Tensor, "entries size size read"]:
        """The vectors of the classes."""
        vectors: Tensor = self.classes(values)
        return vectors

    def errors(
        self,
        predicted: Float[Tensor, "entries patches numbers"],
        values: Int[Tensor, "entries size size"],
    ) -> Errors:
        """Cross-entropy, in 32 bits."""
        truth = to_patches(values.unsqueeze(3), self.patch)
        scores = by_pixel(predicted.float(), self.channels)
        known = truth < self.channels
        each = F.cross_entropy(
            scores.flatten(0, 2), truth.masked_fill(~known, 0).flatten(), reduction="none"
        ).view_as(truth)
        return (each * known).sum(2), known.float().sum(2)

    def restore(
        self, predicted: Float[Tensor, "entries patches numbers"]
    ) -> Int[Tensor, "entries size size"]:
        """The likeliest class of each pixel."""
        return from_patches(predicted, self.patch).argmax(3)


def build_patches(
    field: Field,
    width: int,
    patch: int,
    size: int,
    *,
    stride: int = 1,
    class_width: int = 64,
    standardised: bool = False,
    colours: Mapping[str, Triple] = MappingProxyType({}),
) -> Patches:
    """The patches of a picture or map.

    Args:
        field: which.
        width: of the tokens.
        patch: pixels of a patch along each side, and `size`, of the field.
        stride: by how much maps of classes, and their patches, are smaller.
        class_width: of the vectors of classes.
        standardised: whether each map is read and predicted less its mean and divided by its deviation.
        colours: `mean` and `deviation` of the channels of a picture.
    """
    if field.modality == "image":
        view = ImageView(size=size, augment=("crop", "flip"))
        return PicturePatches(field, view, width, patch, **colours)
    if not is_classes(field):
        return MapPatches(field, MapView(size=size), width, patch, standardised=standardised)
    small = MapView(size=size // stride)
    return ClassPatches(field, small, width, patch // stride, class_width=class_width)


def to_patches(
    pixels: Shaped[Tensor, "entries size size channels"], patch: int
) -> Shaped[Tensor, "entries patches numbers"]:
    """What stands in each patch."""
    return rearrange(pixels, "e (r p) (c q) n -> e (r c) (p q n)", p=patch, q=patch)


def from_patches(
    numbers: Shaped[Tensor, "entries patches numbers"], patch: int
) -> Shaped[Tensor, "entries size size channels"]:
    """The pixels that stand in patches of a square."""
    side = round(numbers.shape[1] ** 0.5)
    return rearrange(numbers, "e (r c) (p q n) -> e (r p) (c q) n", r=side, p=patch, q=patch)


def by_pixel(
    numbers: Shaped[Tensor, "entries patches numbers"], channels: int
) -> Shaped[Tensor, "entries patches pixels {channels}"]:
    """What stands in each pixel of each patch."""
    return rearrange(numbers, "e n (p c) -> e n p c", c=channels)


def standardise(
    numbers: Float[Tensor, "entries size size channels"],
    valid: Bool[Tensor, "entries size size 1"],
) -> Float[Tensor, "entries size size channels"]:
    """Less their mean, and divided by their deviation, for each map and channel.

    Both are of valid numbers without the smallest and the largest tenth.
    """
    flat = numbers.flatten(1, 2)
    ordered = flat.masked_fill(~valid.flatten(1, 2), torch.inf).sort(1).values
    count = valid.sum((1, 2))[:, None]
    low, high = (CUT * count).long(), ((1 - CUT) * count).long()
    place = torch.arange(flat.shape[1], device=flat.device)[None, :, None]
    kept = (place >= low) & (place < high)
    number = kept.sum(1, keepdim=True).clamp(min=1)
    middle = ordered.masked_fill(~kept, 0.0)
    mean = middle.sum(1, keepdim=True) / number
    variance = ((middle - mean) * kept).square().sum(1, keepdim=True) / (number - 1).clamp(min=1)
    return ((flat - mean) / (variance + EPSILON).sqrt()).view_as(numbers)
