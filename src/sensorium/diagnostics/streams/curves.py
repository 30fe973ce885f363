"""Curves over layers with their intervals, and the few numbers that stand for one."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sensorium.diagnostics.streams.flow import Changes
from sensorium.tasks.intervals import Metric, bootstrap, ratio, summable


def describe_changes(changes: Changes, groups: Int[np.ndarray, " rows"]) -> dict[str, Any]:
    """Means over rows with bootstrap intervals, and what sums the curve up.

    A change is a ratio within a row, and rows are averaged; not the ratio of averages. Summed up are the
    drops, that is what the mean change of a window lies below zero:

        peak   the mean layer, counted from 1, each weighted by its drop; none if nothing drops
        drop   the largest
        area   the mean over layers, so that models of different depth compare

    Args:
        changes: of rows and layers, the last column that of all layers together.
        groups: rows of one group are resampled together.
    """
    known = ~np.isnan(changes[:, 0])
    if not known.any():
        return {"rows": 0}
    changes, groups = changes[known], groups[known]
    num_layers = changes.shape[1] - 1
    names = [*(f"layer {layer}" for layer in range(num_layers)), "everywhere"]
    sums = summable(changes.T)
    depth = np.arange(1, num_layers + 1, dtype=np.float64)[:, None]

    def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
        means = ratio(sums @ weights, weights.sum(0)[None])
        drops = np.maximum(-means[:-1], 0)
        return {
            **dict(zip(names, means, strict=True)),
            "peak": ratio((depth * drops).sum(0), drops.sum(0)),
            "drop": drops.max(0),
            "area": drops.mean(0),
        }

    found = bootstrap(statistic, groups)
    return {
        "rows": len(changes),
        "layers": [found[name].as_dict() for name in names[:-1]],
        **{name: found[name].as_dict() for name in ("everywhere", "peak", "drop", "area")},
    }


def describe_layers(
    values: Float[np.ndarray, "rows layers"], groups: Int[np.ndarray, " rows"]
) -> list[dict[str, float | None]]:
    """The mean of each layer over the rows that have it."""
    known = ~np.isnan(values[:, 0])
    if not known.any():
        return [Metric(None).as_dict()] * values.shape[1]
    sums = summable(values[known].T)

    def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
        means = ratio(sums @ weights, weights.sum(0)[None])
        return {str(layer): mean for layer, mean in enumerate(means)}

    found = bootstrap(statistic, groups[known])
    return [found[str(layer)].as_dict() for layer in range(values.shape[1])]
