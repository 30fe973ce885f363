"""Late fusion: every modality by itself, side by side at the end.

    image    ── encoder ── mean ─┐
    text     ── encoder ── mean ─┤
    table    ── encoder ── mean ─┼─ concatenation ── MLP ── class, classes, number or answer
    (absent) ── learned vector ──┘

The baseline for predicting something from whatever a row holds. It reads all fields with the roles
input, query, target and question, and predicts the one with the role label or answer: a `category`
(one class), `categories` (each class yes or no), or a `number`, standardised by the training rows.

A field that a row lacks is not encoded; a learned vector stands in its place. So that the network
meets it also where training rows are complete, fields are hidden at random in training (modality
dropout; Neverova et al., 2015, arXiv 1501.00102), one always stays. Where a field's absence goes with
the label in the training rows, the network will use that, as it would use any other feature.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field as Setting
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.image import ImageView
from sensorium.modalities.scalars import class_names
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.encoders import Encoder, build_encoder, embed_field, specs_of
from sensorium.nn.heads import mlp
from sensorium.systems.base import System, SystemConfig, register
from sensorium.types import Batch, Card, Entries, Field, Loss, Schema, Stage, UserError

READS = ("input", "query", "target", "question")
ANSWERS = ("label", "answer")
PREDICTS = ("category", "categories", "number")


@register("late-fusion")
class LateFusion(System):
    """Encoders side by side, and an MLP on their concatenated vectors."""

    card = Card(
        title="Late fusion of unimodal encoders",
        family="baselines",
        modalities=("any",),
        tasks=("classification", "regression", "vqa"),
    )

    class Config(SystemConfig):
        """Settings.

        Attributes:
            encoder: by field or modality, a pretrained tower: `hf:NAME_OR_PATH`.
            width: of each modality's vector.
            depth: layers of an encoder from scratch, and `heads`, of its attention.
            hidden: width inside the MLP.
            dropout: inside the MLP.
            image_size: pixels of the side of an image.
            max_tokens: the longest text.
            modality_dropout: how often a field is hidden from a training row.
            class_weights: `balanced` weighs each class by the inverse of its number of training
                rows (for a category).
        """

        encoder: dict[str, str] = Setting(default_factory=dict)
        width: int = 128
        depth: int = 2
        heads: int = 4
        hidden: int = 256
        dropout: float = 0.1
        image_size: int = 64
        max_tokens: int = 64
        modality_dropout: float = 0.1
        class_weights: Literal["none", "balanced"] = "none"

    config: Config
    class_weight: Tensor

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        self.check(schema)
        (self.label,) = schema.find(role=ANSWERS)
        self.inputs = schema.find(role=READS)
        specs = specs_of(self.inputs, config.encoder)
        self.encoders = nn.ModuleList(
            [self.encoder(field, specs[field.name]) for field in self.inputs]
        )
        self.absent = nn.Parameter(torch.randn(len(self.inputs), config.width) * 0.02)
        is_number = self.label.modality == "number"
        num_outputs = 1 if is_number else len(class_names(self.label))
        self.head = mlp(
            len(self.inputs) * config.width, num_outputs, config.hidden, dropout=config.dropout
        )
        self.register_buffer("class_weight", _class_weight(self.label, config), persistent=False)

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs something to read and one category, categories or number to predict."""
        labels = schema.find(role=ANSWERS)
        if len(labels) != 1:
            found = ", ".join(field.name for field in labels) or "none"
            raise UserError(
                f"late-fusion predicts one field of role label or answer; found {found}"
            )
        if labels[0].modality not in PREDICTS:
            raise UserError(
                f"late-fusion cannot predict '{labels[0].name}' of modality {labels[0].modality}; "
                f"expected {', '.join(PREDICTS)}"
            )
        if not schema.find(role=READS):
            raise UserError(f"late-fusion: no field has a role it reads ({', '.join(READS)})")

    def encoder(self, field: Field, spec: str | None) -> Encoder:
        """The encoder of one field."""
        c = self.config
        view: View | None = None
        if field.modality == "image":
            view = ImageView(size=c.image_size)
        elif field.modality == "text":
            view = TextView(tokenizer=self.tokenizer, max_tokens=c.max_tokens)
        return build_encoder(
            field, width=c.width, depth=c.depth, heads=c.heads, spec=spec, view=view
        )

    def views(self) -> dict[str, View]:
        """What the encoders read, and the label."""
        views = {self.label.name: get_modality(self.label.modality).View()}
        for field, encoder in zip(self.inputs, self.encoders, strict=True):
            views[field.name] = cast(Encoder, encoder).view
        return views

    def stages(self) -> list[Stage]:
        """One stage."""
        return [Stage(learning_rate=1e-3, weight_decay=0.05, batch_size=64)]

    def prepare(self, batch: Batch) -> Batch:
        """Each field as its vector, for rows that are asked about with and without some of them."""
        vectors = {}
        for field, encoder in zip(self.inputs, self.encoders, strict=True):
            vector, present = embed_field(cast(Encoder, encoder), batch, field)
            rows = present.nonzero().squeeze(1)
            vectors[field.name] = Entries(vector[rows], rows, torch.zeros_like(rows), embedded=True)
        return batch.with_fields(**vectors)

    def logits(self, batch: Batch) -> Float[Tensor, "batch outputs"]:
        """What comes out of the MLP."""
        if self.training and self.config.modality_dropout:
            batch = hide_fields(batch, self.inputs, self.config.modality_dropout)
        vectors = []
        for field, encoder, absent in zip(self.inputs, self.encoders, self.absent, strict=True):
            vector, present = embed_field(cast(Encoder, encoder), batch, field)
            vectors.append(torch.where(present[:, None], vector, absent))
        out: Tensor = self.head(torch.cat(vectors, 1))
        return out

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The loss of the rows that have a label."""
        batch = batch.take(batch.present(self.label.name).nonzero().squeeze(1))
        logits = self.logits(batch).float()
        if batch.size == 0:
            return {"label": Loss.mean(logits.sum(1))}
        label, _ = batch[self.label.name].first(batch.size)
        if self.label.modality == "number":
            wanted = (label - self.label.fitted["mean"]) / self.label.fitted["std"]
            return {"label": Loss.mean((logits.squeeze(1) - wanted).square())}
        if self.label.modality == "categories":
            losses = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
            return {"label": Loss.mean(losses.mean(1))}
        weight = self.class_weight[label]
        return {
            "label": Loss(weight * F.cross_entropy(logits, label, reduction="none"), weight.sum())
        }

    def predict(self, batch: Batch) -> Float[Tensor, "batch ..."]:
        """Probabilities of the classes, or numbers in their own unit."""
        logits = self.logits(batch).float()
        if self.label.modality == "number":
            mean, deviation = float(self.label.fitted["mean"]), float(self.label.fitted["std"])
            return mean + deviation * logits.squeeze(1)
        if self.label.modality == "categories":
            return torch.sigmoid(logits)
        return torch.softmax(logits, 1)


def hide_fields(batch: Batch, fields: list[Field], rate: float) -> Batch:
    """Take fields away from rows at random, but never the last one a row has."""
    names = [field.name for field in fields if field.name in batch]
    if not names:
        return batch
    draw = batch.uniform("modality dropout", len(names))
    present = torch.stack([batch.present(name) for name in names], 1)
    draw = torch.where(present, draw, -1.0)
    kept = present & ((draw >= rate) | (draw == draw.amax(1, keepdim=True)))
    return batch.with_fields(
        **{name: batch[name].keep(kept[:, place]) for place, name in enumerate(names)}
    )


def _class_weight(label: Field, config: LateFusion.Config) -> Float[Tensor, "classes"]:
    if label.modality != "category":
        return torch.ones(0)
    num_classes = len(class_names(label))
    if config.class_weights == "none":
        return torch.ones(num_classes)
    counts = torch.tensor([max(count, 1) for count in label.fitted["counts"]], dtype=torch.float32)
    return counts.sum() / (num_classes * counts)
