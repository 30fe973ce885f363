"""Attention rules: who sees whom, as small predicates over ids that combine.

    rule = causal | sees("image", part="question")
    mask = rule.dense(tokens)                 # (batch, 1, queries, keys) for scaled dot-product attention

A rule is one elementwise function of the ids of a query and of a key. Evaluated on `(B, N, 1)` against
`(B, 1, N)` it gives a dense mask; evaluated on scalars it is the `mask_mod` that FlexAttention builds
block masks from. So one definition serves both, and a test can ask it about single tokens. Padding is
no part of a rule: a padded key is never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Bool
from torch import Tensor

from sensorium.types.names import did_you_mean, number_of
from sensorium.types.tokens import ID_NAMES, Tokens

Ids = Mapping[str, Tensor]


@dataclass(frozen=True)
class Rule:
    """Who sees whom.

    Attributes:
        allows: from the ids of queries and keys (broadcast against each other) to whether the query
            may see the key; None if every query may see every key.
        reads: the ids it needs.
    """

    allows: Callable[[Ids, Ids], Tensor] | None
    reads: frozenset[str] = frozenset()

    def __and__(self, other: Rule) -> Rule:
        if self.allows is None:
            return other
        if other.allows is None:
            return self
        left, right = self.allows, other.allows
        return Rule(lambda q, k: left(q, k) & right(q, k), self.reads | other.reads)

    def __or__(self, other: Rule) -> Rule:
        if self.allows is None or other.allows is None:
            return bidirectional
        left, right = self.allows, other.allows
        return Rule(lambda q, k: left(q, k) | right(q, k), self.reads | other.reads)

    def __invert__(self) -> Rule:
        if self.allows is None:
            raise ValueError("nothing could be seen at all under the opposite of `bidirectional`")
        allows = self.allows
        return Rule(lambda q, k: ~allows(q, k), self.reads)

    def dense(
        self, queries: Tokens, keys: Tokens | None = None
    ) -> Bool[Tensor, "batch 1 #queries keys"]:
        """The mask for scaled dot-product attention: True where a query may see a key."""
        keys = queries if keys is None else keys
        real = keys.mask[:, None, None, :]
        if self.allows is None:
            return real
        query_ids = {name: queries.id(name)[:, :, None] for name in self.reads}
        key_ids = {name: keys.id(name)[:, None, :] for name in self.reads}
        return self.allows(query_ids, key_ids).unsqueeze(1) & real

    def mask_mod(
        self, queries: Tokens, keys: Tokens | None = None
    ) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The same rule as a function of (batch, head, query, key) for FlexAttention."""
        keys = queries if keys is None else keys
        query_ids = {name: queries.id(name) for name in self.reads}
        key_ids = {name: keys.id(name) for name in self.reads}
        real, allows = keys.mask, self.allows

        def mod(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = real[batch, key]
            if allows is None:
                return seen
            return seen & allows(
                {name: ids[batch, query] for name, ids in query_ids.items()},
                {name: ids[batch, key] for name, ids in key_ids.items()},
            )

        return mod


def _groups(modality: str | None, ids: Mapping[str, int | str]) -> dict[str, int]:
    wanted = {} if modality is None else {"modality": number_of(modality)}
    for name, value in ids.items():
        if name not in ID_NAMES:
            raise ValueError(f"tokens have no id '{name}'. {did_you_mean(name, ID_NAMES)}")
        wanted[name] = number_of(value) if isinstance(value, str) else value
    return wanted


def _is(ids: Ids, wanted: Mapping[str, int]) -> Tensor:
    matches = [ids[name] == value for name, value in wanted.items()]
    return reduce(torch.logical_and, matches)


bidirectional = Rule(None)
"""Every token sees every other."""

causal = Rule(lambda q, k: k["position"] <= q["position"], frozenset({"position"}))
"""A token sees itself and what stands before it."""

packed = Rule(lambda q, k: q["sample"] == k["sample"], frozenset({"sample"}))
"""Examples packed into one row do not see each other."""


def own(name: str) -> Rule:
    """A token sees those with the same id: the same picture, frame or turn."""
    _groups(None, {name: 0})
    return Rule(lambda q, k: q[name] == k[name], frozenset({name}))


def within(modality: str | None = None, **ids: int | str) -> Rule:
    """Tokens of a group see each other, whatever their order."""
    wanted = _groups(modality, ids)
    return Rule(lambda q, k: _is(q, wanted) & _is(k, wanted), frozenset(wanted))


def sees(query_modality: str, modality: str | None = None, **ids: int | str) -> Rule:
    """Tokens of one modality see a group of others: `sees("image", part="question")`."""
    return between({"modality": query_modality}, {"modality": modality, **ids})


def between(asking: Mapping[str, int | str], seen: Mapping[str, int | str | None]) -> Rule:
    """Tokens of one group see those of another: `between({"part": "media"}, {"part": "question"})`.

    A group of no ids is that of all tokens; one of the two must have some.
    """
    query, key = (
        _groups(None, {n: v for n, v in g.items() if v is not None}) for g in (asking, seen)
    )
    if not query:
        return Rule(lambda q, k: _is(k, key), frozenset(key))
    if not key:
        return Rule(lambda q, k: _is(q, query), frozenset(query))
    return Rule(lambda q, k: _is(q, query) & _is(k, key), frozenset((*query, *key)))


def prefix(part: str) -> Rule:
    """Everyone sees a part (the prompt, say), wherever it stands."""
    wanted = _groups(None, {"part": part})
    return Rule(lambda q, k: _is(k, wanted) & (q["part"] == q["part"]), frozenset(wanted))
