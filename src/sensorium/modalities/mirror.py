"""Words of a mirrored picture: what was on the left is on the right."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int

from sensorium.modalities.scalars import Code, class_names
from sensorium.types import Schema

_PAIRS = {
    "en": (("left", "right"), ("leftmost", "rightmost"), ("lefthand", "righthand")),
    "de": (
        ("links", "rechts"),
        ("linke", "rechte"),
        ("linken", "rechten"),
        ("linker", "rechter"),
        ("linkes", "rechtes"),
        ("linkem", "rechtem"),
    ),
    "id": (("kiri", "kanan"),),
    "zh": (("左", "右"),),
}
# Without spaces a character is a word; but side by side the two mean "about".
_KEPT = "左右"

Edits = list[tuple[int, int, str]]


def mirrored(values: dict[str, list[Any]], schema: Schema) -> dict[str, list[Any]] | None:
    """Decoded values with left and right exchanged in texts, spans and names of classes.

    None if a class that says left or right has no opposite among the classes.
    """
    values = dict(values)
    for field in schema.find(modality="text"):
        if field.name not in values:
            continue
        edits = [find_edits(text, field.options.get("language")) for text in values[field.name]]
        for spans in schema.find(modality="spans", of=field.name):
            if spans.name in values:
                values[spans.name] = [move_span(s, edits[0]) for s in values[spans.name]]
        values[field.name] = list(map(apply_edits, values[field.name], edits))
    for field in schema.find(modality=("category", "categories")):
        if field.name not in values:
            continue
        opposite = _opposites(tuple(class_names(field)), field.options.get("language"))
        if not opposite:
            continue
        turn = _turned_code if field.modality == "category" else _turned_codes
        turned = [turn(value, opposite) for value in values[field.name]]
        if any(value is None for value in turned):
            return None
        values[field.name] = turned
    return values


def find_edits(text: str, language: str | None = None) -> Edits:
    """The words to exchange: where they start and end, and what stands there then.

    Args:
        text: the text.
        language: where words are looked for: `en`, `de`, `id` or `zh`; None for all of them.
    """
    words, pattern = _words(language)
    found = []
    for match in pattern.finditer(text):
        word = match.group()
        if word != _KEPT:
            other = words[word.lower()]
            if word.isupper():
                other = other.upper()
            elif word[0].isupper():
                other = other.capitalize()
            found.append((match.start(), match.end(), other))
    return found


def apply_edits(text: str, edits: Edits) -> str:
    """The text with the words exchanged."""
    parts, done = [], 0
    for start, end, word in edits:
        parts += [text[done:start], word]
        done = end
    return "".join([*parts, text[done:]])


def move_span(span: Int[np.ndarray, "2"], edits: Edits) -> Int[np.ndarray, "2"]:
    """Where a span of the text lies after the edits; one that cuts a word grows to hold it."""
    first, last = int(span[0]), int(span[1])
    if first == last:
        return span
    shift_first = shift_last = 0
    for start, end, word in edits:
        change = len(word) - (end - start)
        if start < first < end:
            first = start
        elif end <= first:
            shift_first += change
        if start < last < end:
            last = end
        if end <= last:
            shift_last += change
    return np.array([first + shift_first, last + shift_last], dtype=np.int64)


@lru_cache
def _words(language: str | None) -> tuple[dict[str, str], re.Pattern[str]]:
    pairs = [
        pair
        for name, entries in _PAIRS.items()
        if language is None or name == language
        for pair in entries
    ]
    words = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    spaced = "|".join(word for word in words if word.isascii())
    joined = "|".join([_KEPT, *(word for word in words if not word.isascii())])
    return words, re.compile(rf"(?<!\w)(?:{spaced or '(?!)'})(?!\w)|{joined}", re.IGNORECASE)


@lru_cache
def _opposites(classes: tuple[str, ...], language: str | None) -> dict[int, int | None]:
    """For each code whose name says left or right, the code of the name that says the opposite."""
    codes = {name: code for code, name in enumerate(classes)}
    edits = {name: find_edits(name, language) for name in classes}
    return {codes[n]: codes.get(apply_edits(n, found)) for n, found in edits.items() if found}


def _turned_code(code: Code, opposite: dict[int, int | None]) -> Code | None:
    turned = opposite.get(code, code)
    return None if turned is None else Code(turned)


def _turned_codes(
    hot: np.ndarray[Any, np.dtype[Any]], opposite: dict[int, int | None]
) -> np.ndarray[Any, np.dtype[Any]] | None:
    turned = np.zeros_like(hot)
    for code in np.flatnonzero(hot).tolist():
        other = opposite.get(code, code)
        if other is None:
            return None
        turned[other] = hot[code]
    return turned
