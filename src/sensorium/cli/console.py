"""Where the command line writes: results to standard output, all else to standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer
from rich.console import Console, RenderableType
from rich.text import Text


def show(*results: RenderableType) -> None:
    """Print results: for people in a terminal, as plain text elsewhere."""
    from sensorium.report.terminal import to_text

    for result in results:
        renderable = Text(result) if isinstance(result, str) else result
        if sys.stdout.isatty():
            _console(sys.stdout).print(renderable, soft_wrap=isinstance(renderable, Text))
        else:
            sys.stdout.write(to_text(renderable) + "\n")


def show_json(content: Any) -> None:
    """Print a result for programs."""
    import json

    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def tell(text: str, style: str = "") -> None:
    """Say something beside the results."""
    _console(sys.stderr).print(Text(text, style=style), soft_wrap=True)


def say_error(message: str) -> None:
    """Say what went wrong."""
    text = Text("Error: ", style="bold red").append(message, style="not bold default")
    _console(sys.stderr).print(text, soft_wrap=True)


def next_steps(*steps: tuple[str, str]) -> None:
    """Say what can be done now: what for, and the command."""
    show("", Text("What next", style="bold"))
    for purpose, command in steps:
        show(Text(f"  {purpose}"), Text(f"    {command}", style="cyan"))


@contextmanager
def resumable(message: str) -> Iterator[None]:
    """On Ctrl-C, end with exit code 130 and a message instead of a traceback."""
    from sensorium.training.run import Interrupted

    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        tell(f"\n{message}", "yellow")
        raise typer.Exit(130) from None


def _console(stream: TextIO) -> Console:
    return Console(file=stream, highlight=False)
