"""Area under the ROC curve for many resamples at once.

The area is the probability that a positive row scores above a negative one, half for a tie. With
row weights it is a sum over positives of the weight of the negatives below, so that the order of
the scores, found once, serves every resample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from sensorium.tasks.intervals import ratio


@dataclass(frozen=True, slots=True)
class RankedScores:
    """Scores of one class in order, with the place of each positive among all and among positives.

    Attributes:
        order: rows from the lowest score to the highest.
        positives: the positive rows, in the same order.
        among_all: where the run of scores tied with each positive starts and ends in `order`.
        among_positives: the same within `positives`.
    """

    order: Int[np.ndarray, " rows"]
    positives: Int[np.ndarray, " positives"]
    among_all: tuple[Int[np.ndarray, " positives"], Int[np.ndarray, " positives"]]
    among_positives: tuple[Int[np.ndarray, " positives"], Int[np.ndarray, " positives"]]

    @classmethod
    def of(
        cls, scores: Real[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"]
    ) -> RankedScores:
        """Sort the scores of one class; `positive` says which rows belong to it."""
        order = np.argsort(scores, kind="stable")
        positives = order[positive[order]]
        ascending, wanted = scores[order], scores[positives]
        return cls(order, positives, _runs(ascending, wanted), _runs(wanted, wanted))

    def auroc(
        self, weights: Float[np.ndarray, "rows resamples"]
    ) -> Float[np.ndarray, " resamples"]:
        """The area for each column of weights, NaN without a positive or without a negative."""
        own = weights[self.positives]
        below = _weight_below(weights[self.order], self.among_all)
        below -= _weight_below(own, self.among_positives)
        num_positive = own.sum(axis=0)
        num_negative = weights.sum(axis=0) - num_positive
        return ratio(np.einsum("pr,pr->r", own, below), num_positive * num_negative)


def _runs(
    ascending: Real[np.ndarray, " rows"], wanted: Real[np.ndarray, " positives"]
) -> tuple[Int[np.ndarray, " positives"], Int[np.ndarray, " positives"]]:
    return np.searchsorted(ascending, wanted, "left"), np.searchsorted(ascending, wanted, "right")


def _weight_below(
    weights: Float[np.ndarray, "rows resamples"],
    runs: tuple[Int[np.ndarray, " positives"], Int[np.ndarray, " positives"]],
) -> Float[np.ndarray, "positives resamples"]:
    """The weight before each run of ties, and half of the weight in it."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    start, end = runs
    below: Float[np.ndarray, "positives resamples"] = (sums[start] + sums[end]) / 2
    return below
