"""Names that people type: suggestions for wrong ones, small integers for right ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# The parts of a conversation are numbered where it is read, which may be in a process of its own; so
# their numbers must not depend on what else was numbered before.
_NUMBERS: dict[str, int] = {"prompt": 0, "question": 1, "answer": 2}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests the nearest known name, or lists what is known."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    if not known:
        return "There are none."
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"Known: {shown}."


def number_of(name: str) -> int:
    """An integer that stands for `name` in id tensors (equal names give equal integers)."""
    return _NUMBERS.setdefault(name, len(_NUMBERS))
