"""BLEU of 1 to 4 words (Papineni et al., 2002), as the COCO caption evaluation computes it.

    BLEU-n = min(1, exp(1 - r / c)) (p_1 ... p_n)^(1/n)

p_k is the share of the candidate's k-grams that are in a reference, each counted at most as often as
in the reference that has most of it; c is the length of the candidate and r that of the reference
nearest to it, the shorter one of two that are equally near. For several rows the parts of these
quotients are added up first: BLEU of a set is no mean over its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sensorium.tasks.texts.captions import LONGEST, Captions

# The evaluation adds these so that nothing is divided by zero.
_TINY, _SMALL = 1e-15, 1e-9


@dataclass(frozen=True)
class Bleu:
    """What BLEU is computed from.

    Attributes:
        sums: for each row the k-grams of its candidate that are right, for k from 1 to 4; all that
            it has; its length; the length of the nearest reference.
    """

    sums: Int[np.ndarray, "10 rows"]

    @property
    def total(self) -> Float[np.ndarray, "4"]:
        """BLEU-1 to BLEU-4 of all rows together."""
        scores: Float[np.ndarray, "4"] = bleu_of_sums(self.sums.sum(1, keepdims=True))[:, 0]
        return scores

    @property
    def per_row(self) -> Float[np.ndarray, "4 rows"]:
        """BLEU-1 to BLEU-4 of each row alone."""
        return bleu_of_sums(self.sums)


def bleu_of_sums(sums: Int[np.ndarray, "10 sets"] | Float[np.ndarray, "10 sets"]) -> np.ndarray:
    """BLEU-1 to BLEU-4 (4, sets) of sets of rows, from the sums over their rows."""
    right, all_there, length, nearest = np.split(sums.astype(np.float64), (4, 8, 9))
    precision = (right + _TINY) / (all_there + _SMALL)
    scores = np.cumprod(precision, axis=0) ** (1 / np.arange(1, LONGEST + 1))[:, None]
    share = (length + _TINY) / (nearest + _SMALL)
    return scores * np.exp(np.minimum(0, 1 - 1 / share))


def bleu(captions: Captions) -> Bleu:
    """BLEU of captions; see the module."""
    rows, references = captions.num_rows, captions.row[captions.num_rows :]
    lengths = captions.lengths[:rows]
    right = []
    for counts in captions.counts:
        here = slice(0, counts.num_candidates)
        most = np.zeros(counts.num_candidates, dtype=np.int64)
        there = counts.count[counts.num_candidates :]
        np.maximum.at(most, counts.found[counts.is_found], there[counts.is_found])
        clipped = np.minimum(most, counts.count[here])
        right.append(np.bincount(counts.text[here], clipped, minlength=rows).astype(np.int64))
    all_there = [np.maximum(0, lengths - k) for k in range(LONGEST)]
    reference_lengths = captions.lengths[rows:]
    distance = np.abs(reference_lengths - lengths[references])
    order = np.lexsort((reference_lengths, distance, references))
    first = np.unique(references, return_index=True)[1]
    nearest = reference_lengths[order][first]
    return Bleu(np.stack([*right, *all_there, lengths, nearest]))


__all__ = ["Bleu", "bleu", "bleu_of_sums"]
