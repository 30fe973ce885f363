"""Interactions of two clustered inputs and a label, estimated from rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import sparse

from sensorium.diagnostics.interactions.bounds import (
    CONSTANT,
    Bounds,
    accuracy_limits,
    bound_synergy,
)
from sensorium.diagnostics.interactions.decomposition import (
    Decomposition,
    decompose,
    entropy,
    synergy,
)
from sensorium.tasks.intervals import Metric, resample_weights, row_groups

RESAMPLES = 100
LEAST = 0.005  # bits; a lower bound of less is none
_TAILS = (0.025, 0.975)
_ROUNDS = 10_000  # of fitting tables to each other, of which a few dozen suffice
_EXACT = 1e-12
_PARTS = ("redundancy", "unique_first", "unique_second", "synergy")
_LOWER = ("redundancy", "uniqueness")

Codes = Int[np.ndarray, " rows"]
Table = Float[np.ndarray, "one other"]


@dataclass(frozen=True)
class PairEstimate:
    """What two inputs tell of a label, in bits.

    Attributes:
        parts: redundancy, unique_first, unique_second, synergy.
        bounds: from_redundancy, from_uniqueness and upper: limits of the synergy that need no label
            of any pair. The first two say nothing where they are negative.
        interval: between which limits the synergy would be known to lie by them.
        active: which is the lower end: `redundancy`, `uniqueness`, or `none` where it is as good as 0.
        accuracy: between which limits that of the best model would be known to lie.
        label: the entropy of the label.
        shape: clusters of the first, of the second, classes; those that occur.
        gap: how wrong the solver can be.
    """

    parts: dict[str, Metric]
    bounds: dict[str, Metric]
    interval: tuple[float, float]
    active: str
    accuracy: tuple[float, float]
    label: float
    shape: tuple[int, int, int]
    gap: float

    def as_dict(self) -> dict[str, Any]:
        """The form in which `diagnosis.json` holds it."""
        return {
            **{name: metric.as_dict() for name, metric in self.parts.items()},
            "bounds": {name: metric.as_dict() for name, metric in self.bounds.items()},
            "interval": list(self.interval),
            "active": self.active,
            "accuracy": list(self.accuracy),
            "label": self.label,
            "clusters": list(self.shape[:2]),
            "classes": self.shape[2],
            "gap": self.gap,
        }


def estimate_pair(
    first: Codes,
    second: Codes,
    label: Codes,
    groups: Shaped[np.ndarray, " rows"] | None = None,
    *,
    resamples: int = RESAMPLES,
    constant: float = CONSTANT,
    seed: int = 0,
) -> PairEstimate:
    """The decomposition from labelled pairs, and the bounds that do without.

    Shares of rows are not probabilities: with few rows in a cell, chance looks like information. So
    values are corrected by what resampling adds once more, and intervals are turned around them (the
    basic bootstrap). That is linear, so that R + U1 is still I(X1;Y), and so on. What cannot be
    negative is then cut at 0.

    Args:
        first: the cluster of each row.
        second: that of the other input.
        label: the class.
        groups: rows of one group are resampled together; None for every row by itself.
        resamples: how many.
        constant: of the bound from uniqueness.
        seed: of the resamples.
    """
    tables = _resampled(first, second, label, row_groups(len(label), groups), resamples, seed)
    marginals = tables.sum(3), tables.sum(2), tables.sum(1)  # pairs, first, second
    parts = decompose(marginals[1], marginals[2])
    bounds = bound_synergy(marginals[1], marginals[2], marginals[0], parts=parts, constant=constant)
    found = {
        "redundancy": parts.redundancy,
        "unique_first": parts.unique_first,
        "unique_second": parts.unique_second,
        "synergy": synergy(tables, parts),
    }
    limits = {
        name: _corrected(values)
        for name, values in (
            ("from_redundancy", bounds.from_redundancy),
            ("from_uniqueness", bounds.from_uniqueness),
            ("upper", bounds.upper),
        )
    }
    lower = {name: limits[f"from_{name}"].value or 0.0 for name in _LOWER}
    active = max(_LOWER, key=lambda name: lower[name])
    of_label = tables[:1].sum((1, 2))
    uncertainty = float(entropy(of_label)[0])
    highest = min(limits["upper"].value or 0.0, uncertainty)
    interval = max(lower[active], 0.0), max(highest, lower[active], 0.0)
    known = _corrected(parts.without_synergy).value or 0.0
    accuracy = accuracy_limits(
        np.array([known + interval[0]]), np.array([known + interval[1]]), of_label
    )
    return PairEstimate(
        parts={name: _positive(_corrected(values)) for name, values in found.items()},
        bounds=limits,
        interval=interval,
        active=active if lower[active] >= LEAST else "none",
        accuracy=(float(accuracy[0][0]), float(accuracy[1][0])),
        label=uncertainty,
        shape=tables.shape[1:],
        gap=float(np.maximum(parts.gap, bounds.gap).max()),
    )


def _resampled(
    first: Codes,
    second: Codes,
    label: Codes,
    groups: Shaped[np.ndarray, " rows"],
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "tables first second label"]:
    """Shares of rows in each cell: of all rows, and of each resample. What never occurs is dropped."""
    codes = [np.unique(each, return_inverse=True) for each in (first, second, label)]
    shape = tuple(len(values) for values, _ in codes)
    cells = np.ravel_multi_index([places for _, places in codes], shape)
    size, rows = int(np.prod(shape)), np.arange(len(cells))
    sums = sparse.csr_array((np.ones(len(cells)), (cells, rows)), shape=(size, len(cells)))
    counts = [sums @ np.ones((len(cells), 1))]
    if len(np.unique(groups)) > 1 and resamples:
        counts += [sums @ weights for weights in resample_weights(groups, resamples, seed)]
    tables = np.concatenate(counts, 1).T
    return np.asarray((tables / tables.sum(1, keepdims=True)).reshape(-1, *shape))


def _corrected(values: Float[np.ndarray, " tables"]) -> Metric:
    """The value of all rows, less what resampling adds to it; its interval, turned around likewise."""
    if len(values) == 1:
        return Metric(float(values[0]))
    value, draws = values[0], values[1:]
    high, low = 2 * value - np.quantile(draws, _TAILS)
    return Metric(float(2 * value - draws.mean()), float(low), float(high))


def _positive(metric: Metric) -> Metric:
    ends = (
        None if end is None else max(end, 0.0) for end in (metric.value, metric.low, metric.high)
    )
    return Metric(*ends)


def bound_pair(
    first: tuple[Codes, Codes],
    second: tuple[Codes, Codes],
    pairs: tuple[Codes, Codes],
    *,
    constant: float = CONSTANT,
) -> tuple[Decomposition, Bounds]:
    """Redundancy, uniqueness and limits of the synergy from rows of which no pair has a label.

    The three sets of rows need have nothing in common. Their tables are fitted to each other, so that
    they agree about how frequent clusters and classes are; to each is added one row, spread as if its
    two columns were independent, so that they can.

    Args:
        first: clusters and classes of rows with the first input.
        second: of rows with the second input.
        pairs: clusters of both, of rows with both and without a label.
        constant: of the bound from uniqueness.
    """
    sizes = (
        int(max(first[0].max(), pairs[0].max())) + 1,
        int(max(second[0].max(), pairs[1].max())) + 1,
        int(max(first[1].max(), second[1].max())) + 1,
    )
    of_first = _counts(first, (sizes[0], sizes[2]))
    of_second = _counts(second, (sizes[1], sizes[2]))
    of_pairs = _counts(pairs, (sizes[0], sizes[1]))
    one = _shares(of_first.sum(1) + of_pairs.sum(1))
    other = _shares(of_second.sum(1) + of_pairs.sum(0))
    label = _shares(of_first.sum(0) + of_second.sum(0))
    fitted = [
        _fitted(of_first, one, label)[None],
        _fitted(of_second, other, label)[None],
        _fitted(of_pairs, one, other)[None],
    ]
    parts = decompose(fitted[0], fitted[1])
    return parts, bound_synergy(*fitted, parts=parts, constant=constant)


def _counts(codes: tuple[Codes, Codes], shape: tuple[int, int]) -> Table:
    places = np.ravel_multi_index(codes, shape)
    return np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def _shares(counts: Float[np.ndarray, " cells"]) -> Float[np.ndarray, " cells"]:
    return np.asarray(counts / counts.sum())


def _fitted(
    counts: Table, rows: Float[np.ndarray, " one"], columns: Float[np.ndarray, " other"]
) -> Table:
    """The table nearest to the counts that has these marginals (iterative proportional fitting)."""
    table = counts + np.outer(rows, columns)
    table /= table.sum()
    for _ in range(_ROUNDS):
        table = _scaled(table, rows, 1)
        if np.abs(table.sum(0) - columns).max() < _EXACT:
            break
        table = _scaled(table, columns, 0)
    return table


def _scaled(table: Table, wanted: Float[np.ndarray, " cells"], axis: int) -> Table:
    total = table.sum(axis)
    factor = np.divide(wanted, total, out=np.zeros_like(wanted), where=total > 0)
    return np.asarray(table * np.expand_dims(factor, axis))
