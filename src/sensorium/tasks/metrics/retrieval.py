"""Retrieval: recall at 1, 5 and 10, median and mean rank, mean reciprocal rank."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from sensorium.tasks.intervals import bootstrap, ratio, summable, weighted_median
from sensorium.tasks.metrics.ranking import RankResult
from sensorium.tasks.metrics.scores import Scores

_CUTOFFS = (1, 5, 10)


def retrieval_scores(
    first: RankResult,
    second: RankResult | None = None,
    names: tuple[str, str] = ("image", "text"),
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Metrics of each direction, and the mean of both under the bare name.

    With names `("image", "text")` the keys are `image->text/R@1` (pictures ask), `text->image/R@1`
    (captions ask) and `R@1`, their mean; likewise `R@5`, `R@10`, `MRR`, `mean_rank`, `median_rank`.
    The interval of a mean comes from resampling both directions together: a group (a picture with
    its captions) is drawn with the queries of both sides. Candidates and pools stay as they are.

    `per_row` has, beside the queries of each direction, the bare names: the queries of the first
    side followed by those of the second, scaled so that the mean over all of them is the mean of
    both directions. `counts` declares the candidates that each query was ranked among.

    Args:
        first: the queries of `names[0]`.
        second: the queries of `names[1]`, or None where only one direction makes sense; bare names
            then stand for that one direction.
        names: what the two sides are called.
        resamples: bootstrap resamples.
        seed: decides the resamples.
    """
    directions = {f"{names[0]}->{names[1]}": first}
    if second is not None:
        directions[f"{names[1]}->{names[0]}"] = second
    rows = {name: _rows(result.ranks) for name, result in directions.items()}
    columns = {name: summable(np.stack(list(own.values()))) for name, own in rows.items()}
    ends = np.cumsum([0, *(len(result.ranks) for result in directions.values())])
    all_groups = np.concatenate([result.groups for result in directions.values()])

    def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
        metrics: dict[str, np.ndarray] = {}
        for index, (name, result) in enumerate(directions.items()):
            own = weights[ends[index] : ends[index + 1]]
            sums = columns[name] @ own
            for key, mean in zip(rows[name], ratio(sums, own.sum(axis=0)), strict=True):
                metrics[f"{name}/{key}"] = mean
            metrics[f"{name}/median_rank"] = weighted_median(result.ranks, own)
        for key in [*next(iter(rows.values())), "median_rank"]:
            metrics[key] = np.mean([metrics[f"{name}/{key}"] for name in directions], axis=0)
        return metrics

    per_row, groups = {}, {}
    for name, result in directions.items():
        for key, values in rows[name].items():
            per_row[f"{name}/{key}"] = values
            groups[f"{name}/{key}"] = result.groups
    for key in next(iter(rows.values())):
        share = len(all_groups) / len(directions)
        scaled = [own[key] * (share / max(1, len(own[key]))) for own in rows.values()]
        per_row[key] = np.concatenate(scaled)
        groups[key] = all_groups
    return Scores(
        metrics=bootstrap(statistic, all_groups, resamples=resamples, seed=seed),
        per_row=per_row,
        groups=groups,
        counts={f"{name}/candidates": result.candidates for name, result in directions.items()},
    )


def _rows(ranks: Int[np.ndarray, " queries"]) -> dict[str, Float[np.ndarray, " queries"]]:
    if ranks.min(initial=1) < 1:
        raise ValueError(f"query {int(np.argmin(ranks))} has rank {ranks.min()}: ranks start at 1")
    columns = {f"R@{cutoff}": (ranks <= cutoff).astype(np.float64) for cutoff in _CUTOFFS}
    return columns | {"MRR": 1 / ranks, "mean_rank": ranks.astype(np.float64)}
