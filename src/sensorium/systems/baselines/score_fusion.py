"""Score fusion: towers for pictures and for texts, whose vectors are added up on either side (CLIP_SF).

    picture              ── tower ── unit vector ─┐
                                                  + ── unit vector of the side
    instruction and text ── tower ── unit vector ─┘

The baseline of universal retrieval (UniIR; Wei et al., 2023, arXiv 2311.17136, "score-level fusion"): what
stands on a side is embedded part by part, and nothing of one part is seen by another. Both sides have the
same two towers. The instruction stands before the text of the query, or alone, if that has none.

Differs from the paper: the towers are ours, from scratch or published ones, the temperature stays, and
there may be a second stage with hard negatives, as `mm-embed` has it.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field as Setting
from torch import Tensor

from sensorium.modalities.base import View
from sensorium.modalities.image import ImageView
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.encoders import build_encoder
from sensorium.nn.encoders.tower import Tower
from sensorium.nn.token_streams import first_real
from sensorium.systems.base import register
from sensorium.systems.retrieval.sides import HARD, RANDOM, Side, SidesConfig, TwoSided
from sensorium.types import Batch, Card, Entries, Field, Schema, Stage, UserError

SAID = "said"


@register("score-fusion")
class ScoreFusion(TwoSided):
    """Two towers for whatever stands on either side."""

    card = Card(
        title="Universal retrieval by score-level fusion (UniIR, CLIP_SF)",
        paper="arXiv:2311.17136",
        year=2023,
        family="baselines",
        modalities=TwoSided.READS,
        tasks=("universal-retrieval", "retrieval"),
        licence="MIT",
    )

    class Config(SidesConfig):
        """Settings, beside those of all retrievers of whole sides.

        Attributes:
            encoder: by modality, a pretrained tower: `hf:NAME_OR_PATH`.
            width: of towers from scratch; `depth` and `heads`, their layers and attention heads.
            text_depth: layers of the tower of texts.
            embed_dim: of the space.
            image_size: pixels of the side of a picture, and `patch`, of a patch.
            max_tokens: the longest text of a field.
        """

        encoder: dict[str, str] = Setting(default_factory=dict)
        width: int = 128
        depth: int = 3
        text_depth: int = 2
        heads: int = 4
        embed_dim: int = 128
        image_size: int = 64
        patch: int = 16
        max_tokens: int = 64

        @classmethod
        def paper(cls) -> Self:
            """CLIP ViT-L/14, as UniIR has it."""
            name = "hf:openai/clip-vit-large-patch14"
            return cls(tokenizer=name, encoder={"image": name, "text": name}, embed_dim=768)

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        if tokenizer is None:
            raise UserError(f"{self.name} needs a tokenizer: setting tokenizer=bpe:4096")
        self.words = TextView(tokenizer=tokenizer, max_tokens=config.max_tokens)
        texts = max(1, *(sum(f.modality == "text" for f in s) for s in self.sides.values()))
        whole = TextView(tokenizer=tokenizer, max_tokens=(1 + texts) * config.max_tokens)
        self.text = self._tower(Field(name=SAID, modality="text"), config.text_depth, whole)
        pictures = [field for field in self.read() if field.modality == "image"]
        view = ImageView(size=config.image_size)
        self.image = self._tower(pictures[0], config.depth, view) if pictures else None

    def _tower(self, field: Field, depth: int, view: View) -> Tower:
        c = self.config
        spec = c.encoder.get(field.modality)
        if spec is not None:
            return Tower(field, build_encoder(field, width=None, spec=spec), c.embed_dim)
        settings: dict[str, Any] = {"patch": c.patch} if field.modality == "image" else {}
        encoder = build_encoder(
            field, width=c.width, depth=depth, heads=c.heads, view=view, **settings
        )
        return Tower(field, encoder, c.embed_dim)

    def views(self) -> dict[str, View]:
        """What the towers read."""
        return {
            field.name: self.image.encoder.view
            if field.modality == "image" and self.image
            else self.words
            for field in self.read()
        }

    def stages(self) -> list[Stage]:
        """In-batch negatives; anew with hard ones."""
        rate = 1e-5 if self.config.encoder else 1e-3
        return [
            Stage(name=RANDOM, learning_rate=rate, batch_size=128),
            Stage(name=HARD, learning_rate=rate, batch_size=128, mines=True, restarts=True),
        ]

    def encode(self, batch: Batch, side: Side) -> Float[Tensor, "batch width"]:
        """The sum of the unit vectors of what is there."""
        ids, mask = self.said(batch, side)
        there = mask.any(1)
        row = there.nonzero().squeeze(1)
        said = Entries(ids[row], row, torch.zeros_like(row), mask[row])
        total: Tensor = self.text(batch.with_fields(**{SAID: said}))[0] * there[:, None]
        for field in self.sides[side]:
            if field.modality == "image" and field.name in batch:
                assert self.image is not None
                renamed = batch.with_fields(**{self.image.field.name: batch[field.name]})
                vectors, has = self.image(renamed)
                total = total + vectors * has[:, None]
        return total

    def said(
        self, batch: Batch, side: Side
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """The instruction and the texts of a side as one text, and which ids are no padding."""
        assert self.tokenizer is not None
        names = [field.name for field in self.sides[side] if field.modality == "text"]
        there = self.present(batch, side)
        if side == "query" and self.instruction is not None:
            names.insert(0, self.instruction.name)
        special = torch.tensor(self.tokenizer.special_ids, device=batch.device)
        wide, masks = [], []
        for name in names:
            if name not in batch:
                continue
            part = batch[name].keep(there).firsts(batch.size)
            assert part.mask is not None
            ids = part.values.new_zeros(batch.size, part.values.shape[1])
            mask = torch.zeros_like(ids, dtype=torch.bool)
            ids[part.row] = part.values
            mask[part.row] = part.mask & ~torch.isin(part.values, special)
            wide.append(ids)
            masks.append(mask)
        some = torch.cat([there[:, None] & False, *masks], 1).any(1, keepdim=True)
        ends = [
            torch.full_like(batch.index, i)[:, None]
            for i in (self.tokenizer.cls_id, self.tokenizer.sep_id)
        ]
        ids = torch.cat([ends[0], *wide, ends[1]], 1)
        mask = torch.cat([some, *masks, some], 1)
        limit = self.text.encoder.view.max_tokens  # type: ignore[attr-defined]
        longest = min(max(1, int(mask.sum(1).max())) if len(mask) else 1, limit)
        order = first_real(mask, longest)
        return ids.gather(1, order), mask.gather(1, order)
