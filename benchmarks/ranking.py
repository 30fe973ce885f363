"""Retrieval metrics with intervals, of 5,000 pictures and their 25,000 captions."""

from __future__ import annotations

import numpy as np

from harness import Figure, Result, Settings, Target, take_turns
from sensorium.tasks.metrics.ranking import rank_pair_from_embeddings
from sensorium.tasks.metrics.retrieval import retrieval_scores

PICTURES, CAPTIONS_EACH, WIDTH = 5000, 5, 512


def measure(settings: Settings) -> Result:
    """Both directions, all metrics, a bootstrap of 1,000 resamples."""
    random = np.random.default_rng(0)
    pictures = random.normal(size=(PICTURES, WIDTH)).astype(np.float32)
    captions = np.repeat(pictures, CAPTIONS_EACH, 0)
    captions += 4 * random.normal(size=captions.shape).astype(np.float32)
    sides = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (pictures, captions)]
    groups = np.arange(PICTURES), np.repeat(np.arange(PICTURES), CAPTIONS_EACH)

    def ranks() -> None:
        rank_pair_from_embeddings(*sides, *groups)

    def metrics() -> None:
        retrieval_scores(*rank_pair_from_embeddings(*sides, *groups))

    seconds = take_turns({"ranks": ranks, "metrics": metrics}, settings.repeats)
    size = f"{PICTURES:,} x {PICTURES * CAPTIONS_EACH:,} embeddings of width {WIDTH}"
    return Result(
        [
            Figure(
                f"metrics with intervals, {size}",
                "s",
                seconds["metrics"],
                target=Target("at most", 3.0),
            ),
            Figure("the ranks alone", "s", seconds["ranks"]),
        ]
    )
