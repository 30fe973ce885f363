"""CIDEr-D (Vedantam et al., 2015, arXiv 1411.5726, section 7): likeness to what most people wrote.

Each text is, for n from 1 to 4, a vector of how often it has each n-gram, weighted by how rare that
is: log(rows / rows with the n-gram in a reference). With g for the candidate and h for a reference

    CIDEr-D = 10 mean over n and references of  min(g, h) . h / (|g| |h|)  exp(-(l_g - l_h)^2 / 2 sigma^2)

where no n-gram counts for more than the reference has of it, and l is a length in pairs of words,
with sigma = 6. As in the COCO caption evaluation the rarity comes from the references of the rows
that are scored. So a row's score depends on the other rows, and of one row alone it is 0.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from sensorium.tasks.intervals import ratio
from sensorium.tasks.texts.captions import LONGEST, Captions, Counts

SIGMA = 6.0


def cider_d(captions: Captions) -> Float[np.ndarray, " rows"]:
    """CIDEr-D of each row, from 0 to 10; that of all rows is the mean."""
    rows = captions.num_rows
    of_row = captions.row[rows:]
    likeness = np.zeros(len(of_row))
    for counts in captions.counts:
        likeness += _likeness(captions, counts)
    pairs = np.maximum(0, captions.lengths - 1)
    distance = pairs[:rows][of_row] - pairs[rows:]
    likeness *= np.exp(-(distance**2) / (2 * SIGMA**2)) / LONGEST
    return 10 * np.bincount(of_row, likeness, rows) / np.bincount(of_row, minlength=rows)


def _likeness(captions: Captions, counts: Counts) -> Float[np.ndarray, " references"]:
    """The first factor, for n-grams of one length."""
    rows, texts = captions.num_rows, len(captions.row)
    own, others = slice(0, counts.num_candidates), slice(counts.num_candidates, None)
    size = max(1, counts.num_ngrams)
    pairs = np.sort(captions.row[counts.text[others]] * size + counts.ngram[others])
    # Several references of a row count once.
    once = np.diff(pairs, prepend=-1) > 0
    num_rows_with = np.bincount(pairs[once] % size, minlength=size)
    rarity = np.log(max(1, rows)) - np.log(np.maximum(1, num_rows_with))
    weight = counts.count * rarity[counts.ngram]
    norm = np.sqrt(np.bincount(counts.text, weight**2, texts))
    theirs = weight[others][counts.is_found]
    ours = weight[own][counts.found[counts.is_found]]
    text = counts.text[others][counts.is_found]
    product = np.bincount(text, np.minimum(ours, theirs) * theirs, texts)[rows:]
    # Where a norm is zero the product is, too.
    norms = norm[:rows][captions.row[rows:]] * norm[rows:]
    likeness: Float[np.ndarray, " references"] = np.nan_to_num(ratio(product, norms))
    return likeness


__all__ = ["SIGMA", "cider_d"]
