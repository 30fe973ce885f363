"""Commands on several runs: compare, report, demo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sensorium.cli.console import next_steps, resumable, show, tell
from sensorium.cli.options import (
    BudgetOption,
    CacheOption,
    DataOption,
    DeviceOption,
    MissingOption,
    MissingTestOption,
    NoSamplesOption,
    PoolOption,
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
    from sensorium.comparison import Comparison

# What `demo` compares: name of the part, data, task, systems, budget of each run.
DEMO = (
    (
        "retrieval",
        "playground:scenes?objects=2&pictures=200",
        "retrieval",
        ("dual-encoder", "interbert"),
        "95s",
    ),
    ("classification", "playground:attributes", "classification", ("late-fusion",), "40s"),
)


def compare(
    systems: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SYSTEM",
            help="Names that `sensorium systems` lists, or ./mine.py:MySystem; all that fit the data "
            "if none is given.",
        ),
    ] = None,
    data: DataOption = ...,  # type: ignore[assignment]
    schema: SchemaOption = None,
    task: TaskOption = None,
    target: TargetOption = None,
    budget: BudgetOption = "2m",
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=1, help="Runs of each system.")
    ] = 1,
    size: SizeOption = SizeName.nano,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where it is kept; runs/NAME if not given."),
    ] = None,
    pool: PoolOption = None,
    device: DeviceOption = None,
    cache: CacheOption = None,
    split: SplitOption = None,
    missing: MissingOption = None,
    missing_test: MissingTestOption = None,
    no_samples: NoSamplesOption = False,
) -> None:
    """Train and score systems on the same rows under the same budget.

    A system that fails is a line with its error, not the end. The same command reuses what is
    finished: after Ctrl-C it goes on, with more --seeds it adds to what is there. The best run is
    kept in DIR/best, ready for evaluate, predict and embed.

    Example: sensorium compare dual-encoder interbert --data products/ --budget 2m --seeds 3
    """
    from sensorium.comparison import compare as compare_systems

    of_system, of_training = read_settings(settings)
    folder = out or Path("runs") / f"compare-{short_name(data)}"
    opened = open_rows(data, schema, split, missing, missing_test, samples=not no_samples)
    with (
        resumable(f"Stopped. The same command goes on; what is finished is kept in {folder}."),
        TrainingProgress() as progress,
    ):
        result = compare_systems(
            systems or None,
            opened,
            out=folder,
            task=task,
            target=target,
            budget=budget,
            seeds=seeds,
            size=size.value,
            settings=of_system,
            options=of_training,
            pools=pool,
            device=device.value if device else None,
            cache=cache,
            report=_by_run(progress),
        )
    _show_comparison(result)
    show("", f"Report: {folder / 'report.html'}", f"Numbers: {folder / 'compare.json'}")
    if result.summary["best"] is None:
        raise typer.Exit(1)
    next_steps(
        ("Score the best run on other rows.", f"sensorium evaluate {folder / 'best'} --data ROWS"),
        ("Repeat with more seeds; what is finished is kept.", "the same command with --seeds 3"),
    )


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A run, a comparison, or a folder of these.")
    ],
    no_samples: NoSamplesOption = False,
) -> None:
    """Write the report of a run or a comparison again.

    The data are opened again for the pictures and texts of single rows; if they are gone or have
    changed, or the run was made with --no-samples, the report leaves these out.

    Example: sensorium report runs/compare-products
    """
    from sensorium.report.html import write_report

    show(f"Report: {write_report(folder, samples=not no_samples)}")


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where it is kept.")] = Path(
        "demo"
    ),
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="BUDGET", help="Of each run, instead of the usual one."),
    ] = None,
    no_samples: NoSamplesOption = False,
) -> None:
    """See it work, on pictures and texts that come with the library.

    Two systems learn which caption belongs to which picture, and one to tell classes from pictures,
    sounds, texts and tables of which some are missing. Takes about six minutes on two cores.

    Example: sensorium demo
    """
    from sensorium.comparison import compare as compare_systems
    from sensorium.data import open_data
    from sensorium.report.html import write_combined_report

    results = []
    for name, where, task, systems, usual in DEMO:
        tell(f"{', '.join(systems)}: {task} on {where}, {budget or usual} each")
        data = open_data(where, samples=not no_samples)
        with (
            resumable(f"Stopped. The same command goes on; what is finished is kept in {out}."),
            TrainingProgress() as progress,
        ):
            result = compare_systems(
                systems,
                data,
                out=out / name,
                task=task,
                budget=budget or usual,
                report=_by_run(progress),
            )
        results.append((result, data))
    for result, _ in results:
        show("")
        _show_comparison(result)
    parts = [(result.folder, data.with_schema(_schema(result))) for result, data in results]
    show("", f"Report: {write_combined_report(out, parts)}")
    if any(result.summary["best"] is None for result, _ in results):
        raise typer.Exit(1)
    next_steps(
        ("Look at your own rows.", "sensorium inspect PATH"),
        ("Compare on them.", "sensorium compare --data PATH --budget 2m"),
        ("See which systems there are.", "sensorium systems"),
    )


def _schema(result: Comparison) -> Any:
    from sensorium.types import Schema

    return Schema.load(result.folder / "schema.yaml")


def _show_comparison(result: Comparison) -> None:
    from rich.text import Text

    from sensorium.report.numbers import data_name
    from sensorium.report.terminal import comparison_table

    row = result.rows[0]
    show(Text(f"{row['task']} on {data_name(row['data'])}", style="bold"))
    show(comparison_table(result.rows, result.summary))


def _by_run(progress: TrainingProgress) -> Callable[[str, int, dict[str, Any]], None]:
    return lambda system, seed, line: progress(line, f"{system}, seed {seed}")
