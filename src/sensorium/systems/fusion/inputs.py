"""What fusion systems of pictures and texts read: which fields, and their regions and words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sensorium.modalities.base import View, default_views
from sensorium.modalities.image import ImageView
from sensorium.modalities.scalars import class_names
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.encoders.image import Pixels
from sensorium.nn.regions import WHOLE, RegionEncoder, Regions, grid_boxes, side_by_side
from sensorium.objectives.answers import ANSWERABLE
from sensorium.objectives.masked import below
from sensorium.types import Batch, Entries, Field, Schema, UserError


@dataclass(frozen=True)
class Reads:
    """The fields of a schema that such a system takes.

    A text with the role `question` is no description of the picture, so nothing is to be matched.
    """

    image: Field
    text: Field
    boxes: Field | None
    classes: Field | None
    answer: Field | None

    @classmethod
    def of(cls, schema: Schema, system: str) -> Self:
        """Find them; among several, the sides of retrieval come first.

        Raises:
            UserError: there is no image or no text; names the system.
        """
        answers = schema.find(role=("answer", "label"), modality=ANSWERABLE)
        roles = ("query", "target", "question", "input")
        if any(field.role == "answer" for field in answers):
            roles = ("question", "query", "target", "input")
        images = _by_role(schema, ("image", "regions"), roles)
        texts = _by_role(schema, ("text",), roles)
        if not images or not texts:
            missing = "image" if not images else "text"
            raise UserError(
                f"{system} reads an image and a text, and the schema has no {missing} field with "
                f"one of the roles {', '.join(roles)}; name one, or choose another system"
            )
        boxes = schema.find(modality="boxes", of=images[0].name)
        classes = schema.find(modality="category", of=(boxes or images)[0].name)
        return cls(images[0], texts[0], _one(boxes), _one(classes), _one(answers))

    @property
    def are_pairs(self) -> bool:
        """Whether the text describes the picture."""
        return self.text.role != "question"

    @property
    def are_sides(self) -> bool:
        """Whether each is to be found for the other."""
        return {self.image.role, self.text.role} == {"query", "target"}


def _by_role(schema: Schema, modalities: tuple[str, ...], roles: tuple[str, ...]) -> list[Field]:
    return [field for role in roles for field in schema.find(role=role, modality=modalities)]


def _one(fields: list[Field]) -> Field | None:
    return fields[0] if fields else None


@dataclass(frozen=True)
class Inputs:
    """A picture and a text for each row."""

    regions: Regions
    ids: Int[Tensor, "batch words"]
    mask: Bool[Tensor, "batch words"]

    @property
    def complete(self) -> Int[Tensor, "rows"]:
        """The rows that have both."""
        return (self.regions.mask.any(1) & self.mask.any(1)).nonzero().squeeze(1)

    def paired(self, pictures: Int[Tensor, "pairs"], texts: Int[Tensor, "pairs"]) -> Inputs:
        """Pictures of some rows with texts of others."""
        return Inputs(self.regions.take(pictures), self.ids[texts], self.mask[texts])


class RegionReader(nn.Module):
    """From a batch to regions and words.

    Regions are crops of the picture at the user's boxes, or at a grid where the schema has none; a
    picture without boxes in a schema with them is one region. A field of the modality `regions` (a
    detector's features of each region, with its box behind them, and a mask) is taken as it is.

    Args:
        reads: which fields.
        width: of the features of regions; `crop_size`: pixels of a crop.
        grid: cells along each side of a picture without boxes.
        max_regions: of a picture; those after are left out.
    """

    cells: Float[Tensor, "cells 4"]

    def __init__(
        self, reads: Reads, *, width: int, crop_size: int, grid: int, max_regions: int
    ) -> None:
        super().__init__()
        self.reads, self.width, self.max_regions = reads, width, max_regions
        self.pixels = Pixels()
        is_picture = reads.image.modality == "image"
        self.encoder = RegionEncoder(width, crop_size) if is_picture else None
        self.register_buffer("cells", grid_boxes(grid, grid), persistent=False)

    def views(self, tokenizer: Tokenizer, image_size: int, max_tokens: int) -> dict[str, View]:
        """Squashed pictures, so that boxes stay where they are."""
        reads = self.reads
        fields = (reads.image, reads.boxes, reads.classes, reads.answer)
        views = dict(default_views(field for field in fields if field is not None))
        if reads.image.modality == "image":
            views[reads.image.name] = ImageView(size=image_size)
        views[reads.text.name] = TextView(tokenizer=tokenizer, max_tokens=max_tokens)
        return views

    def forward(self, batch: Batch) -> Inputs:
        """A picture of each row (the first) and a text: in training any of its texts, else the first."""
        name, size = self.reads.text.name, batch.size
        regions = self.regions(batch)
        if not batch.present(name).any():
            nothing = torch.zeros(size, 1, dtype=torch.long, device=batch.device)
            return Inputs(regions, nothing, nothing.bool())
        entries = batch[name]
        assert entries.mask is not None
        counts = entries.counts(size)
        at = counts.cumsum(0) - counts
        if self.training:
            at = at + below(batch.uniform("which text", 1).squeeze(1), counts)
        at = at.clamp(max=len(entries) - 1)
        return Inputs(regions, entries.values[at], entries.mask[at] & (counts > 0)[:, None])

    def regions(self, batch: Batch) -> Regions:
        """The regions of each row's picture; none where there is no picture."""
        name, size = self.reads.image.name, batch.size
        if not batch.present(name).any():
            boxes = self.cells.new_zeros(size, 1, 4)
            return Regions(boxes.new_zeros(size, 1, self.width), boxes, boxes[..., 0] > 0)
        values, present = batch[name].first(size)
        features_mask = batch[name].mask
        if features_mask is not None:  # of the modality `regions`, or made so by `with_regions`
            mask, _ = replace(batch[name], values=features_mask, mask=None).first(size)
            return Regions(values[..., :-4], values[..., -4:], mask)
        assert self.encoder is not None
        boxes = self.cells.expand(size, -1, -1)
        mask = present[:, None].expand(boxes.shape[:2])
        if self.reads.boxes:
            boxes, mask = self._boxes(batch, self.reads.boxes.name)
            bare = present & ~mask.any(1)
            boxes[bare, 0] = boxes.new_tensor(WHOLE)
            mask = torch.cat([mask[:, :1] | bare[:, None], mask[:, 1:]], 1) & present[:, None]
        return Regions(self.encoder(self.pixels(values), boxes, mask), boxes, mask)

    def _boxes(self, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
        if not batch.present(name).any():
            boxes = torch.zeros(batch.size, 1, 4, device=batch.device)
            return boxes, boxes[..., 0] > 0
        num_regions = min(self.max_regions, int(batch[name].item.max()) + 1)
        return side_by_side(batch[name], batch.size, num_regions)

    def classes(
        self, batch: Batch, where: Bool[Tensor, "batch regions"]
    ) -> tuple[Int[Tensor, "batch regions"], Bool[Tensor, "batch regions"]]:
        """The class of each region, and which of `where` have one that is known."""
        field = self.reads.classes
        if field is None or field.name not in batch:
            return torch.zeros_like(where, dtype=torch.long), torch.zeros_like(where)
        codes, known = side_by_side(batch[field.name], batch.size, where.shape[1])
        return codes, known & where & (codes < len(class_names(field)))

    def with_regions(self, batch: Batch) -> Batch:
        """The batch with features and boxes of regions for pictures, so that each is looked at once."""
        regions = self.regions(batch)
        rows = regions.mask.any(1).nonzero().squeeze(1)
        values = torch.cat([regions.features, regions.boxes], -1)[rows]
        entries = Entries(values, rows, torch.zeros_like(rows), regions.mask[rows])
        return batch.with_fields(**{self.reads.image.name: entries})
