"""Which rows of a batch hold the same thing, so that they are not taken for each other's negatives."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sensorium.types import Entries, draws


def content_ids(entries: Entries, size: int) -> Int[Tensor, "size"]:
    """An integer for the content of each of `size` rows: equal for equal content.

    It is a 64-bit hash, the same in every process, whatever the padding. Rows without the field
    have the id 0.
    """
    values = entries.values
    if entries.mask is not None:
        place = entries.mask.reshape(*entries.mask.shape, *(1,) * (values.dim() - 2))
        values = values * place
    flat = values.flatten(1) if values.dim() > 1 else values[:, None]
    words = _words(flat)
    key = torch.from_numpy(
        draws.integers("content", torch.arange(words.shape[1]).numpy()).view("int64")
    )
    # Integer products wrap around, which is what makes this a (multilinear) hash.
    hashes = (words * (key.to(words.device) | 1)).sum(1)
    order = torch.from_numpy(draws.integers("entry", torch.arange(256).numpy()).view("int64"))
    hashes = hashes * (order.to(words.device)[entries.item % 256] | 1)
    return hashes.new_zeros(size).index_add_(0, entries.row, hashes)


def _words(flat: Tensor) -> Tensor:
    """The same bits as 64-bit integers, eight bytes of small values at a time."""
    if flat.dtype == torch.int64:
        return flat
    raw = flat.contiguous().view(torch.uint8)
    missing = -raw.shape[1] % 8
    if missing:
        raw = torch.nn.functional.pad(raw, (0, missing))
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
