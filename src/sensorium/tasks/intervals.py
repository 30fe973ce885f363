"""Intervals: how far a number on these test rows, or over these seeds, can be trusted.

Within a run the uncertainty comes from the test rows: a percentile bootstrap, in which all rows of
a group (the captions of one picture, the questions about it) are drawn together, because they are
not independent evidence. Over seeds it comes from training: a t interval, paired when two systems
were trained on the same seeds.

Resampling is expressed as **weights**: a resample is the number of times that each row was drawn.
A metric is then written once, as a function of weights, and serves both for its value (all weights
one) and for a block of resamples at a time, without a loop over resamples.

What a percentile bootstrap cannot do: with fewer than about 20 groups it is too narrow, and where
every row has the same score (accuracy 1.0) it has no width, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped
from scipy import sparse
from scipy.special import stdtrit

from sensorium.types.draws import generator

# Weights of one block of resamples, as (rows, resamples): 2 MiB of float64, which stays in cache.
_BLOCK_ELEMENTS = 2**18

Statistic: TypeAlias = Callable[
    [Float[np.ndarray, "rows resamples"]], dict[str, Float[np.ndarray, " resamples"]]
]
"""Metrics by name, one value for each column of row weights, NaN where undefined."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its interval; None stands for undefined (never NaN, which JSON lacks)."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """The form in which `compare.json` holds a metric."""
        return {"value": self.value, "low": self.low, "high": self.high}


def ratio(
    numerator: Float[np.ndarray, "..."], denominator: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """The quotient, NaN where the denominator is zero."""
    quotient = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def summable(
    columns: Real[np.ndarray, "columns rows"] | Bool[np.ndarray, "columns rows"],
) -> sparse.csr_array:
    """Numbers of each row, in a form whose product with weights is their weighted sums.

    Sparse, because most are zero or one, and because a sparse product stays on one core: spread
    over threads, these small products took thirty times as long when another process was busy.
    """
    return sparse.csr_array(columns.astype(np.float64))


def weighted_median(
    values: Real[np.ndarray, " rows"], weights: Float[np.ndarray, "rows resamples"]
) -> Float[np.ndarray, " resamples"]:
    """The median of each resample, as `numpy.median` gives it: NaN where nothing was drawn."""
    order = np.argsort(values, kind="stable")
    twice = np.cumsum(weights[order], axis=0) * 2
    total = weights.sum(axis=0)
    # One row more, so that a resample without any row points somewhere.
    ordered = np.append(values[order].astype(np.float64), np.nan)
    lower = ordered[np.count_nonzero(twice < total, axis=0)]
    upper = ordered[np.count_nonzero(twice <= total, axis=0)]
    return np.where(total > 0, (lower + upper) / 2, np.nan)


def resample_weights(
    groups: Shaped[np.ndarray, " rows"], resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "rows resamples"]]:
    """Blocks of resamples: how often each row was drawn; rows of one group always together.

    The same groups and seed give the same resamples, whatever is measured on them.
    """
    _, group_of_row = np.unique(groups, return_inverse=True)
    num_groups = int(group_of_row.max()) + 1
    random = generator("bootstrap", seed)
    block = max(1, min(resamples, _BLOCK_ELEMENTS // len(groups)))
    for start in range(0, resamples, block):
        columns = min(block, resamples - start)
        drawn = random.integers(0, num_groups, size=(num_groups, columns))
        cells = drawn * columns + np.arange(columns)
        counts = np.bincount(cells.ravel(), minlength=num_groups * columns)
        yield counts.reshape(num_groups, columns).astype(np.float64)[group_of_row]


def bootstrap(
    statistic: Statistic,
    groups: Shaped[np.ndarray, " rows"],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Metric]:
    """Metrics with percentile intervals from resampling whole groups.

    A resample in which a metric is undefined (a class was never drawn) is left out of the interval
    of that metric. With fewer than two groups there is nothing to resample: no interval.

    Args:
        statistic: the metrics as a function of row weights.
        groups: an id for each row; distinct ids give the ordinary bootstrap over rows.
        resamples: number of resamples, shared by all metrics.
        confidence: coverage the interval aims at.
        seed: with the groups, decides the resamples.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    values = {name: float(v[0]) for name, v in statistic(np.ones((len(groups), 1))).items()}
    if len(groups) == 0 or bool((groups == groups[0]).all()) or resamples < 1:
        return {name: Metric(_defined(value)) for name, value in values.items()}
    blocks = [statistic(weights) for weights in resample_weights(groups, resamples, seed)]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    metrics = {}
    for name, value in values.items():
        draws = np.concatenate([block[name] for block in blocks])
        draws = draws[~np.isnan(draws)]
        if np.isnan(value) or len(draws) == 0:
            metrics[name] = Metric(_defined(value))
        else:
            low, high = np.quantile(draws, tails)
            metrics[name] = Metric(value, float(low), float(high))
    return metrics


def bootstrap_mean(
    rows: Real[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"] | None = None,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Metric:
    """The mean over rows with its bootstrap interval, clustered by group if groups are given."""
    _check_defined("row", rows)
    clusters = row_groups(len(rows), groups)
    values = summable(rows[None])

    def mean(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
        return {"mean": ratio((values @ weights)[0], weights.sum(axis=0))}

    found = bootstrap(mean, clusters, resamples=resamples, confidence=confidence, seed=seed)
    return found["mean"]


def paired_bootstrap(
    a_rows: Real[np.ndarray, " rows"],
    b_rows: Real[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"] | None = None,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Metric:
    """The mean of `a - b` over rows that both systems were scored on, in the same order.

    This is the interval for one seed each: it says whether the difference would hold on other rows
    of the same kind, not whether it would hold after training again.
    """
    if len(a_rows) != len(b_rows):
        raise ValueError(
            f"a paired bootstrap needs the same rows twice, not {len(a_rows)} and {len(b_rows)}"
        )
    difference = a_rows.astype(np.float64) - b_rows.astype(np.float64)
    return bootstrap_mean(difference, groups, resamples=resamples, confidence=confidence, seed=seed)


def mean_over_seeds(values: Sequence[float], confidence: float = 0.95) -> Metric:
    """The mean over seeds with its t interval; with one seed there is no interval."""
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) == 0:
        raise ValueError("the mean over seeds needs at least one seed")
    _check_defined("seed", numbers)
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Metric(mean)
    freedom = len(numbers) - 1
    error = float(numbers.std(ddof=1)) / len(numbers) ** 0.5
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return Metric(mean, mean - half, mean + half)


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Metric:
    """The mean of `a - b` with its paired t interval: one value a seed, seeds in the same order."""
    if len(a) != len(b):
        raise ValueError(f"a paired difference needs the same seeds, not {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return mean_over_seeds(difference.tolist(), confidence)


def row_groups(
    num_rows: int, groups: Shaped[np.ndarray, " rows"] | None
) -> Shaped[np.ndarray, " rows"]:
    """The groups to resample: those given, or every row its own."""
    if groups is None:
        return np.arange(num_rows)
    if len(groups) != num_rows:
        raise ValueError(f"groups: expected one id for each of {num_rows} rows, not {len(groups)}")
    return groups


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value


def _check_defined(what: str, values: Real[np.ndarray, " rows"]) -> None:
    undefined: Int[np.ndarray, " undefined"] = np.flatnonzero(~np.isfinite(values))
    if len(undefined):
        place = int(undefined[0])
        raise ValueError(f"{what} {place} is {values[place]}: expected a finite number")
