"""MM-Embed: a multimodal language model that embeds queries with instructions (Lin et al., 2024, arXiv 2411.02571).

    query      instruction · picture · text ─┐
                                             ├─ language model, ── latent ── mean, without ── unit
    candidate                picture · text ─┘  all see all        attention  instruction     vector

Anything on either side, a text, a picture or both, becomes one vector of one space. What the query is to
find is said in words, which the rest of the query attends to, but which are no part of its mean; and
candidates carry none. Such a model prefers candidates of the query's own modality. Three stages:

- `random`: each query finds its target among those of the batch.
- `hard`: begins anew, and each query has one hard negative beside these. The first model found it among
  the targets of all training rows: one of another modality than is asked for that it ranks above the right
  one, or one of the right modality that it ranks low enough to be wrong (section 4.2).
- `text`: goes on, with more weight on rows of text alone, so that these are not forgotten (section 4.3).

Its candidates can be ranked again by an assistant that is asked whether they fit (section 4.4;
`search.readers`).

Differs from the paper: a language model from scratch (the nano size) reads the parts without the words of
the template, which it has never seen, and is trained as a whole. In place of further text data, rows of
text weigh more in the last stage, and have the hard negatives of the second. The decoder is that of
Mistral, as NV-Embed's, whose own weights need code of theirs. The temperature is not known; 0.05 is ours.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field as Setting
from torch import Tensor

from sensorium.modalities.base import View
from sensorium.modalities.text import Tokenizer
from sensorium.nn.field_reader import as_part
from sensorium.nn.latent_attention import LatentAttention
from sensorium.nn.masks import bidirectional
from sensorium.nn.pooling import pool
from sensorium.systems.base import System, register
from sensorium.systems.baselines.assistant import Assistant
from sensorium.systems.retrieval.backbone import BackboneConfig
from sensorium.systems.retrieval.sides import HARD, RANDOM, SIDES, Side, SidesConfig, TwoSided
from sensorium.types import Batch, Card, Schema, Stage, Tokens, UserError
from sensorium.types.names import number_of

TEXT = "text"
INSTRUCTION = "instruction"
ALPHA_OVER_RANK = 8
TEMPLATE = ("Instruct: ", "\nQuery: ", "\n")


@register("mm-embed")
class MMEmbed(TwoSided):
    """One model for queries and candidates, whatever they consist of."""

    card = Card(
        title="MM-Embed: Universal multimodal retrieval with multimodal LLMs",
        paper="arXiv:2411.02571",
        year=2024,
        family="retrieval",
        modalities=TwoSided.READS,
        tasks=("universal-retrieval", "retrieval"),
        licence="CC-BY-NC-4.0",
    )

    class Config(BackboneConfig, SidesConfig):
        """Settings, beside those of all language models that retrieve, and of all retrievers of sides.

        Attributes:
            pooling: how a sequence becomes a vector: `latent` attention and the mean, or the `mean`.
            num_latents: vectors of the latent attention, and `latent_heads`, its heads.
            text_weight: how much more rows with nothing but text count in the last stage.
        """

        pooling: Literal["latent", "mean"] = "latent"
        num_latents: int = 32
        latent_heads: int = 4
        text_weight: float = Setting(default=4.0, gt=0)

        @classmethod
        def paper(cls) -> Self:
            """LLaVA-NeXT's shape with a decoder of 7 billion parameters; one view of each picture."""
            return cls(
                language="hf:mistralai/Mistral-7B-v0.1",
                encoder={"image": "hf:openai/clip-vit-large-patch14-336"},
                lora=8,
                num_latents=512,
                latent_heads=8,
            )

    config: Config
    PARTNERED = (HARD, TEXT)

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        if tokenizer is None:
            raise UserError(f"{self.name} needs a tokenizer: setting tokenizer=bpe:4096")
        self.reader = config.reader(self.read(), tokenizer, ALPHA_OVER_RANK * config.lora)
        width = self.reader.language.width
        self.latent = (
            LatentAttention(width, config.num_latents, config.latent_heads)
            if config.pooling == "latent"
            else None
        )
        self.template = [[], [tokenizer.sep_id], [tokenizer.sep_id]]
        if config.language:
            self.template = [ids.tolist() for ids, _ in tokenizer.encode_pieces(TEMPLATE)]

    @classmethod
    def reads_words_as(cls, start: System) -> bool:
        """An assistant has a language model; of others it takes the encoder of pictures only."""
        return isinstance(start, (Assistant, MMEmbed))

    def weights_from(self, start: System) -> dict[str, Tensor]:
        """Of an assistant: its encoder, its connector, and its language model."""
        weights = super().weights_from(start)
        found = self.reader.weights_from(weights)
        return weights | {f"reader.{name}": weight for name, weight in found.items()}

    def views(self) -> dict[str, View]:
        """Pictures and texts."""
        return self.reader.views(self.read())

    def stages(self) -> list[Stage]:
        """In-batch negatives; anew with hard ones; and on with more text."""
        frozen = tuple(f"reader.media.{name}.*" for name in self.reader.media.frozen)
        common: dict[str, Any] = {"frozen": frozen}
        rate, slow, sizes = 1e-3, 2e-4, (64, 64, 64)
        if self.config.language:
            others = ("reader.connector.*", "reader.newline", "reader.media.*", "latent.*")
            common["train"] = (self.config.language_weights, *others)
            rate, slow, sizes = 1e-4, 2e-5, (1024, 512, 512)
        mined = {"mines": True, "restarts": True}
        return [
            Stage(name=RANDOM, share=0.4, learning_rate=rate, batch_size=sizes[0], **common),
            Stage(name=HARD, share=0.4, learning_rate=rate, batch_size=sizes[1], **common, **mined),
            Stage(name=TEXT, share=0.2, learning_rate=slow, batch_size=sizes[2], **common),
        ]

    def weight(self, batch: Batch) -> Float[Tensor, "batch"]:
        """In the last stage, rows with nothing but text count more."""
        weight = super().weight(batch)
        if self.stage != TEXT:
            return weight
        seen = {f.name for side in SIDES for f in self.sides[side] if f.modality != "text"}
        is_text = ~sum((batch.present(name) for name in seen), weight < 0)
        return torch.where(is_text, self.config.text_weight, weight)

    def encode(self, batch: Batch, side: Side) -> Float[Tensor, "batch width"]:
        """The mean over all but the instruction."""
        tokens = self.tokens(batch, side)
        states = self.reader(tokens, bidirectional).values
        counts = tokens.mask & (tokens.id("part") != number_of(INSTRUCTION))
        return pool(states, counts, "mean") if self.latent is None else self.latent(states, counts)

    def tokens(self, batch: Batch, side: Side) -> Tokens:
        """The sequence of each row."""
        reader, (before, between, line) = self.reader, self.template
        there = self.present(batch, side)
        asked = there & False
        if side == "query" and self.instruction is not None:
            asked = there & batch.present(self.instruction.name)
        parts = [reader.fixed([reader.tokenizer.cls_id], there)]
        if self.instruction is not None and bool(asked.any()):
            said = reader.text(batch, self.instruction)
            said = said.replace(mask=said.mask & asked[:, None])
            parts += [reader.fixed(before, asked), said, reader.fixed(between, asked)]
        # where there is no instruction, what begins the sequence counts
        parts = [as_part(part, INSTRUCTION, asked) for part in parts]
        before_text = there & False
        for field in self.sides[side]:
            has = batch.present(field.name)
            if field.modality == "image":
                parts.append(reader.picture(batch, field))
            else:
                parts += [reader.fixed(line, before_text & has), reader.text(batch, field)]
            before_text = before_text | has
        return reader.joined([*parts, reader.fixed([reader.tokenizer.end_id], there)])
