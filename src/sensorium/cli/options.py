"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sensorium.data import Data


class SizeName(StrEnum):
    """The sizes of a system."""

    nano = "nano"
    paper = "paper"


class Device(StrEnum):
    """Where to compute."""

    cpu = "cpu"
    cuda = "cuda"


_DATA = (
    "A folder of media, a table (.csv, .tsv, .jsonl, .parquet), tars, hub:NAME, or playground:VIEW."
)

DataArgument = Annotated[str, typer.Argument(metavar="DATA", help=_DATA)]
DataOption = Annotated[str, typer.Option("--data", metavar="DATA", help=_DATA)]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
SchemaOption = Annotated[
    Path | None,
    typer.Option("--schema", metavar="FILE", help="What the fields are; guessed if not given."),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="retrieval, universal-retrieval, classification, regression, vqa, captioning or "
        "reconstruction; what the roles of the fields speak of if not given.",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", metavar="COLUMN", help="The field or column to be predicted."),
]
BudgetOption = Annotated[
    str,
    typer.Option(
        "--budget", metavar="BUDGET", help="For example 90s, 2m, 1.5h, 500steps or 3epochs."
    ),
]
SizeOption = Annotated[
    SizeName,
    typer.Option("--size", help="nano trains in minutes on a laptop; paper is as published."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the system by its dotted path (width=192), or of training "
        "(training.batch_size=32). Repeatable.",
    ),
]
DeviceOption = Annotated[
    Device | None, typer.Option("--device", help="The best there is if not given.")
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Where decoded media are kept; your cache folder if not given.",
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="HOW",
        help="column:NAME, share:0.8,0.1,0.1, group:COLUMN, time:COLUMN or folds:K:I; as the data "
        "say, else by share, if not given.",
    ),
]
MissingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        metavar="FIELD:RATE",
        help="Hide a field in a share of the rows; FIELD:RATE:by=COLUMN=VALUE (or !=, <, >) only in "
        "rows where a column holds such a value. Repeatable.",
    ),
]
MissingTestOption = Annotated[
    list[str] | None,
    typer.Option(
        "--missing-test",
        metavar="FIELD:RATE",
        help="The same for test rows, instead of --missing; 'none' hides nothing in them.",
    ),
]
MissingNowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        metavar="FIELD:RATE",
        help="Hide this in the rows that are asked about, as in `train`, instead of what the run's "
        "data hide; 'none' hides nothing.",
    ),
]
PoolOption = Annotated[
    list[int] | None,
    typer.Option(
        "--pool",
        metavar="N",
        min=2,
        help="For retrieval: rank among so many candidates. Repeatable; the first one is the main.",
    ),
]
NoSamplesOption = Annotated[
    bool,
    typer.Option(
        "--no-samples",
        help="Show no rows: nothing of a row gets into reports, lists of bad rows or other files.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def open_rows(
    where: str,
    schema: Path | None = None,
    split: str | None = None,
    missing: Sequence[str] | None = None,
    missing_test: Sequence[str] | None = None,
    samples: bool = True,
) -> Data:
    """The data that the options speak of."""
    from sensorium.data import open_data

    return open_data(
        where,
        schema,
        split=split,
        missing=missing or (),
        missing_test=missing_test or None,
        samples=samples,
    )


def read_settings(pairs: Sequence[str] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the system and of training, from `NAME=VALUE` texts.

    Raises:
        UserError: a text is not of that form.
    """
    from sensorium.types.errors import UserError
    from sensorium.types.plain_yaml import read_yaml

    system: dict[str, Any] = {}
    training: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UserError(f"--set {pair}: expected NAME=VALUE, for example width=192")
        try:
            value = read_yaml(text)
        except ValueError:
            value = text
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)  # YAML takes 1e-3 for text
        if name.startswith("training."):
            training[name.removeprefix("training.")] = value
        else:
            system[name] = value
    return system, training


def short_name(where: str) -> str:
    """What data are called in the name of a folder."""
    path = where.split("?", 1)[0].rstrip("/")
    stem = re.split(r"[/:\\]", path)[-1].split("*")[0]
    stem = stem.rsplit(".", 1)[0] if "." in stem.lstrip(".") else stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "data"
