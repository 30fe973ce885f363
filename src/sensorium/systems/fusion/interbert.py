"""InterBERT: one stream to interact, two streams to stay independent (Lin et al., 2020, 2003.13198).

    regions ─ mean in front ─┐                 ┌─ image layers ─ whole picture ─ ReLU ─┐
                             ├─ joint layers ──┤                                       × ─ match, answer
    words ───────────────────┘                 └─ text layers ─── [CLS] ─────── ReLU ──┘

Lower half: every region and word sees every other. Upper half: each modality by itself, so that its
representation also serves alone. Pretraining hides whole groups (spans of words, overlapping regions),
since a neighbour would give a single one away. Regions that are hidden become zeros before the mean is
taken, and their boxes stay. Layers are post-norm; class 0 of the match head means "match".

Differs from the release (github.com/black4321/InterBERT), deliberately:
- A span begins at each word with probability 0.1 and holds one to three (the paper's policy);
  `spans="single"` is the release's one span for a caption, here for captions of any length. Words are
  word pieces in both.
- Regions are crops of the picture through a small network trained along, at the user's boxes or a
  grid. Features of a fixed detector are taken instead if the image field is of a modality `regions`.
- Region targets are the user's classes of boxes, smoothed by 0.1 in place of a detector's
  distribution; without classes the hidden features themselves are regressed (the release's switch).
- Overlap is computed without the release's extra pixel; a feature that happens to be all zeros does
  not count as hidden; padding is masked by -inf, not -10000.
- Wrong captions come from the batch, never an equal caption or picture. The hard one belongs to a
  picture whose features are among the nearest in the batch, in place of a precomputed neighbour pool.
- The fine-tuning learning rate falls linearly, not in steps at set epochs.
- Segment embeddings (always the first) are part of the positions.

A missing modality has no tokens, and its factor in the product is one: the other passes through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field as Setting
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View
from sensorium.modalities.boxes import BoxesView
from sensorium.modalities.image import ImageView
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.blocks import Layer, transformer
from sensorium.nn.co_attention import CoAttention
from sensorium.nn.encoders.image import Pixels
from sensorium.nn.encoders.text import TextEmbedding
from sensorium.nn.regions import WHOLE, RegionEmbedding, RegionEncoder, Regions, grid_boxes
from sensorium.objectives import masked
from sensorium.systems.base import System, SystemConfig, register
from sensorium.types import Batch, Card, Entries, Field, Loss, Schema, Stage, Tokens, UserError, cat

Negatives = Literal["random", "captions", "pictures"]


class InterBERTConfig(SystemConfig):
    """Settings of InterBERT.

    Attributes:
        width: of the tokens, and `heads` of joint and text layers; `image_heads` of image layers.
        joint_layers: layers that both modalities share; `split_layers`: of each stream after that.
        interaction: `joint`, or `co-attention` (ViLBERT): two streams from the start, whose layers
            take turns with exchanges; as many of each.
        pooled_width: of the vectors whose product is judged.
        dropout: everywhere but in the image layers, which have `image_dropout` after each part.
        max_tokens: of a text, special ones included; `max_regions`: of a picture.
        image_size: pixels of the picture; `crop_size`: of a region; `region_width`: of its feature.
        grid: cells along each side of a picture, the regions where the schema has no boxes.
        group_masking: hide spans and groups of regions; else single ones, each with probability 0.15.
        spans: see `objectives.masked.choose_spans`.
        pretraining_negatives: how a wrong caption is drawn; `captions`: one with similar words,
            `pictures`: that of a similar picture. `tuning_negatives`: of the fourth pair.
        pretraining_rate: the learning rate; `pretraining_batch`: rows in a step;
            `pretraining_share`: the part of the budget, where each other stage has 1.
        tuning_rate: and `tuning_batch`, of the other stages; `ema`: of their weights.
    """

    width: int = 128
    heads: int = 4
    image_heads: int = 4
    joint_layers: int = 2
    split_layers: int = 2
    interaction: Literal["joint", "co-attention"] = "joint"
    pooled_width: int = 256
    dropout: float = 0.1
    image_dropout: float = 0.1
    max_tokens: int = Setting(default=36, gt=2, le=512)
    max_regions: int = 36
    image_size: int = 64
    crop_size: int = 16
    region_width: int = 64
    grid: int = 4
    group_masking: bool = True
    spans: Literal["anchor", "single"] = "anchor"
    pretraining_negatives: Negatives = "random"
    tuning_negatives: Negatives = "pictures"
    pretraining_rate: float = 1e-3
    pretraining_batch: int = 64
    pretraining_share: float = 1.0
    tuning_rate: float = 5e-4
    tuning_batch: int = 32
    ema: float = 0.99

    @classmethod
    def paper(cls) -> Self:
        """The published dimensions and recipe; 2048 is the width of the detector's features."""
        return cls(
            tokenizer="hf:google-bert/bert-base-uncased",
            width=768,
            heads=12,
            image_heads=8,
            joint_layers=6,
            split_layers=6,
            pooled_width=1024,
            image_dropout=0.2,
            image_size=448,
            crop_size=64,
            region_width=2048,
            grid=6,
            pretraining_rate=1e-4,
            pretraining_batch=512,
            pretraining_share=2.0,
            tuning_rate=4e-5,
            tuning_batch=64,
            ema=0.9999,
        )


@dataclass(frozen=True)
class Reads:
    """The fields of a schema that InterBERT takes.

    A text with the role `question` is no description of the picture, so nothing is to be matched.
    """

    image: Field
    text: Field
    boxes: Field | None
    classes: Field | None
    answer: Field | None

    @classmethod
    def of(cls, schema: Schema) -> Self:
        """Find them; among several, the sides of retrieval come first."""
        answers = schema.find(role=("answer", "label"), modality=("category", "categories", "number"))
        roles = ("query", "target", "question", "input")
        if any(field.role == "answer" for field in answers):
            roles = ("question", "query", "target", "input")
        images = _by_role(schema, ("image", "regions"), roles)
        texts = _by_role(schema, ("text",), roles)
        if not images or not texts:
            missing = "image" if not images else "text"
            raise UserError(
                f"interbert reads an image and a text, and the schema has no {missing} field with "
                f"one of the roles {', '.join(roles)}; name one, or choose another system"
            )
        boxes = schema.find(modality="boxes", of=images[0].name)
        classes = schema.find(modality="category", of=boxes[0].name) if boxes else []
        return cls(images[0], texts[0], _one(boxes), _one(classes), _one(answers))

    @property
    def are_pairs(self) -> bool:
        return self.text.role != "question"

    @property
    def are_sides(self) -> bool:
        return {self.image.role, self.text.role} == {"query", "target"}


def _by_role(schema: Schema, modalities: tuple[str, ...], roles: tuple[str, ...]) -> list[Field]:
    return [field for role in roles for field in schema.find(role=role, modality=modalities)]


def _one(fields: list[Field]) -> Field | None:
    return fields[0] if fields else None


@dataclass(frozen=True)
class Words:
    """The text of each row."""

    ids: Int[Tensor, "batch words"]
    mask: Bool[Tensor, "batch words"]
