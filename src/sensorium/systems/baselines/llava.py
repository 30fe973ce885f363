"""LLaVA: a language model that sees (Liu et al., 2023, arXiv 2304.08485; LLaVA-1.5: 2310.03744).

    image ── encoder ── connector ─┐
                                   ├─ one sequence ── language model ── answer
    text ─── word embeddings ──────┘

The vectors of each picture (or sound, clip, point cloud, ...) stand in the text where its placeholder
is, and the language model reads them as words. Only the words of the assistant are learned. Two stages:
`align` trains the connector alone, `tune` the language model as well; a published encoder stays as it
is.

A conversation is read as it is. Where the rows have none, one is made of their fields: what can be seen
or heard, then the question (or other texts), and the answer, label or caption.

Differs from the paper: an encoder or a language model from scratch (the nano size) has nothing to keep,
so a first stage `language` trains the language model on the text alone, and the encoder learns along in
the other two. Rows may hold several pictures anywhere in the text, or none: their placeholders vanish.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any, Literal, Self

from jaxtyping import Bool
from torch import Tensor

from sensorium.modalities.text import Tokenizer
from sensorium.nn.connectors import Kind, build_connector
from sensorium.nn.joined import Joined
from sensorium.nn.language import Hooks
from sensorium.nn.language.calibration import ModalityCalibration
from sensorium.nn.masks import Rule, between, causal, own, within
from sensorium.systems.base import register
from sensorium.systems.baselines.assistant import Assistant, AssistantConfig
from sensorium.systems.baselines.conversations import conversation_of
from sensorium.types import Batch, Card, Loss, Schema, Stage, Tokens, UserError

LANGUAGE, ALIGN, TUNE = "language", "align", "tune"
Attention = Literal["causal", "mutual", "media", "prefix"]

_ASKED = ("media", "question")
RULES: dict[str, Rule] = {
    "causal": causal,
    # what is seen is read with the question in mind (AKI)
    "mutual": causal | (between({"part": "media"}, {"part": "question"}) & own("turn")),
    # controls: a medium sees all of itself; media and the question all see each other
    "media": causal | (within(part="media") & own("item") & own("modality")),
    "prefix": causal
    | (
        own("turn")
        & reduce(or_, (between({"part": a}, {"part": b}) for a in _ASKED for b in _ASKED))
    ),
}


@register("llava")
class LLaVA(Assistant):
    """Encoders, connectors and a language model in one sequence."""

    card = Card(
        title="Visual instruction tuning (LLaVA)",
        paper="arXiv:2304.08485",
        year=2023,
        family="baselines",
        modalities=("any",),
        tasks=("vqa", "captioning", "classification"),
        licence="Apache-2.0",
    )

    class Config(AssistantConfig):
        """Settings, beside those of all assistants.

        Attributes:
            connector: from an encoder to the language model.
            num_latents: vectors for each medium, of a resampler; `connector_depth` and
                `connector_heads`, its layers and attention heads.
            attention: who sees whom: `causal`; `mutual`, media also see the question that follows
                them; `media`, a medium sees all of itself; `prefix`, media and question see all of
                each other.
            packed: lay rows of unequal lengths one behind another while training.
            calibration: scale and shift what is seen behind each layer of the language model (MoCa):
                tokens of `media`, or `all` tokens, for comparison.
        """

        connector: Kind = "mlp"
        num_latents: int = 16
        connector_depth: int = 2
        connector_heads: int = 4
        attention: Attention = "causal"
        packed: bool = False
        calibration: Literal["none", "media", "all"] = "none"

        @classmethod
        def paper(cls) -> Self:
            """LLaVA-1.5 with 7 billion parameters."""
            return cls(
                language="hf:lmsys/vicuna-7b-v1.5",
                encoder={"image": "hf:openai/clip-vit-large-patch14-336"},
                max_tokens=2048,
            )

    config: Config
    model: Joined

    def __init__(self, config: Config, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__(config, schema, tokenizer)
        if tokenizer is None:
            raise UserError(f"{self.name} needs a tokenizer: setting tokenizer=bpe:4096")
        self.media = config.encoders(schema)
        language = config.language_model(tokenizer)
        connectors = [
            build_connector(
                config.connector,
                encoder.width,
                language.width,
                num_latents=config.num_latents,
                depth=config.connector_depth,
                heads=config.connector_heads,
            )
            for _, encoder in self.media.each()
        ]
        field, view = conversation_of(self.name, schema), config.view(tokenizer, self.media)
        rule = RULES[config.attention]
        self.model = Joined(field, view, language, self.media, connectors, rule)
        self.calibration = (
            ModalityCalibration(
                language.num_layers, language.width, is_for_all=config.calibration == "all"
            )
            if config.calibration != "none"
            else None
        )

    def stages(self) -> list[Stage]:
        """First the connector, then all but a published encoder."""
        frozen = tuple(f"media.{name}.*" for name in self.media.frozen)
        eyes = ("model.connectors.*", "media.*", "calibration.*")
        if not self.config.language:
            common: dict[str, Any] = {"frozen": frozen, "learning_rate": 1e-3, "batch_size": 64}
            return [
                Stage(name=LANGUAGE, share=0.2, train=("model.language.*",), **common),
                Stage(name=ALIGN, share=0.2, train=eyes, **common),
                Stage(name=TUNE, share=0.6, **common),
            ]
        common = {"frozen": frozen, "weight_decay": 0.0, "warmup": 0.03}
        tuned = (*eyes, self.config.language_weights)
        rate = 2e-4 if self.config.lora else 2e-5
        return [
            Stage(name=ALIGN, share=0.3, train=eyes, learning_rate=1e-3, batch_size=256, **common),
            Stage(name=TUNE, share=0.7, train=tuned, learning_rate=rate, batch_size=128, **common),
        ]

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """The next word: of answers, or while the language model learns, of all text."""
        model = self.model
        if model.field.name not in batch:
            return {"words": Loss.mean(next(self.parameters()).new_zeros(0))}
        if self.stage == LANGUAGE:
            tokens = model.text_only(batch)
            return {"words": Loss.mean(model.next_word_losses(tokens, tokens.mask, rule=causal))}
        tokens = model.read(batch)
        rule = causal if self.stage == ALIGN else model.rule
        per_word = model.next_word_losses(
            tokens,
            self.targets(tokens),
            rule=rule,
            hooks=self.calibration,
            is_packed=self.config.packed,
        )
        return {"words": Loss.mean(per_word)}

    def hooks(self, batch: Batch) -> Hooks | None:
        """What is seen is calibrated."""
        return self.calibration

    def targets(self, tokens: Tokens) -> Bool[Tensor, "batch tokens"]:
        """The words that are learned: those of the assistant."""
        return self.model.answers(tokens)

    def prompt(self, batch: Batch) -> Tokens:
        """Media in their places, up to the last answer."""
        return self.model.prompt(batch)
