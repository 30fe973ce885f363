"""AKI: what is seen is read with the question in mind (Wang et al., 2025, arXiv 2503.02597).

    [prompt] [picture: latents] [question] [answer]
                  │                 ▲
                  └───── sees ──────┘         all else is causal, among latents as well

A causal language model reads a picture before it knows what is asked. Modality-mutual attention lets
the picture's places see the question that follows them, in every layer, and changes nothing else: no
weights are added. A resampler makes a few latents of each picture, so what is not asked for must go.

Stage `align` learns all text of its rows under the causal mask; with the question open, words would
read their own future through the picture. Stage `tune` and all answers use the mutual mask, and only
the assistant's words are learned. Answers that are being written see all before them, as usual. So what
is kept of a picture while answering belongs to its question.

Works as a switch on other assistants, too: `--set attention=mutual`.

Differs from the release: what is opened ends before the words with which the template begins the
assistant's turn (theirs reaches one past the marker), and holds for several pictures and turns, where
each picture sees the question of its own turn alone: a later one is not there yet when the first answer
is given. Rows of unequal lengths have a mask each. Attention heads of the resampler share its width. An
encoder and a language model from scratch are trained as in LLaVA's nano size.
"""

from __future__ import annotations

from typing import Any, Self

from jaxtyping import Bool
from torch import Tensor

from sensorium.nn.connectors import Kind
from sensorium.systems.base import register
from sensorium.systems.baselines.llava import ALIGN, LANGUAGE, TUNE, Attention, LLaVA
from sensorium.types import Card, Stage, Tokens
from sensorium.types.names import number_of


@register("aki")
class AKI(LLaVA):
    """An assistant whose pictures see the question."""

    card = Card(
        title="Modality-mutual attention (AKI)",
        paper="arXiv:2503.02597",
        year=2025,
        family="assistants",
        modalities=("any",),
        tasks=("vqa", "captioning", "classification"),
        licence="CC-BY-NC-4.0",
    )

    class Config(LLaVA.Config):
        """Settings; see `LLaVA.Config`. The mask is `mutual`, the connector a resampler."""

        connector: Kind = "resampler"
        attention: Attention = "mutual"

        @classmethod
        def paper(cls) -> Self:
            """AKI-4B: SigLIP, 144 latents in six layers, Phi-3.5."""
            return cls(
                language="hf:microsoft/Phi-3.5-mini-instruct",
                encoder={"image": "hf:google/siglip-so400m-patch14-384"},
                num_latents=144,
                connector_depth=6,
                connector_heads=8,
                max_tokens=512,
            )

    config: Config

    def stages(self) -> list[Stage]:
        """The resampler and the language model learn in both stages; a published encoder never does."""
        first, *others = super().stages()
        if first.name == LANGUAGE:
            return [first, *others]
        trained = (*first.train, self.config.language_weights)
        common: dict[str, Any] = {"train": trained, "frozen": first.frozen, "batch_size": 32}
        return [
            Stage(
                name=ALIGN,
                share=0.5,
                learning_rate=1e-4,
                weight_decay=0.01,
                warmup=0.05,
                **common,
            ),
            Stage(name=TUNE, share=0.5, learning_rate=2e-5, weight_decay=1e-4, **common),
        ]

    def targets(self, tokens: Tokens) -> Bool[Tensor, "batch tokens"]:
        """While it aligns, all text; then the words of the assistant."""
        if self.stage == ALIGN:
            return tokens.mask & (tokens.id("modality") == number_of("text"))
        return super().targets(tokens)
