"""Commands on one run: train it, score it, use it."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sensorium.cli.console import next_steps, resumable, show, show_json, tell
from sensorium.cli.options import (
    BudgetOption,
    CacheOption,
    DataArgument,
    DataOption,
    Device,
    DeviceOption,
    JsonOption,
    MissingNowOption,
    MissingOption,
    MissingTestOption,
    NoSamplesOption,
    PoolOption,
    RunArgument,
    SchemaOption,
    SetOption,
    SizeName,
    SizeOption,
    SplitOption,
    TargetOption,
    TaskOption,
    open_rows,
    read_settings,
    short_name,
)
from sensorium.cli.progress import TrainingProgress

if TYPE_CHECKING:
    import pyarrow as pa

    from sensorium.data import Data
    from sensorium.training.run import Run


def train(
    system: Annotated[
        str,
        typer.Argument(
            metavar="SYSTEM", help="A name that `sensorium systems` lists, or ./mine.py:MySystem."
        ),
    ],
    data: DataOption,
    schema: SchemaOption = None,
    task: TaskOption = None,
    target: TargetOption = None,
    budget: BudgetOption = "2m",
    size: SizeOption = SizeName.nano,
    settings: SetOption = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all that is drawn.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The run folder; runs/NAME if not given."),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option("--init", metavar="RUN", help="A run whose weights are the start."),
    ] = None,
    device: DeviceOption = None,
    cache: CacheOption = None,
    split: SplitOption = None,
    missing: MissingOption = None,
    missing_test: MissingTestOption = None,
    no_samples: NoSamplesOption = False,
) -> None:
    """Train a system on data, and score it on the test rows.

    A run that was stopped, by Ctrl-C or by a power cut, goes on where it was when the same command
    is given again.

    Example: sensorium train dual-encoder --data products/ --budget 5m
    """
    from sensorium.data import MediaCache
    from sensorium.report.html import write_run_report
    from sensorium.report.terminal import evaluation_table
    from sensorium.training.run import is_main_process
    from sensorium.training.run import train as train_run

    of_system, of_training = read_settings(settings)
    opened = open_rows(data, schema, split, missing, missing_test, samples=not no_samples)
    stem = Path(system.rpartition(":")[0] or system).stem
    folder = out or Path("runs") / f"{stem}-{short_name(data)}-seed{seed}"
    with (
        resumable(f"Stopped. The same command goes on from the last checkpoint in {folder}."),
        TrainingProgress() as progress,
    ):
        run = train_run(
            system,
            opened,
            out=folder,
            task=task,
            target=target,
            size=size.value,
            settings=of_system,
            options=of_training,
            budget=budget,
            seed=seed,
            device=device.value if device else None,
            init=init,
            cache=cache,
            report=progress,
        )
    if not is_main_process():  # one of several that `accelerate launch` started
        return
    own = run.data()
    if len(own.rows("test")):
        with resumable(f"Stopped while scoring. `sensorium evaluate {folder}` scores the run."):
            evaluation = run.evaluate(cache=MediaCache(cache) if cache else None)
        show(evaluation_table(evaluation.as_dict()))
    else:
        tell("There are no test rows, so the run has no score.", "yellow")
    page = write_run_report(folder, own)
    show("", f"Run: {folder}", f"Report: {page}")
    place = shlex.quote(str(folder))
    cost = run.info["cost"]
    show(
        f"Trained: {cost['trainable_parameters']:,} of {cost['parameters']:,} weights "
        f"({cost['trainable_parameters'] / cost['parameters']:.2%})"
    )
    uses = {
        "predict": "predict {} ROWS --out predictions.parquet",
        "generate": "generate {} ROWS --out texts.parquet",
        "reconstruct": "translate {} ROWS --out translated",
        "embed": "embed {} ROWS --out embeddings.parquet",
    }
    use = next((use for use in uses if use in run.system.capabilities), "embed")
    talk = [("Talk with it.", f"sensorium chat {place}")]
    next_steps(
        ("Use it on new rows.", f"sensorium {uses[use].format(place)}"),
        *(talk if "generate" in run.system.capabilities else ()),
        (
            "See whether another system does better.",
            f"sensorium compare --data {shlex.quote(data)} --budget {budget}",
        ),
    )


def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="Other rows, all of which are scored; its own if not given.",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Which of its own rows.")
    ] = "test",
    pool: PoolOption = None,
    missing: MissingNowOption = None,
    device: DeviceOption = None,
    no_samples: NoSamplesOption = False,
    json: JsonOption = False,
) -> None:
    """Score a run, on its own test rows or on other data.

    Example: sensorium evaluate runs/dual-encoder-products-seed0 --pool 50 --pool 256
    """
    from sensorium.report.terminal import evaluation_table
    from sensorium.training.run import load

    loaded = load(run, device.value if device else None)
    scored = loaded.evaluate(
        data, split=split, pools=pool, missing=missing or None, samples=not no_samples
    )
    evaluation = scored.as_dict()
    show_json(evaluation) if json else show(evaluation_table(evaluation))


def predict(
    run: RunArgument,
    data: DataArgument,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The Parquet file to write.")
    ] = Path("predictions.parquet"),
    device: DeviceOption = None,
) -> None:
    """Predict the label, value or answer of new rows.

    The rows may lack columns, above all the one that is predicted. The file has a line for each
    row: its key, the prediction, and for classes their probabilities.

    Example: sensorium predict runs/late-fusion-visits-seed0 new_visits.csv
    """
    from sensorium.training.run import load

    check_file(out)
    loaded = load(run, _name(device))
    rows = loaded.rows_of(data)
    write_table(loaded.predict(rows), out, loaded, rows)


def embed(
    run: RunArgument,
    data: DataArgument,
    field: Annotated[
        str | None,
        typer.Option("--field", metavar="FIELD", help="One field; both sides if not given."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The Parquet file to write.")
    ] = Path("embeddings.parquet"),
    device: DeviceOption = None,
) -> None:
    """Embed new rows: unit vectors that can be compared between fields.

    The file has a line for each row: its key, and for each field a vector, or nothing where the
    row lacks it.

    Example: sensorium embed runs/dual-encoder-products-seed0 new/ --field image
    """
    from sensorium.training.run import load

    check_file(out)
    loaded = load(run, _name(device))
    rows = loaded.rows_of(data)
    write_table(loaded.embed(rows, field), out, loaded, rows)


def translate(
    run: RunArgument,
    data: DataArgument,
    given: Annotated[
        str,
        typer.Option(
            "--from", metavar="FIELDS", help="Fields that are read; all others if not given."
        ),
    ] = "",
    wanted: Annotated[
        str,
        typer.Option(
            "--to", metavar="FIELDS", help="Fields to be predicted; all others if not given."
        ),
    ] = "",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder to write into.")
    ] = Path("translated"),
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="FIELD:X1,Y1,X2,Y2",
            help="The part of a picture or map in --from and --to that stays, as shares of its sides; "
            "the rest is filled anew. Repeatable.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="How tokens are chosen: steps, temperature, top_k, top_p, seed, or guidance.FIELD=3 to "
            "follow a field closely. Repeatable.",
        ),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Predict whole fields of new rows, such as depth from a picture.

    Names of several fields are divided by commas. A system that chains, such as fourm, predicts them in
    their order, each from those before it as well. The folder gets rows.jsonl, which can be opened as
    data, and a file for each picture or map.

    Example: sensorium translate runs/multimae new/ --from image --to depth,segments --out told
    """
    from sensorium.report.numbers import plural
    from sensorium.training.run import load
    from sensorium.training.translating import TABLE
    from sensorium.training.translating import translate as translate_rows

    names = [[name.strip() for name in text.split(",") if name.strip()] for text in (given, wanted)]
    number = translate_rows(
        load(run, _name(device)),
        data,
        out,
        given=names[0],
        wanted=names[1],
        keep=read_boxes(keep),
        filling=read_settings(settings)[0],
    )
    show(f"Wrote {out / TABLE}: {plural(number, 'row')}")


def read_boxes(texts: list[str] | None) -> dict[str, list[float]]:
    """Boxes by field, from `FIELD:X1,Y1,X2,Y2` texts.

    Raises:
        UserError: a text is not of that form.
    """
    from sensorium.types.errors import UserError

    boxes = {}
    for text in texts or ():
        name, _, numbers = text.partition(":")
        try:
            boxes[name] = [float(number) for number in numbers.split(",")]
        except ValueError:
            boxes[name] = []
        if len(boxes[name]) != 4:
            raise UserError(f"--keep {text}: expected FIELD:X1,Y1,X2,Y2, such as image:0,0,0.5,1")
    return boxes


def tokenize(
    run: RunArgument, data: DataArgument, device: DeviceOption = None, cache: CacheOption = None
) -> None:
    """Make the codes of pictures or maps once, for all runs that read them.

    RUN is one of patch-tokenizer. The codes are kept in its folder; what is known already is not made
    again. A run of fourm whose setting `codes` names RUN takes them from there, if it does not change
    pictures at random.

    Example: sensorium tokenize runs/codes-of-image products/
    """
    from sensorium.data import MediaCache
    from sensorium.training.run import default_cache, load
    from sensorium.training.tokenizing import tokenize as tokenize_rows

    media = MediaCache(cache or default_cache())
    found = tokenize_rows(load(run, _name(device)), data, cache=media)
    show(
        f"{found.contents:,} different values of '{found.field}', of which codes were made of "
        f"{found.made:,}. They are kept in {run}"
    )
    where = f"--set codes.{found.field}={shlex.quote(str(run))} --set training.augment=false"
    next_steps(("Train on them.", f"sensorium train fourm --data {shlex.quote(data)} {where}"))


def _name(device: Device | None) -> str | None:
    return device.value if device else None


def check_file(path: Path) -> None:
    """Refuse a name that is no Parquet file's, and make its folder."""
    from sensorium.training.folder import RunFolder
    from sensorium.types.errors import UserError

    if path.suffix != ".parquet":
        raise UserError(f"--out {path}: expected a file that ends in .parquet")
    RunFolder(path.parent).create()


def write_table(table: pa.Table, path: Path, run: Run, rows: Data) -> None:
    """Write a table, and say which rows are not in it."""
    import pyarrow.parquet as pq

    from sensorium.report.numbers import plural
    from sensorium.training.files import write_aside
    from sensorium.types.errors import UserError

    num_lost = len(rows) - table.num_rows
    if num_lost:
        lost = f"{plural(num_lost, 'row')} could not be used. {_reason(table, run, rows)}"
        if not table.num_rows:
            raise UserError(lost)
        tell(lost, "yellow")
    write_aside(path, lambda aside: pq.write_table(table, aside))
    columns = ", ".join(table.column_names)
    show(f"Wrote {path}: {plural(table.num_rows, 'row')} with {columns}")


def _reason(table: pa.Table, run: Run, rows: Data) -> str:
    """Why a row that is not in a table isn't."""
    every = rows.rows("all")
    keys = rows.keys(every)
    missing = next(iter(Counter(keys) - Counter(table["key"].to_pylist())))
    suspects = every[[key == missing for key in keys]]  # several, if the key repeats
    fault = rows.read(suspects, run.system.views())[1][0]
    return f"The first is row '{fault.key}': {fault.reason}"
