"""A tokenizer of pictures or maps: patches become codes, from which they are restored.

    patches ─ encoder ─ MLP ─ linear ─ nearest code ─ linear ─ decoder ─ patches

As the tokenizers of 4M (Mizrahi et al., 2023, arXiv 2312.06647): two vision transformers with a
bottleneck of few codes between them. Codes are finite scalars, of which none can die, or a codebook of
unit vectors that follows what it stands for (`quantizer=codebook`, as published). The loss is that of
all patches: squared error of colours, absolute error of numbers, cross-entropy of classes; a codebook
adds how far vectors are from their codes.

Differs from the paper: a decoder predicts the patches at once, where the paper's for pictures, depth and
normals draw them by diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from jaxtyping import Float, Int, Shaped
from pydantic import Field as Setting
from torch import Tensor, nn

from sensorium.modalities.base import View
from sensorium.modalities.text import Tokenizer
from sensorium.nn.blocks import transformer
from sensorium.nn.patches import build_patches
from sensorium.nn.positions import grid_waves
from sensorium.nn.quantizers import Codebook, FiniteScalar, Quantized, Quantizer, Summed
from sensorium.systems.base import System, SystemConfig, choose_field, register
from sensorium.types import Batch, Card, Entries, Loss, Schema, Stage, UserError

READS = ("input", "query", "target")
GRIDS = ("image", "maps")


@register("patch-tokenizer")
class PatchTokenizer(System):
    """Encoder, codes and decoder of one field."""

    card = Card(
        title="Patch tokenizer (FSQ, VQ-VAE)",
        paper="arXiv:2309.15505",
        year=2023,
        family="baselines",
        modalities=GRIDS,
        tasks=("reconstruction",),
        licence="Apache-2.0",
    )

    class Config(SystemConfig):
        """Settings.

        Attributes:
            field: which; the only picture or map if empty.
            quantizer: `finite`, scalars; or a `codebook`.
            levels: of each scalar; their product is the number of codes.
            num_codes: of a codebook, and `code_width`, of its vectors.
            commitment: the weight of the distance between vectors and their codes in a codebook.
            width: of both transformers, and `depth`, `heads`, their layers and attention heads.
            image_size: pixels of the side, and `patch`, of a patch.
            class_stride: by how much maps of classes are smaller, and their patches.
            class_width: of the vector of a class.
        """

        field: str = ""
        quantizer: Literal["finite", "codebook"] = "finite"
        levels: tuple[int, ...] = (8, 6, 5)
        num_codes: int = Setting(default=256, ge=2)
        code_width: int = 32
        commitment: float = Setting(default=0.25, ge=0)
        width: int = 128
        depth: int = 2
        heads: int = 4
        image_size: int = 64
        patch: int = 8
        class_stride: int = Setting(default=1, ge=1)
        class_width: int = 16

        @classmethod
        def paper(cls) -> Self:
            """ViT-B, and the 16,384 codes of pictures (8,192 of depth, 4,096 of classes)."""
            return cls(
                quantizer="codebook",
                num_codes=16384,
                width=768,
                depth=12,
                heads=12,
                image_size=224,
                patch=16,
                class_stride=4,
                class_width=64,
            )

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        c = config
        self.field = choose_field(type(self), schema, GRIDS, c.field, "field")
        self.patches = build_patches(
            self.field,
            c.width,
            c.patch,
            c.image_size,
            stride=c.class_stride,
            class_width=c.class_width,
        )
        self.quantizer: Quantizer = (
            FiniteScalar(c.levels)
            if c.quantizer == "finite"
            else Codebook(c.code_width, c.num_codes)
        )
        self.encoder = transformer(c.depth, c.width, c.heads)
        self.to_code = nn.Sequential(
            nn.LayerNorm(c.width),
            nn.Linear(c.width, c.width),
            nn.Tanh(),
            nn.Linear(c.width, self.quantizer.width),
        )
        self.from_code = nn.Linear(self.quantizer.width, c.width)
        self.decoder = transformer(c.depth, c.width, c.heads)
        self.output = nn.Sequential(nn.LayerNorm(c.width), nn.Linear(c.width, self.patches.numbers))
        self.register_buffer("positions", grid_waves(self.patches.side, c.width), persistent=False)
        self.positions: Tensor

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs a picture or a map."""
        if not schema.find(role=READS, modality=GRIDS):
            raise UserError("patch-tokenizer needs a field of modality image or maps")

    def views(self) -> dict[str, View]:
        """The field."""
        return {self.field.name: self.patches.view}

    def stages(self) -> list[Stage]:
        """One."""
        is_large = self.config.width >= 768
        size = 1024 if is_large else 128
        return [Stage(learning_rate=1e-4 * size / 256 if is_large else 1e-3, batch_size=size)]

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """What is lost on the way, in the mean over the pixels of a row; and of a codebook its own."""
        if self.field.name not in batch:
            nothing = Loss.mean(self.from_code.bias[:0])
            return dict.fromkeys(self._loss_names, nothing)
        values = batch.drawn(self.field.name)[self.field.name].values
        found = self.quantize(values)
        each, pixels = self.patches.errors(self.predicted(found.values), values)
        counts = pixels.sum(1)
        lost = Loss.mean((each.sum(1) / counts.clamp(min=1))[counts > 0])
        pulled = Loss.mean(found.commitment.mean(1), self.config.commitment)
        return dict(zip(self._loss_names, (lost, pulled), strict=False))

    @property
    def _loss_names(self) -> tuple[str, ...]:
        name = self.field.name
        return (name, "commitment") if self.config.quantizer == "codebook" else (name,)

    def after_step(self, summed: Summed) -> None:
        """Codes move to what they stand for."""
        self.quantizer.after_step(summed)

    # ------------------------------------------------------------------ the model

    def quantize(self, values: Shaped[Tensor, "entries size size ..."]) -> Quantized:
        """The code of each patch."""
        x = self.encoder.walk(self.patches(values) + self.positions)
        found: Quantized = self.quantizer(self.to_code(x))
        return found

    def predicted(
        self, codes: Float[Tensor, "entries patches code"]
    ) -> Float[Tensor, "entries patches numbers"]:
        """What stands in each patch, from the vectors of codes."""
        x = self.decoder.walk(self.from_code(codes) + self.positions)
        out: Tensor = self.output(x)
        return out

    def encode(
        self, values: Shaped[Tensor, "entries size size ..."]
    ) -> Int[Tensor, "entries patches"]:
        """The numbers of the codes of each patch, row by row from the top left."""
        return self.quantize(values).codes

    def decode(
        self, codes: Int[Tensor, "entries patches"]
    ) -> Shaped[Tensor, "entries size size ..."]:
        """Pictures or maps, as they are collated."""
        return self.patches.restore(self.predicted(self.quantizer.decode(codes)))

    # ------------------------------------------------------------------ what it can be asked

    @property
    def sources(self) -> tuple[str, ...]:
        """The field."""
        return (self.field.name,)

    @property
    def reconstructed(self) -> tuple[str, ...]:
        """The field."""
        return (self.field.name,)

    def reconstruct(self, batch: Batch, fields: Sequence[str]) -> dict[str, Entries]:
        """The field as its codes tell it; of rows without it, as the first code does."""
        codes = torch.zeros(batch.size, self.patches.side**2, dtype=torch.long, device=batch.device)
        if self.field.name in batch:
            entries = batch[self.field.name].firsts(batch.size)
            codes[entries.row] = self.encode(entries.values)
        row = torch.arange(batch.size, device=batch.device)
        return {name: Entries(self.decode(codes), row, torch.zeros_like(row)) for name in fields}
