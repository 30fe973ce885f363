"""Another row for each row, from which it gets an input that contradicts its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Shaped

from sensorium.types import draws

_ROUNDS = 200

Rows = Int[np.ndarray, " rows"]


def draw_partners(
    purpose: str, rows: Rows, differ: Sequence[Shaped[np.ndarray, " rows"]]
) -> tuple[Rows, Bool[np.ndarray, " rows"]]:
    """A permutation in which each row meets one that is another in every respect.

    It begins with any permutation; then, in each round, pairs of rows that are drawn anew exchange
    their partners where that leaves fewer of the two without a fitting one, or another one of them.
    So partners are drawn from all that fit. Where more than half of the rows are of one class, not all
    can have one.

    Args:
        purpose: of the draws.
        rows: their numbers, on which the first permutation depends.
        differ: what a row and its partner must not have in common: class, group, content.

    Returns:
        The place of each row's partner, and which partners fit.
    """

    def clash(own: Rows, other: Rows) -> Bool[np.ndarray, " rows"]:
        same = [own == other, *(ids[own] == ids[other] for ids in differ)]
        return np.asarray(np.stack(same).any(0))

    every = np.arange(len(rows))
    order = draws.uniform(purpose, rows).argsort()
    partner = np.empty_like(order)
    partner[order] = np.roll(order, -1)
    half = len(rows) // 2
    for number in range(_ROUNDS):
        if not clash(every, partner).any():
            break
        mixed = draws.permutation(len(rows), purpose, number)
        one, two = mixed[:half], mixed[half : 2 * half]
        before = clash(one, partner[one]).astype(int) + clash(two, partner[two])
        after = clash(one, partner[two]).astype(int) + clash(two, partner[one])
        mends = (after < before) | ((after == before) & (before > 0))
        one, two = one[mends], two[mends]
        partner[one], partner[two] = partner[two], partner[one]
    return partner, ~clash(every, partner)
