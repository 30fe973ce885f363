"""The logit lens: what the last position would answer, if the model ended after each of its layers."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sensorium.nn.language.base import Hooks, InOrder, LanguageModel, LayerRule, Recorder
from sensorium.nn.masks import causal
from sensorium.nn.pooling import at_place, end_place
from sensorium.types import Tokens


def answers_by_depth(
    language: LanguageModel,
    tokens: Tokens,
    candidates: Int[Tensor, "batch candidates"],
    *,
    rule: LayerRule = causal,
    hooks: Hooks | None = None,
    normed: bool = False,
) -> Float[Tensor, "batch depths candidates"]:
    """The probability of words at the last position, from embeddings (0) to after the last layer.

    The state is multiplied by the output embedding as it is (nostalgebraist, 2020; in this form arXiv
    2411.18620), but for the last one, which the model itself has brought through its final norm. The curves
    change noticeably if that norm is applied at every depth.

    Args:
        language: the model.
        tokens: prompts, each up to where its answer begins.
        candidates: ids of words: the first token of the answer in small letters, with a capital, say.
        rule: who sees whom.
        hooks: with which the model reads these prompts, if it needs any.
        normed: apply the final norm at every depth.
    """
    recorder = Recorder()
    place = end_place(tokens.values, tokens.mask, "last")
    with torch.inference_mode():
        final = at_place(language(tokens, rule, hooks=InOrder(hooks, recorder)).values, place)
        before = torch.stack([at_place(states, place) for states in recorder.states], 1)
        if normed:
            before = language.final_norm(before)
        states = torch.cat([before, final[:, None]], 1)
        probabilities = language.logits(states).double().softmax(2)
    where = candidates[:, None, :].expand(-1, states.shape[1], -1)
    return probabilities.gather(2, where).float()
