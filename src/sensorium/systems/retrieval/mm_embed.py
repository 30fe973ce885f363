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

Its candidates can be ranked again by any assistant that is asked whether they fit (`search.reranking`).

Differs from the paper: a language model from scratch (the nano size) reads the parts without the words of
the template, which it has never seen, and is trained as a whole. In place of further text data, rows of
text weigh more in the last stage, and have the hard negatives of the second. The decoder is that of
Mistral, as NV-Embed's, whose own weights need code of theirs. The temperature is not known; 0.05 is ours.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field as Setting
from torch import Tensor, nn

from sensorium.modalities.base import View
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.connectors import Projection
from sensorium.nn.encoders import FieldEncoders
from sensorium.nn.encoders.base import Encoder, encode_field
from sensorium.nn.latent_attention import LatentAttention
from sensorium.nn.low_rank import with_low_rank
from sensorium.nn.masks import bidirectional
from sensorium.nn.pooling import pool
from sensorium.systems.base import System, register
from sensorium.systems.baselines.assistant import Assistant, AssistantConfig
from sensorium.systems.retrieval.sides import HARD, RANDOM, SIDES, Side, SidesConfig, TwoSided
from sensorium.types import Batch, Card, Field, Schema, Stage, Tokens, UserError, cat, pack
from sensorium.types.names import number_of

TEXT = "text"
INSTRUCTION = number_of("instruction")
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

    class Config(SidesConfig):
        """Settings, beside those of all retrievers of whole sides.

        Attributes:
            tokenizer: that of the language model, or `bpe:4096`, if empty.
            language: a published language model, `hf:NAME_OR_PATH`; one from scratch if empty.
            width: of a language model from scratch; `depth`, `heads` and `key_heads`, its layers and
                attention heads.
            encoder: by field or modality, a pretrained encoder of pictures: `hf:NAME_OR_PATH`.
            encoder_width: of one from scratch, and so on.
            image_size: pixels of the side of a picture, and `patch`, of a patch.
            max_tokens: the longest text of a field.
            lora: the rank of changes that are trained in place of a published language model's own
                weights; 0 to train these.
            pooling: how a sequence becomes a vector: `latent` attention and the mean, or the `mean`.
            num_latents: vectors of the latent attention, and `latent_heads`, its heads.
            text_weight: how much more rows with nothing but text count in the last stage.
        """

        tokenizer: str = ""
        language: str = ""
        width: int = 128
        depth: int = 4
        heads: int = 4
        key_heads: int = 2
        encoder: dict[str, str] = Setting(default_factory=dict)
        encoder_width: int = 128
        encoder_depth: int = 3
        encoder_heads: int = 4
        image_size: int = 64
        patch: int = 16
        max_tokens: int = 128
        lora: int = 0
        pooling: Literal["latent", "mean"] = "latent"
        num_latents: int = 32
        latent_heads: int = 4
        text_weight: float = Setting(default=4.0, gt=0)

        @property
        def tokenizer_source(self) -> str:
            """Where the tokenizer comes from."""
            return self.backbone().tokenizer_source

        def backbone(self) -> AssistantConfig:
            """Its language model and encoder, as the settings of an assistant."""
            shared = AssistantConfig.model_fields.keys() & type(self).model_fields.keys()
            settings = {name: getattr(self, name) for name in shared}
            # of a text; a sequence holds an instruction and a picture, too
            return AssistantConfig(**settings | {"max_tokens": 4 * self.max_tokens})

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
        self.words = TextView(tokenizer=tokenizer, max_tokens=config.max_tokens)
        pictures = [field for field in self.read() if field.modality == "image"]
        backbone = config.backbone()
        # one encoder reads the pictures of both sides
        self.media: FieldEncoders = backbone.encoders(Schema(fields=tuple(pictures[:1])))
        self.language = backbone.model_copy(update={"lora": 0}).language_model(tokenizer)
        if tokenizer.size > self.language.vocabulary_size:
            raise UserError(
                f"the tokenizer has {tokenizer.size} ids and the language model reads "
                f"{self.language.vocabulary_size}; give both of the same model"
            )
        if config.lora:
            alpha = ALPHA_OVER_RANK * config.lora
            self.language = with_low_rank(self.language, config.lora, alpha)
        width = self.language.width
        source = [encoder.width for _, encoder in self.media.each()]
        self.connector = Projection(source[0], width, is_deep=True) if source else None
        self.newline = nn.Parameter(torch.randn(width) * width**-0.5) if source else None
        self.latent = (
            LatentAttention(width, config.num_latents, config.latent_heads)
            if config.pooling == "latent"
            else None
        )
        said = [
            torch.from_numpy(ids)
            if config.language
            else torch.tensor([tokenizer.sep_id] if number else [], dtype=torch.long)
            for number, (ids, _) in enumerate(tokenizer.encode_pieces(TEMPLATE))
        ]
        for name, ids in zip(("before", "between", "line"), said, strict=True):
            self.register_buffer(name, ids, persistent=False)
        special = torch.tensor(tokenizer.special_ids, dtype=torch.long)
        self.register_buffer("special", special, persistent=False)
        self.before: Tensor
        self.between: Tensor
        self.line: Tensor
        self.special: Tensor

    @classmethod
    def reads_words_as(cls, start: System) -> bool:
        """An assistant has a language model; of others it takes the encoder of pictures only."""
        return isinstance(start, (Assistant, MMEmbed))

    def weights_from(self, start: System) -> dict[str, Tensor]:
        """Of an assistant: its encoder, its connector, and its language model."""
        weights = super().weights_from(start)
        for theirs, own in (
            ("model.language.", "language."),
            ("model.connectors.0.", "connector."),
        ):
            found = {n.removeprefix(theirs): w for n, w in weights.items() if n.startswith(theirs)}
            weights |= {own + name: weight for name, weight in found.items()}
        return weights

    def views(self) -> dict[str, View]:
        """Pictures as the encoder reads them, and texts."""
        picture = next(iter(self.media.views().values()), None)
        return {
            field.name: picture if field.modality == "image" and picture else self.words
            for field in self.read()
        }

    def stages(self) -> list[Stage]:
        """In-batch negatives; anew with hard ones; and on with more text."""
        frozen = tuple(f"media.{name}.*" for name in self.media.frozen)
        common: dict[str, Any] = {"frozen": frozen}
        rate, slow, sizes = 1e-3, 2e-4, (64, 64, 64)
        if self.config.language:
            trained = "language.*.lora_*" if self.config.lora else "language.*"
            common["train"] = (trained, "connector.*", "newline", "latent.*", "media.*")
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
        states = self.language(tokens, bidirectional).values
        counts = tokens.mask & (tokens.id("part") != INSTRUCTION)
        return pool(states, counts, "mean") if self.latent is None else self.latent(states, counts)

    def tokens(self, batch: Batch, side: Side) -> Tokens:
        """The sequence of each row; absent parts leave no trace.

        Raises:
            UserError: it is longer than the language model reads.
        """
        assert self.tokenizer is not None
        there = self.present(batch, side)
        asked = there & False
        if side == "query" and self.instruction is not None:
            asked = there & batch.present(self.instruction.name)
        parts = [self._fixed([self.tokenizer.cls_id], there)]
        if self.instruction is not None and bool(asked.any()):
            said = self._text(batch, self.instruction)
            said = said.replace(mask=said.mask & asked[:, None])
            parts += [self._fixed(self.before, asked), said, self._fixed(self.between, asked)]
        length = sum(map(len, parts))
        seen, told = there & False, there & False
        for field in self.sides[side]:
            has = batch.present(field.name)
            if field.modality == "image":
                parts.append(self._picture(batch, field))
                seen = seen | has
            else:
                parts += [self._fixed(self.line, (seen | told) & has), self._text(batch, field)]
                told = told | has
        tokens = cat(*parts, self._fixed([self.tokenizer.end_id], there))
        if len(tokens) > self.language.max_tokens:
            raise UserError(
                f"{self.name}: {len(tokens)} tokens on one side, and the language model reads "
                f"{self.language.max_tokens} at most; lower max_tokens={self.config.max_tokens}"
            )
        part = torch.zeros_like(tokens.id("part"))
        part[:, :length] = torch.where(asked, INSTRUCTION, 0)[:, None]
        position = (tokens.mask.long().cumsum(1) - 1).clamp(min=0)
        return tokens.replace(ids={"part": part, "position": position})

    def _fixed(self, ids: Tensor | list[int], rows: Bool[Tensor, "batch"]) -> Tokens:
        """The same words in some rows."""
        numbers: Int[Tensor, "length"] = torch.as_tensor(ids, device=rows.device)
        values = self.language.embed(numbers).expand(len(rows), -1, -1)
        return Tokens(values, rows[:, None].expand(-1, len(numbers)))

    def _text(self, batch: Batch, field: Field) -> Tokens:
        """The words of a field, without what the tokenizer puts around them."""
        if field.name not in batch:
            return self._fixed(self.before[:0], batch.present(field.name))
        entries = batch[field.name]
        assert entries.mask is not None
        mask = entries.mask & ~torch.isin(entries.values, self.special)
        vectors = self.language.embed(entries.values)
        return pack(vectors, mask, entries.row, entries.item, batch.size, field.modality)

    def _picture(self, batch: Batch, field: Field) -> Tokens:
        """What is seen, and the vector that ends it."""
        assert self.connector is not None and self.newline is not None
        ((_, encoder),) = self.media.each()
        assert isinstance(encoder, Encoder)
        seen = encode_field(encoder, batch, field)
        values, _ = self.connector(seen.values, None)
        end = self.newline.to(values.dtype).expand(batch.size, 1, -1)
        return cat(Tokens(values, seen.mask), Tokens(end, batch.present(field.name)[:, None]))
