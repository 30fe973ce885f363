"""Meta-Transformer: one frozen transformer for every modality (Zhang et al., 2023, arXiv 2307.10802).

    image  ── tokens ── [class] ─┐                      ┌─ norm ─ [class] ─┐
    sound  ── tokens ── [class] ─┤  the same blocks,    ├─ norm ─ [class] ─┼─ mean ─ linear ─ answer
    series ── tokens ── [class] ─┤  each by itself,     ├─ norm ─ [class] ─┤
    any    ── tokens ── [class] ─┘  frozen              └─ norm ─ [class] ─┘

The trunk is what stands between the embeddings and the last norm of a vision transformer: its blocks
alone. It is trained once, on pictures, and then stays as it is, but gradients pass through it to what
makes the tokens of each modality, to its class token and positions, to a new norm behind the trunk, and
to the head: these are trained, with the loss of the task and nothing that aligns modalities.

Where the trunk comes from (`trunk`): `hf:NAME`, the vision tower of a CLIP, as in the paper; `run:PATH`,
the image tower of a trained dual encoder, or the trunk of an earlier run; `playground`, a first stage
that learns to name generated pictures, whatever the data are; and two controls that the paper lacks:
`random`, weights as they are drawn, and `none`, no trunk. `shuffled` is a third: each matrix of a trained
trunk with its numbers in another order. Weights are loaded and shuffled when the task begins, after
everything has been initialised; a run that is read back does not ask for them again. The blocks have no
dropout, so that the trunk is the same in training as after it.

Tokens come from the encoders of this library, cut off before their first layer; encoders that are no
transformers give their vectors. A modality of a user needs nothing of its own. Points keep the recipe of
theirs: the place of a group is added before every block, and the class token and the maximum over groups
are what is read.

Differs from the paper, beside the size:

- The paper has one modality in a task. Of a row with several, each goes through the trunk by itself, and
  the mean of the features of those that are there is what the head reads. An absent field has no part.
- Sound: patches of all mel bands of 40 ms side by side, in place of 16 x 16 with an overlap of 6; one
  class token of its own, in place of the first two output tokens.
- Series: convolutions with nothing beyond the ends, where the paper's are circular, since series have
  different lengths; times are read as they are, without calendar embeddings or dropout; the class token
  is read, in place of all steps beside each other. There is no decoder, so no forecast.
- Video: patches of frames, each at its time, in place of cubes.
- Graphs: nodes themselves mark which edges are theirs, in place of random or Laplacian vectors.
- Nothing scales the tokens to the range of those of pictures but what is trained.
"""

from __future__ import annotations

from typing import Literal, Self, cast

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field as Setting
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.image import ImageView
from sensorium.modalities.text import Tokenizer
from sensorium.nn.blocks import Layers, transformer
from sensorium.nn.encoders import Encoder, FieldEncoders
from sensorium.nn.encoders.image import ImageEncoder
from sensorium.nn.encoders.points import PointTransformer
from sensorium.objectives.answers import ANSWERABLE, answer_loss, answers_of, num_outputs
from sensorium.playground.scenes import Scenes
from sensorium.systems.adaptation.meta_transformer_tokens import (
    Nothing,
    PointTokeniser,
    Tokeniser,
)
from sensorium.systems.adaptation.meta_transformer_trunk import load_trunk, shuffle, source_of
from sensorium.systems.base import System, SystemConfig, register
from sensorium.types import Batch, Card, Field, Loss, Schema, Stage, UserError

READS = ("input", "query", "target", "question")
TRUNK, TASK = "trunk", "task"
PICTURES = 200  # that there are to be named


@register("meta-transformer")
class MetaTransformer(System):
    """Tokenisers around a frozen trunk, and a linear head."""

    card = Card(
        title="Meta-Transformer: A Unified Framework for Multimodal Learning",
        paper="arXiv:2307.10802",
        year=2023,
        family="adaptation",
        modalities=("any",),
        tasks=("classification", "regression"),
        licence="Apache-2.0",
    )

    class Config(SystemConfig):
        """Settings.

        Attributes:
            trunk: where it comes from: `playground`, `hf:NAME`, `run:PATH`, `random` or `none`.
            tuned: train the trunk with the rest.
            shuffled: put the numbers of each matrix of the trunk in another order before the task.
            width: of the trunk, and `depth`, `heads`, its blocks and attention heads.
            activation: of its feed-forward networks.
            pooling: what is read of a sequence: the class token, or the mean of all.
            image_size: pixels of the side of a picture, and `patch`, of a patch.
            stem: how a patch becomes a token: a `conv` stack, or one linear map (`patch`).
            max_tokens: the longest text.
            pretraining: the share of the budget of the first stage, with `trunk=playground`.
        """

        trunk: str = "playground"
        tuned: bool = False
        shuffled: bool = False
        width: int = 128
        depth: int = 6
        heads: int = 4
        activation: str = "gelu"
        pooling: Literal["first", "mean"] = "first"
        image_size: int = 64
        patch: int = 16
        stem: Literal["conv", "patch"] = "conv"
        max_tokens: int = 64
        pretraining: float = Setting(default=0.5, gt=0, lt=1)

        @classmethod
        def paper(cls) -> Self:
            """Meta-Transformer-B16, with the blocks of OpenCLIP's ViT-B/16 of LAION-2B."""
            return cls(
                tokenizer="hf:google-bert/bert-base-uncased",
                trunk="hf:laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
                width=768,
                depth=12,
                heads=12,
                image_size=224,
                patch=16,
                stem="patch",
                max_tokens=512,
            )

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        self.check(schema)
        self.source = source_of(config.trunk)
        (self.label,) = schema.find(role=("label", "answer"))
        self.inputs = schema.find(role=READS)
        self.trunk = (
            Layers([Nothing()])
            if self.source.kind == "none"
            else transformer(config.depth, config.width, config.heads, activation=config.activation)
        )
        picture = {"patch": config.patch, "stem": config.stem}
        self.tokenisers = FieldEncoders(
            self.inputs,
            {},
            tokenizer,
            width=config.width,
            tower_width=None,
            depth=0,
            heads=config.heads,
            image_size=config.image_size,
            max_tokens=config.max_tokens,
            settings={"image": picture, "points": {"width": 2 * config.width}},
        )
        for place, encoder in enumerate(list(self.tokenisers)):
            self.tokenisers[place] = self._tokeniser(cast(Encoder, encoder))
        self.head = nn.Linear(config.width, num_outputs(self.label))
        self.pictures = None
        if self.source.kind == "playground":
            view = ImageView(size=config.image_size)
            field = Field(name="pictures", modality="image")
            encoder = ImageEncoder(
                field, view, config.width, 0, config.heads, patch=config.patch, stem=config.stem
            )
            # Read from the class token, things were not named better than by chance for 150 steps.
            self.pictures = Tokeniser(encoder, self.trunk, "max")
            self.names = nn.Linear(config.width, PICTURES)
            self.scenes = Scenes(size=config.image_size, objects=1, pictures=PICTURES)

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs something to read and one category, categories or number to predict."""
        labels = schema.find(role=("label", "answer"))
        if len(labels) != 1 or labels[0].modality not in ANSWERABLE:
            found = ", ".join(f"{field.name} ({field.modality})" for field in labels) or "none"
            raise UserError(
                f"meta-transformer predicts one field of role label or answer, of modality "
                f"{', '.join(ANSWERABLE)}; found {found}"
            )
        if not schema.find(role=READS):
            raise UserError(f"meta-transformer: no field has a role it reads ({', '.join(READS)})")

    def _tokeniser(self, encoder: Encoder) -> Encoder:
        """What makes tokens, with the trunk behind it."""
        if isinstance(encoder, PointTransformer):
            return PointTokeniser(encoder, self.trunk)
        # With nothing that mixes the tokens, one of them says nothing of the others.
        has_trunk = self.source.kind != "none"
        return Tokeniser(encoder, self.trunk, self.config.pooling if has_trunk else "mean")

    def views(self) -> dict[str, View]:
        """What the tokenisers read, and the label."""
        label = get_modality(self.label.modality).View()
        return {self.label.name: label, **self.tokenisers.views()}

    def stages(self) -> list[Stage]:
        """The trunk, if it is trained here; then the task."""
        c = self.config
        task = Stage(
            name=TASK,
            losses=("label",),
            frozen=("pictures.*", "names.*") if c.tuned else ("pictures.*", "names.*", "trunk.*"),
            share=1 - c.pretraining,
            learning_rate=1e-3,
            weight_decay=0.05,
            batch_size=64,
        )
        if self.pictures is None:
            return [task]
        trunk = Stage(
            name=TRUNK,
            losses=("pictures",),
            train=("trunk.*", "pictures.*", "names.*"),
            share=c.pretraining,
            learning_rate=1e-3,
            weight_decay=0.05,
            batch_size=64,
        )
        return [trunk, task]

    def begin(self, stage: str) -> None:
        """Before the task, the trunk gets the weights it is to have."""
        if stage == TASK:
            shape = self.config.model_dump(include={"width", "depth", "heads", "activation"})
            load_trunk(self.trunk, self.source, shape)
            if self.config.shuffled:
                shuffle(self.trunk)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """That of the task, of rows that have a label; in the first stage, that of pictures."""
        if self.stage == TRUNK:
            return {"pictures": self._name_pictures(batch)}
        return {"label": answer_loss(self.logits(batch), batch, self.label)}

    def _name_pictures(self, batch: Batch) -> Loss:
        """How well the thing in a generated picture, one for each row, is named."""
        assert self.pictures is not None
        numbers = batch.uniform("pictures", 1).squeeze(1) * len(self.scenes.split_indices("train"))
        scenes = [self.scenes.scene(number) for number in numbers.long().tolist()]
        pixels = torch.from_numpy(np.stack([scene.image() for scene in scenes]))
        shown = torch.tensor([scene.things[0].picture for scene in scenes])
        vectors = self.pictures.embed(pixels.to(batch.device), None, self.pictures.pooling)
        chances = self.names(vectors).float()
        return Loss.mean(F.cross_entropy(chances, shown.to(batch.device), reduction="none"))

    def prepare(self, batch: Batch) -> Batch:
        """Each field as its vector, for rows that are asked about with and without some of them."""
        return self.tokenisers.prepare(batch)

    def logits(self, batch: Batch) -> Float[Tensor, "batch outputs"]:
        """What the head makes of the mean over the fields that a row has."""
        found = [self.tokenisers.vector(batch, place) for place in range(len(self.inputs))]
        total = torch.stack([vector for vector, _ in found]).sum(0)
        number = torch.stack([present for _, present in found]).sum(0)
        out: Tensor = self.head(total / number.clamp(min=1).unsqueeze(1))
        return out

    def predict(self, batch: Batch) -> Float[Tensor, "batch ..."]:
        """Probabilities of the classes, or numbers in their own unit."""
        return answers_of(self.logits(batch), self.label)
