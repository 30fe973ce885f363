"""A question answered from the rows of an index: find, rank again, choose, read, cite.

    question ─ index ─ candidates ─ reranker ─ scores ─ selector ─ rows ─ reader ─ answer
                                                                    └──────────────── citations

Each step is something small that can be exchanged: a `Reranker` says how well each candidate fits, a
selector which are read, a `Reader` what they answer. Without a reranker candidates count by the scores
of the index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from sensorium.search.index import Hit, Index, Mode
from sensorium.search.model import Model
from sensorium.types import UserError

CANDIDATES, ROWS = 20, 3

LIKELY = 0.5
"""From which probability on a row is read, where the scores are probabilities."""

NOTHING = "Nothing in the index is relevant to this question."

_NAMED = re.compile(r"\[(\d+)\]")

Question = Mapping[str, Any]
"""What is asked by modality: `text`, and perhaps `image`, a file."""

Scores = Float[np.ndarray, " candidates"]

Selector = Callable[[Scores], Sequence[int]]
"""Which candidates are read, by their places, in the order in which they are read."""


class Reranker(Protocol):
    """Says how well rows fit a question."""

    name: str

    def scores(self, question: Question, hits: Sequence[Hit]) -> Scores:
        """Of each row, the probability that it helps to answer."""
        ...


class Reader(Protocol):
    """Answers from rows."""

    name: str

    def answer(self, question: Question, hits: Sequence[Hit]) -> str:
        """The answer, in which `[1]` stands for the first of the rows."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A row that was found.

    Attributes:
        hit: the row, with its score in the index.
        score: by which it was chosen, or not.
        number: what it is called while it is read, from 1 on; None if it was not.
        cited: whether the answer rests on it.
    """

    hit: Hit
    score: float
    number: int | None = None
    cited: bool = False


@dataclass(frozen=True)
class Answered:
    """An answer, and how it came about.

    Attributes:
        text: the answer, or that there is none.
        candidates: all rows that were found, those with the highest scores first.
        ranked_by: whose scores they have.
        read_by: who answered; empty if nothing was relevant.
    """

    text: str
    candidates: list[Candidate]
    ranked_by: str
    read_by: str

    @property
    def cited(self) -> list[Candidate]:
        """The rows that the answer rests on: those that it names, or all that were read if it names none."""
        rows = [candidate for candidate in self.candidates if candidate.cited]
        return sorted(rows, key=lambda candidate: candidate.number or 0)


def best(most: int = ROWS, least: float | None = None) -> Selector:
    """A selector: so many of the highest scores at most, and none below `least`."""

    def select(scores: Scores) -> list[int]:
        order = np.argsort(-scores, kind="stable")[:most]
        return [int(place) for place in order if least is None or scores[place] >= least]

    return select


def answer_question(
    index: Index,
    model: Model | None,
    question: Question,
    reader: Reader,
    reranker: Reranker | None = None,
    selector: Selector | None = None,
    *,
    mode: Mode = "vector",
    where: str | None = None,
    candidates: int = CANDIDATES,
) -> Answered:
    """Answer a question from the rows of an index.

    Args:
        index: where they are.
        model: that made the index; None if only words are compared.
        question: what is asked; `text` is needed.
        reader: who answers.
        reranker: who says what is relevant; the scores of the index if None.
        selector: what is read; if None, the best three, and with a reranker only those that are rather
            relevant than not.
        mode: as in `Index.search`.
        where: a condition on columns.
        candidates: how many rows are ranked again.

    Raises:
        UserError: nothing is asked in words, or a step cannot be taken.
    """
    words = str(question.get("text") or "")
    if not words.strip():
        raise UserError("nothing is asked: give the question in words")
    vector = None
    if mode != "text":
        if model is None:
            raise UserError(f"mode {mode} compares vectors, and no model is given to make one")
        vector = model.ask(question)
    hits = index.search(vector, words, mode=mode, where=where, limit=candidates)
    if reranker is None:
        scores = np.array([hit.score for hit in hits], dtype=np.float64)
    else:
        scores = np.asarray(reranker.scores(question, hits) if hits else [], dtype=np.float64)
    chosen = (selector or best(least=None if reranker is None else LIKELY))(scores)
    read = [hits[place] for place in chosen]
    text = reader.answer(question, read) if read else NOTHING
    numbers = {place: number for number, place in enumerate(chosen, start=1)}
    named = {int(number) for number in _NAMED.findall(text)} & set(numbers.values())
    order = sorted(range(len(hits)), key=lambda place: (-scores[place], place))
    found = [
        Candidate(
            hits[place],
            float(scores[place]),
            numbers.get(place),
            place in numbers and (not named or numbers[place] in named),
        )
        for place in order
    ]
    ranked_by = "the index" if reranker is None else reranker.name
    return Answered(text, found, ranked_by, reader.name if read else "")
