"""What was found, for people and for programs: as a table, as JSON, as a page with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from sensorium.report.html import write_page
from sensorium.report.numbers import plural
from sensorium.report.pictures import Shown, as_address, show_cell, show_value
from sensorium.report.terminal import plain_table
from sensorium.search.index import Hit, Index
from sensorium.types import Field

_MOST_CHARACTERS = 60


@dataclass(frozen=True)
class Card:
    """A row on the page; what is shown twice elsewhere is left out.

    Attributes:
        place: 1 for the first.
        key: its name.
        score: as it is written.
        why: what it was found by.
        picture: an address that holds it; empty if there is none.
        text: its words.
        values: of its columns.
    """

    place: int
    key: str
    score: str
    why: str
    picture: str
    text: str
    values: list[tuple[str, str]]


def hits_table(hits: Sequence[Hit]) -> RenderableType:
    """A line for each row."""
    if not hits:
        return Text("Nothing was found.")
    table = plain_table()
    table.add_column("", justify="right")
    table.add_column("row", style="bold", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("found by")
    table.add_column("holds", overflow="fold")
    for hit in hits:
        holds = [f"{name} {_cut(value)}" for name, value in _written(hit)]
        cells = (str(hit.place), hit.key, f"{hit.score:.3f}", why(hit), ", ".join(holds))
        table.add_row(*map(Text, cells))
    return table


def hits_json(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """All but the pictures."""
    return [
        {
            "place": hit.place,
            "key": hit.key,
            "score": hit.score,
            "field": hit.field or None,
            "ranks": dict(hit.ranks),
            "values": dict(hit.values),
            "text": hit.text,
        }
        for hit in hits
    ]


def write_hits_page(
    path: Path, index: Index, hits: Sequence[Hit], question: Mapping[str, Any], note: str
) -> None:
    """A page that holds all it shows.

    Args:
        path: the file.
        index: that was asked.
        hits: what was found.
        question: what was asked, by modality.
        note: how it was asked.
    """
    asked: list[list[Shown]] = [
        [show_value(raw)] if kind == "text" else show_cell(raw, Field(name=kind, modality=kind))
        for kind, raw in question.items()
    ]
    cards = [
        Card(
            hit.place,
            hit.key,
            f"{hit.score:.3f}",
            why(hit),
            as_address(hit.picture) if hit.picture else "",
            "" if hit.values else show_value(hit.text).text,
            [(name, show_value(value).text) for name, value in _written(hit)],
        )
        for hit in hits
    ]
    where = f"{plural(index.layout.rows, 'row')} in {index.folder.path.name}"
    write_page(
        path,
        "search.html",
        title=str(question.get("text") or "found"),
        asked=asked,
        note=f"{where}{note}",
        warnings=index.warnings(),
        found=cards,
    )


def why(hit: Hit) -> str:
    """What a row was found by."""
    if len(hit.ranks) == 1 and "vector" in hit.ranks:
        return hit.field
    if "vector" not in hit.ranks:
        return "words"
    return f"{hit.field} (place {hit.ranks['vector']}), words (place {hit.ranks['text']})"


def _written(hit: Hit) -> list[tuple[str, str]]:
    """The values of columns, as people write them."""
    return [(name, _write(value)) for name, value in hit.values.items()]


def _write(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.10g}" if isinstance(value, float) else " ".join(value.split())


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
