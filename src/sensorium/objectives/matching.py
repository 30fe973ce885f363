"""Does this pair belong together: the loss, and where its wrong pairs come from."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def matching_loss(
    logits: Float[Tensor, "pairs"] | Float[Tensor, "pairs 2"],
    is_pair: Bool[Tensor, "pairs"],
    match_class: int = 1,
) -> Float[Tensor, "pairs"]:
    """The cross-entropy of saying whether each pair is a true one.

    Args:
        logits: one number for each pair (large for a true one), or one for each of two classes.
        is_pair: the truth.
        match_class: with two classes, the one that means a match: 1 in ALBEF, 0 in InterBERT.
    """
    logits = logits.float()
    if logits.dim() == 1:
        return F.binary_cross_entropy_with_logits(logits, is_pair.float(), reduction="none")
    wanted = torch.where(is_pair, match_class, 1 - match_class)
    return F.cross_entropy(logits, wanted, reduction="none")


def sample_negatives(
    similarity: Float[Tensor, "rows candidates"],
    uniform: Float[Tensor, "rows"],
    groups: Int[Tensor, "candidates"] | None = None,
) -> tuple[Int[Tensor, "rows"], Bool[Tensor, "rows"]]:
    """For each row, a candidate that is not its partner, drawn from the softmax of its similarities.

    So the hardest are drawn most often (Li et al., 2021, ALBEF, arXiv 2107.07651, section 3.2). With
    similarities that are all equal, every candidate is as likely.

    Args:
        similarity: scaled, as the softmax is to see it; candidate i is the partner of row i.
        uniform: a number in [0, 1) for each row, which decides; `batch.uniform` gives one.
        groups: integers; candidates of the partner's group are true as well and never drawn.

    Returns:
        The candidates, and whether the row had any to choose from (its own number stands there if
        not).
    """
    rows, candidates = similarity.shape
    own = torch.arange(rows, device=similarity.device)
    place = torch.arange(candidates, device=similarity.device)
    forbidden = place == own[:, None]
    if groups is not None:
        forbidden = forbidden | (groups[:rows, None] == groups)
    possible = ~forbidden.all(1)
    if not rows:
        return own, possible
    weight = similarity.detach().double().masked_fill(forbidden, -torch.inf)
    # Double precision, since the draw inverts a cumulative sum.
    reach = weight.masked_fill(~possible[:, None], 0).softmax(1).cumsum(1)
    drawn = torch.searchsorted(reach, (uniform.double() * reach[:, -1])[:, None], right=True)
    return torch.where(possible, drawn.squeeze(1).clamp(max=candidates - 1), own), possible
