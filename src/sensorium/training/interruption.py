"""Ctrl-C while training: the step is ended, a checkpoint written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Interrupted(Exception):
    """The user pressed Ctrl-C; a checkpoint was written."""


@dataclass
class Flag:
    """Whether Ctrl-C was pressed."""

    is_set: bool = False


@contextmanager
def interruption() -> Iterator[Flag]:
    """A flag that the first Ctrl-C sets; a second one interrupts at once."""
    flag = Flag()

    def note(_signal: int, _frame: object) -> None:
        if flag.is_set:
            raise KeyboardInterrupt
        flag.is_set = True

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread, where no signals arrive
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
