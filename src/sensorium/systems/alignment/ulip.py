"""ULIP: point clouds in a space of images and language (Xue et al., 2023, arXiv 2212.05171).

    stage 1    image  ── tower ── unit vector ─┐
                                               × scale ── each finds its partner in the batch
               text   ── tower ── unit vector ─┘
    stage 2    image  ── tower, frozen ── unit vector ─┐
                                                       × scale ─┐
               points ── encoder ── linear ── unit vector       + each finds both partners
                                                       × scale ─┘
               text   ── tower, frozen ── unit vector ─┘

Only the encoder of points, its projection and the scale learn in stage 2: alpha C(image, text) + beta
C(points, image) + theta C(points, text), where C is the contrastive loss of both directions and alpha
is 0 while the towers are frozen. Any encoder of points will do: `encoder.points=transformer` (as in
Point-BERT) or `pointnet` (as in PointNet++). Of several pictures of a row one is drawn in each step.

Where rows have a label, their text in stage 2 is its name, as the mean over `prompts`; else their own
text. `predict` answers for classes of which no points were seen: the one whose prompts lie nearest, by
the cosine without a temperature. A row without points is told by its picture. Rows that lack points,
or both partners, take no part in stage 2; a vector of a field that a row lacks is NaN.

Differs from the paper:
- The towers are trained here, in stage 1, or are those of a run of `dual-encoder` or of this system
  (`--init`), or of CLIP (`from_clip`, and the size `paper`), which is published as safetensors; SLIP,
  which the paper takes, is not. With either, leave stage 1 out with `training.stages`.
- The scale is learned, as the paper says; `freeze_scale` keeps it, as the release does.
- Rows with the same points, picture or text are not each other's negatives. In a batch of few classes
  most would be wrong ones. `equals_are_negatives` is the paper's.
- Of a cloud with more points than `num_points` a random part is read, the same each time, in place of
  the farthest points: those are chosen in each step anyway, after the augmentation, for the groups.
- A class with several names (`couch,sofa`) is the mean over all of them; with `ensemble` off one is
  drawn, without a prompt, as in the release.
- The learning rate falls to zero, not to 1e-5. PointMLP and PointNeXt are left out, and with the latter
  the height as a fourth channel. Point-BERT starts from random weights.
- The nano size says its prompts in words that the captions of the playground have: its tower of texts
  has read no others.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field as Setting
from pydantic import field_validator, model_validator
from torch import Tensor, nn

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.image import ImageView
from sensorium.modalities.points import CHANGES, PointsView
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders import Encoder, build_encoder, specs_of
from sensorium.nn.encoders.points import PointNorm
from sensorium.nn.encoders.tower import Tower
from sensorium.objectives.contrastive import info_nce
from sensorium.objectives.duplicates import content_ids
from sensorium.systems.alignment.class_names import PROMPTS, ClassNames
from sensorium.systems.base import System, choose_field, register
from sensorium.systems.baselines.dual_encoder import DualEncoder
from sensorium.types import Batch, Card, Field, Loss, Schema, Stage, UserError
from sensorium.types.names import did_you_mean

READS = ("query", "target", "input")
FIRST, SECOND = "image-text", "points"


@register("ulip")
class ULIP(System):
    """An encoder of points beside two frozen towers."""

    card = Card(
        title="ULIP: unified representation of language, images and point clouds",
        paper="arXiv:2212.05171",
        year=2023,
        family="alignment",
        modalities=("points", "image", "text"),
        tasks=("retrieval", "classification"),
        licence="BSD-3-Clause",
    )

    class Config(DualEncoder.Config):
        """Settings; those of the dual encoder for images (`query`) and texts (`target`), and more.

        Attributes:
            points: the field of points; the only one if empty. `query` and `target` likewise.
            encoder: by field or modality: `transformer` or `pointnet` for points, and a pretrained
                tower for images and texts: `hf:NAME_OR_PATH`.
            num_points: that are read of a cloud.
            points_width: of what the encoder of points gives; `points_depth` and `points_heads`, layers
                and attention heads of the transformer.
            groups: of points, and `neighbours`, points in each.
            norm: in the encoder of points; `batch` is what was published.
            points_dropout: how often a row skips a branch of the transformer's last layer, or a number
                at the end of the PointNet is dropped (published: 0.4).
            towers: whether images and texts stay as stage 1 left them.
            alpha: weight of images with texts in stage 2; `beta`, of points with images; `theta`, of
                points with texts.
            freeze_scale: whether the scale stays as stage 1 left it.
            equals_are_negatives: whether rows with the same content are each other's negatives in stage
                2 (published).
            prompts: sentences with `{}` for the name of a class.
            ensemble: whether the text of a row is the mean over all prompts and names of its class.
            first_share: the part of the budget for stage 1.
        """

        points: str = ""
        num_points: int = 256
        points_width: int = 192
        points_depth: int = 4
        points_heads: int = 4
        groups: int = Setting(default=32, ge=4)
        neighbours: int = Setting(default=16, ge=1)
        norm: PointNorm = "layer"
        points_dropout: float = Setting(default=0.0, ge=0, lt=1)
        towers: Literal["frozen", "tuned"] = "frozen"
        alpha: float = Setting(default=0.0, ge=0)
        beta: float = Setting(default=1.0, ge=0)
        theta: float = Setting(default=1.0, ge=0)
        freeze_scale: bool = False
        equals_are_negatives: bool = False
        prompts: tuple[str, ...] = Setting(
            default=("{}", "picture of {}", "model of {}"), min_length=1
        )
        ensemble: bool = True
        first_share: float = Setting(default=0.4, gt=0, lt=1)
        image_size: int = 32
        patch: int = 8

        @field_validator("prompts")
        @classmethod
        def _has_place(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
            for prompt in prompts:
                if "{}" not in prompt:
                    raise ValueError(f"'{prompt}' has no {{}} for the name of a class")
            return prompts

        @model_validator(mode="after")
        def _trains_points(self) -> Self:
            if not (self.beta or self.theta):
                raise ValueError("beta and theta are both 0, so that points would learn nothing")
            return self

        @classmethod
        def paper(cls) -> Self:
            """Point-BERT beside ViT-B/16; PointNet++ with points_width=256 and points_dropout=0.4."""
            towers = DualEncoder.Config.paper().model_dump()
            points = cls(
                num_points=8192,
                points_width=768,
                points_depth=12,
                points_heads=6,
                groups=512,
                neighbours=32,
                norm="batch",
                points_dropout=0.1,
                prompts=PROMPTS,
            )
            return points.model_copy(update=towers)

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        points = choose_field(type(self), schema, "points", config.points, "points")
        image = choose_field(type(self), schema, "image", config.query, "query")
        text = choose_field(type(self), schema, "text", config.target, "target")
        fields = (points, image, text)
        specs = specs_of(fields, config.encoder)
        self.points = Tower(points, self._encoder(points, specs[points.name]), config.embed_dim)
        nn.init.normal_(self.points.head.weight, std=config.embed_dim**-0.5)
        shared = config.model_dump(include=set(DualEncoder.Config.model_fields))
        towers = {field.name: spec for field in (image, text) if (spec := specs[field.name])}
        own = {"query": image.name, "target": text.name, "encoder": towers}
        self.space = DualEncoder(DualEncoder.Config(**shared | own), schema, tokenizer)
        label = next(iter(schema.find(role="label", modality="category")), None)
        self.names: ClassNames | None = None
        if label is not None:
            self.names = ClassNames(self.space.target, label, config.prompts)

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs points, an image and a text among the fields it may read."""
        for modality in ("points", "image", "text"):
            if not schema.find(role=READS, modality=modality):
                raise UserError(f"ulip needs a field of modality {modality} that it may read")

    def _encoder(self, field: Field, spec: str | None) -> Encoder:
        c = self.config
        settings: dict[str, Any] = {"groups": c.groups, "neighbours": c.neighbours}
        settings |= {"drop_path": c.points_dropout}
        if spec == "pointnet":
            settings = {"centres": (c.groups, c.groups // 4), "dropout": c.points_dropout}
            settings |= {"neighbours": (c.neighbours, 2 * c.neighbours)}
        return build_encoder(
            field,
            width=c.points_width,
            depth=c.points_depth,
            heads=c.points_heads,
            spec=spec,
            view=PointsView(num_points=c.num_points, augment=CHANGES),
            norm=c.norm,
            **settings,
        )

    # ------------------------------------------------------------------ what the trainer asks

    def views(self) -> dict[str, View]:
        """What the towers read, and the label that names a class."""
        views = self.space.views() | {self.points.field.name: self.points.encoder.view}
        for name, view in views.items():
            if isinstance(view, ImageView):
                views[name] = view.model_copy(update={"augment": ("crop",)})
        if self.names is not None:
            views[self.names.label.name] = get_modality("category").View()
        return views

    def stages(self) -> list[Stage]:
        """The space of images and texts, then points into it."""
        c = self.config
        (first,) = self.space.stages()
        changes = {"name": FIRST, "share": c.first_share, "train": ("space.*",)}
        return [
            first.model_copy(update=changes),
            Stage(
                name=SECOND,
                share=1 - c.first_share,
                train=("points.*", "space.temperature.*") if self.is_frozen else ("*",),
                frozen=("space.temperature.*",) if c.freeze_scale else (),
                learning_rate=3e-3 if c.clip else 1e-3,
                weight_decay=0.1,
                betas=(0.9, 0.98),
                batch_size=512 if c.clip else 64,
                warmup=0.004 if c.clip else 0.1,
            ),
        ]

    @property
    def is_frozen(self) -> bool:
        """Whether images and texts stay as they are in stage 2."""
        return self.config.towers == "frozen"

    def train(self, mode: bool = True) -> Self:
        """As in every module, but frozen towers are never in training mode in stage 2."""
        super().train(mode)
        if mode and self.is_frozen and self.stage != FIRST:
            self.space.eval()
            self.space.temperature.train()
        return self

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Of the first stage those of the dual encoder, of the second one for each pair of fields."""
        return self.compare(self.embeddings(batch))

    def embeddings(self, batch: Batch) -> dict[str, Shaped[Tensor, "rows ..."]]:
        """The vectors of the rows that have points and a partner, and which partners they have."""
        if self.stage == FIRST:
            return self.space.embeddings(batch)
        image = self.space.query.field.name
        text = self.space.target.field if self.names is None else self.names.label
        partners = batch.present(image) | batch.present(text.name)
        batch = batch.take((batch.present(self.points.field.name) & partners).nonzero().squeeze(1))
        if self.training and image in batch:
            batch = batch.drawn(image)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            images, has_image = self.space.query(batch)
            texts, has_text = self._texts(batch)
        return {
            "points": self.points(batch)[0],
            "image": images,
            "text": texts,
            "has image": has_image,
            "has text": has_text,
            "groups": torch.stack(
                [content_ids(batch, n) for n in (self.points.field.name, image, text.name)], 1
            ),
        }

    def compare(self, embedded: dict[str, Shaped[Tensor, "rows ..."]]) -> dict[str, Loss]:
        """Each finds its partner among all rows."""
        if self.stage == FIRST:
            return {FIRST: self.space.compare(embedded)["contrast"]}
        c, scale = self.config, self.space.temperature()
        vectors = [embedded[name] for name in ("points", "image", "text")]
        if self.is_frozen:
            vectors[1:] = [each.detach() for each in vectors[1:]]
        has_image, has_text = embedded["has image"], embedded["has text"]
        terms = {
            "points-image": (0, 1, c.beta, has_image),
            "points-text": (0, 2, c.theta, has_text),
            FIRST: (1, 2, c.alpha, has_image & has_text),
        }
        losses = {}
        for name, (one, other, weight, there) in terms.items():
            if weight == 0:
                continue
            groups = embedded["groups"][there][:, [one, other]]
            forth, back = info_nce(
                vectors[one][there],
                vectors[other][there],
                scale,
                groups=None if c.equals_are_negatives else groups,
                gather=True,
            )
            losses[name] = Loss.mean((forth + back) / 2, weight)
        return losses

    def _texts(self, batch: Batch) -> tuple[Float[Tensor, "rows width"], Bool[Tensor, "rows"]]:
        """The vectors of the texts of rows, or of the names of their classes; which have one."""
        if self.names is None:
            texts: tuple[Tensor, Tensor] = self.space.target(batch)
            return texts
        return self.names.of_batch(batch, self.config.ensemble)

    # ------------------------------------------------------------------ what it can be asked

    @property
    def capabilities(self) -> frozenset[str]:
        """Vectors, and classes by their names if there is a label."""
        return frozenset({"embed"} | ({"predict"} if self.names is not None else set()))

    def embed(self, batch: Batch, field: str) -> Float[Tensor, "batch width"]:
        """Unit vectors of a field; NaN in rows without it."""
        towers = (self.points, self.space.query, self.space.target)
        known = {tower.field.name: tower for tower in towers}
        if field not in known:
            raise UserError(f"ulip does not embed '{field}'. {did_you_mean(field, known)}")
        vectors, present = known[field].forward(batch)
        return vectors.masked_fill(~present[:, None], torch.nan)

    def predict(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Probabilities of the classes by their names; equal ones for rows without points and picture."""
        assert self.names is not None
        points, has_points = self.points(batch)
        images, _ = self.space.query(batch)
        told = torch.where(has_points[:, None], points.float(), images.float())
        return torch.softmax(told @ self.names.vectors().float().T, 1)

    # ------------------------------------------------------------------ weights of others

    def weights_from(self, start: System) -> dict[str, Tensor]:
        """Of a dual encoder, the towers of images and texts."""
        weights = super().weights_from(start)
        if not isinstance(start, DualEncoder):
            return weights
        image = "query" if start.query.field.modality == "image" else "target"
        sides = {image: "query", "target" if image == "query" else "query": "target"}
        renamed = {}
        for name, value in weights.items():
            side, dot, rest = name.partition(".")
            renamed[f"space.{sides.get(side, side)}{dot}{rest}"] = value
        return renamed

    @classmethod
    def from_clip(cls, name: str, schema: Schema, **settings: Any) -> Self:
        """A system with the towers of a CLIP model, ready for stage 2.

        Args:
            name: of the model on the hub, or a folder in the same layout.
            schema: with points, an image and a text.
            settings: further ones.
        """
        image = choose_field(cls, schema, "image", "", "query").name
        text = choose_field(cls, schema, "text", "", "target").name
        space = DualEncoder.from_clip(name, schema, query=image, target=text)
        shared = space.config.model_dump() | settings
        system = cls(cls.Config(**shared), schema, space.tokenizer)
        system.space.load_state_dict(space.state_dict())
        return system
