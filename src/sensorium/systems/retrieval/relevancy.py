"""RS: a relevancy score for pictures, by a language model that sees (Mortaheb et al., 2025, arXiv 2501.04695).

    picture   ── encoder ─┐
                          ├─ language model ── state of the last token ── linear ── sigmoid: RS
    statement ────────────┘

A retriever's cosine has no absolute level: of the nearest pictures some may be beside the question, or all.
This model reads picture and statement together and gives one number between 0 and 1, for which there is a
threshold. So of what was retrieved up to k are kept whose score is high enough, possibly none
(`search.rerankers`, `tasks.metrics.selection`).

It learns from a picture, a statement that is true of it, and a contrary that is not (RAG-Check, arXiv
2501.03995): that the one scores high and the other low, each by itself, which is what gives the score its
level. A field with contraries is named by `contrary`; without one, the statement of another row is taken.

Differs from the papers, whose code is not published: the head is on the last token of a sequence of
picture and text without a prompt around them; a question is scored as it stands, so train on questions if
questions will be asked. An encoder or a language model from scratch is trained as a whole.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.base import View
from sensorium.modalities.text import Tokenizer
from sensorium.nn.masks import causal
from sensorium.nn.pooling import pool
from sensorium.objectives.duplicates import content_ids
from sensorium.systems.base import System, choose_field, register
from sensorium.systems.baselines.assistant import Assistant
from sensorium.systems.retrieval.backbone import BackboneConfig
from sensorium.types import Batch, Card, Field, Loss, Schema, Stage, UserError


@register("relevancy")
class Relevancy(System):
    """How well a statement fits a picture, as one number."""

    card = Card(
        title="Re-ranking the context for multimodal retrieval augmented generation (RS)",
        paper="arXiv:2501.04695",
        year=2025,
        family="retrieval",
        modalities=("image", "text"),
        tasks=("retrieval",),
    )

    class Config(BackboneConfig):
        """Settings, beside those of all language models that retrieve.

        Attributes:
            image: the field with the picture; the only one if empty.
            statement: the field with what is true of it; the text that is query or target if empty.
            contrary: the field with what is not; if empty, the statements of other rows are taken.
            loss: `pointwise`, each score by itself; or `pairwise`, their difference, which leaves the
                score without a level.
        """

        # deeper ones learned nothing in the first hundred steps
        depth: int = 2
        encoder_depth: int = 1
        image: str = ""
        statement: str = ""
        contrary: str = ""
        loss: Literal["pointwise", "pairwise"] = "pointwise"

        @classmethod
        def paper(cls) -> Self:
            """LLaVA-1.5 with 7 billion parameters."""
            return cls(
                language="hf:lmsys/vicuna-7b-v1.5",
                encoder={"image": "hf:openai/clip-vit-large-patch14-336"},
                lora=128,
            )

    config: Config

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        if tokenizer is None:
            raise UserError(f"{self.name} needs a tokenizer: setting tokenizer=bpe:4096")
        self.image = choose_field(type(self), schema, "image", config.image, "image")
        self.statement = _statement(schema, config.statement)
        self.contrary = schema[config.contrary] if config.contrary else None
        self.reader = config.reader([self.image], tokenizer)
        self.head = nn.Linear(self.reader.language.width, 1)

    @classmethod
    def check(cls, schema: Schema) -> None:
        """It needs a picture and a text."""
        if not schema.find(modality="image", role=("query", "target", "input")):
            raise UserError(f"{cls.name} needs a picture, and no field is one")
        _statement(schema, "")

    @classmethod
    def reads_words_as(cls, start: System) -> bool:
        """Assistants have a language model; of others it takes the encoder of pictures only."""
        return isinstance(start, (Assistant, Relevancy))

    def weights_from(self, start: System) -> dict[str, Tensor]:
        """Of an assistant: its encoder, its connector, and its language model."""
        weights = super().weights_from(start)
        found = self.reader.weights_from(weights)
        return weights | {f"reader.{name}": weight for name, weight in found.items()}

    def views(self) -> dict[str, View]:
        """Pictures and texts."""
        contrary = [] if self.contrary is None else [self.contrary]
        return self.reader.views([self.image, self.statement, *contrary])

    def stages(self) -> list[Stage]:
        """One; a published encoder stays as it is."""
        frozen = tuple(f"reader.media.{name}.*" for name in self.reader.media.frozen)
        if not self.config.language:
            return [Stage(frozen=frozen, learning_rate=1e-3, batch_size=64)]
        trained = (self.config.language_weights, "reader.connector.*", "reader.newline", "head.*")
        return [
            Stage(
                train=trained, frozen=frozen, learning_rate=2e-4, weight_decay=0.0, batch_size=128
            )
        ]

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """That the statement scores high and its contrary low, of the rows that have all three."""
        other = self._contraries(batch)
        whole = batch.present(self.image.name) & batch.present(self.statement.name)
        rows = (whole & other.present(self.statement.name)).nonzero().squeeze(1)
        batch, other = batch.take(rows), other.take(rows)
        true = self.score_pairs(batch)
        false = self.score_pairs(batch.joined(other.only(self.statement.name)))
        if self.config.loss == "pairwise":
            return {"relevancy": Loss.mean(F.softplus(false - true))}
        return {"relevancy": Loss.mean(F.softplus(-true) + F.softplus(false))}

    def score_pairs(self, batch: Batch) -> Float[Tensor, "batch"]:
        """The score of each row before the sigmoid."""
        reader = self.reader
        there = batch.present(self.image.name) | batch.present(self.statement.name)
        parts = [
            reader.fixed([reader.tokenizer.cls_id], there),
            reader.picture(batch, self.image),
            reader.text(batch, self.statement),
            reader.fixed([reader.tokenizer.end_id], there),
        ]
        tokens = reader.joined(parts)
        states = reader(tokens, causal).values
        score: Tensor = self.head(pool(states, tokens.mask, "last")).squeeze(1)
        return score

    def relevancy(self, batch: Batch) -> Float[Tensor, "batch"]:
        """RS: the score of each row, between 0 and 1."""
        return self.score_pairs(batch).float().sigmoid()

    def _contraries(self, batch: Batch) -> Batch:
        """Rows with a false statement: the contrary, or that of another row, if it is another."""
        name = self.statement.name
        if self.contrary is not None:
            there = {name: batch[self.contrary.name]} if self.contrary.name in batch else {}
            return batch.only().with_fields(**there)
        if name not in batch:
            return batch
        order = batch.uniform("contrary", 1).squeeze(1).argsort()
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)
        other = batch.take(partner)
        differs = content_ids(other, name) != content_ids(batch, name)
        return other.with_fields(**{name: other[name].keep(differs)})


def _statement(schema: Schema, name: str) -> Field:
    """The field with statements: of that name, or the text that is query or target.

    Raises:
        UserError: there is none, or there are several.
    """
    if name:
        return schema[name]
    found = schema.find(role=("query", "target"), modality="text")
    if len(found) != 1:
        names = ", ".join(field.name for field in found) or "none"
        raise UserError(
            f"relevancy needs one text that is query or target, and these are: {names}; choose one with "
            "--set statement=NAME"
        )
    return found[0]
