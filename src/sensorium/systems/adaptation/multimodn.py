"""MultiModN: one encoder after another rewrites a small state (Swamy et al., 2023, arXiv 2309.14118).

    s_0 ──► image ──► s_1 ──► (table, absent) ──► s_2 = s_1 ──► text ──► s_3
     │                 │                                                  │
    decoders          decoders                                           decoders

A learned state goes through one encoder for each field, in the order of the schema. An encoder sees
the old state and its field, and gives the new state. One decoder for each task reads the state after
every step, the first state included, so that one sees how each field moves the answer:
`predict_steps`. A field that a row lacks is not imputed: its encoder does not run, and the state stays
exactly as it was. Tasks are the classes of a `category` (one decoder), or each class of `categories`,
yes or no (a decoder each).

Which rows an absent field skips decides what can be said about missingness that goes with the label.
`skip` is `sample` (the paper's text: the row that lacks it) or `batch` (the released code with its
batches of 16: one row that lacks it skips the encoder for all rows of the batch, also when answering,
so that answers depend on what a row is asked with). `zero` is the ablation: nothing is skipped, zeros
stand for the field.

Kept as released: sigmoid outputs go into a softmax cross-entropy, whose minimum for two classes is
0.313 (`outputs="logits"` leaves the sigmoid out); skipped steps count as losses of 0 under unchanged
divisors; the change of state is a mean over the state, and has a factor of 0.01.

Differs from the release: fields are encoded by trained encoders, or by frozen pretrained ones
(`encoder.FIELD=hf:NAME`), where it reads embeddings made beforehand; tables and numbers are
standardised by the training rows, not by all; a run keeps its last weights, or with
`training.patience` those of the lowest validation loss, where it takes the epoch of the best
validation AUROC plus balanced accuracy; accuracies are exact, where its counters start at one row;
answers, too, skip what is absent, where its prediction mode runs the encoder on it. First states that
are given and not learned are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, Self, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field as Setting
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.scalars import class_names
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders import FieldEncoders
from sensorium.systems.base import System, SystemConfig, register
from sensorium.types import Batch, Card, Loss, Schema, Stage, UserError, draws

CHANGE_FACTOR = 0.01

StateAt = Literal["input", "last"]


def layers(*widths: int) -> list[nn.Module]:
    """Linear layers from width to width, a ReLU after each."""
    return [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]


class StateEncoder(nn.Module):
    """A new state from the old one and a field's vector.

    With the state at the input (the clinical runs): dropout on vector and state side by side, then
    layers that each end in a ReLU, the last too, so no state is negative. With the state at the last
    layer (the other runs): layers on the vector alone, then one without activation on what comes out
    and the state. The vector stands before the state in both.
    """

    def __init__(
        self, width: int, state: int, hidden: Iterable[int], state_at: StateAt, dropout: float
    ) -> None:
        super().__init__()
        if state_at == "input":
            self.read = nn.Sequential()
            self.write = nn.Sequential(nn.Dropout(dropout), *layers(width + state, *hidden, state))
        else:
            widths = [width, *hidden]
            self.read = nn.Sequential(*layers(*widths))
            self.write = nn.Sequential(nn.Linear(widths[-1] + state, state))

    def forward(
        self, state: Float[Tensor, "batch state"], vector: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch state"]:
        """The new state of each row."""
        out: Tensor = self.write(torch.cat([self.read(vector), state], 1))
        return out


@register("multimodn")
class MultiModN(System):
    """A state, encoders that rewrite it in turn, and decoders that read it after each."""

    card = Card(
        title="MultiModN: multimodal, multi-task, interpretable modular networks",
        paper="arXiv:2309.14118",
        year=2023,
        family="adaptation",
        modalities=("any",),
        tasks=("classification",),
        licence="MIT",
    )

    class Config(SystemConfig):
        """Settings.

        Attributes:
            encoder: by field or modality, a pretrained tower: `hf:NAME_OR_PATH`.
            train_towers: whether pretrained towers are trained; else they stay as they are.
            width: of a field's vector from an encoder from scratch.
            depth: layers of such an encoder, and `heads`, of its attention.
            image_size: pixels of the side of an image.
            max_tokens: the longest text.
            state: width of the state.
            hidden: widths of the layers between vector and state.
            decoder_hidden: those between state and answer; none is a logistic regression.
            state_at: whether an encoder reads the state at its `input` or at its `last` layer.
            dropout: on vector and state, if the state is at the input.
            skip: what a row that lacks a field does: skips the encoder for this `sample`, skips it
                for the `batch`, or is read as `zero`.
            outputs: what goes into the cross-entropy: `sigmoid` of the logits, or `logits`.
            loss_at: `every` step, or the `last` only (an ablation).
            error_penalty, change_penalty: factors of the losses; of the second, times 0.01.
            shuffle: whether the order of the encoders is drawn anew for each batch of training.
        """

        encoder: dict[str, str] = Setting(default_factory=dict)
        train_towers: bool = False
        width: int = 128
        depth: int = 2
        heads: int = 4
        image_size: int = 64
        max_tokens: int = 64
        state: int = 20
        hidden: tuple[int, ...] = (32,)
        decoder_hidden: tuple[int, ...] = (32,)
        state_at: StateAt = "input"
        dropout: float = 0.2
        skip: Literal["sample", "batch", "zero"] = "sample"
        outputs: Literal["sigmoid", "logits"] = "sigmoid"
        loss_at: Literal["every", "last"] = "every"
        error_penalty: float = 1.0
        change_penalty: float = 0.0
        shuffle: bool = False

        @classmethod
        def paper(cls) -> Self:
            """The clinical runs."""
            return cls(state=50, hidden=(32, 32), decoder_hidden=(32, 32))

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        self.check(schema)
        (self.label,) = schema.find(role="label")
        self.encoders = FieldEncoders(
            schema.find(role="input"),
            config.encoder,
            tokenizer,
            width=config.width,
            tower_width=None,
            depth=config.depth,
            heads=config.heads,
            image_size=config.image_size,
            max_tokens=config.max_tokens,
            freeze=not config.train_towers,
        )
        self.start = nn.Parameter(torch.randn(1, config.state))
        self.updates = nn.ModuleList(
            StateEncoder(
                encoder.width, config.state, config.hidden, config.state_at, config.dropout
            )
            for _, encoder in self.encoders.each()
        )
        num_classes = len(class_names(self.label))
        is_one = self.label.modality == "category"
        widths = [config.state, *config.decoder_hidden]
        self.decoders = nn.ModuleList(
            nn.Sequential(*layers(*widths), nn.Linear(widths[-1], num_classes if is_one else 2))
            for _ in range(1 if is_one else num_classes)
        )

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs inputs, and one category or categories to predict."""
        labels = schema.find(role="label")
        if len(labels) != 1 or labels[0].modality not in ("category", "categories"):
            found = ", ".join(f"{field.name} ({field.modality})" for field in labels) or "none"
            raise UserError(
                "multimodn predicts one field of role label and modality category, or categories "
                f"(each class is a task of its own); found {found}"
            )
        if not schema.find(role="input"):
            raise UserError("multimodn: no field has the role input")

    def views(self) -> dict[str, View]:
        """What the encoders read, and the label."""
        return {self.label.name: get_modality(self.label.modality).View(), **self.encoders.views()}

    def stages(self) -> list[Stage]:
        """One stage, that of the clinical runs."""
        return [
            Stage(
                learning_rate=1e-3,
                weight_decay=0.0,
                batch_size=16,
                warmup=0.0,
                schedule="constant",
                gradient_clip=None,
                frozen=tuple(f"encoders.{name}.*" for name in self.encoders.frozen),
            )
        ]

    def prepare(self, batch: Batch) -> Batch:
        """Each field as its vector, for rows that are asked about with and without some of them."""
        return self.encoders.prepare(batch)

    def walk(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "steps batch state"], Bool[Tensor, "steps batch"]]:
        """The states, the first and that after each encoder, and whether the encoder ran."""
        state = self.start.expand(batch.size, -1)
        states, ran = [state], [torch.ones(batch.size, dtype=torch.bool, device=batch.device)]
        for place in self._order(batch):
            runs = self._runs(batch, place)
            if bool(runs.any()):
                vector, _ = self.encoders.vector(batch, place)
                new = cast(StateEncoder, self.updates[place])(state, vector)
                state = torch.where(runs[:, None], new, state)
            states.append(state)
            ran.append(runs)
        return torch.stack(states), torch.stack(ran)

    def _order(self, batch: Batch) -> list[int]:
        """The places of the encoders in the order in which they run: one for all rows of a step."""
        if not (self.training and self.config.shuffle):
            return list(range(len(self.updates)))
        return [int(i) for i in draws.permutation(len(self.updates), "encoders", batch.seed)]

    def _runs(self, batch: Batch, place: int) -> Bool[Tensor, "batch"]:
        """In which rows an encoder runs."""
        present = batch.present(self.encoders.fields[place].name)
        if self.config.skip == "batch":
            return present.all().expand(batch.size)
        return present if self.config.skip == "sample" else torch.ones_like(present)

    def outputs(
        self, states: Float[Tensor, "steps batch state"]
    ) -> list[Float[Tensor, "steps batch classes"]]:
        """For each task, what its decoder gives after each step."""
        logits = [decoder(states).float() for decoder in self.decoders]
        return [x.sigmoid() for x in logits] if self.config.outputs == "sigmoid" else logits

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The error of the rows that have a label, and how far their state was moved."""
        c = self.config
        batch = batch.take(batch.present(self.label.name).nonzero().squeeze(1))
        states, ran = self.walk(batch)
        errors = self._errors(batch, states)
        error = (errors * ran).mean(0) if c.loss_at == "every" else errors[-1]
        losses = {"label": Loss.mean(error, c.error_penalty)}
        if c.change_penalty:
            change = (states[1:] - states[:-1]).square().mean(2).mean(0)
            losses["change"] = Loss.mean(CHANGE_FACTOR * change, c.change_penalty)
        return losses

    def _errors(
        self, batch: Batch, states: Float[Tensor, "steps batch state"]
    ) -> Float[Tensor, "steps batch"]:
        """The cross-entropy of each step and row, its mean over tasks."""
        if batch.size == 0:  # no row has a label, and then there may be no entries at all
            return states.sum(2)
        label, _ = batch[self.label.name].first(batch.size)
        classes = label[None] if self.label.modality == "category" else label.long().T
        errors = [
            F.cross_entropy(out.transpose(1, 2), truth.expand(len(out), -1), reduction="none")
            for out, truth in zip(self.outputs(states), classes, strict=True)
        ]
        return torch.stack(errors).mean(0)

    def predict_steps(self, batch: Batch) -> Float[Tensor, "steps batch classes"]:
        """Probabilities by the first state and after each field, in the order of `encoders.fields`.

        How they differ from step to step is what each field adds to what came before it. Where a
        field is absent, nothing changes.
        """
        states, _ = self.walk(batch)
        found = [
            F.normalize(out, p=1.0, dim=2) if self.config.outputs == "sigmoid" else out.softmax(2)
            for out in self.outputs(states)
        ]
        if self.label.modality == "category":
            return found[0]
        return torch.stack([yes_or_no[..., 1] for yes_or_no in found], 2)

    def predict(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Probabilities of the classes after the last field."""
        return self.predict_steps(batch)[-1]
