"""The keys and values that a language model has already computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sensorium.nn.masks import Rule
from sensorium.types import Tokens
from sensorium.types.tokens import cat


@dataclass
class CachedLayer:
    """What one layer keeps.

    Attributes:
        length: how many keys each head holds.
        mask: which of the first keys are real, where `Cache.replace` has put them in the place of
            those that were read; None while all are kept.
        since: how many tokens the cache had read at that time.
    """

    buffers: tuple[Tensor, Tensor] | None = None
    length: int = 0
    mask: Bool[Tensor, "batch key_heads kept"] | None = None
    since: int = 0

    @property
    def keys(self) -> Float[Tensor, "batch key_heads length head_width"]:
        """Turned to their positions already."""
        return self._part(0)

    @property
    def values(self) -> Float[Tensor, "batch key_heads length head_width"]:
        """One for each key."""
        return self._part(1)

    def _part(self, which: int) -> Tensor:
        if self.buffers is None:
            raise ValueError("nothing has been read into this cache yet")
        return self.buffers[which][:, :, : self.length]


class Cache:
    """Keys and values by layer, in buffers that are allocated once.

    Which tokens they belong to is kept beside them, so that attention rules hold for what was read
    earlier as well. Positions are the caller's: they go on from what was read, whatever is kept.

    Args:
        num_layers: of the model.
        capacity: tokens there is room for; more are taken, at the price of a copy.
    """

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.layers = [CachedLayer() for _ in range(num_layers)]
        self.capacity = capacity
        self.tokens: Tokens | None = None

    @property
    def read(self) -> int:
        """How many tokens a row of it has read, padding included."""
        return 0 if self.tokens is None else len(self.tokens)

    @property
    def bytes(self) -> int:
        """What the keys and values that are kept take up."""
        tensors = [t for layer in self.layers if layer.length for t in (layer.keys, layer.values)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def note(self, tokens: Tokens) -> Tokens:
        """Remember which tokens come next; returns all, those before them first."""
        new = tokens.replace(values=tokens.values[..., :0].detach(), place=None, lengths=())
        self.tokens = new if self.tokens is None else cat(self.tokens, new).replace(lengths=())
        return self.tokens

    def extend(
        self,
        layer: int,
        keys: Float[Tensor, "batch key_heads new head_width"],
        values: Float[Tensor, "batch key_heads new head_width"],
    ) -> tuple[
        Float[Tensor, "batch key_heads length head_width"],
        Float[Tensor, "batch key_heads length head_width"],
    ]:
        """Add those of new tokens to a layer; returns all that it keeps."""
        kept = self.layers[layer]
        end = kept.length + keys.shape[2]
        if kept.buffers is None or kept.buffers[0].shape[2] < end:
            room = max(self.capacity, end) if kept.buffers is None else max(end, 2 * kept.length)
            grown = [
                part.new_empty(*part.shape[:2], room, part.shape[3]) for part in (keys, values)
            ]
            if kept.buffers is not None:
                for new, old in zip(grown, (kept.keys, kept.values), strict=True):
                    new[:, :, : kept.length] = old
            kept.buffers = (grown[0], grown[1])
        for buffer, part in zip(kept.buffers, (keys, values), strict=True):
            buffer[:, :, kept.length : end] = part
        kept.length = end
        return kept.keys, kept.values

    def replace(
        self,
        layer: int,
        keys: Float[Tensor, "batch key_heads kept head_width"],
        values: Float[Tensor, "batch key_heads kept head_width"],
        mask: Bool[Tensor, "batch key_heads kept"],
    ) -> None:
        """Put others in the place of what a layer keeps; every later token sees those of the mask."""
        room = max(0, self.capacity - self.read)
        buffers = tuple(F.pad(part, (0, 0, 0, room)) for part in (keys, values))
        self.layers[layer] = CachedLayer(buffers, keys.shape[2], mask, self.read)  # type: ignore[arg-type]

    def mask(
        self, layer: int, rule: Rule, queries: Tokens, num_heads: int, shared: dict[Rule, Tensor]
    ) -> Bool[Tensor, "batch #heads queries keys"]:
        """Which of a layer's keys the new tokens see, after `note`.

        Args:
            layer: which.
            rule: of the layer.
            queries: the new tokens.
            num_heads: of the queries.
            shared: masks of rules that other layers have asked for in this pass.
        """
        assert self.tokens is not None
        kept = self.layers[layer]
        by_rule = rule_mask(rule, queries, self.tokens, shared)
        if kept.mask is None:
            return by_rule
        shape = (len(kept.mask), num_heads, len(queries), -1)
        earlier = kept.mask.repeat_interleave(num_heads // kept.mask.shape[1], 1)[:, :, None]
        later = by_rule[..., kept.since :]
        return torch.cat([earlier.expand(shape), later.expand(shape)], 3)

    def take(self, rows: Int[Tensor, "taken"]) -> None:
        """Keep the named rows, in that order; a row may be named repeatedly."""
        for layer in self.layers:
            if layer.buffers is not None:
                layer.buffers = (layer.buffers[0][rows], layer.buffers[1][rows])
            if layer.mask is not None:
                layer.mask = layer.mask[rows]
        if self.tokens is not None:
            ids = {name: numbers[rows] for name, numbers in self.tokens.ids.items()}
            values, mask = self.tokens.values[rows], self.tokens.mask[rows]
            self.tokens = self.tokens.replace(values=values, mask=mask, ids=ids)


def rule_mask(
    rule: Rule, queries: Tokens, keys: Tokens, shared: dict[Rule, Tensor]
) -> Bool[Tensor, "batch 1 #queries keys"]:
    """The mask of a rule; that of another layer with the same rule, if it is among `shared`."""
    if rule not in shared:
        shared[rule] = rule.dense(queries, keys)
    return shared[rule]
