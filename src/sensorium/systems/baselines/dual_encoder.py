"""Dual encoder: the contrastive baseline, for any two modalities.

    query  ── tower ── pool ── linear ── unit vector ─┐
                                                      × scale ── each finds its partner in the batch
    target ── tower ── pool ── linear ── unit vector ─┘

Two towers that never see each other's input are trained so that the vectors of a pair are nearer
than those of any other combination in the batch: CLIP (Radford et al., 2021, arXiv 2103.00020) for
`loss=info_nce`, SigLIP (Zhai et al., 2023, arXiv 2303.15343) for `loss=sigmoid`.

`paper()` is CLIP ViT-B/16, layer for layer; `from_clip` takes published weights. The nano size differs
where little data and a short training ask for it: images pass a small convolutional stem, all words
see each other, and a sequence becomes the mean of its words or the maximum of its patches.

A row that lacks a side takes no part in the loss, and its vector of that side is NaN. Rows whose
query or target is the same as another's are not that one's negatives.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Shaped
from pydantic import Field as Setting
from torch import Tensor, nn

from sensorium.modalities.base import View
from sensorium.modalities.image import ImageView
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.encoders import Encoder, build_encoder, specs_of
from sensorium.nn.encoders.image import CLIP_DEVIATION, CLIP_MEAN
from sensorium.nn.encoders.tower import Tower
from sensorium.nn.pooling import Pooling
from sensorium.objectives.contrastive import Duplicates, Temperature, info_nce, sigmoid_loss
from sensorium.objectives.duplicates import content_ids
from sensorium.systems.base import System, SystemConfig, register
from sensorium.systems.baselines.clip_weights import convert, read_clip
from sensorium.types import Batch, Card, Field, Loss, Schema, Stage, UserError
from sensorium.types.names import did_you_mean

SIDES = ("query", "target")


@register("dual-encoder")
class DualEncoder(System):
    """Two towers and a contrastive loss."""

    card = Card(
        title="Contrastive dual encoder (CLIP, SigLIP)",
        paper="arXiv:2103.00020",
        year=2021,
        family="baselines",
        modalities=("any",),
        tasks=("retrieval",),
        licence="MIT",
    )

    class Config(SystemConfig):
        """Settings.

        Attributes:
            query: the field on one side; the one with that role if empty.
            target: the field on the other side.
            encoder: by field or modality, a pretrained tower: `hf:NAME_OR_PATH`.
            width: of towers from scratch; `depth` and `heads`, their layers and attention heads.
            text_width: of text towers, and so on; 0 for the same as the others.
            embed_dim: of the shared space.
            image_size: pixels of the side of an image, and `patch`, of a patch.
            max_tokens: the longest text.
            clip: build image and text towers as CLIP does.
            activation: of the feed-forward networks.
            pooling: how a sequence becomes one vector; `auto` leaves it to the tower.
            loss: which.
            duplicates: rows with the same query or target as another are `ignored` as its
                candidates, or count as `positive`.
        """

        query: str = ""
        target: str = ""
        encoder: dict[str, str] = Setting(default_factory=dict)
        width: int = 128
        depth: int = 3
        heads: int = 4
        text_width: int = 0
        text_depth: int = 2
        text_heads: int = 0
        embed_dim: int = 128
        image_size: int = 64
        patch: int = 16
        max_tokens: int = 64
        clip: bool = False
        activation: str = "gelu"
        pooling: Pooling | Literal["auto"] = "auto"
        loss: Literal["info_nce", "sigmoid"] = "info_nce"
        duplicates: Duplicates = "ignored"

        @classmethod
        def paper(cls) -> Self:
            """CLIP ViT-B/16."""
            return cls(
                tokenizer="hf:openai/clip-vit-base-patch16",
                width=768,
                depth=12,
                heads=12,
                text_width=512,
                text_depth=12,
                text_heads=8,
                embed_dim=512,
                image_size=224,
                patch=16,
                max_tokens=77,
                clip=True,
                activation="quick_gelu",
            )

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        fields = [_side(config, schema, side) for side in SIDES]
        specs = specs_of(fields, config.encoder)
        self.query, self.target = (self.side(field, specs[field.name]) for field in fields)
        self.temperature = Temperature(0.07 if config.loss == "info_nce" else 0.1)
        self.bias = nn.Parameter(torch.tensor(-10.0)) if config.loss == "sigmoid" else None

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs a query and a target."""
        for side in SIDES:
            _with_role(schema, side)

    def side(self, field: Field, spec: str | None) -> Tower:
        """The tower of one side."""
        pooling = None if self.config.pooling == "auto" else self.config.pooling
        return Tower(field, self.encoder(field, spec), self.config.embed_dim, pooling=pooling)

    def encoder(self, field: Field, spec: str | None) -> Encoder:
        """The encoder of one side."""
        c = self.config
        if spec is not None:
            return build_encoder(field, width=None, spec=spec)
        width, depth, heads = c.width, c.depth, c.heads
        settings: dict[str, Any] = {}
        if field.modality == "image":
            view = ImageView(size=c.image_size, fit="crop" if c.clip else "squash")
            settings = {"view": view, "patch": c.patch, "activation": c.activation}
            if c.clip:
                settings |= {"stem": "patch", "class_token": True, "norm_before": True}
                settings |= {"mean": CLIP_MEAN, "deviation": CLIP_DEVIATION}
        elif field.modality == "text":
            width, depth = c.text_width or width, c.text_depth or depth
            heads = c.text_heads or heads
            text_view = TextView(tokenizer=self.tokenizer, max_tokens=c.max_tokens)
            settings = {"view": text_view, "is_causal": c.clip, "activation": c.activation}
        return build_encoder(field, width=width, depth=depth, heads=heads, **settings)

    def views(self) -> dict[str, View]:
        """What the towers read."""
        return {side.field.name: side.encoder.view for side in (self.query, self.target)}

    def stages(self) -> list[Stage]:
        """One stage; CLIP's own settings for CLIP's own size."""
        if self.config.clip:
            return [
                Stage(learning_rate=5e-4, weight_decay=0.2, betas=(0.9, 0.98), batch_size=32768)
            ]
        return [Stage(learning_rate=1e-3, weight_decay=0.05, batch_size=128)]

    def embed(self, batch: Batch, field: str) -> Float[Tensor, "batch width"]:
        """Unit vectors of the query or of the target; NaN in rows without it."""
        for side in (self.query, self.target):
            if side.field.name == field:
                vectors, present = side.forward(batch)
                return vectors.masked_fill(~present[:, None], torch.nan)
        known = [self.query.field.name, self.target.field.name]
        raise UserError(f"dual-encoder does not embed '{field}'. {did_you_mean(field, known)}")

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The contrastive loss of the rows that have both sides."""
        return self.compare(self.embeddings(batch))

    def embeddings(self, batch: Batch) -> dict[str, Shaped[Tensor, "rows ..."]]:
        """Both sides of the rows that have both, and what says which rows hold the same."""
        names = (self.query.field.name, self.target.field.name)
        whole = batch.present(names[0]) & batch.present(names[1])
        if not bool(whole.all()):
            batch = batch.take(whole.nonzero().squeeze(1))
        groups = torch.stack([content_ids(batch, name) for name in names], 1)
        return {"query": self.query(batch)[0], "target": self.target(batch)[0], "groups": groups}

    def compare(self, embedded: dict[str, Shaped[Tensor, "rows ..."]]) -> dict[str, Loss]:
        """Each finds its partner among all rows."""
        query, target, groups = embedded["query"], embedded["target"], embedded["groups"]
        scale, duplicates = self.temperature(), self.config.duplicates
        if self.bias is None:
            forth, back = info_nce(
                query, target, scale, groups=groups, duplicates=duplicates, gather=True
            )
            per_pair = (forth + back) / 2
        else:
            per_pair = sigmoid_loss(
                query, target, scale, self.bias, groups=groups, duplicates=duplicates, gather=True
            )
        return {"contrast": Loss.mean(per_pair)}

    @classmethod
    def from_clip(cls, name: str, schema: Schema, **settings: Any) -> Self:
        """A system with the weights of a CLIP model, ready to embed.

        Args:
            name: of the model on the hub, or a folder in the same layout.
            schema: with an image and a text as query and target, either way round.
            settings: further ones.
        """
        found, weights = read_clip(name)
        system = cls(cls.Config(**{**found, **settings}), schema, Tokenizer.from_hub(name))
        image = "query" if system.query.field.modality == "image" else "target"
        system.load_state_dict(convert(weights, image))
        return system


def _side(config: DualEncoder.Config, schema: Schema, side: str) -> Field:
    name = config.query if side == "query" else config.target
    if name:
        return schema[name]
    found = _with_role(schema, side)
    if len(found) > 1:
        names = ", ".join(field.name for field in found)
        raise UserError(
            f"dual-encoder: several fields have the role '{side}' ({names}); choose one with "
            f"--set {side}=NAME"
        )
    return found[0]


def _with_role(schema: Schema, side: str) -> list[Field]:
    found = schema.find(role=side)
    if not found:
        raise UserError(
            f"dual-encoder: no field has the role '{side}'; give it to one of "
            f"{', '.join(schema.names)}"
        )
    return found
