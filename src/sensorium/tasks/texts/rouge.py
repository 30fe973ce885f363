"""ROUGE-L (Lin, 2004): how much of a reference a candidate has in its order, gaps allowed.

As the COCO caption evaluation computes it: with the longest common subsequence of each pair,
precision P is its share of the candidate and recall R that of the reference, each the largest over
the references of a row, not necessarily of the same one; and with beta = 1.2

    ROUGE-L = (1 + beta^2) P R / (R + beta^2 P)
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from sensorium.tasks.intervals import ratio
from sensorium.tasks.texts.captions import Captions

BETA = 1.2

# Cells of the tables of one block of pairs, of 4 bytes: few enough to stay in the cache.
_CELLS = 2**16


def rouge_l(captions: Captions) -> Float[np.ndarray, " rows"]:
    """ROUGE-L of each row; that of all rows is the mean."""
    rows = captions.num_rows
    of_row = captions.row[rows:]
    common = longest_common(captions, of_row, np.arange(rows, len(captions.row)))
    common = common.astype(np.float64)
    first = np.unique(of_row, return_index=True)[1]
    lengths = captions.lengths.astype(np.float64)
    precision, recall = np.zeros(rows), np.zeros(rows)
    if rows:
        precision = np.maximum.reduceat(_share(common, lengths[of_row]), first)
        recall = np.maximum.reduceat(_share(common, lengths[rows:]), first)
    both = (1 + BETA**2) * precision * recall
    return _share(both, recall + BETA**2 * precision)


def longest_common(
    captions: Captions, first: Int[np.ndarray, " pairs"], second: Int[np.ndarray, " pairs"]
) -> Int[np.ndarray, " pairs"]:
    """The length of the longest common subsequence of pairs of texts, many pairs at a time."""
    lengths = captions.lengths
    # Texts of about one length meet in a block, so that little is padding.
    order = np.argsort(lengths[first] + lengths[second], kind="stable")
    common = np.zeros(len(first), dtype=np.int64)
    start = 0
    while start < len(order):
        longest = lengths[second[order[start : start + _CELLS]]].max() + 1
        stop = start + max(1, _CELLS // int(longest))
        block = order[start:stop]
        common[block] = _common(
            captions.padded(first[block], -1), captions.padded(second[block], -2)
        )
        start = stop
    return common


def _common(
    first: Int[np.ndarray, "length pairs"], second: Int[np.ndarray, "other_length pairs"]
) -> Int[np.ndarray, " pairs"]:
    # Row j of the table: of the words of `first` so far and the first j of `second`. One more word
    # makes one longer where it is equal; the running maximum is what is left of the recurrence.
    table = np.zeros((len(second) + 1, second.shape[1]), dtype=np.int32)
    for words in first:
        longer = table[:-1] + (second == words)
        np.maximum.accumulate(np.maximum(longer, table[1:]), axis=0, out=table[1:])
    last: Int[np.ndarray, " pairs"] = table[-1]
    return last


def _share(
    part: Float[np.ndarray, " values"], whole: Float[np.ndarray, " values"]
) -> Float[np.ndarray, " values"]:
    share: Float[np.ndarray, " values"] = np.nan_to_num(ratio(part, whole))
    return share


__all__ = ["BETA", "longest_common", "rouge_l"]
