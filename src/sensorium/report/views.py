"""What a page says of a comparison or of a run, gathered from its folder."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from sensorium.data import Data
from sensorium.data.missing import describe_missing
from sensorium.report import numbers
from sensorium.report.any_to_any import matrix
from sensorium.report.examples import Answer, Examples, gather_examples
from sensorium.report.plots import Curve, Point, cost_plot, curve_plot, interval_plot
from sensorium.systems.base import Embeds, Predicts
from sensorium.systems.registry import get_system
from sensorium.training.files import read_yaml
from sensorium.training.folder import RunFolder
from sensorium.types import UserError, plain_yaml

MOST_FAULTS = 20
MOST_OTHERS = 3  # metrics beside the main one; all are in a table of their own

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A line of a table."""

    name: str
    cells: list[str]
    is_best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table: headings with a second, smaller line each, and lines."""

    headings: list[tuple[str, str]]
    lines: list[Line]


@dataclass(frozen=True)
class Plot:
    """A plot with what stands beneath it."""

    svg: str
    caption: str


@dataclass
class DiagnosisView:
    """What a diagnosis found.

    Attributes:
        summary: in a sentence or two.
        note: what the task does not allow.
        legend: what the columns mean.
        warnings: what is not to be trusted, and why.
        grids: scores of inputs, importance by class, conflicts, kinds of rows; each with its title.
        plots: importance, and scores with absent inputs.
        kinds: rows of each kind, with what was predicted.
    """

    summary: str
    note: str = ""
    legend: str = ""
    warnings: list[str] = field(default_factory=list)
    grids: list[tuple[str, Grid]] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    kinds: list[tuple[str, list[Answer]]] = field(default_factory=list)


@dataclass
class View:
    """What a page has room for; what is empty is left out.

    Attributes:
        title: what was done.
        verdict: the result in a sentence or two.
        facts: what it was done with.
        table: the scores.
        every_metric: all of them.
        differences: between the best system and each other, with whether they are clear.
        failures: what went wrong, and `skipped`: what was left out, each with the reason.
        plots: of scores.
        curves: of losses, for each system.
        diagnosis: of a run, if it was made.
        examples: what the best run says of some rows.
        faults: rows that were set aside, and why; `num_faults` of them.
        settings: of a run, as YAML.
        environment: machine and versions.
        steps: how to go on: what for, and the command.
    """

    title: str
    verdict: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    table: Grid | None = None
    every_metric: Grid | None = None
    differences: list[tuple[str, str, bool]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    curves: list[tuple[str, list[Plot]]] = field(default_factory=list)
    diagnosis: DiagnosisView | None = None
    examples: Examples | None = None
    faults: list[tuple[str, str]] = field(default_factory=list)
    num_faults: int = 0
    settings: str = ""
    environment: list[tuple[str, str]] = field(default_factory=list)
    steps: list[tuple[str, str]] = field(default_factory=list)


def comparison_view(folder: Path, data: Data | None) -> View:
    """A comparison; without data no rows are shown.

    Raises:
        UserError: this is no folder of a comparison.
    """
    rows, summary = _read(folder / "compare.json"), _read(folder / "summary.json")
    spec: dict[str, Any] = next(
        (_read(path) for path in sorted(folder.glob("runs/*/cell.json"))), {}
    )
    systems: Mapping[str, Entry] = summary["systems"]
    named = list(dict.fromkeys(row["system"] for row in rows))
    task = rows[0]["task"] if rows else ""
    where = rows[0]["data"] if rows else ""
    view = View(title=f"{_listed(named)}: {task} on {numbers.data_name(where)}")
    seeds = {row["seed"] for row in rows}
    view.facts = _facts(
        data=where,
        **_recipe(spec.get("data", {})),
        task=task,
        budget=f"{spec['budget']} for each run" if spec else None,
        size=spec.get("size"),
        seeds=str(len(seeds)),
        rows_tested=summary.get("rows"),
        pool=summary.get("pool"),
    )
    view.failures = [
        (f"{row['system']}, seed {row['seed']}", str(row["error"]))
        for row in rows
        if row["status"] == "failed"
    ]
    view.skipped = list(summary["skipped"].items())
    view.environment = [(key, str(value)) for key, value in summary["environment"].items() if value]
    view.curves = [
        (name, plots)
        for name in named
        if (plots := _curves([folder / "runs" / r["run"] for r in rows if r["system"] == name]))
    ]
    if systems:
        metric = summary["main_metric"]
        view.table = _score_grid(systems, metric, summary["best"], summary.get("pool"))
        view.every_metric = _metric_grid(
            {name: s["metrics"] for name, s in systems.items()}, metric
        )
        view.plots = _score_plots(systems, metric, summary["best"])
        view.differences = [_difference(difference) for difference in summary["differences"]]
    best = summary["best"]
    if best is None:
        view.verdict = "No system has a score; the errors below say why."
        return view
    view.verdict = _verdict(summary)
    run = RunFolder(folder / "runs" / summary["best_run"])
    evaluation = _read(run.evaluation_file)
    if data is not None:
        view.examples = gather_examples(data, evaluation, best)
    view.steps = _asking(folder / "best", run.read_run())
    more = (
        "Run the same command with more seeds: what is finished is kept, and the intervals then say "
        "whether a difference survives training again."
    )
    view.steps.append((more, f"sensorium compare ... --seeds 3 --out {_quoted(folder)}"))
    return view


def run_view(folder: Path, data: Data | None) -> View:
    """A run; without data no rows are shown.

    Raises:
        UserError: this is no run folder.
    """
    run = RunFolder(folder)
    info = run.read_run()
    name = numbers.data_name(info["data"]["where"])
    view = View(title=f"{info['system']}: {info['task']} on {name}")
    cost = info.get("cost", {})
    cells = numbers.cost_cells(cost)
    view.facts = _facts(
        data=info["data"]["where"],
        **_recipe(info["data"]),
        task=info["task"],
        target=info["target"],
        size=info["size"],
        budget=info["budget"],
        seed=str(info["seed"]),
        steps=info.get("steps"),
        started_from=info["init"],
        **{name: cells[name] for name in ("parameters", "training time", "peak memory") if cost},
    )
    view.curves = [(info["system"], plots)] if (plots := _curves([folder])) else []
    if run.evaluation_file.exists():
        evaluation = _read(run.evaluation_file)
        metric, metrics = evaluation["main_metric"], evaluation["metrics"]
        view.every_metric = _metric_grid({"value": metrics}, metric)
        if evaluation["task"] == "reconstruction":
            found = matrix(metrics)
            lines = [Line(given, cells) for given, cells in found.lines]
            view.table = Grid([("from", ""), *found.columns], lines)
        score = numbers.with_interval(metric, metrics[metric])
        among = f" in pools of {evaluation['pool']}" if evaluation["pool"] else ""
        tested = numbers.plural(evaluation["rows"], f"{evaluation['split']} row")
        view.verdict = f"{numbers.metric_label(metric)[0]} {score} on {tested}{among}."
        speed = numbers.milliseconds(evaluation["inference_ms_per_row"])
        view.facts.append(("ms per row", speed))
        if data is not None:
            view.examples = gather_examples(data, evaluation, info["system"])
    faults = run.read_faults()
    view.num_faults = len(faults)
    if data is None:
        faults = [fault.without_content() for fault in faults]
    view.faults = [
        (", ".join(filter(None, (fault.key, fault.field))), fault.reason)
        for fault in faults[:MOST_FAULTS]
    ]
    view.settings = plain_yaml.write_yaml(read_yaml(run.config_file))
    view.environment = list(info["versions"].items())
    view.steps = _asking(folder, info)
    return view


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path.parent} holds no {path.name}, which a report is made of") from None
    except ValueError as error:
        raise UserError(f"{path} is not whole: {error}. Run the same command again") from None


def _facts(**facts: Any) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
        for name, value in facts.items()
        if value is not None
    ]


def _recipe(recipe: Entry) -> dict[str, str]:
    """How the rows were split and what was hidden, where that was asked for."""
    split = {"split": recipe["split"]} if recipe.get("split") else {}
    return split | describe_missing(recipe)


def _verdict(summary: Entry) -> str:
    best, key = summary["best"], summary["main_metric"]
    metric = summary["systems"][best]["metrics"][key]
    name = numbers.metric_label(key)[0]
    among = f" in pools of {summary['pool']}" if summary.get("pool") else ""
    if len(summary["systems"]) == 1:
        return f"{best} has {name} {numbers.with_interval(key, metric)}{among}."
    text = f"{best} is ahead with {name} {numbers.with_interval(key, metric)}{among}. "
    unclear = [d["from"] for d in summary["differences"] if not numbers.is_clear(d)]
    if unclear:
        return text + f"Its lead over {_listed(unclear)} is within what chance explains."
    return text + "Its lead is larger than chance explains." if summary["differences"] else text


def _difference(entry: Entry) -> tuple[str, str, bool]:
    key = entry["metric"]
    text = f"{numbers.difference(key, entry)} {numbers.metric_label(key)[0]}, over {entry['over']}"
    return f"{entry['of']} − {entry['from']}", text, numbers.is_clear(entry)


def _score_grid(
    systems: Mapping[str, Entry], metric: str, best: str | None, pool: int | None
) -> Grid:
    """The main metric with its interval, the same in its parts, other metrics, and costs."""
    keys = dict.fromkeys(key for entry in systems.values() for key in entry["metrics"])
    parts = [key for key in keys if numbers.is_part(key, metric)]
    others = [key for key in keys if "/" not in key and key != metric]
    chosen = [metric, *parts, *others[:MOST_OTHERS]]
    costs = {name: numbers.cost_cells(entry["cost"]) for name, entry in systems.items()}
    headings = [numbers.metric_label(key) for key in chosen]
    if pool:
        headings[0] = (headings[0][0], f"pool {pool}")
    headings += [(name, "") for name in next(iter(costs.values()))]
    lines = []
    for name, entry in systems.items():
        cells = [
            numbers.NOTHING
            if key not in entry["metrics"]
            else numbers.with_interval(key, entry["metrics"][key])
            if key == metric
            else numbers.metric_value(key, entry["metrics"][key]["value"])
            for key in chosen
        ]
        lines.append(Line(name, cells + list(costs[name].values()), name == best))
    return Grid([("", ""), *headings], lines)


def _metric_grid(columns: Mapping[str, Mapping[str, Entry]], main: str) -> Grid:
    """Every metric with its interval: a line for each."""
    keys = dict.fromkeys(key for metrics in columns.values() for key in metrics)
    lines = []
    for key in numbers.ordered(keys, main):
        cells = [
            numbers.with_interval(key, metrics[key]) if key in metrics else numbers.NOTHING
            for metrics in columns.values()
        ]
        lines.append(Line(numbers.one_line(key), cells, key == main))
    return Grid([("", ""), *((name, "") for name in columns)], lines)


def _score_plots(systems: Mapping[str, Entry], metric: str, best: str | None) -> list[Plot]:
    points, speeds, sizes = [], [], []
    for name, entry in systems.items():
        score, cost = entry["metrics"][metric], entry["cost"]
        if score["value"] is None:
            continue
        points.append(Point(name, score["value"], score["low"], score["high"], 0.0, name == best))
        speeds.append(max(cost["inference_ms_per_row"], 1e-6))
        sizes.append(max(cost["parameters"], 1))
    if not points:
        return []
    label = numbers.one_line(metric)
    order = sorted(points, key=lambda point: -point.value)
    plots = [Plot(interval_plot(order, label), f"{label} with its 95 % interval.")]
    if len(points) > 1:
        for costs, cost, caption in (
            (speeds, "ms per row", "Quality against the time to answer for one row."),
            (sizes, "parameters", "Quality against size."),
        ):
            priced = [
                Point(p.name, p.value, p.low, p.high, c, p.is_best)
                for p, c in zip(points, costs, strict=True)
            ]
            plots.append(Plot(cost_plot(priced, cost, label), caption))
    return plots


def _curves(folders: Iterable[Path]) -> list[Plot]:
    """A plot for each loss of a system, with a curve for each of its runs."""
    curves: dict[str, list[Curve]] = {}
    stages: dict[int, str] = {}
    for folder in folders:
        lines = RunFolder(folder).read_metrics()
        for before, line in pairwise(lines):
            if line["stage"] != before["stage"]:
                stages[before["step"]] = line["stage"]
        for name in dict.fromkeys(name for line in lines for name in line["losses"]):
            for split in ("train", "validation"):
                own = [x for x in lines if x["split"] == split and name in x["losses"]]
                if own:
                    values = [line["losses"][name] for line in own]
                    curve = Curve([x["step"] for x in own], values, split == "validation")
                    curves.setdefault(name, []).append(curve)
    return [Plot(curve_plot(found, stages), name) for name, found in curves.items()]


def _asking(folder: Path, info: Entry) -> list[tuple[str, str]]:
    """What can be done with a trained system."""
    place = _quoted(folder)
    try:
        system = get_system(info["system"])
    except UserError:  # a file of the user's that is no longer there
        return []
    steps = []
    if info["task"] != "retrieval" and issubclass(system, Predicts):
        predict = f"sensorium predict {place} ROWS --out predictions.parquet"
        steps.append(("Predict for new rows.", predict))
    if info["task"] == "retrieval" and issubclass(system, Embeds):
        embed = f"sensorium embed {place} ROWS --out embeddings.parquet"
        steps.append(("Embed new rows.", embed))
    in_python = f'import sensorium as sm\nrun = sm.load("{folder}")'
    score = f"sensorium evaluate {place} --data ROWS"
    return [*steps, ("Score it on other rows.", score), ("Load it in Python.", in_python)]


def _quoted(folder: Path) -> str:
    return shlex.quote(str(folder))


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return ", ".join(names[:-1]) + " and " + names[-1]
