"""Commands on a collection: index it with a run, search it."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensorium.cli.console import next_steps, resumable, show, show_json, tell
from sensorium.cli.options import Device, DeviceOption, JsonOption, RunArgument
from sensorium.cli.progress import RowsProgress

if TYPE_CHECKING:
    from sensorium.search.writing import Indexed


class Mode(StrEnum):
    """What is compared."""

    vector = "vector"
    text = "text"
    hybrid = "hybrid"


def index(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help="Rows to add, or to replace those of the same key: whatever `train` reads.",
        ),
    ] = None,
    into: Annotated[
        Path, typer.Option("--into", metavar="INDEX", help="The folder of the index.")
    ] = Path("my.index"),
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="COLUMN",
            help="The column that names rows; as the schema says, or their number, if not given.",
        ),
    ] = None,
    delete: Annotated[
        list[str] | None,
        typer.Option("--delete", metavar="KEY", help="Take out a row. Repeatable."),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Take out rows that DATA does not have.")
    ] = False,
    graph_from: Annotated[
        int | None,
        typer.Option(
            "--graph-from",
            metavar="N",
            min=0,
            help="From how many vectors on a field is searched by a graph instead of exactly; "
            "100,000 if not given.",
        ),
    ] = None,
    device: DeviceOption = None,
    no_samples: Annotated[
        bool,
        typer.Option(
            "--no-samples", help="Keep nothing of a row but its key and vectors in a new index."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make a collection searchable, or bring it up to date.

    Rows that have not changed are not embedded again. What was interrupted goes on when the same
    command is given again; until it ends, the index finds what it found before.

    Example: sensorium index runs/dual-encoder-products-seed0 products/ --into my.index
    """
    from sensorium.search.building import index_rows
    from sensorium.search.model import Model
    from sensorium.types.errors import UserError

    if data is None and not delete and graph_from is None:
        raise UserError("nothing to be done: name rows to index, or keys with --delete")
    if prune and data is None:
        raise UserError("--prune: name the rows that stay")
    with (
        resumable(f"Stopped. The same command goes on; {into} finds what it found before."),
        RowsProgress(str(into)) as progress,
    ):
        done = index_rows(
            Model(run, device.value if device else None),
            data,
            into,
            delete=delete or (),
            prune=prune,
            key=key,
            graph_from=graph_from,
            samples=not no_samples,
            report=progress,
        )
    if json:
        layout = done.layout.model_dump(mode="json")
        counts = {name: value for name, value in vars(done).items() if isinstance(value, int)}
        show_json({**counts, "faults": [asdict(fault) for fault in done.faults], "index": layout})
        return
    _say_what_was_done(done, into)
    question = "a red heart above a dog"
    next_steps(("Search it.", f"sensorium search {shlex.quote(str(into))} {shlex.quote(question)}"))


def _say_what_was_done(done: Indexed, into: Path) -> None:
    from sensorium.report.numbers import plural
    from sensorium.search.index import Index

    counts = ("added", "updated", "unchanged", "deleted", "embedded")
    said = ", ".join(f"{getattr(done, name):,} {name}" for name in counts)
    show(f"{into}: {plural(done.layout.rows, 'row')}. {said}")
    for field in done.layout.fields:
        how = "all vectors are compared"
        if field.graph is not None:
            graph = field.graph
            how = f"a graph finds {graph.recall:.3f} of the ten nearest ({graph.queries} queries)"
        show(f"  {field.name} ({field.modality}): {plural(field.rows, 'vector')}; {how}")
    if done.faults:
        first = done.faults[0]
        tell(
            f"{plural(len(done.faults), 'row')} set aside, listed in {into / 'quarantine.jsonl'}. "
            f"The first is row '{first.key}': {first.reason}",
            "yellow",
        )
    for warning in Index(into).warnings():
        tell(warning, "yellow")


def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="The folder of an index.")],
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="What is looked for, in words.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="A picture to look for.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option("--audio", metavar="FILE", help="A recording to look for.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option("--video", metavar="FILE", help="A clip to look for.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Which rows come into question: \"price < 10 and kind in ('cat', 'dog')\"; also "
            "or, not, parentheses, 'is missing'.",
        ),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            help="Compare vectors, or the words that stand in rows, or both, by their ranks.",
        ),
    ] = Mode.vector,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--in",
            metavar="FIELD",
            help="Compare the vectors of this field; the best of all if not given. Repeatable.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many rows.")] = 10,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="Where the run is now that made the index."),
    ] = None,
    device: DeviceOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with pictures.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find rows by a text, a picture, a recording, or several together.

    Several together ask for what is like all of them: their vectors are added.

    Example: sensorium search my.index "a red heart above a dog" --where "price < 10"
    """
    from sensorium.search.index import Index
    from sensorium.search.shown import hits_json, hits_table, write_hits_page
    from sensorium.types.errors import UserError

    given = {"text": text, "image": image, "audio": audio, "video": video}
    question = {kind: part for kind, part in given.items() if part is not None}
    opened = Index(index)
    if mode is Mode.text and question.keys() - {"text"}:
        raise UserError(
            "--mode text compares words alone; leave the files out, or use --mode hybrid"
        )
    vector = None
    if mode is not Mode.text and question:
        vector = opened.model(run, _name(device)).ask(question)
    hits = opened.search(
        vector, text or "", mode=mode.value, where=where, fields=fields or (), limit=limit
    )
    for warning in opened.warnings():
        tell(warning, "yellow")
    show_json(hits_json(hits)) if json else show(hits_table(hits))
    if html is not None:
        note = f", {where}" if where else ""
        write_hits_page(html, opened, hits, question, note)
        tell(f"Page: {html}")


def _name(device: Device | None) -> str | None:
    return device.value if device else None
