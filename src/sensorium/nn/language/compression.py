"""Small caches: a prompt is read in full, then each layer keeps a share of it (LOOK-M and its peers).

    eviction = Eviction(cache_policy("look-m", budget=0.2))
    for said in generate(model, prompt, settings, end=end, decode=decode, eviction=eviction):
        ...
    eviction.kept.entries, eviction.kept.kept          # of each row: read, and kept in every layer

`model` is ours or, by `load_language_model("NAME_OR_PATH")`, any causal language model of
`transformers`; `prompt` is `model.words(ids)`, or vectors of any origin with the ids `position` and
`modality`. Entries whose modality is not text stand for media.

While the prompt is read everything sees everything that its rule allows, so the first word is that of
the full cache. A layer is shrunk as soon as the next one begins, so that no more than two are ever
whole. New words go on at the prompt's positions, whatever is kept. What they add is never evicted.

What stays is seen by all later words, in a layer with a sliding window as well.

The peers: H2O (Zhang et al., 2023, arXiv 2306.14048) keeps what received most attention. RoCo (Ren
and Zhu, 2024, arXiv 2402.06262) takes the mean over the queries that see an entry, since a mean over
all of them would rank like a sum; its second criterion, the spread of that attention, is left out, as in
LOOK-M's comparison. (The code released with LOOK-M runs another policy in its place: two class headers
are missing from its file.) `recent` keeps a window, `random` anything besides one. Every policy leaves
a prompt without media as it is, as that code does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sensorium.nn.language.base import Hooks, InOrder, LanguageModel, LayerRule
from sensorium.nn.language.cache import Cache
from sensorium.nn.language.eviction import (
    CachePolicy,
    attention_received,
    choose,
    count_kept,
    shrink,
)
from sensorium.nn.masks import Rule
from sensorium.types import Tokens, UserError, draws
from sensorium.types.names import did_you_mean, number_of

_PEER: Mapping[str, Any] = {"text_first": False, "strict": True, "merge": None}

POLICIES: Mapping[str, Mapping[str, Any]] = {
    "look-m": {},
    "look-m-averaged": {"merge": "averaged"},
    "look-m-weighted": {"merge": "weighted"},
    "text-first": {"merge": None},
    # The released code holds on to the first entries where nothing else would keep them; H2O does not.
    "merge-only": {**_PEER, "merge": "pivotal", "sinks": 4},
    "h2o": _PEER,
    "roco": {**_PEER, "importance": "mean"},
    "recent": {**_PEER, "importance": "recent"},
    "random": {**_PEER, "importance": "random"},
}
"""What differs from LOOK-M: `text-first` drops what it evicts, `merge-only` treats text and media alike."""


def cache_policy(name: str, budget: float = 0.2, **settings: Any) -> CachePolicy:
    """A policy by its name.

    Args:
        name: of `POLICIES`.
        budget: share of the prompt that stays, half of it for being important, half for being recent.
        settings: what else is to differ.

    Raises:
        UserError: there is no such policy, or the budget is no share.
    """
    if name not in POLICIES:
        raise UserError(f"there is no cache policy '{name}'. {did_you_mean(name, POLICIES)}")
    if not 0 < budget <= 1:
        raise UserError(
            f"cache budget {budget:g}: expected the share of the prompt that stays, above 0 and at most 1"
        )
    halves = {"important": budget / 2, "recent": budget / 2}
    return CachePolicy(**{**halves, **POLICIES[name], **settings})


@dataclass(frozen=True)
class Kept:
    """What became of a prompt.

    Attributes:
        entries: how many tokens each row had.
        kept: how many entries each row keeps, in every head of every layer.
        bytes: what keys and values take up afterwards, filling for rows that keep fewer included.
        bytes_before: what those of the whole prompt would, padding included.
    """

    entries: Int[Tensor, "batch"]
    kept: Int[Tensor, "batch"]
    bytes: int
    bytes_before: int


class Eviction:
    """A policy at work, on one prompt after another.

    Args:
        policy: which entries stay.

    Attributes:
        kept: what became of the last prompt; None before the first.
    """

    def __init__(self, policy: CachePolicy) -> None:
        self.policy = policy
        self.kept: Kept | None = None

    def read(
        self,
        model: LanguageModel,
        prompt: Tokens,
        rule: LayerRule,
        cache: Cache,
        hooks: Hooks | None = None,
    ) -> Tokens:
        """What the model gives for a prompt, of which the cache then holds what stays.

        Args:
            model: which reads.
            prompt: all of it.
            rule: who sees whom.
            cache: an empty one.
            hooks: called as well.

        Raises:
            UserError: layers differ in who sees whom.
        """
        if not isinstance(rule, Rule):
            raise UserError(
                "a part of the cache cannot be kept where layers differ in who sees whom, since what "
                "stays is seen by all later words; leave out the cache policy"
            )
        if cache.read:
            raise ValueError(f"expected an empty cache; this one has read {cache.read} tokens")
        media, entries = is_media(prompt), prompt.mask.sum(1)
        kept = count_kept(media, prompt.mask, self.policy)
        if torch.equal(kept, entries):
            states: Tokens = model(prompt, rule, cache, hooks)
        else:
            shrinking = _Shrinking(self.policy, prompt, media, cache)
            states = model(prompt, rule, cache, InOrder(hooks, shrinking))
            shrinking.shrink(model.num_layers - 1)
        before = cache.bytes // cache.layers[0].length * len(prompt)
        self.kept = Kept(entries, kept, cache.bytes, before)
        return states


def is_media(tokens: Tokens) -> Bool[Tensor, "batch tokens"]:
    """Which tokens stand for media: all that have a modality other than text."""
    kind = tokens.id("modality")
    text = torch.tensor([0, number_of("text"), number_of("conversation")], device=kind.device)
    return tokens.mask & ~torch.isin(kind, text)


class _Shrinking(Hooks):
    """Sees what attention the entries of a prompt receive, and shrinks each layer once that is known."""

    def __init__(
        self,
        policy: CachePolicy,
        prompt: Tokens,
        media: Bool[Tensor, "batch tokens"],
        cache: Cache,
    ) -> None:
        self._policy, self._cache = policy, cache
        self._real, self._media = prompt.mask, media
        self._scores: Float[Tensor, "batch key_heads tokens"] | None = None

    @property
    def looks_at_attention(self) -> bool:
        """Whether the policy asks for it."""
        return self._policy.importance in ("sum", "mean")

    def enter(self, layer: int, tokens: Tokens) -> Tokens:
        """Shrink the layer before."""
        if layer:
            self.shrink(layer - 1)
        return tokens

    @torch.no_grad()
    def attend(
        self,
        layer: int,
        queries: Float[Tensor, "batch heads queries head_width"],
        keys: Float[Tensor, "batch key_heads keys head_width"],
        mask: Bool[Tensor, "batch #heads #queries keys"],
        scale: float,
    ) -> None:
        """Sum it up."""
        received, seers = attention_received(queries, keys, mask, scale, self._real)
        by_mean = self._policy.importance == "mean"
        self._scores = received / seers.clamp(min=1) if by_mean else received

    @torch.no_grad()
    def shrink(self, layer: int) -> None:
        """Keep the chosen entries of a layer."""
        whole = self._cache.layers[layer]
        scores = self._without_attention(layer) if self._scores is None else self._scores
        self._scores = None
        chosen = choose(scores, self._media, self._real, self._policy)
        merge, alike_only = self._policy.merge, self._policy.alike_only
        keys, values = shrink(whole.keys, whole.values, chosen, merge, alike_only)
        mask = chosen.kept_mask[:, None].expand(keys.shape[:3])
        self._cache.replace(layer, keys, values, mask)

    def _without_attention(self, layer: int) -> Float[Tensor, "batch key_heads tokens"]:
        """Numbers that depend on an entry's place in its row alone, not on padding or other rows."""
        place = self._real.cumsum(1)
        num_heads = self._cache.layers[layer].keys.shape[1]
        if self._policy.importance == "recent":
            return place.float()[:, None].expand(-1, num_heads, -1)
        heads, places = torch.arange(num_heads).numpy()[:, None], torch.arange(place.shape[1] + 1)
        drawn = draws.uniform("cache entry", self._policy.seed, layer, heads, places.numpy())
        return torch.from_numpy(drawn).to(place.device, torch.float32)[:, place].transpose(0, 1)
