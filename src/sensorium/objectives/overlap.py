"""How similar texts are by the words they share."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def word_overlap(
    ids: Int[Tensor, "texts words"], counted: Bool[Tensor, "texts words"], num_ids: int
) -> Float[Tensor, "texts texts"]:
    """Cosine of the TF-IDF vectors of every two texts, with frequencies taken from these texts.

    Args:
        ids: of words or parts of words.
        counted: neither padding nor special tokens.
        num_ids: how many ids there are.
    """
    counts = torch.zeros(len(ids), num_ids, device=ids.device)
    counts.scatter_add_(1, ids, counted.to(counts.dtype))
    rarity = torch.log((1 + len(ids)) / (1 + (counts > 0).sum(0)))
    vectors = F.normalize(counts * rarity, dim=-1)
    return vectors @ vectors.T
