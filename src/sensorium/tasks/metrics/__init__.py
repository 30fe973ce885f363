"""Metrics as pure functions of NumPy arrays, each with an interval over the test rows."""

from sensorium.tasks.metrics.answers import answer_scores
from sensorium.tasks.metrics.captions import caption_scores
from sensorium.tasks.metrics.classification import classification_scores, multilabel_scores
from sensorium.tasks.metrics.ranking import (
    RankResult,
    assign_pools,
    rank_pair_from_embeddings,
    rank_pair_from_scores,
    ranks_from_embeddings,
    ranks_from_scores,
)
from sensorium.tasks.metrics.regression import regression_scores
from sensorium.tasks.metrics.retrieval import retrieval_scores
from sensorium.tasks.metrics.scores import Scores, lower_is_better

__all__ = [
    "RankResult",
    "Scores",
    "answer_scores",
    "assign_pools",
    "caption_scores",
    "classification_scores",
    "lower_is_better",
    "multilabel_scores",
    "rank_pair_from_embeddings",
    "rank_pair_from_scores",
    "ranks_from_embeddings",
    "ranks_from_scores",
    "regression_scores",
    "retrieval_scores",
]
