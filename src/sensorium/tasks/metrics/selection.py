"""Which of the candidates that were found are kept: up to k whose score is high enough, possibly none."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

Scores = Float[np.ndarray, "queries candidates"]
Marks = Bool[np.ndarray, "queries candidates"]


def up_to(scores: Scores, most: int, least_score: float = -np.inf) -> Marks:
    """The best candidates of each query (Mortaheb et al., 2025, arXiv 2501.04695).

    Args:
        scores: higher is better; -infinity for what was not found.
        most: so many are kept at most; of equal scores those that stand first.
        least_score: what is kept has at least this score.
    """
    place = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    return (place < most) & (scores >= least_score) & (scores > -np.inf)


def overlap(kept: Marks, relevant: Marks) -> dict[str, float]:
    """Precision, recall and F1 of what is kept, from counts over all queries; 0 where nothing is."""
    hits, number = int((kept & relevant).sum()), int(kept.sum())
    precision = hits / number if number else 0.0
    recall = hits / int(relevant.sum()) if relevant.any() else 0.0
    both = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / both if both else 0.0,
    }


def best_threshold(scores: Scores, relevant: Marks, most: int) -> float:
    """The least score with which `up_to` has the highest F1.

    Queries without anything relevant belong to them: only these say what to do without.

    Args:
        scores: of held-out queries.
        relevant: what is to be kept of each.
        most: as in `up_to`.
    """
    among = up_to(scores, most)
    order = np.argsort(-scores[among], kind="stable")
    found, right = scores[among][order], relevant[among][order]
    hits, number = np.cumsum(right), np.arange(1, len(found) + 1)
    # of equal scores all are kept, so a threshold stands at the last of them
    is_last = np.append(found[1:] != found[:-1], True) if len(found) else np.zeros(0, bool)
    score = np.where(is_last, 2 * hits / (number + max(1, int(relevant.sum()))), -1.0)
    return float(found[score.argmax()]) if len(found) else np.inf
