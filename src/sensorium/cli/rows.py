"""Commands that look: at the catalogue, and at data."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensorium.cli.console import next_steps, show, show_json
from sensorium.cli.options import (
    DataArgument,
    JsonOption,
    NoSamplesOption,
    SplitOption,
    open_rows,
    short_name,
)

if TYPE_CHECKING:
    from sensorium.types import Schema


def systems(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Names to list, such as '*bert*'.")
    ] = "*",
    json: JsonOption = False,
) -> None:
    """List the systems that come with the library.

    Example: sensorium systems '*bert*'
    """
    from sensorium.systems.registry import catalogue, list_systems
    from sensorium.types.errors import UserError
    from sensorium.types.names import did_you_mean

    cards = {name: catalogue()[name][1] for name in list_systems(pattern)}
    if not cards:
        raise UserError(f"no system is called '{pattern}'. {did_you_mean(pattern, catalogue())}")
    if json:
        show_json({name: card.model_dump() for name, card in cards.items()})
        return
    from sensorium.report.terminal import systems_table

    show(systems_table(cards))


def inspect(
    data: DataArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Where files go; ./inspection-NAME if not given."
        ),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema",
            metavar="FILE",
            help="The schema file: read if it is there, else written with what is guessed.",
        ),
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option("--contact-sheet", metavar="FILE", help="The picture to write, a .png."),
    ] = None,
    split: SplitOption = None,
    no_samples: NoSamplesOption = False,
    json: JsonOption = False,
) -> None:
    """Look at data before anything is trained on them.

    Shows the rows of each split, what each column is taken for and why, content that stands in two
    splits, and rows that cannot be used. Writes a contact sheet, and a schema file to edit: when it
    is wrong about a field, mend the file and inspect again. An existing schema file is never
    overwritten. Nothing is written into the folder of the data. With --no-samples there is no
    contact sheet, and no value is shown.

    Example: sensorium inspect products/
    """
    from sensorium.data import contact_sheet as draw_contact_sheet
    from sensorium.data import inspect_data
    from sensorium.report.terminal import inspection_table
    from sensorium.training.files import write_aside
    from sensorium.training.folder import RunFolder

    folder = out or Path(f"inspection-{short_name(data)}")
    schema_file = schema or folder / "schema.yaml"
    sheet_file = contact_sheet or folder / "contact-sheet.png"
    known = schema_file if schema_file.exists() else None
    opened = open_rows(data, known, split, samples=not no_samples)
    for target in {schema_file.parent, sheet_file.parent}:
        RunFolder(target).create()
    if known is None:
        write_aside(schema_file, opened.schema.save)
    files = {"schema": str(schema_file)}
    if not no_samples:
        draw_contact_sheet(opened, sheet_file)
        files["contact_sheet"] = str(sheet_file)
    found = inspect_data(opened)
    if json:
        show_json({**asdict(found), "files": files})
        return
    show(inspection_table(found))
    sheet = "" if no_samples else f", wrote {sheet_file}"
    show(f"{'Read' if known else 'Wrote'} {schema_file}{sheet}")
    where = f"--data {shlex.quote(data)} --schema {shlex.quote(str(schema_file))}"
    where += f" --split {split}" if split else ""
    next_steps(
        ("Change what is wrong in the schema file, and look again.", _again(data, schema_file)),
        (_offer(opened.schema), f"sensorium compare {where} --budget 2m"),
    )


def _again(data: str, schema_file: Path) -> str:
    return f"sensorium inspect {shlex.quote(data)} --schema {shlex.quote(str(schema_file))}"


def _offer(schema: Schema) -> str:
    from sensorium.tasks import guess_task

    task = guess_task(schema)
    return f"Compare the systems that fit, here for {task} (or name another --task, --target)."
