from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sensorium.tasks.intervals import (
    Metric,
    bootstrap,
    bootstrap_mean,
    mean_over_seeds,
    paired_bootstrap,
    paired_difference,
    ratio,
    resample_weights,
    weighted_median,
)


def width(metric: Metric) -> float:
    assert metric.low is not None
    assert metric.high is not None
    return metric.high - metric.low


def test_as_dict_is_the_form_of_compare_json() -> None:
    assert Metric(0.5, 0.25, 0.75).as_dict() == {"value": 0.5, "low": 0.25, "high": 0.75}
    assert Metric(None).as_dict() == {"value": None, "low": None, "high": None}


def test_every_resample_draws_as_many_groups_as_there_are() -> None:
    groups = np.array([7, 7, 3, 9, 3, 3])
    weights = np.concatenate(list(resample_weights(groups, 50, seed=1)), axis=1)
    assert weights.shape == (6, 50)
    assert (weights[0] == weights[1]).all()
    assert (weights[2] == weights[[4, 5]]).all()
    assert (weights[[0, 2, 3]].sum(axis=0) == 3).all()


def test_weights_are_the_frequencies_of_drawing_with_replacement() -> None:
    weights = np.concatenate(list(resample_weights(np.arange(20), 4000, seed=2)), axis=1)
    # Binomial(20, 1/20): mean 1, variance 0.95.
    assert abs(weights.var() - 0.95) < 0.03
    assert np.abs(weights.mean(axis=1) - 1).max() < 0.07


def test_the_interval_of_a_mean_is_the_quantile_of_drawn_means() -> None:
    rows = np.random.default_rng(0).normal(size=40)
    metric = bootstrap_mean(rows, resamples=200, confidence=0.9, seed=3)
    weights = np.concatenate(list(resample_weights(np.arange(40), 200, seed=3)), axis=1)
    means = [np.repeat(rows, column.astype(int)).mean() for column in weights.T]
    assert metric.value == pytest.approx(rows.mean())
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))


def test_coverage_of_a_mean() -> None:
    random = np.random.default_rng(11)
    runs, covered = 300, 0
    for run in range(runs):
        metric = bootstrap_mean(random.exponential(size=80), resamples=500, seed=run)
        assert metric.low is not None
        assert metric.high is not None
        covered += metric.low <= 1.0 <= metric.high
    assert 0.90 <= covered / runs <= 0.99


def test_coverage_of_a_clustered_mean() -> None:
    random = np.random.default_rng(12)
    groups = np.repeat(np.arange(60), 5)
    runs, clustered, unclustered = 200, 0, 0
    for run in range(runs):
        rows = random.normal(size=60)[groups] + 0.3 * random.normal(size=300)
        whole = bootstrap_mean(rows, groups, resamples=400, seed=run)
        single = bootstrap_mean(rows, resamples=400, seed=run)
        clustered += whole.low <= 0 <= whole.high
        unclustered += single.low <= 0 <= single.high
        assert width(whole) > 1.5 * width(single)
    assert 0.89 <= clustered / runs <= 0.99
    assert unclustered / runs < 0.8


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    rows = np.random.default_rng(0).normal(size=100)
    assert bootstrap_mean(rows, seed=4) == bootstrap_mean(rows, seed=4)
    assert bootstrap_mean(rows, seed=4) != bootstrap_mean(rows, seed=5)


def test_group_ids_may_be_text_and_only_their_equality_counts() -> None:
    rows = np.arange(6.0)
    by_text = bootstrap_mean(rows, np.array(["a", "a", "b", "b", "c", "c"]))
    assert by_text == bootstrap_mean(rows, np.array([1, 1, 4, 4, 9, 9]))


@pytest.mark.parametrize("groups", [np.array([], dtype=int), np.array([3]), np.array([3, 3, 3])])
def test_fewer_than_two_groups_have_no_interval(groups: np.ndarray) -> None:
    metric = bootstrap_mean(np.ones(len(groups)), groups)
    assert metric == Metric(1.0 if len(groups) else None)


def test_undefined_resamples_are_left_out_and_undefined_metrics_are_none() -> None:
    rare = np.zeros(12)
    rare[0] = 1

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        nothing = np.full(weights.shape[1], np.nan)
        return {"rare": ratio(2 * (rare @ weights), rare @ weights), "nothing": nothing}

    metrics = bootstrap(statistic, np.arange(12))
    assert metrics["rare"] == Metric(2.0, 2.0, 2.0)
    assert metrics["nothing"] == Metric(None)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="row 1 is nan"):
        bootstrap_mean(np.array([1.0, np.nan]))
    with pytest.raises((ValueError, TypeError), match=r"of 2 rows, not 3|Type-check error"):
        bootstrap_mean(np.ones(2), np.arange(3))
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean(np.ones(2), confidence=95.0)
    with pytest.raises((ValueError, TypeError), match=r"not 2 and 3|Type-check error"):
        paired_bootstrap(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="the same seeds, not 1 and 2"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one seed"):
        mean_over_seeds([])
    with pytest.raises(ValueError, match="seed 0 is nan"):
        mean_over_seeds([float("nan")])


def test_pairing_removes_what_both_systems_share() -> None:
    random = np.random.default_rng(5)
    difficulty = random.normal(size=400)
    a = difficulty + 0.05 + 0.1 * random.normal(size=400)
    b = difficulty + 0.1 * random.normal(size=400)
    metric = paired_bootstrap(a, b, seed=1)
    assert metric.value == pytest.approx((a - b).mean())
    assert metric.low > 0
    assert width(metric) < width(bootstrap_mean(a)) / 4
    swapped = paired_bootstrap(b, a, seed=1)
    assert (swapped.low, swapped.high) == pytest.approx((-metric.high, -metric.low))


def test_paired_t_by_hand() -> None:
    a, b = [0.71, 0.74, 0.69, 0.77, 0.73], [0.68, 0.73, 0.70, 0.71, 0.70]
    metric = paired_difference(a, b)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert metric.value == pytest.approx(0.024)
    assert (metric.low, metric.high) == pytest.approx((expected.low, expected.high))
    # Differences 3, 1, -1, 6, 3 hundredths: deviation 2.6077, t(4) = 2.7764.
    assert metric.high - metric.value == pytest.approx(0.026077 * 2.7764 / 5**0.5, rel=1e-4)


def test_mean_over_seeds() -> None:
    values = [3.0, 5.0, 4.0]
    expected = stats.t.interval(0.9, 2, loc=4.0, scale=stats.sem(values))
    metric = mean_over_seeds(values, confidence=0.9)
    assert (metric.low, metric.high) == pytest.approx(expected)
    assert mean_over_seeds([2.0]) == Metric(2.0)
    assert mean_over_seeds([2.0, 2.0]) == Metric(2.0, 2.0, 2.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), max_size=12))
def test_weighted_median_is_the_median_of_repeated_values(pairs: list[tuple[int, int]]) -> None:
    values = np.array([value for value, _ in pairs], dtype=np.int64)
    weights = np.array([weight for _, weight in pairs], dtype=np.float64)
    found = weighted_median(values, weights[:, None])[0]
    repeated = np.repeat(values, weights.astype(int))
    if len(repeated):
        assert found == np.median(repeated)
    else:
        assert np.isnan(found)
