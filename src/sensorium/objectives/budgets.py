"""Which tokens of several streams are shown: shares by a Dirichlet, and exactly as many as planned.

All draws are uniform numbers of rows (`Batch.uniform`), so a row's choice depends on nothing beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sensorium.objectives.masked import below
from sensorium.types import Draw


def dirichlet(
    draw: Draw,
    alpha: Sequence[float] | Float[Tensor, "rows streams"],
    present: Bool[Tensor, "rows streams"],
) -> Float[Tensor, "rows streams"]:
    """Shares of the streams, which sum to 1 over those that are present.

    Gamma variables are drawn as logarithms, so that small concentrations, which give nearly all to one
    stream, do not end as zeros everywhere.

    Args:
        draw: the random numbers of the rows.
        alpha: the concentration of each stream, for all rows or for each; one of 0 gets nothing.
        present: the streams that each row has.
    """
    from scipy.special import gammaincinv

    concentration = torch.as_tensor(alpha).cpu().double().numpy()
    wanted = present & torch.from_numpy(concentration > 0).to(present.device)
    safe = np.where(concentration > 0, concentration, 1.0)
    one, other = (
        draw("gamma", 2 * present.shape[1])
        .double()
        .cpu()
        .numpy()
        .reshape(len(present), 2, -1)
        .swapaxes(0, 1)
    )
    # Gamma(a) is Gamma(a + 1) times U^(1 / a); numbers in (0, 1], since zero has no logarithm
    log_gamma = np.log(gammaincinv(safe + 1, 1 - one)) + np.log(1 - other) / safe
    found = torch.from_numpy(log_gamma).to(present.device).masked_fill(~wanted, -torch.inf)
    return found.softmax(1).nan_to_num(0.0).float()


def token_counts(
    draw: Draw,
    alpha: Float[Tensor, "rows"],
    present: Bool[Tensor, "rows streams"],
    total: int,
    most: Int[Tensor, "rows streams"],
) -> Int[Tensor, "rows streams"]:
    """How many tokens of each stream: whole numbers that sum to `total`, or to all that there are.

    Shares are rounded down, and each token that is left goes to the largest share of a new draw: with
    one concentration for all that is present, to any of them alike (4M, official code). What a stream
    has not is shared among those that have more, by the shares that they have of each other.

    Args:
        draw: the random numbers of the rows.
        alpha: the concentration of all streams that are present, in each row.
        present: the streams that take part in each row.
        total: how many tokens of a row.
        most: how many of each stream there are.
    """
    counts = torch.zeros_like(most)
    concentration = alpha[:, None].expand(present.shape)
    tries = torch.arange(present.shape[1], device=present.device)
    for attempt in range(present.shape[1]):  # in each, all is given out or a stream has no more
        room = present & (counts < most)
        number = room.sum(1)
        left = torch.where(number > 0, total - counts.sum(1), 0)
        if not bool(left.any()):
            break
        more = (dirichlet(draw, concentration, room) * left[:, None]).floor().long()
        # fewer are left than there are streams
        over = (tries < (left - more.sum(1))[:, None]).long()
        chosen = below(draw(f"left over, {attempt}", len(tries)), number[:, None])
        order = (~room).long().argsort(dim=1, stable=True)
        more.scatter_add_(1, order.gather(1, chosen), over)
        counts = torch.minimum(counts + more, most)
    return counts


def chosen_tokens(
    draw: Draw,
    shares: Float[Tensor, "rows streams"],
    available: Bool[Tensor, "rows streams tokens"],
    total: int,
) -> tuple[Int[Tensor, "rows chosen"], Bool[Tensor, "rows chosen"]]:
    """Tokens of each row, as many as planned: the share of each stream, drawn uniformly within it.

    Shares are rounded, and a stream may have fewer tokens than its share; then others of the row go
    or come, drawn uniformly, so that each row has `total`, or all that it has if these are fewer
    (MultiMAE, official code).

    Args:
        draw: the random numbers of the rows.
        shares: of the streams.
        available: which tokens there are.
        total: how many are chosen.

    Returns:
        The numbers of the tokens among all of their row, streams one after another, and which of them
        are there; padding stands at the end.
    """
    number = available[0].numel()
    noise = draw("within", number).reshape(available.shape)
    rank = noise.masked_fill(~available, 2.0).argsort(2).argsort(2)
    is_chosen = available & (rank < (shares * total).round().unsqueeze(2))
    # first what is chosen, then what else there is, each in an order of its own draw
    order = draw("repair", number).reshape(available.shape)
    order = order + (~is_chosen).float() + 2 * (~available).float()
    places = order.flatten(1).argsort(1)[:, :total]
    return places, available.flatten(1).gather(1, places)
