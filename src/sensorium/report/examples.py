"""What a system said of some test rows, right and wrong, ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sensorium.data import Data
from sensorium.modalities.base import PredictableMedia, get_modality
from sensorium.report.pictures import Shown, show_rows
from sensorium.types import Field

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
    """A row with what was predicted.

    `right` is None where an answer is only more or less so: a number, a caption.
    """

    key: str
    fields: list[tuple[str, list[Shown]]]
    predicted: str
    truth: str
    confidence: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class Predicted:
    """A row, and what is predicted of it.

    Attributes:
        key: the name of the row.
        fields: the names of the columns.
        lines: the row itself, then from each field what is predicted of the others.
    """

    key: str
    fields: list[str]
    lines: list[tuple[str, list[list[Shown]]]]


@dataclass(frozen=True)
class Examples:
    """Rows of one run.

    Attributes:
        title: what they are, with the name of the system.
        right: those it got right; empty for numbers and captions, which are only more or less wrong.
        wrong: the others.
        predicted: rows of which whole fields were predicted.
    """

    title: str
    right: Sequence[Search | Answer] = field(default_factory=list)
    wrong: Sequence[Search | Answer] = field(default_factory=list)
    predicted: Sequence[Predicted] = field(default_factory=list)


def gather_examples(data: Data, evaluation: Mapping[str, Any], system: str) -> Examples | None:
    """The examples of `evaluation.json`, read from the rows it was made on, if they may be shown."""
    found = evaluation["examples"]
    if not found or not data.samples:
        return None
    if "reconstructed" in found[0]:
        title = f"fields as predicted by {system} from one other"
        return Examples(title, predicted=_predicted_rows(data, found))
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
    answers = answer_cards(data, found)
    if all("CIDEr-D" in entry for entry in found):
        target = data.schema.find(role="target")[0].name
        return Examples(f"{target} as written by {system}: the worst, then the best", wrong=answers)
    labels = data.schema.find(role=("label", "answer"))
    labels += data.schema.find(modality="conversation")  # whose last turn is the answer
    label = labels[0].name
    if all(answer.right is None for answer in answers):
        return Examples(f"the largest errors of {system} in {label}", wrong=answers)
    return Examples(
        f"{label} as predicted by {system}",
        [answer for answer in answers if answer.right],
        [answer for answer in answers if not answer.right],
    )


def answer_cards(data: Data, found: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """Rows with what was read and predicted; `found` holds `row`, `predicted` and `truth`."""
    rows = [entry["row"] for entry in found]
    # What was to be written is shown as the truth.
    roles = [role for role in _READ if role != "target" or "CIDEr-D" not in found[0]]
    read = [f.name for f in data.schema if f.role in roles and f.of is None]
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
            _sureness(entry),
            _is_right(entry),
        )
        for entry in found
    ]


def _sureness(entry: Mapping[str, Any]) -> str:
    """How sure the system was, or how good its caption is."""
    value = entry.get("confidence", entry.get("CIDEr-D"))
    return "" if value is None else f"{value:.2f}"


def _is_right(entry: Mapping[str, Any]) -> bool | None:
    if "CIDEr-D" in entry or isinstance(entry["predicted"], float):
        return None
    return bool(entry.get("right", entry["predicted"] == entry["truth"]))


def _keys(data: Data, rows: Sequence[int]) -> dict[int, str]:
    return dict(zip(rows, data.keys(np.asarray(rows, dtype=np.int64)), strict=True))


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


__all__ = ["Answer", "Examples", "Hit", "Search", "answer_cards", "gather_examples"]


def _predicted_rows(data: Data, found: Sequence[Mapping[str, Any]]) -> list[Predicted]:
    """Rows beside what is predicted of them; `found` as in `evaluation.json`."""
    rows = [entry["row"] for entry in found]
    names = {name for entry in found for name in entry["reconstructed"]}
    names |= {n for entry in found for said in entry["reconstructed"].values() for n in said}
    fields = [field.name for field in data.schema if field.name in names]
    true = {name: show_rows(data, name, rows) for name in fields}
    return [
        Predicted(
            str(entry["row"]),
            fields,
            [("the row", [true[name][entry["row"]] for name in fields])]
            + [
                (f"from {given}", [_said(said.get(name), data.schema[name]) for name in fields])
                for given, said in entry["reconstructed"].items()
            ],
        )
        for entry in found
    ]


def _said(told: str | None, field: Field) -> list[Shown]:
    if told is None:
        return [Shown()]
    is_picture = isinstance(get_modality(field.modality), PredictableMedia)
    return [Shown(picture=told) if is_picture else Shown(text=told)]
