"""Which entries of a key/value cache stay, and what becomes of the others (LOOK-M).

Source: "LOOK-M: Look-Once Optimization in KV Cache for Efficient Multimodal Long-Context Inference"
(Wan et al., Findings of EMNLP 2024, arXiv 2406.18139), section 3. Three steps for a layer whose prompt has
been read:

    received, seers = attention_received(queries, keys, mask, scale, real)    attention each entry got
    chosen = choose(received, media, real, policy)                            what each head keeps
    keys, values = shrink(keys, values, chosen, "pivotal")                    the others merge into it

Everything is computed for all rows and heads at once, in float32 whatever the cache is kept in. Of
query heads that share a key head, the attention is summed. What resembles what is decided by keys that
are turned to their positions, as in paper and code, so by content and place together.

Differs from the released code, on purpose:

- It adds -65516 to the scores of images. In half precision that swallows the differences between them, so
  its choice among images is largely arbitrary. Here entries are sorted by kind first and by score within a
  kind, in float32.
- It sums attention weights that were rounded to half precision first; here they are never rounded.
- Its averaged merge takes values from the wrong rows, since it filters the targets and not the sources;
  here a key and its value go to the target that was found for the key.
- Its filter of evicted entries that resemble nothing is always on for the weighted merge; it is not in the
  paper, so it is an option here, for every merge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Setting
from torch import Tensor
from torch.nn import functional as F

Merge = Literal["averaged", "weighted", "pivotal"]

# Numbers at once of a matrix that is never held as a whole: few enough for the caches of a processor, and
# enough to keep an accelerator busy.
_ON_PROCESSOR, _ELSEWHERE = 2**22, 2**26


class CachePolicy(BaseModel):
    """Which entries of a prompt stay, and what becomes of the others. The defaults are LOOK-M's.

    Attributes:
        importance: what an entry is worth: the attention it received, in sum or as a mean over the
            queries that see it; how late it stands; or a random number.
        important: share of the entries that stay for what they are worth.
        recent: share of the entries that stay because they are the last.
        text_first: whether text comes before media, whatever it is worth.
        strict: whether nothing stays beyond both shares, as in the paper; if not, there is room for all
            text, as in the released code.
        sinks: how many of the first entries come before others of their kind.
        merge: how the others are merged into those that stay; None drops them.
        alike_only: whether entries that resemble none of those that stay are dropped all the same.
        seed: of random numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    importance: Literal["sum", "mean", "recent", "random"] = "sum"
    important: float = Setting(default=0.1, ge=0.0, le=1.0)
    recent: float = Setting(default=0.1, ge=0.0, le=1.0)
    text_first: bool = True
    strict: bool = False
    sinks: int = Setting(default=0, ge=0)
    merge: Merge | None = "pivotal"
    alike_only: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Chosen:
    """The entries that stay and those that go, by their place in the cache, in its order.

    The heads of a row keep different entries, but equally many. Rows with fewer than others are
    filled up at the end, where the masks are False.
    """

    kept: Int[Tensor, "batch key_heads kept"]
    kept_mask: Bool[Tensor, "batch kept"]
    evicted: Int[Tensor, "batch key_heads evicted"]
    evicted_mask: Bool[Tensor, "batch evicted"]


def attention_received(
    queries: Float[Tensor, "batch heads queries width"],
    keys: Float[Tensor, "batch key_heads keys width"],
    mask: Bool[Tensor, "batch #heads #queries keys"],
    scale: float,
    real: Bool[Tensor, "batch queries"],
    at_once: int | None = None,
) -> tuple[Float[Tensor, "batch key_heads keys"], Int[Tensor, "batch key_heads keys"]]:
    """How much attention each key receives from all queries, and from how many it could.

    Queries are taken in parts, so that no matrix of all queries and keys is ever held.

    Args:
        queries: turned to their positions, like the keys.
        keys: of all that was read so far.
        mask: which keys a query sees.
        scale: what products are multiplied with before the softmax.
        real: which queries count; padding does not.
        at_once: numbers of the attention matrix that are held at a time; None: as suits the device.
    """
    batch, heads, num_queries, width = queries.shape
    key_heads, num_keys = keys.shape[1:3]
    each = heads // key_heads
    columns = keys.float().transpose(2, 3)
    mask = mask.expand(batch, mask.shape[1], num_queries, num_keys)
    received = columns.new_zeros(batch, key_heads, num_keys)
    seers = torch.zeros(batch, key_heads, num_keys, dtype=torch.long, device=keys.device)
    places = torch.arange(1, num_keys + 1, device=keys.device)
    step = _step(at_once, keys, batch * heads * num_keys)
    for start in range(0, num_queries, step):
        part = slice(start, start + step)
        rows = (queries[:, :, part].float() * scale).reshape(batch, key_heads, -1, width)
        seen = mask[:, :, part] & real[:, None, part, None]
        # Under a causal rule the keys behind the last query of a part need not be looked at.
        end = max(1, int((seen.flatten(0, 2).any(0) * places).max()))
        seen = seen[..., :end]
        seen = rearrange(seen, "b (g e) q k -> b g e q k", e=each if seen.shape[1] > 1 else 1)
        logits = rearrange(rows @ columns[..., :end], "b g (e q) k -> b g e q k", e=each)
        weights = logits.masked_fill_(~seen, torch.finfo(logits.dtype).min).softmax(-1)
        # A query that sees nothing gives nothing; its softmax would be spread over all keys.
        sees = seen.any(-1).expand(weights.shape[:-1]).float().flatten(2)
        received[..., :end] += (sees[:, :, None] @ weights.flatten(2, 3)).squeeze(2)
        seers[..., :end] += seen.sum((2, 3)) * (each // seen.shape[2])
    return received, seers


def count_kept(
    media: Bool[Tensor, "batch keys"], real: Bool[Tensor, "batch keys"], policy: CachePolicy
) -> Int[Tensor, "batch"]:
    """How many entries of each row stay, in every head.

    A row without media keeps all it has, as does one that is within both shares. At least one entry
    of a row stays, into which others can be merged.

    Args:
        media: entries that stand for a picture, sound or other media; all others are text.
        real: entries that are no padding.
        policy: how much stays.
    """
    lengths = real.sum(1)
    important, recent = _share(lengths, policy.important), _share(lengths, policy.recent)
    room = important
    if not policy.strict:
        text_before = real & ~media & ~_is_recent(real, policy)
        room = torch.maximum(important, text_before.sum(1))
    whole = ~(real & media).any(1) | (important + recent >= lengths)
    if policy.important + policy.recent > 1 - 1e-9:  # halves of an odd number leave one over
        whole = torch.ones_like(whole)
    return torch.where(whole, lengths, recent + room).clamp(min=1).clamp(max=lengths)


def choose(
    scores: Float[Tensor, "batch key_heads keys"],
    media: Bool[Tensor, "batch keys"],
    real: Bool[Tensor, "batch keys"],
    policy: CachePolicy,
) -> Chosen:
    """Which entries each head keeps: the last, then text and the first (if so wanted), then the best.

    Args:
        scores: what each entry is worth to a head.
        media: as in `count_kept`, like what follows.
        real: entries that are no padding.
        policy: how much stays, and what comes first.
    """
    from_start = real.cumsum(1)
    kind = torch.full_like(from_start, 3).where(from_start > policy.sinks, 2)
    if policy.text_first:
        kind = kind.where(media, 1)
    kind = kind.where(~_is_recent(real, policy), 0).where(real, 4)
    # By kind, and by score within a kind: stable sorts by the lesser key first.
    order = scores.float().argsort(dim=2, descending=True, stable=True)
    by_kind = kind[:, None].expand_as(order).gather(2, order).argsort(dim=2, stable=True)
    order = order.gather(2, by_kind)
    counts = count_kept(media, real, policy)
    kept, kept_mask = _in_cache_order(order, torch.zeros_like(counts), counts)
    evicted, evicted_mask = _in_cache_order(order, counts, from_start[:, -1])
    return Chosen(kept, kept_mask, evicted, evicted_mask)


def shrink(
    keys: Float[Tensor, "batch key_heads keys width"],
    values: Float[Tensor, "batch key_heads keys width"],
    chosen: Chosen,
    merge: Merge | None = None,
    alike_only: bool = False,
    at_once: int | None = None,
) -> tuple[
    Float[Tensor, "batch key_heads kept width"], Float[Tensor, "batch key_heads kept width"]
]:
    """Keys and values of the entries that stay, with the others merged into them (equations 4 to 7).

    An evicted entry goes to the kept one whose key has the largest cosine with its own; its value goes
    the same way. With `n` evicted entries `o` at a kept entry `c`:

        averaged   (c + sum of o) / (n + 1)
        weighted   (c + sum of cosine * o) / (n + 1)
        pivotal    (c + sum of (o + c) / 2) / (n + 1)

    Args:
        keys: of the whole prompt, turned to their positions.
        values: one for each key.
        chosen: which stay.
        merge: how the others are merged; None drops them.
        alike_only: whether evicted entries that resemble nothing are dropped: the j-th evicted ones of
            all heads together, where their mean cosine is below the mean of the row.
        at_once: numbers of the matrix of cosines that are held at a time; None: as suits the device.
    """
    kept_keys, kept_values = _take(keys, chosen.kept), _take(values, chosen.kept)
    if merge is None or not chosen.evicted.shape[2]:
        return kept_keys, kept_values
    evicted_keys = _take(keys, chosen.evicted).float()
    cosines, targets = _nearest(evicted_keys, kept_keys.float(), chosen.kept_mask, at_once)
    merged = chosen.evicted_mask[:, None].expand_as(cosines)
    if alike_only:
        cosines_or_zero = cosines * merged
        over_row = cosines_or_zero.sum((1, 2)) / merged.sum((1, 2)).clamp(min=1)
        merged = merged & (cosines_or_zero.mean(1) >= over_row[:, None])[:, None]
    own, others = kept_keys.new_ones((), dtype=torch.float32), merged.float()
    number = torch.zeros_like(chosen.kept, dtype=torch.float32).scatter_add_(2, targets, others)
    if merge == "weighted":
        others = others * cosines
    if merge == "pivotal":
        own, others = 1 + number / 2, others / 2
    own = own.expand_as(number)

    def merge_into(kept: Tensor, evicted: Tensor) -> Tensor:
        where = targets[..., None].expand_as(evicted)
        sums = (own[..., None] * kept).scatter_add_(2, where, others[..., None] * evicted)
        return (sums / (number[..., None] + 1)).to(kept.dtype)

    return (
        merge_into(kept_keys, evicted_keys),
        merge_into(kept_values, _take(values, chosen.evicted).float()),
    )


def _step(at_once: int | None, tensor: Tensor, row: int) -> int:
    """How many rows of a matrix are held at a time."""
    if at_once is None:
        at_once = _ON_PROCESSOR if tensor.device.type == "cpu" else _ELSEWHERE
    return max(1, at_once // row)


def _share(lengths: Int[Tensor, "batch"], share: float) -> Int[Tensor, "batch"]:
    """Whole entries in a share; 0.29 of 100 is 29, though the product is a little less."""
    return (lengths.double() * share + 1e-9).floor().long()


def _is_recent(real: Bool[Tensor, "batch keys"], policy: CachePolicy) -> Bool[Tensor, "batch keys"]:
    """The last entries; counted, since a slice of the last 0 would be all of them."""
    from_start = real.cumsum(1)
    to_end = from_start[:, -1:] - from_start
    return real & (to_end < _share(from_start[:, -1], policy.recent)[:, None])


def _in_cache_order(
    order: Int[Tensor, "batch key_heads keys"],
    start: Int[Tensor, "batch"],
    stop: Int[Tensor, "batch"],
) -> tuple[Int[Tensor, "batch key_heads chosen"], Bool[Tensor, "batch chosen"]]:
    """A part of a ranking for each row, sorted by place; and which of it is no filling."""
    num_keys = order.shape[2]
    rank = torch.arange(num_keys, device=order.device)
    chosen = (rank >= start[:, None]) & (rank < stop[:, None])
    numbers = chosen.sum(1)
    width = int(numbers.max())
    found = order.masked_fill(~chosen[:, None], num_keys).sort(2).values[..., :width]
    return found.clamp(max=num_keys - 1), rank[:width] < numbers[:, None]


def _take(
    entries: Float[Tensor, "batch key_heads keys width"],
    places: Int[Tensor, "batch key_heads chosen"],
) -> Float[Tensor, "batch key_heads chosen width"]:
    return entries.gather(2, places[..., None].expand(*places.shape, entries.shape[3]))


def _nearest(
    evicted: Float[Tensor, "batch key_heads evicted width"],
    kept: Float[Tensor, "batch key_heads kept width"],
    kept_mask: Bool[Tensor, "batch kept"],
    at_once: int | None,
) -> tuple[Float[Tensor, "batch key_heads evicted"], Int[Tensor, "batch key_heads evicted"]]:
    """The largest cosine of each evicted key with a kept one, and which that is."""
    batch, key_heads, num_evicted = evicted.shape[:3]
    columns = F.normalize(kept, dim=3).transpose(2, 3)
    filling = ~kept_mask[:, None, None]
    cosines = evicted.new_empty(batch, key_heads, num_evicted)
    targets = torch.empty_like(cosines, dtype=torch.long)
    step = _step(at_once, kept, batch * key_heads * kept.shape[2])
    for start in range(0, num_evicted, step):
        part = slice(start, start + step)
        found = F.normalize(evicted[:, :, part], dim=3) @ columns
        best = found.masked_fill_(filling, -torch.inf).max(3)
        cosines[:, :, part], targets[:, :, part] = best
    return cosines, targets
