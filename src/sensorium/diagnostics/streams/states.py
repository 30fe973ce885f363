"""The integration rate of a language model that reads pictures: its states, gathered and compared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sensorium.diagnostics.streams.integration import (
    IntegrationRate,
    Measure,
    States,
    integration_rate,
)
from sensorium.nn.language.base import Hooks, InOrder, LanguageModel, LayerRule, Recorder
from sensorium.nn.masks import causal
from sensorium.tasks.intervals import mean_over_seeds
from sensorium.types import Tokens, UserError
from sensorium.types.names import number_of

SET = 100  # rows, of which the published rate is computed


class StreamStates:
    """The states of visual and of text tokens after each layer, of as many rows as were read.

    Each row is one sequence: a picture, then a long text that has nothing to do with it, read in one
    forward. Text in front of the first picture is left out, and with it the first token, on which models
    lay attention that they have no use for, and whose norm is huge.

    Args:
        language: the model.
        rule: who sees whom.
        modality: of the stream that is compared with text.
    """

    def __init__(
        self, language: LanguageModel, rule: LayerRule = causal, modality: str = "image"
    ) -> None:
        self.language, self.rule, self.modality = language, rule, modality
        self._layers: list[tuple[list[States], list[States]]] = [
            ([], []) for _ in range(language.num_layers)
        ]
        self._rows: tuple[list[Int[Tensor, " tokens"]], list[Int[Tensor, " tokens"]]] = ([], [])
        self.num_rows = 0

    def read(self, tokens: Tokens, hooks: Hooks | None = None) -> None:
        """Read a batch of rows, padded on either side.

        Args:
            tokens: of the rows.
            hooks: with which the model reads them, if it needs any; what they change is part of it.
        """
        vision, text = vision_and_text(tokens, self.modality)
        recorder = Recorder()
        with torch.inference_mode():
            final = self.language(tokens, self.rule, hooks=InOrder(hooks, recorder)).values
        # what enters a layer has left the one before it; what enters the first is no layer's output
        for kept, states in zip(self._layers, [*recorder.states[1:], final], strict=True):
            kept[0].append(states[vision].cpu())
            kept[1].append(states[text].cpu())
        row = torch.arange(len(vision)) + self.num_rows
        for rows, chosen in zip(self._rows, (vision, text), strict=True):
            rows.append(row[:, None].expand(chosen.shape)[chosen.cpu()])
        self.num_rows += len(vision)

    def rate(self, measure: Measure | None = None, rows: range | None = None) -> IntegrationRate:
        """The rate of some of the rows, or of all."""
        rows = range(self.num_rows) if rows is None else rows
        chosen = [
            (found >= rows.start) & (found < rows.stop) for found in map(torch.cat, self._rows)
        ]
        layers = [
            (torch.cat(vision)[chosen[0]], torch.cat(text)[chosen[1]])
            for vision, text in self._layers
        ]
        return integration_rate(layers, measure)


def vision_and_text(
    tokens: Tokens, modality: str = "image"
) -> tuple[Bool[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """The tokens of pictures, and those of text behind the first picture, of every row."""
    vision = tokens.mask & (tokens.id("modality") == number_of(modality))
    text = tokens.mask & (tokens.id("modality") == number_of("text"))
    return vision, text & (vision.long().cumsum(1) > 0)


def describe_rate(
    language: LanguageModel,
    batches: Iterable[tuple[Tokens, Hooks | None]],
    *,
    rule: LayerRule = causal,
    modality: str = "image",
    measure: Measure | None = None,
    set_size: int = SET,
) -> dict[str, Any]:
    """The rate and the distances of all layers: means over sets of rows, with t intervals.

    The distance of few rows is larger than that of many, so all sets have one size, and rows that fill no
    set are left out; if there is not one full set, all rows are it.

    Args:
        language: the model.
        batches: rows, and hooks, as `StreamStates` reads them.
        rule: who sees whom.
        modality: of the stream that is compared with text.
        measure: how states are compared; the published one if None.
        set_size: rows of a set.

    Returns:
        `value`, `mean_of_layers` and `layers` with intervals (none if there is one set), `spread` (the
        standard deviation of the rate over sets), `sets`, `rows` of each, `measure` and `warnings`.

    Raises:
        UserError: there are no rows.
    """
    states = StreamStates(language, rule, modality)
    for tokens, hooks in batches:
        states.read(tokens, hooks)
    if not states.num_rows:
        raise UserError(f"no row has the modality {modality}, whose states are to be compared")
    size = min(set_size, states.num_rows)
    starts = range(0, states.num_rows - size + 1, size)
    rates = [states.rate(measure, range(start, start + size)) for start in starts]
    values = torch.tensor([rate.value for rate in rates], dtype=torch.float64)
    layers = zip(*(rate.layers for rate in rates), strict=True)
    return {
        "measure": rates[0].measure.distance,
        "modality": modality,
        "sets": len(rates),
        "rows": size,
        "value": mean_over_seeds(values.tolist()).as_dict(),
        "spread": float(values.std()) if len(rates) > 1 else None,
        "mean_of_layers": mean_over_seeds([rate.mean_of_layers for rate in rates]).as_dict(),
        "layers": [mean_over_seeds(found).as_dict() for found in layers],
        "warnings": list(dict.fromkeys(text for rate in rates for text in rate.warnings)),
    }
