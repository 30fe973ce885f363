"""What every language model offers to a system that joins it with other streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sensorium.nn.language.cache import Cache, rule_mask
from sensorium.nn.masks import Rule, causal
from sensorium.types import Tokens

LayerRule = Rule | Callable[[int], Rule]
"""Who sees whom: the same in all layers, or one rule for each."""


def restricted(rule: LayerRule, further: Rule) -> LayerRule:
    """A rule under which a second one must hold, too."""
    if isinstance(rule, Rule):
        return rule & further
    of_layer = lru_cache(maxsize=None)(lambda asked: asked & further)
    return lambda layer: of_layer(rule(layer))


class Hooks:
    """What is looked at, or changed, on the way through the layers. Override what is needed."""

    def enter(self, layer: int, tokens: Tokens) -> Tokens:
        """What a layer is given: the tokens of this pass, of the same number, or others."""
        return tokens

    def attend(
        self,
        layer: int,
        queries: Float[Tensor, "batch heads queries head_width"],
        keys: Float[Tensor, "batch key_heads keys head_width"],
        mask: Bool[Tensor, "batch #heads #queries keys"],
        scale: float,
    ) -> None:
        """What a layer's attention weights are computed from: turned to their positions, cache and all.

        The weights are the softmax over keys of `scale` times the products, where the mask is true.
        """

    @property
    def looks_at_attention(self) -> bool:
        """Whether `attend` does anything."""
        return type(self).attend is not Hooks.attend


class Recorder(Hooks):
    """Keeps what enters each layer; what leaves the last one is what the model returns.

    Attributes:
        states: one for each layer, in order.
    """

    def __init__(self) -> None:
        self.states: list[Float[Tensor, "batch tokens width"]] = []

    def enter(self, layer: int, tokens: Tokens) -> Tokens:
        """Keep it."""
        self.states.append(tokens.values)
        return tokens


class InOrder(Hooks):
    """Several hooks, each given what the one before it leaves.

    Args:
        hooks: the first to be called comes first; those that are None are left out.
    """

    def __init__(self, *hooks: Hooks | None) -> None:
        self.hooks = [each for each in hooks if each is not None]

    def enter(self, layer: int, tokens: Tokens) -> Tokens:
        """Call all of them."""
        for each in self.hooks:
            tokens = each.enter(layer, tokens)
        return tokens

    def attend(
        self,
        layer: int,
        queries: Float[Tensor, "batch heads queries head_width"],
        keys: Float[Tensor, "batch key_heads keys head_width"],
        mask: Bool[Tensor, "batch #heads #queries keys"],
        scale: float,
    ) -> None:
        """Call those that look at attention."""
        for each in self.hooks:
            if each.looks_at_attention:
                each.attend(layer, queries, keys, mask, scale)

    @property
    def looks_at_attention(self) -> bool:
        """Whether any of them does."""
        return any(each.looks_at_attention for each in self.hooks)


class LanguageModel(nn.Module, ABC):
    """Layers of a causal language model over vectors, whatever these were made of.

    Attributes:
        width: of the vectors.
        num_layers: how many layers.
        num_heads: of the queries; `num_key_heads`, of keys and values.
        head_width: of each.
        vocabulary_size: ids it can read and say.
        max_tokens: the longest sequence it was made for.
    """

    width: int
    num_layers: int
    num_heads: int
    num_key_heads: int
    head_width: int
    vocabulary_size: int
    max_tokens: int

    @abstractmethod
    def embed(self, ids: Int[Tensor, "..."]) -> Float[Tensor, "... width"]:
        """The vectors of words."""

    @abstractmethod
    def logits(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... vocabulary"]:
        """Scores of the word that follows, from what `forward` gives."""

    @abstractmethod
    def final_norm(self, states: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """The norm with which `forward` ends."""

    @abstractmethod
    def forward(
        self,
        tokens: Tokens,
        rule: LayerRule = causal,
        cache: Cache | None = None,
        hooks: Hooks | None = None,
    ) -> Tokens:
        """All layers and the final norm.

        Args:
            tokens: with the id `position`, from which the model places them.
            rule: who sees whom.
            cache: of what was read before, which these tokens see as well, and are added to.
            hooks: what is looked at or changed on the way.
        """

    def new_cache(self, capacity: int) -> Cache:
        """An empty cache with room for so many tokens."""
        return Cache(self.num_layers, capacity)

    def words(
        self, ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> Tokens:
        """Plain text as tokens; padding may stand on either side."""
        if mask is None:
            mask = torch.ones_like(ids, dtype=torch.bool)
        position = (mask.long().cumsum(1) - 1).clamp(min=0)
        return Tokens(self.embed(ids), mask, {"position": position})


class LayerMasks:
    """The masks of one pass, each rule's made once.

    Args:
        rule: of the layers.
        tokens: of this pass.
        cache: of what was read before, which has noted the tokens.
        num_heads: of the queries.
    """

    def __init__(
        self, rule: LayerRule, tokens: Tokens, cache: Cache | None, num_heads: int
    ) -> None:
        self._rule, self._tokens, self._cache, self._num_heads = rule, tokens, cache, num_heads
        self._shared: dict[Rule, Tensor] = {}
        keys = tokens if cache is None or cache.tokens is None else cache.tokens
        self.is_plain = rule is causal and len(keys) == len(tokens) and _in_order(tokens)

    def __getitem__(self, layer: int) -> Bool[Tensor, "batch #heads #queries keys"] | None:
        """That of a layer; None if each token sees just itself and those before it."""
        return None if self.is_plain else self.exact(layer)

    def exact(self, layer: int) -> Bool[Tensor, "batch #heads #queries keys"]:
        """That of a layer, even where attention can do without."""
        rule = self._rule if isinstance(self._rule, Rule) else self._rule(layer)
        if self._cache is None:
            return rule_mask(rule, self._tokens, self._tokens, self._shared)
        return self._cache.mask(layer, rule, self._tokens, self._num_heads, self._shared)


def _in_order(tokens: Tokens) -> bool:
    """Whether all are real, and each stands after the one before it."""
    position = tokens.id("position")
    return bool(tokens.mask.all()) and bool((position[:, 1:] > position[:, :-1]).all())
