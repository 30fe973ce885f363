"""What hangs on a picture moves with it: how it was made square, and random changes in training.

`place_boxes` belongs to decoding and is needed wherever boxes are read; `augment_sample` follows it
in training. Boxes belong to the first picture of the field they are `of`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from sensorium.modalities.base import View
from sensorium.modalities.boxes import is_in_pixels, within_picture
from sensorium.modalities.image import ImageView, Picture, fit_boxes
from sensorium.modalities.mirror import mirrored
from sensorium.modalities.points import PointsView, augmented
from sensorium.types import BadValue, Field, Sample, Schema

KEPT_AREA = 0.25
"""A box of which less than this share is left is dropped."""

_CROP_AREA = (0.5, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)
_COLOUR = 0.3
_WHOLE = (0.0, 0.0, 1.0, 1.0)

Values = dict[str, list[Any]]


def place_boxes(sample: Sample, schema: Schema, views: Mapping[str, View]) -> Sample:
    """The sample with its boxes as shares of the decoded, square pictures.

    Boxes that a crop to the middle cuts to less than a quarter of their area are dropped, and with
    them the entries of what is `of` them or names them.

    Raises:
        BadValue: boxes in pixels reach out of their picture, or have none; fields that belong
            together differ in length.
    """
    _check_aligned(sample, schema)
    values = dict(sample.values)
    for field in schema.find(modality="boxes"):
        if field.name not in values or field.of is None:
            continue
        pictures, view = values.get(field.of), views.get(field.of)
        if pictures is None or not isinstance(view, ImageView):
            if is_in_pixels(field):
                raise BadValue(
                    f"field '{field.name}': boxes in pixels say nothing without their picture, the "
                    f"field '{field.of}'"
                )
            continue
        if view.fit == "squash" and not is_in_pixels(field):
            continue
        picture: Picture = pictures[0]
        boxes = np.stack(values[field.name])
        if is_in_pixels(field):
            boxes = boxes / np.array([picture.width, picture.height] * 2)
            boxes = np.array([within_picture(box, field) for box in boxes.tolist()], np.float32)
        boxes = fit_boxes(boxes, picture.width, picture.height, view.fit)
        _put_boxes(values, schema, field, boxes)
    return replace(sample, values=values)


def augment_sample(
    sample: Sample, schema: Schema, views: Mapping[str, View], rng: np.random.Generator
) -> Sample:
    """The sample with the random changes that the views of its pictures and clouds ask for.

    Boxes, and pictures and maps that are `of` a picture, change with it (without the colours). A flip
    exchanges words such as "left" and "right" in all texts and names of classes, and moves the
    spans of those texts. A row is flipped only if all its pictures may be and it stays true: not
    with several pictures in a field, since texts may speak of their order, not with a clip, and not if
    a class that says "left" has no opposite.

    Args:
        sample: decoded, after `place_boxes`.
        schema: what its fields are.
        views: what was asked of each.
        rng: where the draws come from.
    """
    present = [f for f in schema.find(modality="image") if f.name in sample.values]
    names = {field.name for field in present}
    leading: list[tuple[Field, ImageView]] = []
    for field in present:
        view = views.get(field.name)
        if isinstance(view, ImageView) and field.of not in names:
            leading.append((field, view))
    clouds: list[tuple[Field, PointsView]] = []
    for field in schema.find(modality="points"):
        view_of_points = views.get(field.name)
        if field.name in sample.values and isinstance(view_of_points, PointsView):
            clouds.append((field, view_of_points))
    changes_pictures = any(view.augment for _, view in leading)
    if not changes_pictures and not any(view.augment for _, view in clouds):
        return sample
    values = dict(sample.values)
    for field, view_of_points in clouds:
        values[field.name] = [augmented(v, view_of_points, rng) for v in values[field.name]]
    if not changes_pictures:
        return replace(sample, values=values)
    # Clips, and maps of nothing, stay as they are, so that words must as well.
    unmoved = [f.name for f in schema.find(modality=("video", "maps")) if f.of not in names]
    flip = rng.random() < 0.5 and all(
        "flip" in view.augment and len(values[field.name]) == 1 for field, view in leading
    )
    flip = flip and not any(name in values for name in unmoved)
    if flip:
        turned = mirrored(values, schema)
        values, flip = (values, False) if turned is None else (turned, True)
    for field, view in leading:
        changes = [_draw(view, flip, rng) for _ in values[field.name]]
        _change(values, field.name, changes)
        for follower in schema.find(of=field.name):
            if follower.name not in values:
                continue
            if follower.modality == "image":
                _change(values, follower.name, [change.without_colours() for change in changes])
            elif follower.modality == "maps":
                maps = zip(values[follower.name], changes, strict=True)
                values[follower.name] = [
                    replace(value, values=change.map_values(value.values)) for value, change in maps
                ]
            elif follower.modality == "boxes":
                boxes = changes[0].boxes(np.stack(values[follower.name]))
                _put_boxes(values, schema, follower, boxes)
    return replace(sample, values=values)


@dataclass(frozen=True)
class _Change:
    """One draw.

    Attributes:
        part: which part of the picture is kept: left, top, right, bottom as shares of its sides.
        flip: whether left and right are exchanged, after that.
        contrast: factor of the distance of values from their mean.
        brightness: factor of values, after that.
    """

    part: tuple[float, float, float, float] = _WHOLE
    flip: bool = False
    contrast: float = 1.0
    brightness: float = 1.0

    def without_colours(self) -> _Change:
        """What changes the places of things only."""
        return _Change(self.part, self.flip)

    def pixels(self, pixels: UInt8[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "size size 3"]:
        """The changed picture."""
        if self.part != _WHOLE:
            height, width = pixels.shape[:2]
            left, top, right, bottom = self.part
            box = (left * width, top * height, right * width, bottom * height)
            picture = PIL.Image.fromarray(pixels)
            resample = PIL.Image.Resampling.BICUBIC
            pixels = np.asarray(picture.resize((width, height), resample, box=box))
        if self.flip:
            pixels = pixels[:, ::-1]
        if self.contrast != 1 or self.brightness != 1:
            mean = pixels.mean()
            levels = ((np.arange(256) - mean) * self.contrast + mean) * self.brightness
            pixels = np.rint(levels).clip(0, 255).astype(np.uint8)[pixels]
        return pixels

    def map_values(
        self, values: Float[np.ndarray, "size size channels"]
    ) -> Float[np.ndarray, "size size channels"]:
        """The changed map; the nearest values, since classes and gaps cannot be mixed."""
        left, top, right, bottom = self.part
        share = (np.arange(len(values)) + 0.5) / len(values)
        rows = ((top + (bottom - top) * share) * len(values)).astype(np.int64)
        columns = ((left + (right - left) * share) * len(values)).astype(np.int64)
        return values[rows[:, None], columns[::-1] if self.flip else columns]

    def boxes(self, boxes: Float[np.ndarray, "boxes 4"]) -> Float[np.ndarray, "boxes 4"]:
        """Where boxes lie in the changed picture, or beside it."""
        left, top, right, bottom = self.part
        corner = np.array([left, top, left, top])
        sides = np.array([right - left, bottom - top, right - left, bottom - top])
        moved: NDArray[np.float32] = ((boxes - corner) / sides).astype(np.float32)
        if self.flip:
            moved[:, [0, 2]] = 1 - moved[:, [2, 0]]
        return moved


def _draw(view: ImageView, flip: bool, rng: np.random.Generator) -> _Change:
    part = _WHOLE
    if "crop" in view.augment:
        area = rng.uniform(*_CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])))
        width, height = min(1.0, math.sqrt(area * ratio)), min(1.0, math.sqrt(area / ratio))
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        part = (left, top, min(1.0, left + width), min(1.0, top + height))
    contrast = brightness = 1.0
    if "colour" in view.augment:
        contrast, brightness = rng.uniform(1 - _COLOUR, 1 + _COLOUR, size=2).tolist()
    return _Change(part, flip, contrast, brightness)


def _change(values: Values, name: str, changes: list[_Change]) -> None:
    """Change the pictures of a field, each by its own draw."""
    values[name] = [
        replace(picture, pixels=change.pixels(picture.pixels))
        for picture, change in zip(values[name], changes, strict=True)
    ]


def _put_boxes(
    values: Values, schema: Schema, field: Field, boxes: Float[np.ndarray, "boxes 4"]
) -> None:
    """Clip boxes to the picture; those of which too little is left go, and what hangs on them."""
    clipped = boxes.clip(0, 1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    left = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    kept = np.flatnonzero(left >= KEPT_AREA * area)
    values[field.name] = list(clipped)
    if len(kept) == len(boxes):
        return
    for name in [field.name, *(other.name for other in _entry_by_entry(field, schema))]:
        if name in values:
            values[name] = [values[name][place] for place in kept]
            if not values[name]:
                del values[name]


def _entry_by_entry(field: Field, schema: Schema) -> list[Field]:
    """The fields whose entries belong to those of another one by one."""
    if field.modality == "image":
        return schema.find(of=field.name, modality=("image", "maps"))
    names, found = [field.name], []
    for name in names:  # grows while it is walked: what belongs to what belongs to the boxes
        more = [f for f in schema if f.name not in names and name in (f.of, f.options.get("names"))]
        found += more
        names += [f.name for f in more]
    return found


def _check_aligned(sample: Sample, schema: Schema) -> None:
    for field in schema.find(modality=("boxes", "image")):
        count = len(sample.values.get(field.name, ()))
        for other in _entry_by_entry(field, schema) if count else ():
            found = len(sample.values.get(other.name, ()))
            if found not in (0, count):
                raise BadValue(
                    f"field '{other.name}': {found} entries for {count} of '{field.name}'; expected "
                    "as many"
                )
