"""Classification of one class a row, and of several labels a row.

Macro numbers are means over the classes for which they are defined on the rows at hand (in a
resample: on the rows drawn):

- recall and balanced accuracy over classes that have rows;
- F1 over classes that have rows or were predicted, as scikit-learn;
- AUROC, one class against the rest, over classes with rows inside and rows outside. With two
  classes it is the AUROC of the second, which is the usual number.

A class absent from the test rows thus moves none of them, except by being predicted (its F1 is 0).
If nothing is left to average, the metric is undefined: its value is None.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped
from scipy import sparse

from sensorium.tasks.intervals import bootstrap, ratio, row_groups, summable
from sensorium.tasks.metrics.auroc import RankedScores
from sensorium.tasks.metrics.scores import Scores


def classification_scores(
    probabilities: Real[np.ndarray, "rows classes"],
    labels: Int[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Accuracy, balanced accuracy, macro F1, macro AUROC and the recall of each class.

    The prediction is the most probable class, the first of equals. `counts["confusion"]` is
    (classes, classes): labels down, predictions across. `per_row["accuracy"]` is 1 where correct.

    Args:
        probabilities: or any scores that order the classes of a row and the rows of a class.
        labels: class of each row, from 0.
        groups: rows of one group are resampled together.
        class_names: used in the keys `recall/NAME`; numbers if None.
        resamples: bootstrap resamples. Time grows with rows x classes x resamples.
        seed: decides the resamples.
    """
    num_rows, num_classes = probabilities.shape
    clusters = row_groups(num_rows, groups)
    names = _names(class_names, num_classes)
    _check_scores(probabilities)
    if len(labels) != num_rows:
        raise ValueError(f"labels: expected {num_rows}, one for each row, not {len(labels)}")
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise ValueError(
            f"row {outside[0]} has label {labels[outside[0]]}: expected 0 to {num_classes - 1}"
        )
    predicted = _first_best(probabilities)
    correct = predicted == labels
    ranked = [
        RankedScores.of(probabilities[:, index], labels == index)
        for index in (range(num_classes) if num_classes != 2 else [1])
    ]
    rows_of_class = _indicator(labels, num_classes)
    hits_of_class = _indicator(labels[correct], num_classes)
    predictions_of_class = _indicator(predicted, num_classes)

    def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
        actual = rows_of_class @ weights
        hits = hits_of_class @ weights[correct]
        recall = ratio(hits, actual)
        f1 = ratio(2 * hits, actual + predictions_of_class @ weights)
        return {
            "accuracy": ratio(hits.sum(axis=0), actual.sum(axis=0)),
            "balanced_accuracy": _mean_of_defined(recall),
            "macro_F1": _mean_of_defined(f1),
            "macro_AUROC": _mean_of_defined(np.stack([one.auroc(weights) for one in ranked])),
        } | {f"recall/{name}": recall[index] for index, name in enumerate(names)}

    cells = labels * num_classes + predicted
    confusion = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    return Scores(
        metrics=bootstrap(statistic, clusters, resamples=resamples, seed=seed),
        per_row={"accuracy": correct.astype(np.float64)},
        groups={"accuracy": clusters},
        counts={"confusion": confusion},
    )


def multilabel_scores(
    probabilities: Real[np.ndarray, "rows labels"],
    labels: Bool[np.ndarray, "rows labels"],
    groups: Shaped[np.ndarray, " rows"] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    threshold: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Scores where a row may have any number of labels; predicted are those at least `threshold`.

    `accuracy` is the share of right decisions over rows and labels, `exact_match` the share of rows
    with all labels right, `balanced_accuracy` the mean over labels of the mean of recall and
    specificity; `macro_F1`, `macro_AUROC` and `recall/NAME` as for one class a row.
    `counts["confusion"]` is (labels, 2, 2): absent and present down, predicted so across.
    """
    num_rows, num_labels = probabilities.shape
    clusters = row_groups(num_rows, groups)
    names = _names(class_names, num_labels)
    _check_scores(probabilities)
    if labels.shape != probabilities.shape:
        raise ValueError(f"labels: expected shape {probabilities.shape}, not {labels.shape}")
    predicted = probabilities >= threshold
    right = (predicted == labels).mean(axis=1)
    exact = (predicted == labels).all(axis=1).astype(np.float64)
    ranked = [RankedScores.of(probabilities[:, i], labels[:, i]) for i in range(num_labels)]
    present, given = summable(labels.T), summable(predicted.T)
    found = summable((labels & predicted).T)
    shares = summable(np.stack([right, exact]))

    def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
        total = weights.sum(axis=0)
        actual, positive, hits = present @ weights, given @ weights, found @ weights
        recall = ratio(hits, actual)
        specificity = ratio(total - actual - positive + hits, total - actual)
        accuracy, exact_match = shares @ weights
        return {
            "accuracy": ratio(accuracy, total),
            "exact_match": ratio(exact_match, total),
            "balanced_accuracy": _mean_of_defined((recall + specificity) / 2),
            "macro_F1": _mean_of_defined(ratio(2 * hits, actual + positive)),
            "macro_AUROC": _mean_of_defined(np.stack([one.auroc(weights) for one in ranked])),
        } | {f"recall/{name}": recall[index] for index, name in enumerate(names)}

    cells = 4 * np.arange(num_labels) + 2 * labels + predicted
    confusion = np.bincount(cells.ravel(), minlength=4 * num_labels).reshape(num_labels, 2, 2)
    return Scores(
        metrics=bootstrap(statistic, clusters, resamples=resamples, seed=seed),
        per_row={"accuracy": right, "exact_match": exact},
        groups={"accuracy": clusters, "exact_match": clusters},
        counts={"confusion": confusion},
    )


def _mean_of_defined(
    values: Float[np.ndarray, "classes resamples"],
) -> Float[np.ndarray, " resamples"]:
    """The mean over classes, leaving out NaN; NaN if all are (where `numpy.nanmean` would warn)."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(axis=0)
    return ratio(total, defined.sum(axis=0).astype(np.float64))


def _first_best(scores: Real[np.ndarray, "rows classes"]) -> Int[np.ndarray, " rows"]:
    best: Int[np.ndarray, " rows"] = np.argmax(scores, axis=1)
    return best


def _indicator(classes: Int[np.ndarray, " rows"], num_classes: int) -> sparse.csr_array:
    """(classes, rows): 1 where the row is of the class; its product with weights counts rows."""
    ones, rows = np.ones(len(classes)), np.arange(len(classes))
    return sparse.csr_array((ones, (classes, rows)), shape=(num_classes, len(classes)))


def _names(names: Sequence[str] | None, expected: int) -> Sequence[str]:
    if names is None:
        return [str(index) for index in range(expected)]
    if len(set(names)) != expected or len(names) != expected:
        raise ValueError(f"class_names: expected {expected} different names, not {list(names)}")
    return names


def _check_scores(scores: Real[np.ndarray, "rows classes"]) -> None:
    if scores.shape[1] == 0:
        raise ValueError("probabilities have no columns: expected one for each class")
    bad = np.argwhere(np.isnan(scores))
    if len(bad):
        row, column = bad[0]
        raise ValueError(f"probabilities[{row}, {column}] is NaN: expected a number")
