"""What every task-level metric function returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Shaped

from sensorium.tasks.intervals import Metric

_LOWER_IS_BETTER = frozenset({"MAE", "RMSE", "median_rank", "mean_rank"})


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics of one system on one set of test rows.

    Attributes:
        metrics: by key (`accuracy`, `text->image/R@1`), each with its interval.
        per_row: for metrics that are a mean over rows, the number each row contributes, in the
            order of the rows, so that two systems can be compared row by row
            (`paired_bootstrap`). Same keys as in `metrics`.
        groups: for each key of `per_row`, what is resampled together.
        counts: whole numbers worth showing beside the metrics: a confusion matrix, the number of
            candidates that each query was ranked among.
    """

    metrics: dict[str, Metric]
    per_row: dict[str, Shaped[np.ndarray, " rows"]]
    groups: dict[str, Shaped[np.ndarray, " rows"]]
    counts: dict[str, Shaped[np.ndarray, "..."]] = field(default_factory=dict)


def lower_is_better(key: str) -> bool:
    """Whether a smaller value of this metric is a better one (`image->text/mean_rank`)."""
    return key.rsplit("/", 1)[-1] in _LOWER_IS_BETTER
