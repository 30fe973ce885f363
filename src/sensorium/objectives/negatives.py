"""Hard negatives out of a pool: what a retriever finds and should not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_BLOCK = 512


@dataclass(frozen=True)
class Mining:
    """Which candidates are hard negatives.

    Attributes:
        top: so many of the best candidates are looked at.
        skip: of the right modality, those up to this place are left out, since near the top they are
            mostly right answers that nobody marked.
        wrong_share: how often one of the wrong modality is drawn rather than one of the right. At 0 and 1
            there is one kind only; between, the other kind stands in where there is none.
        is_aware: of modalities at all; else any of the best that is not the right one may be drawn.
    """

    top: int = 50
    skip: int = 45
    wrong_share: float = 0.5
    is_aware: bool = True


def draw_negatives(
    queries: Float[Tensor, "queries width"],
    candidates: Float[Tensor, "candidates width"],
    own: Int[Tensor, "queries"],
    looks: Int[Tensor, "candidates"],
    uniform: Float[Tensor, "queries 2"],
    mining: Mining,
) -> Int[Tensor, "queries"]:
    """A hard negative for each query, -1 where there is none (MM-Embed, arXiv 2411.02571, section 4.2).

    It is drawn from the candidates of another modality than the right one's that rank above it, or from
    those of the right modality that rank below a place; each as likely as the others of its kind.

    Args:
        queries: vectors.
        candidates: vectors of the pool.
        own: the candidate that is right for each query.
        looks: a number for the modalities of each candidate.
        uniform: numbers in [0, 1) that decide the kind and the candidate.
        mining: which candidates count.
    """
    found = [
        _draw(
            queries[start : start + _BLOCK] @ candidates.T,
            own[start : start + _BLOCK],
            looks,
            uniform[start : start + _BLOCK],
            mining,
        )
        for start in range(0, len(queries), _BLOCK)
    ]
    return torch.cat(found) if found else own


def _draw(
    scores: Float[Tensor, "queries candidates"],
    own: Int[Tensor, "queries"],
    looks: Int[Tensor, "candidates"],
    uniform: Float[Tensor, "queries 2"],
    mining: Mining,
) -> Int[Tensor, "queries"]:
    best, at = scores.topk(min(mining.top, scores.shape[1]), dim=1)
    is_other = at != own[:, None]
    if not mining.is_aware:
        return _one_of(at, is_other, uniform[:, 1])
    fits = looks[at] == looks[own][:, None]
    wrong = ~fits & (best > scores.gather(1, own[:, None]))
    place = torch.arange(1, at.shape[1] + 1, device=at.device)
    right = fits & is_other & (place > mining.skip)
    wants_wrong = uniform[:, 0] < mining.wrong_share
    if 0 < mining.wrong_share < 1:
        wants_wrong = torch.where(wants_wrong, wrong.any(1), ~right.any(1))
    return _one_of(at, torch.where(wants_wrong[:, None], wrong, right), uniform[:, 1])


def _one_of(
    at: Int[Tensor, "queries top"],
    allowed: Bool[Tensor, "queries top"],
    uniform: Float[Tensor, "queries"],
) -> Int[Tensor, "queries"]:
    """One of the allowed candidates of each row, -1 if there is none."""
    place = (uniform * allowed.sum(1)).long()
    is_it = allowed & (allowed.long().cumsum(1) - 1 == place[:, None])
    chosen = at.gather(1, is_it.int().argmax(1, keepdim=True)).squeeze(1)
    return torch.where(allowed.any(1), chosen, -1)
