"""Progress of training and of rows: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0
_MOST_LOSSES = 3


class TrainingProgress(AbstractContextManager["TrainingProgress"]):
    """Shows lines of metrics, of one run after another.

    In a terminal there is a bar for each run and stage; elsewhere a line for each validation and
    one every few seconds.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None
        if sys.stderr.isatty():
            self._bars = Progress(
                SpinnerColumn(finished_text="[green]✓"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", style="dim"),
                console=Console(file=sys.stderr),
            )
        self._now: tuple[str, str] | None = None
        self._bar: Any = None
        self._begun = (0, 0.0)
        self._said = -math.inf

    def __enter__(self) -> TrainingProgress:
        if self._bars is not None:
            self._bars.start()
            self._bar = self._bars.add_task("reading rows", total=None, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, line: Mapping[str, Any], run: str = "") -> None:
        """Show a line of metrics of a run."""
        step, steps = line["stage_step"], line["stage_steps"]
        if (run, line["stage"]) != self._now:
            self._begin(run, line)
        note = ", ".join([_losses(line), *self._pace(line)])
        if self._bars is None:
            if line["split"] == "validation":
                _say(self._description, f"step {step}/{steps}, validation {_losses(line)}")
            elif time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
                self._said = time.monotonic()
                _say(self._description, f"step {step}/{steps}, {note}")
        elif line["split"] == "train":
            self._bars.update(self._bar, completed=step, total=steps, note=note)

    def _begin(self, run: str, line: Mapping[str, Any]) -> None:
        """Another run or stage."""
        first = self._now is None
        self._now = (run, line["stage"])
        self._begun = (line["stage_step"], line["seconds"])
        if self._bars is not None:
            if not first:
                self._bars.stop_task(self._bar)
                self._bar = self._bars.add_task("", note="")
            self._bars.update(self._bar, description=self._description)

    @property
    def _description(self) -> str:
        assert self._now is not None
        run, stage = self._now
        return f"{run}, {stage}" if run else stage

    def _pace(self, line: Mapping[str, Any]) -> list[str]:
        """Steps a second and the time that is left, once they are known."""
        from sensorium.report.numbers import duration

        steps = line["stage_step"] - self._begun[0]
        seconds = line["seconds"] - self._begun[1]
        if steps < 1 or seconds <= 0:
            return []
        rate = steps / seconds
        left = (line["stage_steps"] - line["stage_step"]) / rate
        return [f"{rate:.3g} steps/s", f"{duration(round(left))} left"]


class RowsProgress(AbstractContextManager["RowsProgress"]):
    """Shows how many rows are done: a bar in a terminal, a line every few seconds elsewhere."""

    def __init__(self, what: str) -> None:
        self._what, self._said = what, time.monotonic()
        self._bars: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24))
            console = Console(file=sys.stderr)
            self._bars = Progress(*columns, MofNCompleteColumn(), console=console)
            self._bar = self._bars.add_task(what, total=None)

    def __enter__(self) -> RowsProgress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, done: int, of: int) -> None:
        """Show how many rows are done, of how many."""
        if self._bars is not None:
            self._bars.update(self._bar, completed=done, total=of)
        elif time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            _say(self._what, f"{done:,} of {of:,} rows")


def _say(what: str, text: str) -> None:
    Console(file=sys.stderr, highlight=False, soft_wrap=True).print(Text(f"{what}: {text}"))


def _losses(line: Mapping[str, Any]) -> str:
    losses = list(line["losses"].items())
    if len(losses) == 1:
        return f"loss {losses[0][1]:.3g}"
    return ", ".join(f"{name} {value:.3g}" for name, value in losses[:_MOST_LOSSES])
