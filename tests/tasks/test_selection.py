"""What is kept of what was found: up to k, by a threshold that was fitted on other questions."""

import numpy as np
import pytest

from sensorium.tasks.metrics.selection import best_threshold, overlap, up_to

SCORES = np.array([[0.9, 0.2, 0.7, 0.8], [0.1, 0.2, 0.3, -np.inf]])


def test_up_to_so_many_are_kept_and_none_below_the_threshold():
    assert up_to(SCORES, 2).tolist() == [[True, False, False, True], [False, True, True, False]]
    assert up_to(SCORES, 4, 0.7).tolist() == [[True, False, True, True], [False] * 4]
    assert up_to(SCORES, 2, 0.7).tolist() == [[True, False, False, True], [False] * 4]
    # what was not found is not kept, however many may be
    assert up_to(SCORES, 9).sum() == 7
    equal = np.ones((1, 4))
    assert up_to(equal, 2, 1.0).tolist() == [[True, True, False, False]]


def test_overlap_counts_over_all_questions():
    """By hand: 2 of 3 kept are right, 2 of 4 relevant are kept."""
    kept = np.array([[True, True, False], [False, False, True], [False] * 3])
    relevant = np.array([[True, False, False], [True, True, True], [False] * 3])
    found = overlap(kept, relevant)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 4)
    assert found["F1"] == pytest.approx(4 / 7)
    assert overlap(kept & False, relevant) == {"precision": 0.0, "recall": 0.0, "F1": 0.0}
    assert overlap(kept, relevant & False)["recall"] == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_a_threshold_is_the_best_of_all(seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 8, size=(12, 10)) / 8  # with ties
    relevant = random.random((12, 10)) < scores * 0.5
    scores[:, 8:] = -np.inf
    found = best_threshold(scores, relevant, 3)
    best = max(overlap(up_to(scores, 3, t), relevant)["F1"] for t in np.unique(scores))
    assert overlap(up_to(scores, 3, found), relevant)["F1"] == pytest.approx(best)


def test_questions_without_anything_relevant_raise_the_threshold():
    scores = np.array([[0.9, 0.4], [0.6, 0.5]])
    some = np.array([[True, True], [False, False]])
    assert best_threshold(scores[:1], some[:1], 2) == 0.4
    assert best_threshold(scores, some, 1) == 0.9
    assert up_to(scores, 2, best_threshold(scores[1:], some[1:], 2)).sum() <= 2
    assert best_threshold(np.full((1, 2), -np.inf), some[:1], 2) == np.inf
