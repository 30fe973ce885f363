"""Which rows of a batch hold the same thing, so that they are not taken for each other's negatives."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from sensorium.types import Batch, draws


def content_ids(batch: Batch, name: str) -> Int[Tensor, "batch"]:
    """An integer for what each row has in a field: equal for equal content.

    It is a 64-bit hash, the same in every process and whatever the padding; 0 for rows without the
    field.
    """
    hashes = torch.zeros(batch.size, dtype=torch.long, device=batch.device)
    if name not in batch or len(batch[name]) == 0:
        return hashes
    entries = batch[name]
    values = entries.values
    if entries.mask is not None:
        values = values * entries.mask.view(*entries.mask.shape, *(1,) * (values.dim() - 2))
    words = _words(values.reshape(len(values), -1))
    # Products of integers wrap around, so a sum of them is a hash (multilinear hashing).
    content = (words * _keys("place", words.shape[1], words.device)).sum(1)
    content = content * _keys("item", int(entries.item.amax()) + 1, words.device)[entries.item]
    return hashes.index_add_(0, entries.row, content)


def _keys(purpose: str, count: int, device: torch.device) -> Int[Tensor, "count"]:
    """Odd random numbers."""
    keys = draws.integers(f"content of a row, by {purpose}", np.arange(count)).view(np.int64)
    return torch.from_numpy(keys).to(device) | 1


def _words(flat: Tensor) -> Tensor:
    """The same bits as 64-bit integers, eight bytes of small values at a time."""
    if flat.dtype == torch.int64:
        return flat
    raw = flat.contiguous().view(torch.uint8)
    missing = -raw.shape[1] % 8
    if missing:
        raw = F.pad(raw, (0, missing))
    return raw.view(torch.int64)


def merge_groups(groups: Int[Tensor, "rows kinds"]) -> Int[Tensor, "rows"]:
    """One group number for each row: rows that have an id of some kind in common share it.

    So do rows that are linked through others: if two share a picture and the second shares its
    caption with a third, all three are one group.
    """
    numbers = [torch.unique(kind, return_inverse=True)[1] for kind in groups.unbind(1)]
    label = torch.arange(len(groups), device=groups.device)
    while True:
        before = label
        for number in numbers:
            least = torch.full_like(label, len(label)).scatter_reduce(0, number, label, "amin")
            label = least[number]
        if len(numbers) == 1 or torch.equal(label, before):
            return label
