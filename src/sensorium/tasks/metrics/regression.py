"""Regression: share of variance explained, mean absolute and root mean squared error."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Real, Shaped

from sensorium.tasks.intervals import bootstrap, ratio, row_groups, summable
from sensorium.tasks.metrics.scores import Scores


def regression_scores(
    predictions: Real[np.ndarray, " rows"],
    targets: Real[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """`R2`, `MAE` and `RMSE`, the latter two in the units of the target.

    A constant target leaves nothing to explain: R2 is then undefined (None). `per_row["MAE"]` is
    the absolute error; `per_row["MSE"]`, the squared one, has no metric of its own.
    """
    clusters = row_groups(len(targets), groups)
    if len(predictions) != len(targets):
        raise ValueError(f"predictions: expected {len(targets)}, not {len(predictions)}")
    for name, values in (("prediction", predictions), ("target", targets)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(f"{name} {bad[0]} is {values[bad[0]]}: expected a finite number")
    target = targets.astype(np.float64)
    # Distance from a middle value, which keeps sums of squares exact for targets such as years and
    # makes a constant target exactly zero.
    centred = target - np.median(target) if len(target) else target
    error = predictions.astype(np.float64) - target
    errors = {"MAE": np.abs(error), "MSE": error**2}
    columns = summable(np.stack([*errors.values(), centred, centred**2]))

    def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
        count = weights.sum(axis=0)
        absolute, squared, first, second = columns @ weights
        spread = second - ratio(first**2, count)
        # Rounding leaves something of a resample that drew one value only.
        spread[~(spread > 1e-12 * second)] = 0
        return {
            "R2": 1 - ratio(squared, spread),
            "MAE": ratio(absolute, count),
            "RMSE": np.sqrt(ratio(squared, count)),
        }

    return Scores(
        metrics=bootstrap(statistic, clusters, resamples=resamples, seed=seed),
        per_row=errors,
        groups=dict.fromkeys(errors, clusters),
    )
