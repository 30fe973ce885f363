"""The parameters of views: defaults, types and the errors for wrong ones."""

from __future__ import annotations

from collections.abc import Mapping

from sensorium.playground.pictures import LANGUAGES, pictures
from sensorium.types.errors import UserError
from sensorium.types.names import did_you_mean

CHOICES = {
    "language": (*LANGUAGES, "mixed"),
    "caption": ("short", "dense", "noisy"),
    "signal": ("table", "image", "xor", "redundant", "missing", "noise"),
    "holdout": ("scenes", "objects", "combinations"),
}
LISTS = {
    "kinds": ("exists", "negation", "colour", "count", "relation"),
    "told": ("tile", "relation", "ground"),
    "contraries": ("random", "colour", "relation", "thing"),
    "pairs": (
        "text->image",
        "text->text",
        "text->image+text",
        "image->text",
        "image->image",
        "image+text->text",
        "image+text->image",
        "image+text->image+text",
    ),
}
SWITCHES = {"tiles", "masks", "irregular"}
PERCENTAGES = {"missing", "unrelated", "noise", "agreement", "depth"}
RANGES = {"objects", "named", "turns"}
LIMITS = {
    "train": (0, 10**12),
    "validation": (0, 10**12),
    "test": (0, 10**12),
    "size": (32, 512),
    "seed": (-(2**62), 2**62),
    "jitter": (0, 8),
    "distractors": (1, 20),
    "frames": (2, 64),
    "points": (16, 8192),
    "classes": (2, 36),
    "unseen": (0, 34),
    "renders": (1, 12),
    "samples": (8, 1000),
    "channels": (1, 16),
    "images": (1, 60),
}
MOST_OBJECTS = 16


class PlaygroundError(UserError, ValueError):
    """A view or parameter that does not exist or cannot be."""


def resolve(
    view: str, defaults: Mapping[str, int | str], given: Mapping[str, object]
) -> dict[str, int | str]:
    """The full parameters of a view, each of its default's type and within its limits.

    Raises:
        PlaygroundError: naming the parameter, what was expected, and the nearest known name.
    """
    for key in given:
        if key not in defaults:
            raise PlaygroundError(
                f"playground view '{view}' has no parameter '{key}'. {did_you_mean(key, defaults)}"
            )
    return {key: _value(view, key, given.get(key, default)) for key, default in defaults.items()}


def span(value: int | str) -> tuple[int, int]:
    """The smallest and the largest number of a range: "2-4" gives (2, 4), "3" gives (3, 3)."""
    low, _, high = str(value).partition("-")
    return int(low), int(high or low)


def _value(view: str, key: str, value: object) -> int | str:
    place = f"playground view '{view}', parameter '{key}'"
    if key in CHOICES:
        if value not in CHOICES[key]:
            known = CHOICES[key]
            raise PlaygroundError(f"{place}: unknown '{value}'. {did_you_mean(str(value), known)}")
        return str(value)
    if key in LISTS:
        return _list(place, value, LISTS[key])
    if key in RANGES:
        return _range(place, value)
    number = _whole(place, value)
    low, high = LIMITS.get(key, (0, 100))
    if key in SWITCHES:
        low, high = 0, 1
    if key == "pictures":
        low, high = 1, len(pictures())
    if not low <= number <= high:
        raise PlaygroundError(f"{place}: {number} is not from {low} to {high}")
    return number


def _list(place: str, value: object, known: tuple[str, ...]) -> str:
    names = str(value).split(",")
    for name in names:
        if name not in known:
            raise PlaygroundError(f"{place}: unknown '{name}'. {did_you_mean(name, known)}")
    return ",".join(name for name in known if name in names)


def _range(place: str, value: object) -> int | str:
    text = str(value)
    try:
        low, high = span(text)
    except ValueError:
        raise PlaygroundError(f"{place}: expected 3 or 2-4, not '{value}'") from None
    if not 1 <= low <= high <= MOST_OBJECTS:
        raise PlaygroundError(f"{place}: '{value}' is not within 1-{MOST_OBJECTS}")
    return low if low == high else f"{low}-{high}"


def _whole(place: str, value: object) -> int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    words = {"true": 1, "yes": 1, "false": 0, "no": 0}
    try:
        text = str(value).lower()
        return words[text] if text in words else int(text)
    except ValueError:
        raise PlaygroundError(f"{place}: expected a whole number, not '{value}'") from None
