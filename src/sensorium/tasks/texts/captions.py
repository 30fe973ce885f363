"""Texts and their references as numbers, so that n-grams of all of them are counted at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

LONGEST = 4
"""Words in the longest n-gram that the metrics look at."""

Words: TypeAlias = Sequence[str]


@dataclass(frozen=True)
class Counts:
    """How often texts have the n-grams of one length: an entry for each that a text has.

    Entries are in the order of texts, those of one text in the order of n-grams; so all entries of
    candidates come before those of references.

    Attributes:
        text: whose entry it is.
        ngram: its number, from 0.
        count: how often it occurs in the text.
        num_ngrams: different ones in all texts together.
        num_candidates: entries of candidates.
        found: for each entry of a reference, where the candidate of its row has the same n-gram.
        is_found: whether it has it at all.
    """

    text: Int[np.ndarray, " entries"]
    ngram: Int[np.ndarray, " entries"]
    count: Int[np.ndarray, " entries"]
    num_ngrams: int
    num_candidates: int
    found: Int[np.ndarray, " referred"]
    is_found: Bool[np.ndarray, " referred"]


class Captions:
    """Texts that a system wrote, each with the references that people wrote.

    Texts are numbered: first the candidates, one for each row, then the references, row after row.

    Args:
        candidates: the words of what was written, for each row.
        references: the words of what may be written, one text at least for each row.

    Attributes:
        num_rows: how many there are.
        row: of which row each text is.
        words: of all texts, one after another, as numbers.
        lengths: words in each text.

    Raises:
        ValueError: a row has no reference, or the two are not of one length.
    """

    def __init__(self, candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
        if len(candidates) != len(references):
            raise ValueError(
                f"references: expected those of {len(candidates)} rows, not of {len(references)}"
            )
        num_references = np.fromiter(map(len, references), np.int64, len(references))
        empty = np.flatnonzero(num_references == 0)
        if len(empty):
            raise ValueError(f"row {empty[0]} has no reference: expected one at least")
        self.num_rows = len(candidates)
        rows = np.arange(self.num_rows)
        self.row = np.concatenate([rows, np.repeat(rows, num_references)])
        texts = [*candidates, *chain.from_iterable(references)]
        self.lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        numbers: defaultdict[str, int] = defaultdict(count().__next__)
        every = map(numbers.__getitem__, chain.from_iterable(texts))
        self.words = np.fromiter(every, np.int64, int(self.lengths.sum()))
        self._num_words = len(numbers)

    @cached_property
    def counts(self) -> list[Counts]:
        """The n-grams of one word, of two, of three, of four."""
        text = np.repeat(np.arange(len(self.lengths)), self.lengths)
        at = np.arange(len(self.words))
        # An n-gram is numbered by the n-gram of one word less and its last word.
        ngram, num_ngrams = self.words, self._num_words
        counts = [self._count(text, ngram, num_ngrams)]
        left = np.repeat(self.lengths.cumsum(), self.lengths) - at
        for length in range(2, LONGEST + 1):
            whole = left[at] >= length
            at = at[whole]
            pairs = ngram[whole] * self._num_words + self.words[at + length - 1]
            # By hashing, where NumPy would sort.
            found = pa.array(pairs).dictionary_encode()
            ngram, num_ngrams = found.indices.to_numpy().astype(np.int64), len(found.dictionary)
            counts.append(self._count(text[at], ngram, num_ngrams))
        return counts

    def _count(
        self, text: Int[np.ndarray, " places"], ngram: Int[np.ndarray, " places"], num_ngrams: int
    ) -> Counts:
        size = max(1, num_ngrams)
        keys, times = np.unique(text * size + ngram, return_counts=True)
        text, ngram = np.divmod(keys, size)
        num_candidates = int(np.searchsorted(text, self.num_rows))
        # The candidate of a row has the number of the row.
        own, sought = (
            keys[:num_candidates],
            self.row[text[num_candidates:]] * size + ngram[num_candidates:],
        )
        found = np.searchsorted(own, sought)
        is_found = np.append(own, -1)[found] == sought
        return Counts(text, ngram, times, num_ngrams, num_candidates, found, is_found)

    def padded(
        self, texts: Int[np.ndarray, " texts"], filling: int
    ) -> Int[np.ndarray, "length texts"]:
        """The words of some texts, one text in each column, with `filling` after its end."""
        lengths = self.lengths[texts]
        starts = (self.lengths.cumsum() - self.lengths)[texts]
        place = np.arange(lengths.max(initial=0))[:, None]
        inside = place < lengths
        matrix = np.full(inside.shape, filling, dtype=np.int64)
        matrix[inside] = self.words[(starts + place)[inside]]
        return matrix


__all__ = ["LONGEST", "Captions", "Counts", "Words"]
