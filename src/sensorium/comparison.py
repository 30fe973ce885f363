"""Many systems on one data set under one budget: a table with intervals and costs.

Every system and seed is a run of its own in a process of its own, so that a system that fails is a
row with its error, memory is measured alone, and a second call reuses what is finished.

    DIR/compare.json    one row for each system and seed
    DIR/summary.json    means, paired differences, environment
    DIR/report.html     the same for people
    DIR/best/           the best run, ready to be loaded
    DIR/runs/           all runs
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sensorium.data import Data, open_data
from sensorium.data.missing import describe_missing
from sensorium.systems.base import Embeds, Size, System
from sensorium.systems.registry import catalogue, get_system
from sensorium.tasks import Retrieval, get_task, guess_task
from sensorium.tasks.intervals import Metric, mean_over_seeds, paired_bootstrap, paired_difference
from sensorium.tasks.metrics import lower_is_better
from sensorium.tasks.retrieval import PAIR_POOL, PAIR_ROWS
from sensorium.training.budget import Budget
from sensorium.training.cells import Cell, Report, run_cell
from sensorium.training.files import read_tensors, write_folder_aside, write_json
from sensorium.training.folder import RunFolder
from sensorium.training.options import TrainingOptions
from sensorium.training.run import Run, build_options, load
from sensorium.types import Schema, UserError

EMBEDDING_POOL = 256


@dataclass(frozen=True)
class Comparison:
    """The outcome of a comparison.

    Attributes:
        folder: where it is kept.
        rows: as in `compare.json`.
        summary: as in `summary.json`.
    """

    folder: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def best(self) -> Run:
        """The run with the best main metric.

        Raises:
            UserError: every run failed.
        """
        if not (self.folder / "best").exists():
            raise UserError(f"no run in {self.folder} ended well; the rows of compare.json say why")
        return load(self.folder / "best")

    def __str__(self) -> str:
        from sensorium.report.terminal import comparison_table, to_text

        return to_text(comparison_table(self.rows, self.summary))


def compare(
    systems: Sequence[str | type[System]] | None,
    data: str | Path | Data,
    *,
    out: str | Path,
    task: str | None = None,
    target: str | None = None,
    budget: str = "2m",
    seeds: int = 1,
    size: Size = "nano",
    settings: Mapping[str, Any] | None = None,
    options: TrainingOptions | Mapping[str, Any] | None = None,
    pools: Sequence[int] | None = None,
    max_rows: int | None = None,
    device: str | None = None,
    cache: str | Path | None = None,
    report: Report = lambda system, seed, line: None,
) -> Comparison:
    """Train and score systems on the same split under the same budget.

    Args:
        systems: names, files (`./mine.py:MySystem`) or classes; None for all that apply.
        data: what `sensorium.open` takes or gives.
        out: the folder of the comparison.
        task, target, budget, size, options, device, cache: as in `train`.
        seeds: how many runs of each system.
        settings: of the systems, by dotted path; each gets those it knows.
        pools: for retrieval, sizes of pools; see `Retrieval`. By default all test rows are one
            pool; if one of the systems reads pairs, pools of 50, and of 256 for those that embed.
        max_rows: for retrieval, how many rows are scored in the first pool.
        report: called with system, seed and each line of its metrics.

    Raises:
        UserError: no system applies, or what was asked for does not fit. A system that fails later
            is a row with its error.
    """
    Budget.parse(budget)
    folder = Path(out)
    RunFolder(folder).create()
    opened = data if isinstance(data, Data) else open_data(data)
    chosen = get_task(task or guess_task(opened.schema, target))
    opened = opened.with_schema(chosen.assign(opened.schema, target))
    skipped: dict[str, str] = {}
    references = applicable(opened.schema, chosen.name, skipped) if systems is None else []
    for system in systems or ():
        references.append(system if isinstance(system, str) else _reference(system))
    if not references:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise UserError(f"no system applies to {opened.name} for {chosen.name}. {reasons}")
    classes = {reference: get_system(reference) for reference in references}
    if chosen.name == Retrieval.name and pools is None:
        pools, max_rows = default_pools(classes.values(), len(opened.rows("test")), max_rows)
    with RunFolder(folder).locked():
        opened.schema.save(folder / "schema.yaml")
        spec = {
            "data": opened.recipe,
            "data_version": opened.version,
            "schema": str((folder / "schema.yaml").resolve()),
            "schema_text": (folder / "schema.yaml").read_text(),
            "task": chosen.name,
            "budget": budget,
            "size": size,
            "options": build_options(options).model_dump(exclude_defaults=True),
            "evaluation": {"pools": list(pools) if pools else None, "max_rows": max_rows},
            "init": None,
            "device": device,
            "cache": str(cache) if cache else None,
        }
        cells = []
        for seed in range(seeds):
            for reference, system_class in classes.items():
                name = system_class.name
                known = _settings_of(system_class, settings or {}, classes.values())
                special = {"system": reference, "seed": seed, "settings": known}
                cells.append(
                    Cell(name, seed, folder / "runs" / f"{name}-seed{seed}", {**spec, **special})
                )
        for cell in cells:
            cell.check()
        rows = []
        for cell in cells:
            error = None if cell.is_done() else run_cell(cell, report)
            rows.append(_row(cell, error))
            write_json(folder / "compare.json", rows)
        summary = summarise(rows, folder, skipped)
        write_json(folder / "summary.json", summary)
        _keep_best(folder, summary)
        from sensorium.report.html import write_comparison_report

        write_comparison_report(folder, opened)
    return Comparison(folder, rows, summary)


def applicable(schema: Schema, task: str, skipped: dict[str, str]) -> list[str]:
    """The systems of the catalogue that do a task and fit the fields; why others do not."""
    found = []
    for name, (_, card) in catalogue().items():
        if card.kind != "system" or task not in card.tasks:
            skipped[name] = f"is not made for {task}"
            continue
        try:
            get_system(name).check(schema)
        except UserError as error:
            skipped[name] = str(error)
        else:
            found.append(name)
    return found


def default_pools(
    classes: Iterable[type[System]], num_rows: int, max_rows: int | None
) -> tuple[Sequence[int] | None, int | None]:
    """Pools in which all systems can be compared, and larger ones for those that embed."""
    if all(issubclass(system, Embeds) for system in classes):
        return None, max_rows
    larger = [EMBEDDING_POOL] if num_rows >= EMBEDDING_POOL else []
    return [PAIR_POOL, *larger], max_rows or PAIR_ROWS


def _row(cell: Cell, error: str | None) -> dict[str, Any]:
    """A row of `compare.json`."""
    row: dict[str, Any] = {
        "system": cell.name,
        "seed": cell.seed,
        "status": "failed" if error else "finished",
        "error": error,
        "task": cell.spec["task"],
        "data": cell.spec["data"]["where"],
        "hidden": describe_missing(cell.spec["data"]),
        "metrics": {},
        "cost": {},
        "run": cell.folder.name,
    }
    if error is None:
        run = RunFolder(cell.folder)
        evaluation = json.loads(run.evaluation_file.read_text())
        cost = run.read_run()["cost"]
        row["metrics"] = evaluation["metrics"]
        row["cost"] = {**cost, "inference_ms_per_row": evaluation["inference_ms_per_row"]}
        row |= {name: evaluation[name] for name in ("main_metric", "pool", "rows")}
    return row


def summarise(
    rows: Sequence[dict[str, Any]], folder: Path, skipped: Mapping[str, str]
) -> dict[str, Any]:
    """Means over seeds, the best system, and what each differs from it by."""
    finished = [row for row in rows if row["status"] == "finished"]
    systems = list(dict.fromkeys(row["system"] for row in rows))
    summary: dict[str, Any] = {
        "systems": {},
        "best": None,
        "differences": [],
        "skipped": dict(skipped),
        "environment": environment(),
    }
    if not finished:
        return summary
    metric = finished[0]["main_metric"]
    summary |= {"main_metric": metric, "pool": finished[0]["pool"], "rows": finished[0]["rows"]}
    for system in systems:
        own = [row for row in finished if row["system"] == system]
        if own:
            summary["systems"][system] = {
                "runs": len(own),
                "metrics": {key: _over_seeds(own, key) for key in own[0]["metrics"]},
                "cost": {
                    key: float(np.mean([r["cost"][key] for r in own])) for key in own[0]["cost"]
                },
            }
    means = {
        name: entry["metrics"][metric]["value"]
        for name, entry in summary["systems"].items()
        if entry["metrics"][metric]["value"] is not None
    }
    if not means:
        return summary
    sign = -1 if lower_is_better(metric) else 1
    best = max(means, key=lambda name: sign * means[name])
    best_runs = [row for row in finished if row["system"] == best]
    best_run = max(best_runs, key=lambda row: sign * (row["metrics"][metric]["value"] or -np.inf))
    summary |= {"best": best, "best_run": best_run["run"]}
    for other in means:
        if other != best:
            pair = [[r for r in finished if r["system"] == name] for name in (best, other)]
            difference = _difference(pair[0], pair[1], metric, folder)
            if difference is not None:
                summary["differences"].append({"of": best, "from": other, **difference})
    return summary


def _over_seeds(rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    values = [row["metrics"][key] for row in rows if key in row["metrics"]]
    if len(values) == 1:
        return {**values[0], "over": "rows"}
    numbers = [value["value"] for value in values if value["value"] is not None]
    mean = mean_over_seeds(numbers) if numbers else Metric(None)
    return {**mean.as_dict(), "over": "seeds"}


def _difference(
    a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]], metric: str, folder: Path
) -> dict[str, Any] | None:
    """The paired difference: over seeds if there are several, else over the rows of one run."""
    seeds = sorted({row["seed"] for row in a} & {row["seed"] for row in b})
    if not seeds:
        return None
    by_seed = [{row["seed"]: row for row in rows} for rows in (a, b)]
    if len(seeds) > 1:
        values = [[rows[seed]["metrics"][metric]["value"] for seed in seeds] for rows in by_seed]
        if any(None in side for side in values):
            return None
        over_seeds = paired_difference(values[0], values[1])
        return {"metric": metric, "over": "seeds", **over_seeds.as_dict()}
    files = [RunFolder(folder / "runs" / r[seeds[0]]["run"]).scores_file for r in by_seed]
    sides = [read_tensors(file) for file in files]
    if any(f"value/{metric}" not in side for side in sides):
        return None
    ours, theirs = (side[f"value/{metric}"].numpy() for side in sides)
    groups, others = (side[f"group/{metric}"].numpy() for side in sides)
    if not np.array_equal(groups, others):  # a system could not read some of the rows
        return None
    difference = paired_bootstrap(ours, theirs, groups)
    return {"metric": metric, "over": "rows", **difference.as_dict()}


def environment() -> dict[str, Any]:
    """The machine and the versions."""
    return {
        "machine": platform.machine(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _keep_best(folder: Path, summary: Mapping[str, Any]) -> None:
    """Copy the best run, without its checkpoints."""
    if summary["best"] is None:
        return
    source = folder / "runs" / summary["best_run"]
    left_out = shutil.ignore_patterns("checkpoints", ".lock", "cell.json")
    write_folder_aside(
        folder / "best",
        lambda aside: shutil.copytree(source, aside, ignore=left_out, dirs_exist_ok=True),
    )


def _settings_of(
    system: type[System], settings: Mapping[str, Any], all_systems: Iterable[type[System]]
) -> dict[str, Any]:
    """The settings that a system knows; one that none knows is an error."""
    own, everyone = system.Config.model_fields, [s.Config.model_fields for s in all_systems]
    for path in settings:
        if not any(path.split(".")[0] in fields for fields in everyone):
            system.Config.nano().override({path: settings[path]})  # raises, naming the nearest
    return {path: value for path, value in settings.items() if path.split(".")[0] in own}


def _reference(system: type[System]) -> str:
    """How another process finds a class."""
    if system.__module__.startswith("sensorium."):
        return system.name
    return f"{Path(inspect.getfile(system)).resolve()}:{system.__qualname__}"


__all__ = ["Comparison", "compare"]
