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

from sensorium.modalities.base import View, default_views
from sensorium.modalities.image import ImageView
from sensorium.modalities.scalars import class_names
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.blocks import transformer
from sensorium.nn.co_attention import exchanges
from sensorium.nn.encoders.image import Pixels
from sensorium.nn.encoders.text import TextEmbedding
from sensorium.nn.masks import bidirectional
from sensorium.nn.regions import (
    WHOLE,
    RegionEmbedding,
    RegionEncoder,
    Regions,
    grid_boxes,
    side_by_side,
)
from sensorium.objectives import masked
from sensorium.objectives.answers import ANSWERABLE, answer_loss, answers_of, num_outputs
from sensorium.objectives.duplicates import content_ids, merge_groups
from sensorium.objectives.matching import matching_loss, sample_negatives
from sensorium.objectives.overlap import word_overlap
from sensorium.systems.base import System, SystemConfig, register
from sensorium.types import Batch, Card, Entries, Field, Loss, Schema, Stage, Tokens, UserError, cat

Negatives = Literal["random", "captions", "pictures"]

EPSILON = 1e-12
HARDNESS = 10.0  # the factor on cosines from which hard negatives are drawn


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
        answers = schema.find(role=("answer", "label"), modality=ANSWERABLE)
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


@register("interbert")
class InterBERT(System):
    """See the head of this file."""

    card = Card(
        title="InterBERT: Vision-and-Language Interaction for Multi-modal Pretraining",
        paper="arXiv:2003.13198",
        year=2020,
        family="fusion",
        modalities=("image", "text"),
        tasks=("retrieval", "classification", "regression", "vqa"),
        licence="MIT (a line in its readme)",
    )
    Config = InterBERTConfig
    config: InterBERTConfig
    is_word: Bool[Tensor, "vocabulary"]
    cells: Float[Tensor, "cells 4"]

    def __init__(
        self, config: InterBERTConfig, schema: Schema, tokenizer: Tokenizer | None = None
    ) -> None:
        super().__init__(config, schema, tokenizer)
        if tokenizer is None or tokenizer.mask_id is None:
            raise UserError("interbert hides words: it needs a tokenizer that has a mask token")
        self.reads = reads = Reads.of(schema)
        self.mask_id = tokenizer.mask_id
        is_word = torch.ones(tokenizer.size, dtype=torch.bool)
        is_word[list(tokenizer.special_ids)] = False
        self.register_buffer("is_word", is_word, persistent=False)
        self.register_buffer("cells", grid_boxes(config.grid, config.grid), persistent=False)

        width = config.width
        layer = {"norm": "post", "epsilon": EPSILON, "attention_dropout": config.dropout}
        read = {**layer, "heads": config.heads, "dropout": config.dropout}
        see = {**layer, "heads": config.image_heads, "dropout": config.image_dropout}
        self.pixels = Pixels()
        self.region_encoder = RegionEncoder(config.region_width, config.crop_size)
        self.region_embedding = RegionEmbedding(config.region_width, width, config.dropout)
        self.word_embedding = TextEmbedding(tokenizer.size, width, 512)
        self.word_norm = nn.LayerNorm(width, eps=EPSILON)
        self.dropout = nn.Dropout(config.dropout)
        self.joint: nn.ModuleList
        if config.interaction == "joint":
            self.joint = transformer(config.joint_layers, width, **read)
        else:
            self.joint = exchanges(config.joint_layers, width, see, read)
        self.image_layers = transformer(config.split_layers, width, **see)
        self.text_layers = transformer(config.split_layers, width, **read)
        self.image_pooler = nn.Linear(width, config.pooled_width)
        self.text_pooler = nn.Linear(width, config.pooled_width)

        self.match_head = nn.Linear(config.pooled_width, 2)
        self.word_transform = _transform(width)
        self.word_bias = nn.Parameter(torch.zeros(tokenizer.size))
        self.num_classes = len(class_names(reads.classes)) if reads.classes else 0
        self.region_transform = _transform(width)
        self.region_head = nn.Linear(width, self.num_classes or config.region_width)
        if reads.answer:
            self.answer_head = nn.Linear(config.pooled_width, num_outputs(reads.answer))
        self.apply(_initialise)

    @classmethod
    def check(cls, schema: Schema) -> None:
        """An image and a text are needed."""
        Reads.of(schema)

    def views(self) -> dict[str, View]:
        """Squashed pictures, so that boxes stay where they are."""
        reads, config = self.reads, self.config
        views = default_views(
            field for field in (reads.image, reads.boxes, reads.classes, reads.answer) if field
        )
        if reads.image.modality == "image":
            views |= {reads.image.name: ImageView(size=config.image_size)}
        text = TextView(tokenizer=self.tokenizer, max_tokens=config.max_tokens)
        return {**views, reads.text.name: text}

    def stages(self) -> list[Stage]:
        """Pretraining on what is hidden and on pairs; then on what will be asked."""
        config = self.config
        tuning = {
            "learning_rate": config.tuning_rate,
            "batch_size": config.tuning_batch,
            "schedule": "linear",
            "ema": config.ema,
        }
        stages = [
            Stage(
                name="pretraining",
                share=config.pretraining_share,
                losses=("words", "regions", *(["match"] if self.reads.are_pairs else [])),
                learning_rate=config.pretraining_rate,
                batch_size=config.pretraining_batch,
                schedule="linear",
            )
        ]
        if self.reads.are_sides:
            stages.append(Stage(name="retrieval", losses=("match pairs",), **tuning))
        if self.reads.answer:
            stages.append(Stage(name="answers", losses=("answer",), **tuning))
        return stages

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Those of the present stage; of pretraining if there is none."""
        inputs = self.read(batch)
        if self.stage == "retrieval":
            return {"match pairs": self._pair_loss(batch, inputs)}
        if self.stage == "answers" and self.reads.answer:
            outputs = self.answer_head(self.fuse(*self.encode(inputs)))
            return {"answer": answer_loss(outputs, batch, self.reads.answer)}
        return self._pretraining_losses(batch, inputs)

    # ------------------------------------------------------------------ what it can be asked

    @property
    def capabilities(self) -> frozenset[str]:
        """Pairs, and the answer if the schema has one."""
        kept = {"score_pairs"} if self.reads.are_pairs else set()
        return frozenset(kept | ({"predict"} if self.reads.answer else set()))

    def prepare(self, batch: Batch) -> Batch:
        """The pictures as features and boxes of their regions, so that each is looked at once."""
        regions = self.read(batch).regions
        rows = regions.mask.any(1).nonzero().squeeze(1)
        values = torch.cat([regions.features, regions.boxes], -1)[rows]
        entries = Entries(values, rows, torch.zeros_like(rows), regions.mask[rows])
        return batch.with_fields(**{self.reads.image.name: entries})

    def score_pairs(self, batch: Batch) -> Float[Tensor, "batch"]:
        """The log-odds of a match; NaN in rows without a picture or without a text."""
        inputs = self.read(batch)
        logits = self.match_head(self.fuse(*self.encode(inputs))).float()
        scores = torch.full_like(logits[:, 0], torch.nan)
        scores[inputs.complete] = (logits[:, 0] - logits[:, 1])[inputs.complete]
        return scores

    def predict(self, batch: Batch) -> Float[Tensor, "batch ..."]:
        """Class probabilities, or the number."""
        assert self.reads.answer is not None
        return answers_of(
            self.answer_head(self.fuse(*self.encode(self.read(batch)))), self.reads.answer
        )

    # ------------------------------------------------------------------ the network

    def read(self, batch: Batch) -> Inputs:
        """A picture of each row (the first) and a text: in training any of its texts, else the first."""
        name, size = self.reads.text.name, batch.size
        regions = self._regions(batch)
        if not batch.present(name).any():
            nothing = torch.zeros(size, 1, dtype=torch.long, device=batch.device)
            return Inputs(regions, nothing, nothing.bool())
        entries = batch[name]
        assert entries.mask is not None
        counts = entries.counts(size)
        at = counts.cumsum(0) - counts
        if self.training:
            at = at + masked.below(batch.uniform("which text", 1).squeeze(1), counts)
        at = at.clamp(max=len(entries) - 1)
        return Inputs(regions, entries.values[at], entries.mask[at] & (counts > 0)[:, None])

    def _regions(self, batch: Batch) -> Regions:
        """A picture without boxes is one region where the schema has boxes, and a grid where not."""
        name, size, config = self.reads.image.name, batch.size, self.config
        if not batch.present(name).any():
            boxes = self.cells.new_zeros(size, 1, 4)
            return Regions(boxes.new_zeros(size, 1, config.region_width), boxes, boxes[..., 0] > 0)
        values, present = batch[name].first(size)
        if values.ndim == 3:  # features and boxes of regions
            mask, _ = replace(batch[name], values=batch[name].mask).first(size)
            return Regions(values[..., :-4], values[..., -4:], mask)
        boxes = self.cells.expand(size, -1, -1)
        mask = present[:, None].expand(boxes.shape[:2])
        if self.reads.boxes:
            boxes, mask = _boxes(batch, self.reads.boxes.name, config.max_regions)
            bare = present & ~mask.any(1)
            boxes[bare, 0] = boxes.new_tensor(WHOLE)
            mask = torch.cat([mask[:, :1] | bare[:, None], mask[:, 1:]], 1) & present[:, None]
        return Regions(self.region_encoder(self.pixels(values), boxes, mask), boxes, mask)

    def encode(self, inputs: Inputs) -> tuple[Tokens, Tokens]:
        """The image stream and the text stream; the first token of each stands for the whole."""
        image = self.region_embedding(inputs.regions.with_mean())
        text = Tokens(self.dropout(self.word_norm(self.word_embedding(inputs.ids))), inputs.mask)
        if self.config.interaction == "joint":
            image, text = self.joint(cat(image, text)).split()
            return self.image_layers(image), self.text_layers(text)
        see, read = bidirectional.dense(image), bidirectional.dense(text)
        streams = zip(self.joint, self.image_layers, self.text_layers, strict=True)
        for exchange, image_layer, text_layer in streams:
            image, text = exchange(image, text)
            image = image.with_values(image_layer(image.values, see))
            text = text.with_values(text_layer(text.values, read))
        return image, text

    def fuse(self, image: Tokens, text: Tokens) -> Float[Tensor, "batch pooled"]:
        """The product of both sides; that of a missing modality is one."""
        seen = torch.where(image.mask[:, :1], F.relu(self.image_pooler(image.first())), 1.0)
        read = torch.where(text.mask[:, :1], F.relu(self.text_pooler(text.first())), 1.0)
        return self.dropout(seen * read)

    # ------------------------------------------------------------------ losses

    def _pretraining_losses(self, batch: Batch, inputs: Inputs) -> dict[str, Loss]:
        """Hidden words of all pairs, hidden regions of true ones, and whether a pair is true."""
        own = torch.arange(batch.size, device=batch.device)
        partner, rows = own.clone(), inputs.complete
        if self.reads.are_pairs:
            wrong, possible = self._wrong(
                self.config.pretraining_negatives, "wrong text", batch, inputs
            )
            swapped = possible & (batch.uniform("is wrong", 1)[rows, 0] < 0.5)
            partner[rows] = torch.where(swapped, wrong, rows)
        is_pair = partner == own
        inputs = inputs.paired(own, partner)
        told, hidden = self._mask(batch, inputs)
        image, text = self.encode(Inputs(inputs.regions.hide(hidden.zeroed), told.ids, inputs.mask))
        words = self.word_transform(text.values[told.where])
        logits = F.linear(words, self.word_embedding.words.weight, self.word_bias)
        losses = {
            "words": masked.masked_word_loss(logits, inputs.ids[told.where]),
            # The first token, the mean, has no target.
            "regions": self._region_loss(
                batch, inputs.regions, image.values[:, 1:], hidden.where & is_pair[:, None]
            ),
        }
        if self.reads.are_pairs:
            judged = self.match_head(self.fuse(image, text)[rows])
            losses["match"] = Loss.mean(matching_loss(judged, is_pair[rows], match_class=0))
        return losses

    def _mask(
        self, batch: Batch, inputs: Inputs
    ) -> tuple[masked.MaskedWords, masked.MaskedRegions]:
        """Hide spans of words and groups of regions, or single ones."""
        regions, grouped, draw = inputs.regions, self.config.group_masking, batch.uniform
        told = masked.mask_words(
            inputs.ids,
            inputs.mask & self.is_word[inputs.ids],
            draw,
            mask_id=self.mask_id,
            vocabulary=self.is_word.nonzero().squeeze(1),
            policy=self.config.spans if grouped else "token",
            rate=0.1 if grouped else 0.15,
        )
        if grouped:
            return told, masked.mask_region_groups(regions.boxes, regions.mask, draw)
        return told, masked.mask_single_regions(regions.mask, draw)

    def _region_loss(
        self,
        batch: Batch,
        regions: Regions,
        states: Float[Tensor, "batch regions width"],
        where: Bool[Tensor, "batch regions"],
    ) -> Loss:
        """Against the classes of regions, where they are known, or else against what was hidden."""
        classes = self.reads.classes
        if classes is None:
            predicted = self.region_head(self.region_transform(states[where]))
            return masked.masked_feature_loss(predicted, regions.features[where])
        known = torch.zeros_like(where)
        codes = known.long()
        if classes.name in batch:
            codes, known = side_by_side(batch[classes.name], batch.size, where.shape[1])
        where = where & known
        predicted = self.region_head(self.region_transform(states[where]))
        targets = masked.smoothed(codes[where], self.region_head.out_features)
        return masked.masked_class_loss(predicted, targets)

    def _pair_loss(self, batch: Batch, inputs: Inputs) -> Loss:
        """Four pairs a row: the true one, another text, another picture, a hard text."""
        rows = inputs.complete
        text, possible = self._wrong("random", "wrong text", batch, inputs)
        picture, _ = self._wrong("random", "wrong picture", batch, inputs)
        hard, _ = self._wrong(self.config.tuning_negatives, "hard text", batch, inputs)
        rows, text, picture, hard = (each[possible] for each in (rows, text, picture, hard))
        pictures, texts = (
            torch.cat([rows, rows, picture, rows]),
            torch.cat([rows, text, rows, hard]),
        )
        logits = self.match_head(self.fuse(*self.encode(inputs.paired(pictures, texts))))
        is_pair = torch.arange(len(pictures), device=batch.device) < len(rows)
        return Loss.mean(matching_loss(logits, is_pair, match_class=0))

    def _wrong(
        self, kind: Negatives, purpose: str, batch: Batch, inputs: Inputs
    ) -> tuple[Int[Tensor, "rows"], Bool[Tensor, "rows"]]:
        """For each complete row another with a different picture and text, and whether there is one."""
        rows = inputs.complete
        own = torch.arange(batch.size, device=batch.device)
        texts = content_ids(
            Entries(inputs.ids, own, torch.zeros_like(own), inputs.mask), batch.size
        )
        pictures = content_ids(batch[self.reads.image.name], batch.size)
        groups = merge_groups(torch.stack([texts, pictures], 1)[rows])
        similarity = torch.zeros(len(rows), len(rows), device=batch.device)
        if kind == "captions":
            is_word = inputs.mask & self.is_word[inputs.ids]
            similarity = word_overlap(inputs.ids[rows], is_word[rows], len(self.is_word))
        if kind == "pictures":
            features = Tokens(inputs.regions.features, inputs.regions.mask).mean()[rows].detach()
            features = F.normalize(features - features.mean(0), dim=-1)
            similarity = features @ features.T
        chosen, possible = sample_negatives(
            similarity * HARDNESS, batch.uniform(purpose, 1)[rows, 0], groups
        )
        return rows[chosen], possible


def _boxes(batch: Batch, name: str, limit: int) -> tuple[Tensor, Tensor]:
    if not batch.present(name).any():
        boxes = torch.zeros(batch.size, 1, 4, device=batch.device)
        return boxes, boxes[..., 0] > 0
    entries = batch[name]
    return side_by_side(entries, batch.size, min(limit, int(entries.item.max()) + 1))


def _transform(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=EPSILON))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
