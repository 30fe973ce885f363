"""MultiMAE: masked patches of pictures and maps (Bachmann et al., ECCV 2022, arXiv 2204.01678).

    image  ── patches ─┐                               ┌─ decoder of image ──── masked patches of image
    depth  ── patches ─┼─ few of all ─ encoder ────────┼─ decoder of depth ──── masked patches of depth
    labels ── patches ─┘  + [global]    (visible only) └─ decoder of labels ─── masked patches of labels

Of all patches of a row, of whatever fields, `visible` are shown: how many of each field is drawn from a
Dirichlet distribution, which of them uniformly. The encoder sees these alone, each with its position and
through the projection of its field, and a global token behind them. A decoder for each field reads the
visible tokens of all fields and predicts the patches of its own (`nn.MaskedDecoder`). The loss of a row
is the mean over its masked pixels: squared error of colours, absolute error of numbers, cross-entropy of
classes; a second decoder of each picture predicts colours relative to their patch. Losses are summed.

With a label there is a second stage: all patches that a row has, the mean of the encoded tokens, a norm
and a linear map. Which fields are read may differ from those that were trained before (`--init`).

Differs from the paper, beside the size:

- Any number of pictures and maps, declared by the schema; a row may lack some. Shares are drawn over
  those it has, and it shows as many patches as others do, or all if it has fewer.
- Numbers of maps are read and predicted in the unit of their field, so that what is predicted has one;
  `standardised` does as published. A further channel marks pixels that say nothing, which count in no
  loss.
- Augmentation moves maps with the picture that they are `of` in the schema.
- Heads of dense tasks (ConvNeXt, DPT), learned weights of the losses, and the drawing of a subset of
  fields before the shares are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Self, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field as Setting
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.text import Tokenizer
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders import ByField
from sensorium.nn.masked_decoder import MaskedDecoder, Visible
from sensorium.nn.patches import Errors, Patches, PicturePatches, build_patches
from sensorium.nn.pooling import pool
from sensorium.nn.positions import grid_waves
from sensorium.objectives.answers import ANSWERABLE, answer_loss, answers_of, num_outputs
from sensorium.objectives.budgets import chosen_tokens, dirichlet
from sensorium.systems.base import System, SystemConfig, register
from sensorium.types import Batch, Card, Entries, Field, Loss, Schema, Stage, UserError
from sensorium.types.names import did_you_mean

READS = ("input", "query", "target")
MASKED, TASK = "masked", "task"
EPSILON = 1e-6
Measure = Callable[[Tensor, Tensor], Errors]
IMAGENET = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}


@register("multimae")
class MultiMAE(System):
    """One encoder of visible patches, and a shallow decoder for each field."""

    card = Card(
        title="MultiMAE: multi-modal multi-task masked autoencoders",
        paper="arXiv:2204.01678",
        year=2022,
        family="masked",
        modalities=("image", "maps"),
        tasks=("reconstruction", "classification", "regression"),
        licence="CC-BY-NC-4.0",
    )

    class Config(SystemConfig):
        """Settings.

        Attributes:
            reads: the fields whose patches are shown; all pictures and maps if empty.
            gives: the fields whose patches are predicted; all if empty.
            visible: patches of a row that are shown.
            shares: how many of each field: drawn (`dirichlet`), or as many of each (`equal`).
            alpha: concentration of the Dirichlet distribution.
            width: of the encoder, and `depth`, `heads`, its layers and attention heads.
            decoder_width: of each decoder, and `decoder_depth`, `decoder_heads`.
            image_size: pixels of the side of pictures and maps, and `patch`, of a patch.
            class_stride: by how much maps of classes are smaller, and their patches.
            class_width: of the vector of a class.
            relative_colours: also predict colours relative to the mean and deviation of their patch.
            standardised: read and predict each map less its mean and divided by its deviation.
            pretraining: the share of the budget of the first stage, if there is a label.
        """

        reads: tuple[str, ...] = ()
        gives: tuple[str, ...] = ()
        visible: int = Setting(default=32, ge=1)
        shares: Literal["dirichlet", "equal"] = "dirichlet"
        alpha: float = Setting(default=1.0, gt=0)
        width: int = 128
        depth: int = 6
        heads: int = 4
        decoder_width: int = 64
        decoder_depth: int = 1
        decoder_heads: int = 4
        image_size: int = 64
        patch: int = 8
        class_stride: int = Setting(default=1, ge=1)
        class_width: int = 16
        relative_colours: bool = True
        standardised: bool = False
        pretraining: float = Setting(default=0.7, gt=0, lt=1)

        @classmethod
        def paper(cls) -> Self:
            """ViT-B/16 at 224 pixels, of whose 588 patches 98 are shown."""
            return cls(
                visible=98,
                width=768,
                depth=12,
                heads=12,
                decoder_width=256,
                decoder_depth=2,
                decoder_heads=8,
                image_size=224,
                patch=16,
                class_stride=4,
                class_width=64,
                standardised=True,
            )

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        c = config
        self.check(schema)
        grids = grids_of(schema)
        reads, gives = (self._named(grids, names) for names in (c.reads, c.gives))
        self.label = next(iter(schema.find(role=("label", "answer"), modality=ANSWERABLE)), None)
        fields = reads + [field for field in gives if field not in reads]
        self.read, self.side = reads, c.image_size // c.patch
        self.patches = ByField(fields, map(self._patches, fields))
        self.global_token = nn.Parameter(torch.empty(c.width))
        self.register_buffer("positions", grid_waves(self.side, c.width), persistent=False)
        self.positions: Tensor
        self.layers = transformer(c.depth, c.width, c.heads, epsilon=EPSILON)
        self.decoders = ByField(gives, map(self._decoder, gives))
        pictures = [f for f in gives if c.relative_colours and f.modality == "image"]
        self.relative_decoders = ByField(pictures, map(self._decoder, pictures))
        if self.label is not None:
            self.norm = nn.LayerNorm(c.width, eps=EPSILON)
            self.head = nn.Linear(c.width, num_outputs(self.label))
        self._initialise()

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs a picture or a map that it may read."""
        if not grids_of(schema):
            names = ", ".join(f"{f.name} ({f.modality}, {f.role})" for f in schema)
            raise UserError(
                f"multimae needs a field of modality image or maps with a role it reads "
                f"({', '.join(READS)}). Fields: {names}"
            )

    @staticmethod
    def _named(fields: Sequence[Field], names: Sequence[str]) -> list[Field]:
        known = {field.name: field for field in fields}
        for name in names:
            if name not in known:
                raise UserError(
                    f"multimae: no picture or map '{name}'. {did_you_mean(name, known)}"
                )
        return [known[name] for name in names] or list(fields)

    def _patches(self, field: Field) -> Patches:
        c = self.config
        return build_patches(
            field,
            c.width,
            c.patch,
            c.image_size,
            stride=c.class_stride,
            class_width=c.class_width,
            standardised=c.standardised,
            colours=IMAGENET if c.standardised else {},
        )

    def _decoder(self, field: Field) -> MaskedDecoder:
        c = self.config
        return MaskedDecoder(
            c.width,
            c.decoder_width,
            c.decoder_depth,
            c.decoder_heads,
            side=self.side,
            num_streams=len(self.read),
            own=self.read.index(field) if field in self.read else None,
            outputs=self._patches_of(field.name).numbers,
        )

    def _initialise(self) -> None:
        """Xavier-uniform matrices: queries, keys and values are one each."""
        nn.init.trunc_normal_(self.global_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    # ------------------------------------------------------------------ what the trainer asks

    def views(self) -> dict[str, View]:
        """What patches are made of, and the label."""
        views: dict[str, View] = {name: self._patches_of(name).view for name in self.patches.names}
        if self.label is not None:
            views[self.label.name] = get_modality(self.label.modality).View()
        return views

    def stages(self) -> list[Stage]:
        """Masked patches; then the label, if there is one."""
        c = self.config
        is_large = c.width >= 768
        shared = {"weight_decay": 0.05, "batch_size": 2048 if is_large else 128}
        masked = Stage(
            name=MASKED,
            share=c.pretraining,
            frozen=("norm.*", "head.*"),
            learning_rate=8e-4 if is_large else 1e-3,
            betas=(0.9, 0.95),
            warmup=0.025 if is_large else 0.1,
            gradient_clip=None if is_large else 1.0,
            **shared,
        )
        if self.label is None:
            return [masked]
        decoders = ("decoders.*", "relative_decoders.*")
        return [masked, Stage(name=TASK, share=1 - c.pretraining, frozen=decoders, **shared)]

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Of masked patches, one for each decoder; of the label in the second stage."""
        if self.stage == TASK:
            assert self.label is not None
            return {"label": answer_loss(self.logits(batch), batch, self.label)}
        for name in self.patches.names:
            batch = batch.drawn(name) if name in batch else batch
        tokens, available = self.tokens(batch)
        present = available.any(2)
        shares = present / present.sum(1, keepdim=True).clamp(min=1)
        if self.config.shares == "dirichlet":
            shares = dirichlet(batch.uniform, [self.config.alpha] * len(self.read), present)
        chosen = chosen_tokens(batch.uniform, shares, available, self.config.visible)
        visible = self.encode(tokens, *chosen)
        losses = {}
        for name, decoder, patches, errors in self._outputs():
            losses[name] = Loss.mean(visible.encoded[:0].sum((1, 2)))
            if patches.field.name in batch:
                entries = batch[patches.field.name]
                found = visible.take(entries.row)
                hidden = ~found.shown(decoder.own, self.side**2)
                each, pixels = errors(decoder(found), entries.values)
                counts = (pixels * hidden).sum(1)
                rows = (each * hidden).sum(1) / counts.clamp(min=1)
                losses[name] = Loss.mean(rows[counts > 0])
        return losses

    def _outputs(self) -> Iterator[tuple[str, MaskedDecoder, Patches, Measure]]:
        """What is predicted, by which decoder, of which patches, and how far it is from the truth."""
        for field, decoder in zip(self.decoders.fields, self.decoders, strict=True):
            patches = self._patches_of(field.name)
            yield field.name, cast(MaskedDecoder, decoder), patches, patches.errors
        for field, decoder in zip(
            self.relative_decoders.fields, self.relative_decoders, strict=True
        ):
            patches = cast(PicturePatches, self._patches_of(field.name))
            name = f"{field.name}, relative"
            yield name, cast(MaskedDecoder, decoder), patches, patches.relative_errors

    # ------------------------------------------------------------------ the model

    def tokens(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "batch streams patches width"], Bool[Tensor, "batch streams patches"]]:
        """The tokens of all patches of the fields that are read, and which there are."""
        shape = (batch.size, len(self.read), self.side**2)
        tokens = self.positions.new_zeros(*shape, self.config.width)
        available = torch.zeros(shape, dtype=torch.bool, device=batch.device)
        for stream, field in enumerate(self.read):
            if field.name in batch:
                entries = batch[field.name].firsts(batch.size)
                made = self._patches_of(field.name)(entries.values) + self.positions
                tokens[entries.row, stream] = made.to(tokens.dtype)
                available[entries.row, stream] = True
        return tokens, available

    def encode(
        self,
        tokens: Float[Tensor, "batch streams patches width"],
        chosen: Int[Tensor, "batch visible"],
        real: Bool[Tensor, "batch visible"],
    ) -> Visible:
        """Chosen tokens, and behind them the global one, after all layers."""
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        last = self.global_token.expand(len(tokens), 1, -1).to(tokens.dtype)
        x = torch.cat([tokens.flatten(1, 2)[rows, chosen], last], 1)
        mask = None if bool(real.all()) else real
        seen = None if mask is None else F.pad(mask, (0, 1), value=True)[:, None, None]
        patches = self.side**2
        return Visible(self.layers.walk(x, seen), chosen // patches, chosen % patches, mask)

    def encode_all(self, batch: Batch) -> Visible:
        """All patches that rows have."""
        tokens, available = self.tokens(batch)
        there = available.flatten(1)
        chosen = (~there).long().argsort(dim=1, stable=True)[:, : int(there.sum(1).amax())]
        return self.encode(tokens, chosen, there.gather(1, chosen))

    def logits(self, batch: Batch) -> Float[Tensor, "batch outputs"]:
        """What the head makes of the mean of the encoded tokens, the global one among them."""
        visible = self.encode_all(batch)
        real = None if visible.real is None else F.pad(visible.real, (0, 1), value=True)
        out: Tensor = self.head(self.norm(pool(visible.encoded, real, "mean")))
        return out

    # ------------------------------------------------------------------ what it can be asked

    @property
    def capabilities(self) -> frozenset[str]:
        """Fields from fields, and the label if there is one."""
        return super().capabilities - (set() if self.label is not None else {"predict"})

    @property
    def sources(self) -> tuple[str, ...]:
        """The fields whose patches are read."""
        return tuple(field.name for field in self.read)

    @property
    def reconstructed(self) -> tuple[str, ...]:
        """The fields that decoders predict."""
        return self.decoders.names

    def reconstruct(self, batch: Batch, fields: Sequence[str]) -> dict[str, Entries]:
        """Each field from the patches of those that rows have, its own among them."""
        for name in fields:
            if name not in self.decoders.names:
                known = did_you_mean(name, self.decoders.names)
                raise UserError(f"multimae does not predict '{name}'. {known}")
        visible = self.encode_all(batch)
        row = torch.arange(batch.size, device=batch.device)
        found = {}
        for name in fields:
            decoder = self.decoders[self.decoders.names.index(name)]
            values = self._patches_of(name).restore(decoder(visible))
            found[name] = Entries(values, row, torch.zeros_like(row))
        return found

    def predict(self, batch: Batch) -> Float[Tensor, "batch ..."]:
        """Probabilities of the classes, or numbers in their own unit."""
        assert self.label is not None
        return answers_of(self.logits(batch), self.label)

    def _patches_of(self, name: str) -> Patches:
        return cast(Patches, self.patches[self.patches.names.index(name)])


def grids_of(schema: Schema) -> list[Field]:
    """The pictures and maps that may be read."""
    return schema.find(role=READS, modality=("image", "maps"))
