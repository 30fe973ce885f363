"""Answers to questions, written or chosen: accuracy by kind of question, and who says yes too often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped

from sensorium.tasks.intervals import bootstrap, ratio, row_groups, summable
from sensorium.tasks.metrics.scores import Scores
from sensorium.tasks.texts import answer_accuracy, normalise_answer, says_yes


def answer_scores(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    kinds: Shaped[np.ndarray, " rows"] | None = None,
    groups: Shaped[np.ndarray, " rows"] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Accuracy over all questions and as `accuracy/KIND`, and more about questions of yes and no.

    Accuracy is `answer_accuracy`: normalised, and soft against the answers of ten people. Where the
    right answers to a kind of question (without kinds: to all) are yes and no there are also the
    scores of POPE (Li et al., 2023, arXiv 2305.10355), which takes "Yes, there is a cat." for a yes:
    `yes_no_accuracy/KIND`, `yes_no_precision`, `yes_no_recall` and `yes_no_F1` of yes, and
    `yes_share`. Asked about things that are not there, a system that makes things up has a low
    precision and a large share of yes.

    Args:
        answers: of each row.
        references: the right answers of each row, one at least.
        kinds: kind of each question.
        groups: questions of one group (about one picture) are resampled together.
        resamples: bootstrap resamples.
        seed: decides the resamples.
    """
    clusters = row_groups(len(answers), groups)
    for name, values in (("references", references), ("kinds", kinds)):
        if values is not None and len(values) != len(answers):
            raise ValueError(f"{name}: expected {len(answers)}, not {len(values)}")
    pairs = zip(answers, references, strict=True)
    correct = np.asarray([answer_accuracy(*pair) for pair in pairs], dtype=np.float64)
    everywhere = np.ones(len(answers), dtype=bool)
    rows_of = {"": everywhere}
    if kinds is not None:
        rows_of |= {f"/{kind}": kinds == kind for kind in np.unique(kinds)}
    accuracies = {f"accuracy{kind}": rows for kind, rows in rows_of.items()}
    # Every score is a sum over rows divided by another.
    quotients = {name: (rows * correct, rows * 1.0) for name, rows in accuracies.items()}
    usual = [_usual(row) for row in references]
    for kind, rows in rows_of.items() if kinds is None else list(rows_of.items())[1:]:
        if rows.any() and {usual[row] for row in np.flatnonzero(rows)} <= {"yes", "no"}:
            quotients |= _yes_no(kind, rows, answers, usual)
    above, below = (summable(np.stack(side)) for side in zip(*quotients.values(), strict=True))

    def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
        return dict(zip(quotients, ratio(above @ weights, below @ weights), strict=True))

    return Scores(
        metrics=bootstrap(statistic, clusters, resamples=resamples, seed=seed),
        per_row={name: correct[rows] for name, rows in accuracies.items()},
        groups={name: clusters[rows] for name, rows in accuracies.items()},
        counts={f"{name}/questions": np.array(rows.sum()) for name, rows in accuracies.items()},
    )


def _usual(references: Sequence[str]) -> str:
    """What most people say; of equals, what the first one says."""
    return Counter(map(normalise_answer, references)).most_common(1)[0][0]


def _yes_no(
    kind: str, rows: Bool[np.ndarray, " rows"], answers: Sequence[str], usual: Sequence[str]
) -> dict[str, tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]]:
    """What is divided by what for each score of the questions in `rows`."""
    says = rows * np.asarray([says_yes(answer) for answer in answers], dtype=np.float64)
    yes = rows * np.asarray([answer == "yes" for answer in usual], dtype=np.float64)
    asked, hits = rows * 1.0, says * yes
    return {
        f"yes_no_accuracy{kind}": (asked * (says == yes), asked),
        f"yes_no_precision{kind}": (hits, says),
        f"yes_no_recall{kind}": (hits, yes),
        f"yes_no_F1{kind}": (2 * hits, says + yes),
        f"yes_share{kind}": (says, asked),
    }


__all__ = ["answer_scores"]
