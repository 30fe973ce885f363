"""What a system said of some test rows, right and wrong, ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sensorium.data import Data
from sensorium.report.pictures import Shown, show_rows

_READ = ("input", "query", "target", "question")


@dataclass(frozen=True)
class Hit:
    """A candidate that was found."""

    place: int
    shown: list[Shown]
    is_answer: bool


@dataclass(frozen=True)
class Search:
    """A question of retrieval with what was found first, and the right one where it is farther."""

    key: str
    question: list[Shown]
    hits: list[Hit]
    rank: int


@dataclass(frozen=True)
class Answer:
    """A row with what was predicted."""

    key: str
    fields: list[tuple[str, list[Shown]]]
    predicted: str
    truth: str
    confidence: str = ""


@dataclass(frozen=True)
class Examples:
    """Rows of one run.

    Attributes:
        title: what they are, with the name of the system.
        right: those it got right; empty for numbers, which are only more or less wrong.
        wrong: the others.
    """

    title: str
    right: Sequence[Search | Answer] = field(default_factory=list)
    wrong: Sequence[Search | Answer] = field(default_factory=list)


def gather_examples(data: Data, evaluation: Mapping[str, Any], system: str) -> Examples | None:
    """The examples of `evaluation.json`, read from the rows it was made on, if they may be shown."""
    found = evaluation["examples"]
    if not found or not data.samples:
        return None
    if "found" in found[0]:
        return _searches(data, found, system)
    return _answers(data, found, system)


def _searches(data: Data, found: Sequence[Mapping[str, Any]], system: str) -> Examples:
    query, target = (data.schema.find(role=role)[0].name for role in ("query", "target"))
    questions = show_rows(data, target, [entry["query"] for entry in found])
    candidates = [row for entry in found for row in (*entry["found"], entry["answer"])]
    pictures = show_rows(data, query, candidates)
    keys = _keys(data, [entry["query"] for entry in found])
    searches = []
    for entry in found:
        hits = [
            Hit(place, pictures[row], row == entry["answer"])
            for place, row in enumerate(entry["found"], start=1)
        ]
        if entry["answer"] not in entry["found"]:
            hits.append(Hit(entry["rank"], pictures[entry["answer"]], is_answer=True))
        row = entry["query"]
        searches.append(Search(keys[row], questions[row], hits, entry["rank"]))
    return Examples(
        f"{target} asks, {query} is found by {system}",
        [search for search in searches if search.rank == 1],
        [search for search in searches if search.rank > 1],
    )


def _answers(data: Data, found: Sequence[Mapping[str, Any]], system: str) -> Examples:
    label = data.schema.find(role=("label", "answer"))[0].name
    answers = answer_cards(data, found)
    if not all("confidence" in entry for entry in found):
        return Examples(f"the largest errors of {system} in {label}", wrong=answers)
    return Examples(
        f"{label} as predicted by {system}",
        [answer for answer in answers if answer.predicted == answer.truth],
        [answer for answer in answers if answer.predicted != answer.truth],
    )


def answer_cards(data: Data, found: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """Rows with what was read and predicted; `found` holds `row`, `predicted` and `truth`."""
    rows = [entry["row"] for entry in found]
    read = [f.name for f in data.schema if f.role in _READ and f.of is None]
    shown = {name: show_rows(data, name, rows) for name in read}
    keys = _keys(data, rows)
    return [
        Answer(
            keys[entry["row"]],
            [
                (name, values[entry["row"]])
                for name, values in shown.items()
                if values[entry["row"]]
            ],
            _written(entry["predicted"]),
            _written(entry["truth"]),
            f"{entry['confidence']:.2f}" if "confidence" in entry else "",
        )
        for entry in found
    ]


def _keys(data: Data, rows: Sequence[int]) -> dict[int, str]:
    return dict(zip(rows, data.keys(np.asarray(rows, dtype=np.int64)), strict=True))


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


__all__ = ["Answer", "Examples", "Hit", "Search", "answer_cards", "gather_examples"]
