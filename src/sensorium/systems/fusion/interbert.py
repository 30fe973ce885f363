"""InterBERT: one stream to interact, two streams to stay independent (Lin et al., 2020, 2003.13198).

    regions ─ mean in front ─┐                 ┌─ image layers ─ whole picture ─ ReLU ─┐
                             ├─ joint layers ──┤                                       × ─ match, answer
    words ───────────────────┘                 └─ text layers ─── [CLS] ─────── ReLU ──┘

Lower half: every region and word sees every other. Upper half: each modality by itself, so that its
representation also serves alone. Pretraining hides whole groups (spans of words, overlapping regions),
since a neighbour would give a single one away. Regions that are hidden become zeros before the mean is
taken, and their boxes stay. Layers are post-norm; class 0 of the match head means "match".

Differs from the release (github.com/black4321/InterBERT), deliberately:
- Its regions come from a detector that was trained beforehand on labelled boxes, and kept. Here, where
  the schema has boxes with classes, a short first stage trains a small one on them, and keeps it; the
  classes, smoothed by 0.1, stand for its distribution. Without classes the region network is trained
  along, and what is hidden is regressed (the release's switch); without boxes, regions are a grid.
- A span begins at each word with probability 0.1 and holds one to three (the paper's policy);
  `spans="single"` is the release's one span for a caption, here for captions of any length. Words are
  word pieces in both.
- Overlap is computed without the release's extra pixel; a feature that happens to be all zeros does
  not count as hidden; padding is masked by -inf, not -10000.
- Wrong captions come from the batch, never an equal caption or picture. The hard one belongs to a
  picture whose features are among the nearest in the batch, in place of a precomputed neighbour pool.
- The nano size starts from wider weights, takes larger batches and hides more than BERT: from scratch,
  on few steps, words and regions otherwise do not find each other.
- Learning rates fall linearly in fine-tuning too. Segment embeddings are part of the positions.

A missing modality has no tokens, and its factor in the product is one: the other passes through.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field as Setting
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View
from sensorium.modalities.scalars import class_names
from sensorium.modalities.text import Tokenizer
from sensorium.nn.blocks import transformer
from sensorium.nn.co_attention import exchanges
from sensorium.nn.encoders.text import TextEmbedding
from sensorium.nn.masks import bidirectional
from sensorium.nn.regions import RegionEmbedding, Regions
from sensorium.objectives import masked
from sensorium.objectives.answers import answer_loss, answers_of, num_outputs
from sensorium.objectives.duplicates import content_ids, merge_groups
from sensorium.objectives.matching import matching_loss, sample_negatives
from sensorium.objectives.overlap import word_overlap
from sensorium.systems.base import System, SystemConfig, register
from sensorium.systems.fusion.inputs import Inputs, Reads, RegionReader
from sensorium.types import Batch, Card, Loss, Schema, Stage, Tokens, UserError, cat

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
        deviation: of initial weights.
        max_tokens: of a text, special ones included; `max_regions`: of a picture.
        image_size: pixels of the picture; `crop_size`: of a region; `region_width`: of its feature.
        grid: cells along each side of a picture, the regions where the schema has no boxes.
        group_masking: hide spans and groups of regions; else single ones.
        mask_rate: the probability that a span or group begins at a word or region; single ones are
            hidden half as often again.
        spans: see `objectives.masked.choose_spans`.
        pretraining_negatives: how a wrong caption is drawn; `captions`: one with similar words,
            `pictures`: that of a similar picture. `tuning_negatives`: of the fourth pair.
        pretraining_rate: the learning rate; `pretraining_batch`: rows in a step;
            `pretraining_share`: the part of the budget, where each later stage has 1.
        tuning_rate: and `tuning_batch`, of the later stages; `ema`: of their weights.
    """

    width: int = 128
    heads: int = 4
    image_heads: int = 4
    joint_layers: int = 2
    split_layers: int = 2
    interaction: Literal["joint", "co-attention"] = "joint"
    pooled_width: int = 256
    dropout: float = 0.0
    image_dropout: float = 0.0
    deviation: float = 0.09
    max_tokens: int = Setting(default=36, gt=2, le=512)
    max_regions: int = 36
    image_size: int = 64
    crop_size: int = 16
    region_width: int = 64
    grid: int = 4
    group_masking: bool = True
    mask_rate: float = 0.3
    spans: Literal["anchor", "single"] = "anchor"
    pretraining_negatives: Negatives = "random"
    tuning_negatives: Negatives = "pictures"
    pretraining_rate: float = 1e-3
    pretraining_batch: int = 192
    pretraining_share: float = 0.3
    tuning_rate: float = 5e-4
    tuning_batch: int = 64
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
            dropout=0.1,
            image_dropout=0.2,
            deviation=0.02,
            mask_rate=0.1,
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

    def __init__(
        self, config: InterBERTConfig, schema: Schema, tokenizer: Tokenizer | None = None
    ) -> None:
        super().__init__(config, schema, tokenizer)
        if tokenizer is None or tokenizer.mask_id is None:
            raise UserError("interbert hides words: it needs a tokenizer that has a mask token")
        self.reads = reads = Reads.of(schema, "interbert")
        self.mask_id = tokenizer.mask_id
        is_word = torch.ones(tokenizer.size, dtype=torch.bool)
        is_word[list(tokenizer.special_ids)] = False
        self.register_buffer("is_word", is_word, persistent=False)

        width, features = config.width, config.region_width
        layer: dict[str, Any] = {"norm": "post", "epsilon": EPSILON}
        layer["attention_dropout"] = config.dropout
        read = {**layer, "heads": config.heads, "dropout": config.dropout}
        see = {**layer, "heads": config.image_heads, "dropout": config.image_dropout}
        self.read = RegionReader(
            reads,
            width=features,
            crop_size=config.crop_size,
            grid=config.grid,
            max_regions=config.max_regions,
        )
        self.region_embedding = RegionEmbedding(features, width, config.dropout, EPSILON)
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
        num_classes = len(class_names(reads.classes)) if reads.classes else 0
        learns_regions = num_classes and self.read.encoder is not None
        self.object_head = nn.Linear(features, num_classes) if learns_regions else None
        self.region_transform = _transform(width)
        self.region_head = nn.Linear(width, num_classes or features)
        if reads.answer:
            self.answer_head = nn.Linear(config.pooled_width, num_outputs(reads.answer))
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.deviation)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    @classmethod
    def check(cls, schema: Schema) -> None:
        """An image and a text are needed."""
        Reads.of(schema, "interbert")

    def views(self) -> dict[str, View]:
        """Pictures with the boxes of their regions, and texts."""
        assert self.tokenizer is not None
        return self.read.views(self.tokenizer, self.config.image_size, self.config.max_tokens)

    def stages(self) -> list[Stage]:
        """Regions, if there is something to learn them from; pretraining; what will be asked."""
        config, reads = self.config, self.reads
        kept: dict[str, Any] = {"schedule": "linear"}
        stages = []
        if self.object_head is not None:
            detector = ("read.encoder.*", "object_head.*")
            stages.append(
                Stage(name="detector", share=0.08, losses=("objects",), train=detector,
                      learning_rate=2e-3, batch_size=64)
            )  # fmt: skip
            kept["frozen"] = detector
        else:
            kept["frozen"] = ("object_head.*",)
        losses = ("words", "regions", "match") if reads.are_pairs else ("words", "regions")
        stages.append(
            Stage(
                name="pretraining",
                share=config.pretraining_share,
                losses=losses,
                learning_rate=config.pretraining_rate,
                batch_size=config.pretraining_batch,
                **kept,
            )
        )
        kept |= {"learning_rate": config.tuning_rate, "batch_size": config.tuning_batch}
        if reads.are_sides:
            stages.append(Stage(name="retrieval", losses=("match pairs",), ema=config.ema, **kept))
        if reads.answer:
            stages.append(Stage(name="answers", losses=("answer",), ema=config.ema, **kept))
        return stages

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Those of the present stage; of pretraining if there is none."""
        inputs = self.read(batch)
        if self.stage == "detector":
            return {"objects": self._object_loss(batch, inputs.regions)}
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
        """Regions for pictures, so that each picture is looked at once."""
        return self.read.with_regions(batch)

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
        outputs = self.answer_head(self.fuse(*self.encode(self.read(batch))))
        return answers_of(outputs, self.reads.answer)

    # ------------------------------------------------------------------ the network

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
        fused: Tensor = self.dropout(seen * read)
        return fused

    # ------------------------------------------------------------------ losses

    def _object_loss(self, batch: Batch, regions: Regions) -> Loss:
        assert self.object_head is not None
        codes, known = self.read.classes(batch, regions.mask)
        logits = self.object_head(regions.features[known]).float()
        return Loss.mean(F.cross_entropy(logits, codes[known], reduction="none"))

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
        told, hidden = self.hide(batch, inputs)
        image, text = self.encode(Inputs(inputs.regions.hide(hidden.zeroed), told.ids, inputs.mask))
        words = self.word_transform(text.values[told.where])
        logits = F.linear(words, self.word_embedding.words.weight, self.word_bias)
        # The first token of the image stream, the mean, has no target.
        where = hidden.where & is_pair[:, None]
        losses = {
            "words": masked.masked_word_loss(logits, inputs.ids[told.where]),
            "regions": self._region_loss(batch, inputs.regions, image.values[:, 1:], where),
        }
        if self.reads.are_pairs:
            judged = self.match_head(self.fuse(image, text)[rows])
            losses["match"] = Loss.mean(matching_loss(judged, is_pair[rows], match_class=0))
        return losses

    def hide(self, batch: Batch, inputs: Inputs) -> tuple[masked.MaskedWords, masked.MaskedRegions]:
        """Hide spans of words and groups of regions, or single ones."""
        regions, grouped, draw = inputs.regions, self.config.group_masking, batch.uniform
        rate = self.config.mask_rate * (1 if grouped else 1.5)
        told = masked.mask_words(
            inputs.ids,
            inputs.mask & self.is_word[inputs.ids],
            draw,
            mask_id=self.mask_id,
            vocabulary=self.is_word.nonzero().squeeze(1),
            policy=self.config.spans if grouped else "token",
            rate=rate,
        )
        if grouped:
            return told, masked.mask_region_groups(regions.boxes, regions.mask, draw, rate=rate)
        return told, masked.mask_single_regions(regions.mask, draw, rate=rate)

    def _region_loss(
        self,
        batch: Batch,
        regions: Regions,
        states: Float[Tensor, "batch regions width"],
        where: Bool[Tensor, "batch regions"],
    ) -> Loss:
        """Against the classes of regions, where they are known, or else against what was hidden."""
        if self.reads.classes is None:
            predicted = self.region_head(self.region_transform(states[where]))
            return masked.masked_feature_loss(predicted, regions.features[where])
        codes, where = self.read.classes(batch, where)
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
        ids = [content_ids(batch, field.name) for field in (self.reads.text, self.reads.image)]
        groups = merge_groups(torch.stack(ids, 1)[rows])
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


def _transform(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=EPSILON))
