"""LanguageBind: any number of modalities bound to frozen language (Zhu et al., 2024, arXiv 2310.01852).

    stage 1          image ── tower ── unit vector ─┐
                                                    × scale ── each finds its partner in the batch
                     text  ── tower ── unit vector ─┘
    stage 2, 3, ...  depth ── tower of images + changes of low rank ── unit vector ─┐
                                                                                    × scale ── ...
                     text  ── tower, frozen ── unit vector ─────────────────────────┘

Each modality is trained by itself against the text of its rows and never meets another one; that it can
then be compared with all of them is what the paper shows. What can be made a picture (recordings, as
spectrograms; depth and other maps; videos, frame by frame; further images) goes through the tower of
images, of whose weights it changes little: low rank in the attention (of a video: in attention over
frames, which stands before each layer), and class token, last norm and projection as a whole. Patch
embedding, positions and the rest stay as stage 1 left them. All other modalities of a user's rows get a
tower of their own.

Rows without a modality take no part in its loss. A row's vector of a field it lacks is NaN. `predict`
answers without having seen a label: the class whose name, in `prompts`, lies nearest to the mean of the
vectors of a row's fields other than its text. Rows without images have another field in their place: it
is bound to text in stage 1, and each further one then has a tower of its own.

Differs from the paper:
- The changes are sums kept beside the shared weights (`nn.adapters`), not copies of the tower: the same
  function, in less memory. Weight decay pulls to the tower's weights, not to zero, and the inputs of the
  adapters get no dropout.
- The towers of images and text are a dual encoder, trained here in stage 1, or CLIP's (`from_clip`; then
  leave stage 1 out with `training.stages`).
- A recording has one crop, three times, as the paper's short ones; its energies are scaled by a constant.
- The nano size has a small convolutional stem and the maximum of patches in place of a class token, as
  the dual encoder; all its changes learn at one rate.
"""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import torch
from jaxtyping import Float, Shaped
from pydantic import Field as Setting
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders import build_encoder
from sensorium.nn.encoders.as_picture import as_picture
from sensorium.nn.encoders.image import ImageEncoder
from sensorium.nn.encoders.shared import SharedEncoder, SharedVideoEncoder
from sensorium.nn.encoders.tower import Tower
from sensorium.objectives.contrastive import Temperature, info_nce
from sensorium.objectives.duplicates import content_ids
from sensorium.systems.alignment.class_names import ClassNames
from sensorium.systems.base import System, choose_field, register
from sensorium.systems.baselines.dual_encoder import DualEncoder
from sensorium.types import Batch, Card, Field, Loss, Schema, Stage, UserError
from sensorium.types.names import did_you_mean

READS = ("query", "target", "input")
RANKS = {"audio": 16, "video": 16}  # others: 2
PATCH_DROPOUTS = {"audio": 0.1, "video": 0.3}  # others: 0.5
ATTENTION = ("layers.*.attention.*",)
MATRICES = ("layers.*.attention.*.weight",)
REST = ("class_token", "norm.*")


@register("languagebind")
class LanguageBind(System):
    """Towers of any modalities around frozen language."""

    card = Card(
        title="LanguageBind: N modalities aligned to language",
        paper="arXiv:2310.01852",
        year=2024,
        family="alignment",
        modalities=("image", "text", "any"),
        tasks=("retrieval", "classification"),
        licence="MIT",
    )

    class Config(DualEncoder.Config):
        """Settings; those of the dual encoder for images (`query`) and language (`target`), and more.

        Attributes:
            query: the image field whose tower others share, or another that is bound first; the only
                image if empty, or without images the first field there is.
            target: the text field that all others are bound to; the only one if empty.
            anchor: what is bound to: `language`, or `image` (as ImageBind does), for comparison.
            tune: what a modality changes in the tower it shares: attention in `low_rank` or as a
                `whole`, or everything, from `scratch`.
            freeze: keep language as stage 1 left it.
            rank: of the changes; 0 for the paper's (16 for recordings and videos, 2 for others).
            patch_dropout: the share of patches left out in training; negative for the paper's.
            prompts: sentences for `predict`, with `{}` for the name of a class.
            seconds: the longest recording.
            frames: of a video.
        """

        anchor: Literal["language", "image"] = "language"
        tune: Literal["low_rank", "whole", "scratch"] = "low_rank"
        freeze: bool = True
        rank: int = Setting(default=0, ge=0)
        patch_dropout: float = Setting(default=-1.0, lt=1)
        prompts: tuple[str, ...] = ("a {}",)
        seconds: float = 1.0
        frames: int = 8

        @classmethod
        def paper(cls) -> Self:
            """OpenCLIP ViT-L/14 and its text tower."""
            return cls(
                tokenizer="hf:laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
                prompts=("a photo of a {}.",),
                width=1024,
                depth=24,
                heads=16,
                text_width=768,
                text_depth=12,
                text_heads=12,
                embed_dim=768,
                image_size=224,
                patch=14,
                max_tokens=77,
                seconds=10.0,
                clip=True,
            )

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        image = self._first(schema, config.query)
        language = choose_field(type(self), schema, "text", config.target, "target")
        shared = config.model_dump(include=set(DualEncoder.Config.model_fields))
        names = {"query": image.name, "target": language.name}
        self.space = DualEncoder(DualEncoder.Config(**shared | names), schema, tokenizer)
        others = [field for field in self._bindable(schema) if field != image]
        self.bound = nn.ModuleList([self._bind(field) for field in others])
        self.temperatures = nn.ModuleList([Temperature(0.07) for _ in others])
        self.label = next(iter(schema.find(role="label", modality="category")), None)

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs a text, and a field of another modality, among those it may read."""
        if not schema.find(role=READS, modality="text"):
            raise UserError("languagebind needs a field of modality text that it may read")
        if not cls._bindable(schema):
            raise UserError(
                "languagebind needs a field beside text that it may read, such as an image"
            )

    @classmethod
    def _first(cls, schema: Schema, name: str) -> Field:
        """The field of stage 1: the image, or what stands in its place."""
        if name or schema.find(role=READS, modality="image"):
            return choose_field(cls, schema, "image", name, "query")
        return cls._bindable(schema)[0]

    @classmethod
    def _bindable(cls, schema: Schema) -> list[Field]:
        """What can be bound to text."""
        return [
            field
            for field in schema.find(role=READS)
            if field.modality not in ("text", "boxes")
            and (field.of is None or schema[field.of].modality in ("image", "video"))
        ]

    def _bind(self, field: Field) -> Tower:
        c, image = self.config, self.space.query
        tower = image.encoder
        made = None
        if isinstance(tower, ImageEncoder):
            made = as_picture(field, tower, seconds=c.seconds, frames=c.frames)
        if made is None or c.tune == "scratch":
            view = None if made is None else made[0]
            own = build_encoder(field, width=c.width, depth=c.depth, heads=c.heads, view=view)
            return Tower(field, own, c.embed_dim)
        view, picture = made
        is_low = c.tune == "low_rank"
        rank = c.rank or RANKS.get(field.modality, 2)
        dropout = PATCH_DROPOUTS.get(field.modality, 0.5)
        settings: dict[str, Any] = {
            "patch_dropout": dropout if c.patch_dropout < 0 else c.patch_dropout
        }
        if field.modality == "video":
            settings |= {"rank": rank if is_low else None, "whole": REST, "num_frames": c.frames}
            encoder: SharedEncoder = SharedVideoEncoder(
                cast(ImageEncoder, tower), view, picture=picture, **settings
            )
        else:
            settings |= {"rank": rank, "low_rank": MATRICES if is_low else ()}
            settings |= {"whole": REST if is_low else (*ATTENTION, *REST)}
            encoder = SharedEncoder(cast(ImageEncoder, tower), view, picture, **settings)
        return Tower(field, encoder, c.embed_dim, shared=image.head)

    # ------------------------------------------------------------------ what the trainer asks

    def views(self) -> dict[str, View]:
        """What the towers read, and the label of a zero-shot prediction."""
        views = {tower.field.name: tower.encoder.view for tower in self._towers()}
        if self.label is not None:
            views[self.label.name] = get_modality(self.label.modality).View()
        return views

    def stages(self) -> list[Stage]:
        """Image and language first; then each modality by itself."""
        c = self.config
        shared = {
            "weight_decay": 0.2 if c.clip else 0.05,
            "betas": (0.9, 0.98),
            "batch_size": 1024 if c.clip else 128,
        }
        name, rate = self.space.query.field.name, 5e-4 if c.clip else 1e-3
        stages = [Stage(name=name, share=2.0, train=("space.*",), learning_rate=rate, **shared)]
        for place, tower in enumerate(self._others()):
            trained = [f"bound.{place}.*", f"temperatures.{place}.*"]
            is_slow = c.clip and tower.field.modality not in ("audio", "video")
            slow = {"*.deltas.change.*": 1e-3, "*.head.*": 1e-3, "temperatures.*": 1e-3}
            stages.append(
                Stage(
                    name=tower.field.name,
                    train=(*trained, *(() if c.freeze else ("space.target.*",))),
                    learning_rate=1e-3 if tower.field.modality == "audio" or not c.clip else 1e-4,
                    learning_rate_scale=slow if is_slow else {},
                    **shared,
                )
            )
        return stages

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The contrastive loss of the stage, over the rows that have both sides."""
        return self.compare(self.embeddings(batch))

    def embeddings(self, batch: Batch) -> dict[str, Shaped[Tensor, "rows ..."]]:
        """Both sides of the rows that have both, and what says which rows hold the same."""
        if (place := self._place()) is None:
            return self.space.embeddings(batch)
        tower, c = self._others()[place], self.config
        anchor = self.space.target if c.anchor == "language" else self.space.query
        names = (tower.field.name, anchor.field.name)
        whole = batch.present(names[0]) & batch.present(names[1])
        if not bool(whole.all()):
            batch = batch.take(whole.nonzero().squeeze(1))
        groups = torch.stack([content_ids(batch, name) for name in names], 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not c.freeze):
            anchored, _ = anchor(batch)
        return {"query": tower(batch)[0], "target": anchored, "groups": groups}

    def compare(self, embedded: dict[str, Shaped[Tensor, "rows ..."]]) -> dict[str, Loss]:
        """Each finds its partner among all rows."""
        if (place := self._place()) is None:
            return {self.space.query.field.name: self.space.compare(embedded)["contrast"]}
        forth, back = info_nce(
            embedded["query"],
            embedded["target"],
            self.temperatures[place](),
            groups=embedded["groups"],
            gather=True,
        )
        return {self.stage: Loss.mean((forth + back) / 2)}

    # ------------------------------------------------------------------ what it can be asked

    @property
    def capabilities(self) -> frozenset[str]:
        """Vectors, and classes by their names if there is a label."""
        return frozenset({"embed"} | ({"predict"} if self.label is not None else set()))

    def embed(self, batch: Batch, field: str) -> Float[Tensor, "batch width"]:
        """Unit vectors of a field; NaN in rows without it."""
        for tower in self._towers():
            if tower.field.name == field:
                vectors, present = tower.forward(batch)
                return vectors.masked_fill(~present[:, None], torch.nan)
        known = [tower.field.name for tower in self._towers()]
        raise UserError(f"languagebind does not embed '{field}'. {did_you_mean(field, known)}")

    def predict(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Probabilities of the classes by their names; equal ones for rows with nothing but text."""
        assert self.label is not None
        total = batch.index.new_zeros(batch.size, self.config.embed_dim, dtype=torch.float32)
        for tower in (self.space.query, *self._others()):
            vectors, present = tower(batch)
            total = total + torch.where(present[:, None], vectors.float(), 0.0)
        classes = ClassNames(self.space.target, self.label, self.config.prompts).vectors()
        scale = self.space.temperature()
        return torch.softmax(scale * F.normalize(total, dim=-1) @ classes.float().T, 1)

    @classmethod
    def from_clip(cls, name: str, schema: Schema) -> Self:
        """A system whose towers of images and text have the weights of a CLIP model.

        Args:
            name: of the model on the hub, or a folder in the same layout.
            schema: with an image and a text, and what is to be bound.
        """
        image = choose_field(cls, schema, "image", "", "query").name
        text = choose_field(cls, schema, "text", "", "target").name
        space = DualEncoder.from_clip(name, schema, query=image, target=text)
        system = cls(cls.Config(**space.config.model_dump()), schema, space.tokenizer)
        system.space.load_state_dict(space.state_dict())
        return system

    def _place(self) -> int | None:
        """Which of the others the stage is about; None if it is about images and language."""
        names = [tower.field.name for tower in self._others()]
        return names.index(self.stage) if self.stage in names else None

    def _others(self) -> list[Tower]:
        return [cast(Tower, tower) for tower in self.bound]

    def _towers(self) -> list[Tower]:
        return [self.space.target, self.space.query, *self._others()]
