"""Cross-modal information flow: where, and by which way, the answer's evidence reaches it.

(Zhang et al., CVPR 2025, arXiv 2411.18620.) The edges from one group of tokens to another are cut in a few
layers around each, and the answer loses probability where something flowed along them:

    image ──► question ──► last ──► answer
      └───────────────────►┘

    p1    of the answer's first token, as the model gives it (greedily)
    p2    of the same token, with the edges cut around layer l
    c(l)  100 (p2 - p1) / p1, averaged over rows of which the whole answer is right

Each forward takes all rows of a batch, padded, and one window of layers. Only the first token of the answer
is scored, so that no keys are cached and no decoding step has to lift a cut.

Differs from the release: any rule of attention and padding are respected, where the released mask is causal
and of one row; the groups `other` and random edges are added as controls; and a model whose states do not
move when edges are cut is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sensorium.diagnostics.streams.groups import Group
from sensorium.diagnostics.streams.knockout import (
    Edges,
    between,
    cut,
    existing,
    numbered,
    random_edges,
    window,
)
from sensorium.nn.language.base import Hooks, InOrder, LanguageModel, LayerRule
from sensorium.nn.masks import causal
from sensorium.nn.pooling import at_place, end_place
from sensorium.types import Tokens

Changes = Float[np.ndarray, "rows layers+1"]
"""Of each row and window of layers, in percent; the last is that of all layers. NaN: not of this row."""


@dataclass(frozen=True)
class Flow:
    """A way: the tokens of `target` read those of `source`."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} → {self.target}"


def published_flows(modality: str = "image") -> tuple[Flow, ...]:
    """The ways that are measured: all into the last token, and those by which they can be gone around.

    The published ones, and with them all of `other`: what the last token does not read from a picture it
    may have from the words of the template.
    """
    into_last = ("question", modality, "last", "other")
    into_question = (modality, "object", "background")
    return (
        *(Flow(source, "last") for source in into_last),
        *(Flow(source, "question") for source in into_question),
        Flow(modality, "other"),
    )


class FlowProbe:
    """Cuts the ways through a language model on one batch of prompts.

    Args:
        language: the model.
        tokens: prompts, each up to where its answer begins.
        groups: of their tokens, by the names that flows use.
        rule: who sees whom in this model.
        hooks: with which it reads these prompts, if it needs any.

    Attributes:
        scores: log-probabilities of the first token of each answer.
        answer: that token, as the model gives it.
        probability: of it.
    """

    def __init__(
        self,
        language: LanguageModel,
        tokens: Tokens,
        groups: Mapping[str, Group],
        rule: LayerRule = causal,
        hooks: Hooks | None = None,
    ) -> None:
        self.language, self.rule, self.groups = language, rule, groups
        self.hooks = hooks
        self.tokens = numbered(tokens)
        self.place = end_place(tokens.values, tokens.mask, "last")
        nothing = torch.zeros((*tokens.mask.shape, 1), dtype=torch.bool, device=tokens.mask.device)
        # the same way through the model as with a cut, so that one that cuts nothing changes nothing
        self._intact_states = self._states(nothing, range(0))
        self.scores = self._log_probabilities(self._intact_states)
        self.answer: Int[Tensor, "batch"] = self.scores.argmax(1)
        self._intact = self.scores.gather(1, self.answer[:, None])[:, 0]
        self.probability = self._intact.exp()

    def edges(self, flow: Flow) -> Edges:
        """Those of a way that the model has."""
        edges = between(self.groups[flow.source], self.groups[flow.target])
        return existing(self.rule, self.tokens, edges, self.language.num_layers)

    def changes(self, flow: Flow, size: int) -> Changes:
        """What the answer loses when a way is cut in windows of so many layers.

        Rows in which one of the two groups has no tokens have no change.

        Raises:
            RuntimeError: nothing moves when edges are cut, so that the model does not follow its rule.
        """
        found = self._changes(self.edges(flow), size, str(flow))
        has_both = self.groups[flow.source].any(1) & self.groups[flow.target].any(1)
        return np.where(has_both.cpu().numpy()[:, None], found, np.nan)

    def changes_of_random(self, flow: Flow, size: int, row: Int[Tensor, "batch"]) -> Changes:
        """The control: as many edges of each row are cut, wherever they are.

        Args:
            flow: whose number of edges is taken.
            size: layers of a window.
            row: the numbers of the rows, which decide what is drawn.
        """
        number = self.language.num_layers
        edges = random_edges(self.rule, self.tokens, self.edges(flow), row, number)
        return self._changes(edges, size, "random edges")

    def _changes(self, edges: Edges, size: int, name: str) -> Changes:
        num_layers = self.language.num_layers
        windows = [window(centre, size, num_layers) for centre in range(num_layers)]
        found = []
        for layers in (*windows, range(num_layers)):
            states = self._states(edges, layers)
            given = self._log_probabilities(states).gather(1, self.answer[:, None])[:, 0]
            found.append(100 * torch.expm1(given - self._intact))
        readers = edges.any(2)
        if readers.any() and torch.equal(states[readers], self._intact_states[readers]):
            raise RuntimeError(
                f"cutting {name} in all layers of {type(self.language).__name__} moves nothing: its "
                "attention does not follow the rule that it is given"
            )
        return torch.stack(found, 1).cpu().numpy()

    def _states(self, edges: Edges, layers: range) -> Float[Tensor, "batch tokens width"]:
        with torch.inference_mode():
            rule = cut(self.rule, edges, layers)
            states: Tensor = self.language(self.tokens, rule, hooks=self.hooks).values
        return states

    def _log_probabilities(
        self, states: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch vocabulary"]:
        with torch.inference_mode():
            return self.language.logits(at_place(states, self.place)).double().log_softmax(1)

    # ------------------------------------------------------------------ what attention weights say

    def attention(self, flows: Sequence[Flow]) -> dict[Flow, Float[np.ndarray, "rows layers"]]:
        """The share of its attention that a target gives a source, by layer: the naive attribution.

        The mean over heads and over the target's tokens. NaN in rows where a group has no tokens.
        """
        watch = _Shares(
            {flow: between(self.groups[flow.source], self.groups[flow.target]) for flow in flows}
        )
        with torch.inference_mode():
            self.language(self.tokens, self.rule, hooks=InOrder(self.hooks, watch))
        found = {}
        for flow in flows:
            readers = self.groups[flow.target].sum(1, keepdim=True)
            has_source = self.groups[flow.source].any(1, keepdim=True)
            share = (torch.stack(watch.sums[flow], 1) / readers).masked_fill(~has_source, torch.nan)
            found[flow] = share.cpu().numpy()
        return found


class _Shares(Hooks):
    """Sums attention weights over edges, layer by layer, without keeping the weights."""

    def __init__(self, edges: Mapping[Flow, Edges]) -> None:
        self.edges = edges
        self.sums: dict[Flow, list[Float[Tensor, "batch"]]] = {flow: [] for flow in edges}

    def attend(
        self,
        layer: int,
        queries: Float[Tensor, "batch heads queries head_width"],
        keys: Float[Tensor, "batch key_heads keys head_width"],
        mask: Bool[Tensor, "batch #heads #queries keys"],
        scale: float,
    ) -> None:
        """Sum them."""
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1)
        logits = (scale * queries @ keys.transpose(2, 3)).masked_fill(~mask, -torch.inf)
        # padding that sees nothing has no weights; no edge of a group begins there
        weights = logits.softmax(3).mean(1).nan_to_num(0.0)
        for flow, edges in self.edges.items():
            self.sums[flow].append((weights * edges).sum((1, 2)))
