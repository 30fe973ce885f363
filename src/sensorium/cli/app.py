"""The application and its commands, in the order in which a newcomer meets them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated

import typer
from rich.markup import escape

from sensorium import __version__
from sensorium.cli import ask, claims, diagnose, many, one, rows, search, serve, talk

app = typer.Typer(
    name="sensorium",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sensorium {__version__}")
        raise typer.Exit


@app.callback()
def _sensorium(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Train, compare and use published multimodal systems on your own data.

    Start with [bold]sensorium demo[/], or look at your rows with [bold]sensorium inspect PATH[/].
    """


def _help(command: Callable[..., None]) -> str:
    """A docstring as help: each paragraph in one piece, to be wrapped to the window."""
    paragraphs = inspect.getdoc(command) or ""
    lines = [escape(" ".join(part.split())) for part in paragraphs.split("\n\n")]
    return "\n\n".join(
        f"Example: [cyan]{line.removeprefix('Example: ')}[/]"
        if line.startswith("Example: ")
        else line
        for line in lines
    )


for command in (
    many.demo,
    rows.systems,
    rows.inspect,
    many.compare,
    one.train,
    one.evaluate,
    diagnose.diagnose,
    one.predict,
    one.embed,
    one.translate,
    one.tokenize,
    search.index,
    search.search,
    ask.ask,
    serve.serve,
    talk.generate,
    talk.chat,
    many.report,
    claims.claims,
):
    app.command(help=_help(command))(command)
