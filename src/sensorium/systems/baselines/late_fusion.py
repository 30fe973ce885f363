"""Late fusion: every modality by itself, side by side at the end.

    image    ── encoder ── mean ─┐
    text     ── encoder ── mean ─┤
    table    ── encoder ── mean ─┼─ concatenation ── MLP ── class, classes, number or answer
    (absent) ── a fixed vector ──┘

The baseline for predicting something from whatever a row holds. It reads all fields with the roles
input, query, target and question, and predicts the one with the role label or answer: a `category`
(one class), `categories` (each class yes or no), or a `number`, standardised by the training rows.

A field that a row lacks is not encoded; `absent` says what stands in its place: a learned vector,
zeros, or the mean of the field's vectors in training. With `availability` the MLP is also told which
fields are there. So that the network meets what stands for an absent field also where training rows
are complete, fields are hidden at random in training (modality dropout; Neverova et al., 2015, arXiv
1501.00102), one always stays. Where a field's absence goes with the label in the training rows, the
network will use that, as it would use any other feature.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field as Setting
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.scalars import class_names
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders import FieldEncoders
from sensorium.nn.heads import mlp
from sensorium.systems.base import System, SystemConfig, register
from sensorium.types import Batch, Card, Field, Loss, Schema, Stage, UserError

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
            absent: what stands for a field that a row lacks: a `learned` vector, `zero`, or the
                `mean` of its vectors in training rows, a running one.
            availability: whether the MLP is told which fields are there.
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
        absent: Literal["learned", "zero", "mean"] = "learned"
        availability: bool = False
        modality_dropout: float = 0.1
        class_weights: Literal["none", "balanced"] = "none"

    config: Config
    class_weight: Tensor

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        self.check(schema)
        (self.label,) = schema.find(role=ANSWERS)
        self.inputs = schema.find(role=READS)
        self.encoders = FieldEncoders(
            self.inputs,
            config.encoder,
            tokenizer,
            width=config.width,
            tower_width=config.width,
            depth=config.depth,
            heads=config.heads,
            image_size=config.image_size,
            max_tokens=config.max_tokens,
        )
        num = len(self.inputs)
        if config.absent == "learned":
            self.absent = nn.Parameter(torch.randn(num, config.width) * 0.02)
        elif config.absent == "mean":
            self.means = RunningMeans(num, config.width)
        is_number = self.label.modality == "number"
        num_outputs = 1 if is_number else len(class_names(self.label))
        self.head = mlp(
            num * config.width + num * config.availability,
            num_outputs,
            config.hidden,
            dropout=config.dropout,
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

    def views(self) -> dict[str, View]:
        """What the encoders read, and the label."""
        label = get_modality(self.label.modality).View()
        return {self.label.name: label, **self.encoders.views()}

    def stages(self) -> list[Stage]:
        """One stage."""
        return [Stage(learning_rate=1e-3, weight_decay=0.05, batch_size=64)]

    def prepare(self, batch: Batch) -> Batch:
        """Each field as its vector, for rows that are asked about with and without some of them."""
        return self.encoders.prepare(batch)

    def logits(self, batch: Batch) -> Float[Tensor, "batch outputs"]:
        """What comes out of the MLP."""
        if self.training and self.config.modality_dropout:
            batch = hide_fields(batch, self.inputs, self.config.modality_dropout)
        parts, available = [], []
        for place in range(len(self.inputs)):
            vector, present = self.encoders.vector(batch, place)
            parts.append(self._filled(place, vector, present))
            available.append(present)
        if self.config.availability:
            parts.append(torch.stack(available, 1).to(parts[0]))
        out: Tensor = self.head(torch.cat(parts, 1))
        return out

    def _filled(
        self, place: int, vector: Float[Tensor, "batch width"], present: Bool[Tensor, "batch"]
    ) -> Float[Tensor, "batch width"]:
        """The vectors of a field, with something in their place where it is absent."""
        if self.config.absent == "zero":
            return vector  # an absent field's is zero
        if self.config.absent == "learned":
            return torch.where(present[:, None], vector, self.absent[place])
        if self.training:
            self.means.update(place, vector[present])
        return torch.where(present[:, None], vector, self.means.value(place))

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


class RunningMeans(nn.Module):
    """The mean vector of each field over about the last hundred batches of training.

    Not over all of them, since the encoders change; and not over the batch alone, since what a row is
    told must not depend on the others. As those of batch normalisation, the means belong to a process
    and are updated by each micro-batch; those of the first process are saved.
    """

    KEPT = 0.99

    total: Tensor
    count: Tensor

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(fields, width))
        self.register_buffer("count", torch.zeros(fields))

    @torch.no_grad()
    def update(self, place: int, vectors: Float[Tensor, "rows width"]) -> None:
        """Take the vectors of a batch into account."""
        if len(vectors):
            self.total[place].mul_(self.KEPT).add_(vectors.float().sum(0))
            self.count[place].mul_(self.KEPT).add_(len(vectors))

    def value(self, place: int) -> Float[Tensor, "width"]:
        """The mean of a field; zero as long as there was none."""
        return self.total[place] / self.count[place].clamp(min=1)


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
