"""What retrievers share whose queries and targets are made up of several fields."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field as Setting
from torch import Tensor
from torch.nn import functional as F

from sensorium.data import Data, MediaCache, read_batches
from sensorium.data.partners import of_partner
from sensorium.data.sources import Rows
from sensorium.objectives.contrastive import info_nce_among
from sensorium.objectives.duplicates import content_ids
from sensorium.objectives.negatives import Mining, draw_negatives
from sensorium.systems.base import System, SystemConfig
from sensorium.types import Batch, Field, Loss, Schema, UserError, draws
from sensorium.types.names import did_you_mean

Side = Literal["query", "target"]
SIDES: tuple[Side, Side] = ("query", "target")
RANDOM, HARD = "random", "hard"


class SidesConfig(SystemConfig):
    """Settings of all of them.

    Attributes:
        temperature: of the contrastive loss; it stays.
        mined_top: of each query, so many of the first candidates are looked at for hard negatives.
        mined_skip: those of the right modality up to this place are left out.
        wrong_share: how often a negative of the wrong modality is drawn, where there is one; at 0 and at 1
            there is one kind only.
        negatives: `aware` of modalities, or `plain`: any of the first candidates that is not the right
            one.
    """

    temperature: float = Setting(default=0.05, gt=0)
    mined_top: int = Setting(default=50, gt=0)
    mined_skip: int = Setting(default=45, ge=0)
    wrong_share: float = Setting(default=0.5, ge=0, le=1)
    negatives: Literal["aware", "plain"] = "aware"


class TwoSided(System):
    """Texts and pictures on either side, and an instruction with the query.

    Attributes:
        sides: the fields of each side, pictures first.
        instruction: what the query is to find, in words; None if the rows have no such field.
        READS: the modalities of the fields that are read.
        PARTNERED: the stages in which rows have hard negatives.
    """

    Config: ClassVar[type[SystemConfig]] = SidesConfig
    READS: ClassVar[tuple[str, str]] = ("image", "text")
    PARTNERED: ClassVar[tuple[str, ...]] = (HARD,)

    def __init__(self, config: SidesConfig, schema: Schema, tokenizer: object = None) -> None:
        super().__init__(config, schema, tokenizer)  # type: ignore[arg-type]
        self.sides = {side: _fields(schema, side) for side in SIDES}
        asked = schema.find(role="question", modality="text")
        self.instruction = asked[0] if asked else None

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs a text or a picture on each side."""
        for side in SIDES:
            if not _fields(schema, side):
                names = ", ".join(f"{f.name} ({f.modality}, {f.role})" for f in schema)
                raise UserError(
                    f"{cls.name} needs a text or a picture with the role '{side}'. Fields: {names}"
                )

    @abstractmethod
    def encode(self, batch: Batch, side: Side) -> Float[Tensor, "batch width"]:
        """Vectors of any length; whatever comes to mind for rows that have nothing on that side."""

    def weight(self, batch: Batch) -> Float[Tensor, "batch"]:
        """How much each row counts."""
        return torch.ones(batch.size, device=batch.device)

    def read(self) -> list[Field]:
        """The fields of both sides, and the instruction."""
        asked = [] if self.instruction is None else [self.instruction]
        return [*self.sides["query"], *self.sides["target"], *asked]

    def present(self, batch: Batch, side: Side) -> Bool[Tensor, "batch"]:
        """Which rows have something on a side."""
        return self.looks(batch, side) > 0

    def looks(self, batch: Batch, side: Side) -> Int[Tensor, "batch"]:
        """Which fields of a side each row has, as one number."""
        numbers = [batch.present(f.name) << place for place, f in enumerate(self.sides[side])]
        return torch.stack(numbers).sum(0)

    def embed_side(self, batch: Batch, side: Side) -> Float[Tensor, "batch width"]:
        """Unit vectors of whatever a row has on a side; NaN in rows that have nothing there."""
        vectors = F.normalize(self.encode(batch, side).float(), dim=-1)
        return vectors.masked_fill(~self.present(batch, side)[:, None], torch.nan)

    def embed(self, batch: Batch, field: str) -> Float[Tensor, "batch width"]:
        """Unit vectors of one field alone; NaN in rows without it."""
        for side in SIDES:
            if field in [each.name for each in self.sides[side]]:
                return self.embed_side(batch.only(field), side)
        known = [each.name for side in SIDES for each in self.sides[side]]
        raise UserError(f"{self.name} does not embed '{field}'. {did_you_mean(field, known)}")

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The contrastive loss of the rows that have both sides."""
        return self.compare(self.embeddings(batch))

    def embeddings(self, batch: Batch) -> dict[str, Shaped[Tensor, "rows ..."]]:
        """Both sides of the rows that have both, and what tells equal targets; hard negatives, if any."""
        whole = self.present(batch, "query") & self.present(batch, "target")
        if not bool(whole.all()):
            batch = batch.take(whole.nonzero().squeeze(1))
        found: dict[str, Tensor] = {
            "query": self._unit(batch, "query"),
            "target": self._unit(batch, "target"),
            "ids": self.target_ids(batch),
            "weight": self.weight(batch),
        }
        if self.stage in self.PARTNERED:
            other = self._partner(batch)
            found |= {
                "negative": self._unit(other, "target"),
                "negative_ids": self.target_ids(other),
                "has_negative": self.present(other, "target"),
            }
        return found

    def compare(self, embedded: dict[str, Shaped[Tensor, "rows ..."]]) -> dict[str, Loss]:
        """Each query finds its target among those of all rows and all hard negatives."""
        query, weight = embedded["query"], embedded["weight"]
        others, other_ids = query[:0], embedded["ids"][:0]
        if "negative" in embedded:
            has = embedded["has_negative"]
            others, other_ids = embedded["negative"][has], embedded["negative_ids"][has]
        each = info_nce_among(
            query,
            embedded["target"],
            others,
            query.new_tensor(1 / self.config.temperature),
            groups=embedded["ids"],
            other_groups=other_ids,
            gather=True,
        )
        return {"contrast": Loss(each * weight, weight.sum())}

    @property
    def partnered(self) -> tuple[str, ...]:
        """A row is seen with the target of another."""
        return tuple(field.name for field in self.sides["target"])

    def mine(self, data: Data, seed: int, cache: MediaCache | None) -> Rows:
        """For each training row one whose target is a hard negative of its query, -1 for none."""
        device = next(self.parameters()).device
        parts: dict[str, list[Tensor]] = {}
        for batch in read_batches(
            data, data.rows("train"), self.views(), batch_size=64, cache=cache
        ):
            whole = self.present(batch, "query") & self.present(batch, "target")
            kept = batch.take(whole.nonzero().squeeze(1)).to(device)
            for name, values in (
                ("query", self._unit(kept, "query")),
                ("target", self._unit(kept, "target")),
                ("ids", self.target_ids(kept)),
                ("looks", self.looks(kept, "target")),
                ("row", kept.index),
            ):
                parts.setdefault(name, []).append(values)
        found = {name: torch.cat(values) for name, values in parts.items()}
        row = found["row"].cpu().numpy()
        _, first, own = np.unique(found["ids"].cpu(), return_index=True, return_inverse=True)
        at = torch.from_numpy(first).to(device)  # equal targets are one candidate
        uniform = draws.uniform("mined negative", seed, row[:, None], np.arange(2))
        config = self.config
        negative = draw_negatives(
            found["query"],
            found["target"][at],
            torch.from_numpy(own).to(device),
            found["looks"][at],
            torch.from_numpy(uniform).to(found["query"]),
            Mining(
                config.mined_top,
                config.mined_skip,
                config.wrong_share,
                is_aware=config.negatives == "aware",
            ),
        )
        chosen = negative.cpu().numpy()
        partner = np.full(len(data), -1, dtype=np.int64)
        partner[row] = np.where(chosen < 0, -1, row[first[chosen]])
        return partner

    def target_ids(self, batch: Batch) -> Int[Tensor, "batch"]:
        """A number for what each row has as its target: equal for equal targets."""
        numbers = torch.stack([content_ids(batch, f.name) for f in self.sides["target"]])
        factors = 2 * torch.arange(len(numbers), device=numbers.device) + 1
        return (numbers * factors[:, None]).sum(0)

    def _unit(self, batch: Batch, side: Side) -> Float[Tensor, "batch width"]:
        return F.normalize(self.encode(batch, side).float(), dim=-1)

    def _partner(self, batch: Batch) -> Batch:
        """The targets of the rows' partners, as targets."""
        names = [field.name for field in self.sides["target"]]
        there = {name: batch[of_partner(name)] for name in names if of_partner(name) in batch}
        return replace(batch, fields=there)


def _fields(schema: Schema, side: Side) -> list[Field]:
    found = schema.find(role=side, modality=TwoSided.READS)
    return sorted(found, key=lambda field: field.modality == "text")
