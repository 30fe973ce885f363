"""Scores to which each row contributes its part, so that they can be split up row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from sensorium.tasks.intervals import Metric, bootstrap, ratio, summable
from sensorium.types import Field


@dataclass(frozen=True)
class Score:
    """A score that is a sum of what rows contribute, over a divisor, and a constant.

    Accuracy: the share of rows (or of yes-or-no decisions) that are right. R2: one, less the squared
    errors over the spread of the truth.

    Attributes:
        name: of the metric.
        truth: of each row.
        groups: rows of one group are resampled together.
        seed: of the resamples.
    """

    name: str
    truth: Shaped[np.ndarray, "rows ..."]
    groups: Int[np.ndarray, " rows"]
    seed: int = 0

    @classmethod
    def of(
        cls, field: Field, truth: Shaped[np.ndarray, "rows ..."], groups: Int[np.ndarray, " rows"]
    ) -> Score:
        """The score for a field that is predicted."""
        return cls("R2" if field.modality == "number" else "accuracy", truth, groups)

    def contributions(
        self, outputs: Float[np.ndarray, "rows outputs"]
    ) -> Float[np.ndarray, " rows"]:
        """What each row adds to the sum."""
        if self.name == "R2":
            return np.asarray(-np.square(outputs[:, 0] - self.truth.astype(np.float64)))
        if self.truth.ndim == 2:
            right: Float[np.ndarray, " rows"] = ((outputs >= 0.5) == (self.truth > 0.5)).mean(1)
            return right
        return np.asarray(outputs.argmax(1) == self.truth, dtype=np.float64)

    def total(self, contributions: Float[np.ndarray, " rows"]) -> Metric:
        """The score."""
        return self._interval(contributions, 1.0 if self.name == "R2" else 0.0)

    def part(self, contributions: Float[np.ndarray, " rows"]) -> Metric:
        """A difference of scores, or a share of one."""
        return self._interval(contributions, 0.0)

    def part_of_rows(
        self, contributions: Float[np.ndarray, " rows"], chosen: Shaped[np.ndarray, " rows"]
    ) -> Metric:
        """The same, of some rows by themselves: of accuracy alone."""
        only = Score(self.name, self.truth[chosen], self.groups[chosen], self.seed)
        return only.part(contributions[chosen])

    def _interval(self, contributions: Float[np.ndarray, " rows"], constant: float) -> Metric:
        is_spread = self.name == "R2"
        columns = [contributions, np.ones(len(contributions))]
        if is_spread:
            centred = self.truth - np.median(self.truth.astype(np.float64))
            columns += [centred, centred**2]
        sums = summable(np.stack(columns))

        def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
            total, count, *moments = sums @ weights
            divisor = moments[1] - ratio(moments[0] ** 2, count) if is_spread else count
            return {"score": constant + ratio(total, divisor)}

        return bootstrap(statistic, self.groups, seed=self.seed)["score"]
