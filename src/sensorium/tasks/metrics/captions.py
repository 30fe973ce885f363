"""Captions: BLEU of 1 to 4 words, ROUGE-L and CIDEr-D, as the COCO caption evaluation has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from sensorium.tasks.intervals import bootstrap, ratio, row_groups, summable
from sensorium.tasks.metrics.scores import Scores
from sensorium.tasks.texts import Captions, bleu, bleu_of_sums, cider_d, rouge_l, tokenize


def caption_scores(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    groups: Shaped[np.ndarray, " rows"] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """`CIDEr-D` (0 to 10), `ROUGE-L` and `BLEU-1` to `BLEU-4` (0 to 1).

    How rare a word is, for CIDEr-D, comes from the references of all rows, in resamples as well.
    BLEU is of all rows together, no mean over rows; so there is no `per_row` of it.

    Args:
        captions: what was written, for each row.
        references: what people wrote, one text at least for each row.
        groups: rows of one group are resampled together.
        resamples: bootstrap resamples.
        seed: decides the resamples.
    """
    clusters = row_groups(len(captions), groups)
    words = Captions(
        [tokenize(text) for text in captions],
        [[tokenize(text) for text in row] for row in references],
    )
    sums = bleu(words).sums
    means = {"CIDEr-D": cider_d(words), "ROUGE-L": rouge_l(words)}
    columns = summable(np.concatenate([sums, np.stack(list(means.values()))]))

    def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
        totals, count = columns @ weights, weights.sum(axis=0)
        of_rows = ratio(totals[len(sums) :], count)
        together = np.where(count > 0, bleu_of_sums(totals[: len(sums)]), np.nan)
        numbered = {f"BLEU-{length}": scores for length, scores in enumerate(together, start=1)}
        return dict(zip(means, of_rows, strict=True)) | numbered

    return Scores(
        metrics=bootstrap(statistic, clusters, resamples=resamples, seed=seed),
        per_row=means,
        groups=dict.fromkeys(means, clusters),
    )


__all__ = ["caption_scores"]
