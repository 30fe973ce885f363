from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from torchmetrics.functional import classification as torch_reference
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_reciprocal_rank

from sensorium.tasks.intervals import Metric, paired_bootstrap, resample_weights
from sensorium.tasks.metrics import (
    RankResult,
    Scores,
    answer_scores,
    assign_pools,
    caption_scores,
    classification_scores,
    lower_is_better,
    multilabel_scores,
    rank_pair_from_embeddings,
    rank_pair_from_scores,
    ranks_from_embeddings,
    ranks_from_scores,
    regression_scores,
    retrieval_scores,
)


def value(scores: Scores, key: str) -> float | None:
    return scores.metrics[key].value


def refused(message: str) -> pytest.RaisesExc:
    """Wrong lengths: refused with a message, or before by the type check where that is on."""
    return pytest.raises((ValueError, TypeError), match=f"{message}|Type-check error")


def check_rows(scores: Scores) -> None:
    """Per-row numbers are what their metric is the mean of."""
    for key, rows in scores.per_row.items():
        assert len(scores.groups[key]) == len(rows)
        if key in scores.metrics and len(rows):
            assert rows.mean() == pytest.approx(value(scores, key))


# Ranks


def naive_ranks(
    scores: np.ndarray,
    query_groups: np.ndarray,
    candidate_groups: np.ndarray,
    query_pools: np.ndarray,
    candidate_pools: np.ndarray,
) -> list[int]:
    ranks = []
    for query, row in enumerate(scores):
        relevant, irrelevant = [], []
        for candidate, score in enumerate(row):
            if candidate_pools[candidate] == query_pools[query]:
                same = candidate_groups[candidate] == query_groups[query]
                (relevant if same else irrelevant).append(score)
        ranks.append(1 + sum(score >= max(relevant) for score in irrelevant))
    return ranks


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 5), st.booleans())
def test_ranks_equal_a_naive_loop(seed: int, groups: int, block: int, pooled: bool) -> None:
    random = np.random.default_rng(seed)
    # Every group on both sides, some of them several times, and few distinct values: many ties.
    first = random.permutation(np.append(np.arange(groups), random.integers(0, groups, 4)))
    second = random.permutation(np.append(np.arange(groups), random.integers(0, groups, 7)))
    a = random.integers(-2, 3, size=(len(first), 3)).astype(np.float32)
    b = random.integers(-2, 3, size=(len(second), 3)).astype(np.float32)
    pool_of_group = random.integers(0, 3 if pooled else 1, groups)
    pools = (pool_of_group[first], pool_of_group[second])
    given_pools = pools if pooled else (None, None)
    expected = naive_ranks(a @ b.T, first, second, *pools)
    expected_back = naive_ranks(b @ a.T, second, first, *pools[::-1])

    keys = {"query_pools": given_pools[0], "candidate_pools": given_pools[1], "block": block}
    assert ranks_from_scores(a @ b.T, first, second, **keys).tolist() == expected
    assert ranks_from_embeddings(a, b, first, second, **keys).tolist() == expected
    keys = {"first_pools": given_pools[0], "second_pools": given_pools[1], "block": block}
    for pair in (
        rank_pair_from_scores(a @ b.T, first, second, **keys),
        rank_pair_from_embeddings(a, b, first, second, **keys),
    ):
        assert [side.ranks.tolist() for side in pair] == [expected, expected_back]
        assert pair[0].candidates.tolist() == [(pools[1] == pool).sum() for pool in pools[0]]
        assert pair[1].candidates.tolist() == [(pools[0] == pool).sum() for pool in pools[1]]


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.float32, np.float64])
def test_constant_scores_come_last(dtype: type) -> None:
    scores = np.ones((6, 6), dtype=dtype)
    assert (ranks_from_scores(scores, np.arange(6), np.arange(6)) == 6).all()


def test_collapsed_embeddings_come_last() -> None:
    same = np.tile(np.random.default_rng(0).normal(size=(1, 33)).astype(np.float32), (203, 1))
    first, second = rank_pair_from_embeddings(same, same, np.arange(203), np.arange(203), block=64)
    scores = retrieval_scores(first, second)
    for key in ("R@1", "R@5", "R@10"):
        assert value(scores, key) == 0


def test_ties_among_relevant_candidates_do_not_count() -> None:
    scores = np.array([[3.0, 3.0, 3.0, 1.0]])
    assert ranks_from_scores(scores, np.array([0]), np.array([0, 0, 0, 1])).tolist() == [1]
    assert ranks_from_scores(scores, np.array([0]), np.array([0, 0, 1, 1])).tolist() == [2]


def test_a_relevant_score_of_minus_infinity_is_last() -> None:
    scores = np.array([[-np.inf, 0.0, -np.inf]])
    assert ranks_from_scores(scores, np.array([0]), np.arange(3)).tolist() == [3]


def test_distractors_are_candidates_only() -> None:
    scores = np.array([[0.2, 0.9, 0.5], [0.1, 0.3, 0.4]])
    queries, candidates = np.array(["x", "z"]), np.array(["x", "y", "z"])
    assert ranks_from_scores(scores, queries, candidates).tolist() == [3, 1]
    with pytest.raises(ValueError, match=r"second side, row 1 \(group y\) has no relevant"):
        rank_pair_from_scores(scores, queries, candidates)


def test_rank_refusals() -> None:
    groups = np.arange(3)
    scores = np.eye(3)
    scores[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"scores\[2, 1\] is NaN"):
        ranks_from_scores(scores, groups, groups)
    # Outside of the pools nothing is read.
    pools = np.array([0, 1, 2])
    found = ranks_from_scores(scores, groups, groups, query_pools=pools, candidate_pools=pools)
    assert found.tolist() == [1, 1, 1]
    embeddings = np.eye(3, dtype=np.float32)
    for bad in (np.nan, np.inf, 1e30):
        embeddings[1, 0] = bad
        with pytest.raises(ValueError, match="candidate embedding 1 holds NaN, infinity"):
            ranks_from_embeddings(np.eye(3), embeddings, groups, groups)
    with pytest.raises(ValueError, match=r"query 0 \(group 0\) has no relevant .*3 of 3"):
        ranks_from_scores(np.eye(3), groups, groups + 5)
    with pytest.raises(ValueError, match="for both sides or for neither"):
        ranks_from_scores(np.eye(3), groups, groups, query_pools=pools)
    with refused("groups of the second side: expected 3 ids, not 2"):
        ranks_from_scores(np.eye(3), groups, groups[:2])


def test_assigned_pools_are_even_and_keep_groups_together() -> None:
    first, second = np.arange(5000), np.repeat(np.arange(5000), 2)
    a, b = assign_pools(first, second, 256, seed=3)
    assert np.bincount(a).tolist() == [250] * 20
    assert (b == a[second]).all()
    assert (assign_pools(first, second, 256, seed=3)[0] == a).all()
    assert (assign_pools(first, second, 256, seed=4)[0] != a).any()
    assert (assign_pools(np.arange(5), np.arange(5), 256)[0] == 0).all()
    with pytest.raises(ValueError, match="at least one group"):
        assign_pools(first, second, 0)


# Retrieval


def scores_of_captions(num_images: int = 30, captions: int = 5, seed: int = 0) -> tuple:
    random = np.random.default_rng(seed)
    images = np.arange(num_images)
    texts = random.permutation(np.repeat(images, captions))
    scores = random.normal(size=(num_images, len(texts))) + 2.0 * (images[:, None] == texts)
    return scores, images, texts


def test_retrieval_equals_torchmetrics() -> None:
    scores, images, texts = scores_of_captions()
    result = retrieval_scores(*rank_pair_from_scores(scores, images, texts), resamples=20)
    for name, matrix, queries, candidates in (
        ("image->text", scores, images, texts),
        ("text->image", scores.T, texts, images),
    ):
        relevant = torch.from_numpy(queries[:, None] == candidates)
        # torchmetrics takes a candidate with a score of zero or less for irrelevant.
        predictions = torch.from_numpy(matrix - matrix.min() + 1)
        for k in (1, 5, 10):
            hits = [
                float(retrieval_hit_rate(row, target, top_k=k))
                for row, target in zip(predictions, relevant, strict=True)
            ]
            assert value(result, f"{name}/R@{k}") == pytest.approx(np.mean(hits))
            assert result.per_row[f"{name}/R@{k}"].tolist() == hits
        reciprocal = [
            float(retrieval_reciprocal_rank(row, target))
            for row, target in zip(predictions, relevant, strict=True)
        ]
        assert value(result, f"{name}/MRR") == pytest.approx(np.mean(reciprocal))
        ranks = ranks_from_scores(matrix, queries, candidates)
        assert value(result, f"{name}/median_rank") == np.median(ranks)
        assert value(result, f"{name}/mean_rank") == pytest.approx(ranks.mean())
        assert (result.counts[f"{name}/candidates"] == len(candidates)).all()
    check_rows(result)


def test_the_bare_name_is_the_mean_of_both_directions_and_resampled_as_one() -> None:
    scores, images, texts = scores_of_captions()
    pair = rank_pair_from_scores(scores, images, texts)
    result = retrieval_scores(*pair, resamples=300, seed=7)
    both = [value(result, f"{name}/R@1") for name in ("image->text", "text->image")]
    assert value(result, "R@1") == pytest.approx(np.mean(both))

    weights = np.concatenate(
        list(resample_weights(np.concatenate([images, texts]), 300, seed=7)), axis=1
    )
    hits = [(side.ranks == 1) for side in pair]
    draws = [
        (np.average(hits[0], weights=w[:30]) + np.average(hits[1], weights=w[30:])) / 2
        for w in weights.T
    ]
    metric = result.metrics["R@1"]
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_two_systems_can_be_compared_row_by_row_on_the_mean_of_directions() -> None:
    results = []
    for noise in (0.0, 1.5):
        scores, images, texts = scores_of_captions()
        scores = scores + noise * np.random.default_rng(9).normal(size=scores.shape)
        results.append(retrieval_scores(*rank_pair_from_scores(scores, images, texts)))
    good, bad = results
    metric = paired_bootstrap(good.per_row["R@1"], bad.per_row["R@1"], good.groups["R@1"])
    assert metric.value == pytest.approx(value(good, "R@1") - value(bad, "R@1"))
    assert metric.low > 0


def test_one_direction_only() -> None:
    ranks = RankResult(np.array([1, 2, 11]), np.arange(3), np.full(3, 20))
    result = retrieval_scores(ranks, names=("query", "target"))
    assert value(result, "R@1") == value(result, "query->target/R@1") == pytest.approx(1 / 3)
    assert value(result, "R@10") == pytest.approx(2 / 3)
    assert not any("target->query" in key for key in result.metrics)
    check_rows(result)
    with pytest.raises(ValueError, match="query 1 has rank 0"):
        retrieval_scores(RankResult(np.array([1, 0]), np.arange(2), np.full(2, 2)))


def test_lower_is_better() -> None:
    assert lower_is_better("text->image/median_rank")
    assert lower_is_better("MAE")
    assert not lower_is_better("text->image/R@1")


# Classification


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("decimals", [1, 8])
def test_classification_equals_scikit_learn(num_classes: int, decimals: int) -> None:
    random = np.random.default_rng(num_classes)
    labels = random.integers(0, num_classes, 200)
    logits = random.normal(size=(200, num_classes)) + np.eye(num_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rounded = probabilities.round(decimals)
    result = classification_scores(rounded, labels, resamples=20)
    predicted = rounded.argmax(axis=1)
    assert value(result, "accuracy") == pytest.approx(np.mean(predicted == labels))
    balanced = reference.balanced_accuracy_score(labels, predicted)
    assert value(result, "balanced_accuracy") == pytest.approx(balanced)
    f1 = reference.f1_score(labels, predicted, average="macro")
    assert value(result, "macro_F1") == pytest.approx(f1)
    recalls = reference.recall_score(labels, predicted, average=None)
    assert [value(result, f"recall/{i}") for i in range(num_classes)] == pytest.approx(recalls)
    confusion = reference.confusion_matrix(labels, predicted)
    assert (result.counts["confusion"] == confusion).all()
    if num_classes == 2:
        area = reference.roc_auc_score(labels, rounded[:, 1])
    else:
        one_hot = np.eye(num_classes)[labels]
        area = reference.roc_auc_score(one_hot, rounded, average="macro")
    assert value(result, "macro_AUROC") == pytest.approx(area)
    check_rows(result)


def test_macro_auroc_equals_torchmetrics_and_one_against_the_rest() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, 150)
    probabilities = random.dirichlet(np.ones(4), size=150)
    found = value(classification_scores(probabilities, labels, resamples=1), "macro_AUROC")
    against = torch_reference.multiclass_auroc(
        torch.from_numpy(probabilities), torch.from_numpy(labels), 4, thresholds=None
    )
    assert found == pytest.approx(float(against), abs=1e-6)
    rest = reference.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert found == pytest.approx(rest)


def test_every_resample_gets_the_metric_of_the_rows_drawn() -> None:
    random = np.random.default_rng(2)
    labels = np.append(np.arange(3), random.integers(0, 3, 37))
    probabilities = random.dirichlet(np.ones(3), size=40).round(2) + 0.2 * np.eye(3)[labels]
    result = classification_scores(probabilities, labels, resamples=60, seed=5)
    weights = np.concatenate(list(resample_weights(np.arange(40), 60, seed=5)), axis=1)
    draws: dict[str, list[float]] = {"macro_AUROC": [], "macro_F1": [], "balanced_accuracy": []}
    for column in weights.T.astype(int):
        label, score = np.repeat(labels, column), np.repeat(probabilities, column, axis=0)
        predicted = score.argmax(axis=1)
        draws["macro_AUROC"].append(reference.roc_auc_score(np.eye(3)[label], score))
        draws["macro_F1"].append(reference.f1_score(label, predicted, average="macro"))
        draws["balanced_accuracy"].append(reference.balanced_accuracy_score(label, predicted))
    for key, drawn in draws.items():
        metric = result.metrics[key]
        expected = tuple(np.quantile(drawn, [0.025, 0.975]))
        assert (metric.low, metric.high) == pytest.approx(expected)


def test_a_class_absent_from_the_rows_is_left_out() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    probabilities = np.array(
        [[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]]
    )
    result = classification_scores(probabilities, labels, class_names=["cat", "dog", "owl"])
    assert result.metrics["recall/owl"] == Metric(None)
    assert value(result, "balanced_accuracy") == pytest.approx((1 / 2 + 2 / 3) / 2)
    # The owl was predicted once, so it counts for F1, as in scikit-learn.
    f1 = reference.f1_score(labels, probabilities.argmax(axis=1), average="macro")
    assert value(result, "macro_F1") == pytest.approx(f1)
    areas = [reference.roc_auc_score(labels == i, probabilities[:, i]) for i in range(2)]
    assert value(result, "macro_AUROC") == pytest.approx(np.mean(areas))
    assert result.counts["confusion"].shape == (3, 3)


def test_one_class_only_leaves_auroc_undefined() -> None:
    result = classification_scores(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    assert result.metrics["macro_AUROC"] == Metric(None)
    assert value(result, "accuracy") == value(result, "balanced_accuracy") == 0.5


def test_no_rows_leave_everything_undefined() -> None:
    empty = classification_scores(np.zeros((0, 3)), np.zeros(0, dtype=int))
    several = multilabel_scores(np.zeros((0, 3)), np.zeros((0, 3), dtype=bool))
    numbers = regression_scores(np.zeros(0), np.zeros(0))
    texts = answer_scores([], []), caption_scores([], [])
    for scores in (empty, several, numbers, *texts):
        assert all(metric == Metric(None) for metric in scores.metrics.values())


def test_classification_refusals() -> None:
    good = np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match=r"row 1 has label 2: expected 0 to 1"):
        classification_scores(good, np.array([0, 2]))
    with pytest.raises(ValueError, match=r"probabilities\[0, 1\] is NaN"):
        classification_scores(np.array([[0.5, np.nan]]), np.array([0]))
    with pytest.raises(ValueError, match="no columns"):
        classification_scores(np.zeros((2, 0)), np.array([0, 0]))
    with refused("labels: expected 2"):
        classification_scores(good, np.array([0]))
    with pytest.raises(ValueError, match="2 different names"):
        classification_scores(good, np.array([0, 1]), class_names=["a", "a"])
    with refused("expected shape"):
        multilabel_scores(good, np.ones((2, 3), dtype=bool))


def test_multilabel_equals_scikit_learn() -> None:
    random = np.random.default_rng(3)
    labels = random.random((150, 5)) < [0.5, 0.2, 0.1, 0.7, 0.0]
    probabilities = (0.6 * random.random((150, 5)) + 0.4 * labels).round(2)
    predicted = probabilities >= 0.5
    result = multilabel_scores(probabilities, labels, groups=np.arange(150) // 3, resamples=50)
    assert value(result, "accuracy") == pytest.approx(np.mean(predicted == labels))
    exact = reference.accuracy_score(labels, predicted)
    assert value(result, "exact_match") == pytest.approx(exact)
    f1 = reference.f1_score(labels, predicted, average=None, zero_division=np.nan)
    assert value(result, "macro_F1") == pytest.approx(np.nanmean(f1))
    defined = range(4)
    areas = [reference.roc_auc_score(labels[:, i], probabilities[:, i]) for i in defined]
    assert value(result, "macro_AUROC") == pytest.approx(np.mean(areas))
    balanced = [reference.balanced_accuracy_score(labels[:, i], predicted[:, i]) for i in defined]
    assert value(result, "balanced_accuracy") == pytest.approx(np.mean(balanced))
    confusion = reference.multilabel_confusion_matrix(labels, predicted)
    assert (result.counts["confusion"] == confusion).all()
    assert result.metrics["recall/4"] == Metric(None)
    against = torch_reference.multilabel_auroc(
        torch.from_numpy(probabilities[:, :4]), torch.from_numpy(labels[:, :4]).long(), 4
    )
    assert value(result, "macro_AUROC") == pytest.approx(float(against), abs=1e-6)
    check_rows(result)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_scores_never_fail_or_warn_on_small_data(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.integers(0, 3, size=(rows, 3)) / 2
    labels = random.integers(0, 3, rows)
    groups = random.integers(0, 4, rows)
    said = random.choice(["", "1", "a 2", "yes", "no 1 1"], rows).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [
            classification_scores(probabilities, labels, groups, resamples=30),
            multilabel_scores(probabilities, probabilities[::-1] > 0.6, groups, resamples=30),
            regression_scores(probabilities[:, 0], probabilities[:, 1], groups, resamples=30),
            answer_scores(said, [[str(n)] for n in labels], labels % 2, groups, resamples=30),
            caption_scores(said, [[str(n), "1"] for n in labels], groups, resamples=30),
        ]
    for scores in found:
        check_rows(scores)
        for metric in scores.metrics.values():
            numbers = [n for n in (metric.value, metric.low, metric.high) if n is not None]
            assert np.isfinite(numbers).all()
            if metric.low is not None and metric.high is not None:
                assert metric.low <= metric.high


def test_intervals_of_metrics_are_deterministic() -> None:
    random = np.random.default_rng(4)
    probabilities, labels = random.random((50, 3)), random.integers(0, 3, 50)
    first = classification_scores(probabilities, labels, seed=1).metrics
    assert first == classification_scores(probabilities, labels, seed=1).metrics
    assert first != classification_scores(probabilities, labels, seed=2).metrics


# Regression


def test_regression_equals_scikit_learn() -> None:
    random = np.random.default_rng(5)
    # Far from zero, where sums of squares lose their digits.
    targets = 1e6 + random.normal(size=120)
    predictions = targets + 0.5 * random.normal(size=120)
    result = regression_scores(predictions, targets, resamples=50, seed=2)
    assert value(result, "R2") == pytest.approx(reference.r2_score(targets, predictions))
    absolute = reference.mean_absolute_error(targets, predictions)
    assert value(result, "MAE") == pytest.approx(absolute)
    squared = reference.root_mean_squared_error(targets, predictions)
    assert value(result, "RMSE") == pytest.approx(squared)
    weights = np.concatenate(list(resample_weights(np.arange(120), 50, seed=2)), axis=1)
    draws = [reference.r2_score(targets, predictions, sample_weight=w) for w in weights.T]
    metric = result.metrics["R2"]
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    check_rows(result)


def test_a_constant_target_leaves_r2_undefined() -> None:
    result = regression_scores(np.array([1.0, 2.0, 3.0]), np.full(3, 0.1))
    assert result.metrics["R2"] == Metric(None)
    assert value(result, "MAE") == pytest.approx(1.9)
    with pytest.raises(ValueError, match="prediction 0 is nan"):
        regression_scores(np.array([np.nan]), np.array([1.0]))
    with refused("predictions: expected 2, not 1"):
        regression_scores(np.ones(1), np.ones(2))
