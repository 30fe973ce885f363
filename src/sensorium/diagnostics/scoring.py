"""The main metric of a task, for several outputs on the same rows and the same resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import sparse

from sensorium.tasks.intervals import Metric, bootstrap, ratio, summable
from sensorium.types import Field

Outputs = Float[np.ndarray, "rows outputs"]


@dataclass(frozen=True)
class Score:
    """A metric as a function of sums over rows, so that one resample serves all outputs.

    accuracy is the share of rows that are right, R2 is one less the squared errors over the spread
    of the truth, macro_F1 the mean over labels of 2 hits / (present + predicted).

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
        names = {"number": "R2", "categories": "macro_F1", "category": "accuracy"}
        return cls(names[field.modality], truth, groups)

    def values(self, asked: Sequence[Outputs]) -> Float[np.ndarray, " asked"]:
        """The scores without intervals."""
        return self._scores(asked, np.ones((len(self.truth), 1)))[:, 0]

    def metrics(self, asked: Mapping[str, Outputs]) -> dict[str, Metric]:
        """The score of each output."""
        return self.mixtures(
            list(asked.values()), dict(zip(asked, np.eye(len(asked)), strict=True))
        )

    def mixtures(
        self, asked: Sequence[Outputs], mixing: Mapping[str, Float[np.ndarray, " asked"]]
    ) -> dict[str, Metric]:
        """Sums of scores with weights: a difference of two, a Shapley value of many."""
        if not mixing:
            return {}
        weights_of = np.stack(list(mixing.values()))
        terms = self._terms(asked)

        def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
            mixed = weights_of @ self._of_sums(terms @ weights, len(asked), weights)
            return dict(zip(mixing, mixed, strict=True))

        return bootstrap(statistic, self.groups, seed=self.seed)

    def of_class(self, code: int) -> Score:
        """The share of the rows of a class, or with a label, in which it is found: its recall.

        Its outputs are those of the same rows, as `outputs_of_class` gives them.
        """
        chosen = self._has(code)
        found = np.zeros(int(chosen.sum()), dtype=np.int64)
        return Score("accuracy", found, self.groups[chosen], self.seed)

    def outputs_of_class(self, outputs: Outputs, code: int) -> Outputs:
        """Column 0 is larger where the class, or the label, is found."""
        chosen = outputs[self._has(code)]
        found = chosen[:, code] >= 0.5 if self.name == "macro_F1" else chosen.argmax(1) == code
        return np.stack([found, ~found], 1).astype(np.float64)

    def constant(self) -> float:
        """The score of the best answer that is the same for all rows."""
        if self.name == "R2":
            return 0.0
        if self.name == "macro_F1":
            share = (self.truth > 0.5).mean(0)
            share = share[share > 0]
            return float((2 * share / (1 + share)).mean()) if len(share) else 0.0
        return float(np.bincount(self.truth).max() / len(self.truth))

    def _has(self, code: int) -> Bool[np.ndarray, " rows"]:
        return self.truth[:, code] > 0.5 if self.name == "macro_F1" else self.truth == code

    def _scores(
        self, asked: Sequence[Outputs], weights: Float[np.ndarray, "rows resamples"]
    ) -> Float[np.ndarray, "asked resamples"]:
        return self._of_sums(self._terms(asked) @ weights, len(asked), weights)

    def _terms(self, asked: Sequence[Outputs]) -> sparse.csr_array:
        """What each row adds to the sums of each output, outputs one after another."""
        if self.name == "R2":
            truth = self.truth.astype(np.float64)
            return summable(np.stack([(outputs[:, 0] - truth) ** 2 for outputs in asked]))
        if self.name == "macro_F1":
            present = self.truth.T > 0.5
            given = np.stack([outputs.T >= 0.5 for outputs in asked])
            both = np.stack([given & present, given], 1)
            return summable(both.reshape(-1, len(self.truth)))
        return summable(np.stack([outputs.argmax(1) == self.truth for outputs in asked]))

    def _of_sums(
        self,
        sums: Float[np.ndarray, "terms resamples"],
        num_asked: int,
        weights: Float[np.ndarray, "rows resamples"],
    ) -> Float[np.ndarray, "asked resamples"]:
        if self.name == "accuracy":
            return ratio(sums, weights.sum(0))
        if self.name == "R2":
            centred = self.truth - np.median(self.truth.astype(np.float64))
            first, second = summable(np.stack([centred, centred**2])) @ weights
            return 1 - ratio(sums, second - ratio(first**2, weights.sum(0)))
        hits, given = np.moveaxis(sums.reshape(num_asked, 2, -1, weights.shape[1]), 1, 0)
        present = summable(self.truth.T > 0.5) @ weights
        each = ratio(2 * hits, given + present)
        return ratio(np.nansum(each, 1), (~np.isnan(each)).sum(1))
