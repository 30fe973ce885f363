"""Carry out a claim's experiment: all arms with all seeds, each a run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sensorium import __version__
from sensorium.claims.base import Arm, Claim, judge
from sensorium.claims.registry import PACKAGE, RESULTS, fingerprints
from sensorium.comparison import environment
from sensorium.data import open_data
from sensorium.tasks.intervals import mean_over_seeds, paired_difference
from sensorium.training.cells import Cell, Report, run_cell
from sensorium.training.files import write_json
from sensorium.training.folder import RunFolder
from sensorium.types import UserError

SMOKE_BUDGET = "4steps"
SMOKE_ROWS = {"train": 48, "validation": 16, "test": 32}
SMOKE_SCORED = 32
SMOKE_OPTIONS = {
    "batch_size": 8,
    "validate_every": 4,
    # a process that loads takes longer to start than so few rows to read
    "workers": 0,
}


def run_claim(
    claim: Claim,
    out: Path,
    *,
    seeds: int | None = None,
    jobs: int = 1,
    report: Report = lambda arm, seed, line: None,
) -> dict[str, Any]:
    """Run what is not yet done, and judge.

    Args:
        claim: whose experiment it is; that of `smoke(claim)` shows in a minute or two that all of it
            works.
        out: the folder of the runs. The same call goes on where it was stopped.
        seeds: how many; those of the claim if None. With fewer than five there is no verdict.
        jobs: runs at a time, which share the cores.
        report: called with arm, seed and each line of metrics.

    Returns:
        The result, as its file holds it; it is also in `out/result.json`.

    Raises:
        UserError: a run failed; those that are done are kept.
    """
    RunFolder(out).create()
    known = fingerprints(claim)
    chosen = range(seeds or claim.seeds)
    # starts before all arms, so that few runs wait for theirs
    order = [(name, seed) for name in claim.starts for seed in chosen]
    order += [(name, seed) for seed in chosen for name in claim.arms]
    cells = {(name, seed): _cell(claim, name, seed, out, known) for name, seed in order}
    for cell in cells.values():
        cell.check()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    errors: dict[tuple[str, int], Future[str | None]] = {}

    def run(name: str, seed: int) -> str | None:
        before = errors.get((claim.runs[name].start, seed))
        # it was taken up before this one, so that waiting for it ends
        if before is not None and before.result():
            return "what it begins with failed"
        return run_cell(cells[name, seed], report, threads)

    with RunFolder(out).locked(), ThreadPoolExecutor(jobs) as pool:
        for key, cell in cells.items():
            if not cell.is_done():
                errors[key] = pool.submit(run, *key)
        try:
            failed = [
                f"{name}, seed {seed}: {error.result()}"
                for (name, seed), error in errors.items()
                if error.result()
            ]
        finally:
            for error in errors.values():
                error.cancel()  # of what has not begun, if it was interrupted
    if failed:
        raise UserError(f"claim '{claim.name}': {failed[0]}. The same command tries again")
    result = _result(claim, cells, known)
    write_json(out / "result.json", result)
    return result


def record(result: Mapping[str, Any]) -> Path:
    """Keep a result among those of the library, from which the page of claims is made."""
    path = RESULTS / f"{result['claim']}.json"
    write_json(path, result)
    return path


def smoke(claim: Claim) -> Claim:
    """The same experiment, so short that it shows only that it can be carried out."""
    return replace(
        claim,
        data=_small(claim.data),
        arms={name: _short(arm) for name, arm in claim.arms.items()},
        starts={name: _short(arm) for name, arm in claim.starts.items()},
        budget=SMOKE_BUDGET,
        options={**claim.options, **SMOKE_OPTIONS},
        evaluation={**claim.evaluation, "max_rows": SMOKE_SCORED},
        seeds=1,
    )


def _short(arm: Arm) -> Arm:
    return replace(
        arm,
        data=_small(arm.data) if arm.data else "",
        budget="",
        options={k: v for k, v in arm.options.items() if k not in SMOKE_OPTIONS},
    )


def _small(where: str) -> str:
    if not where.startswith("playground:"):
        return where
    joint = "&" if "?" in where else "?"
    return where + joint + "&".join(f"{name}={count}" for name, count in SMOKE_ROWS.items())


def _cell(claim: Claim, name: str, seed: int, out: Path, known: Mapping[str, str]) -> Cell:
    arm = claim.runs[name]
    data = open_data(claim.data_of(arm), **claim.missing_of(arm))  # type: ignore[arg-type]
    spec = {
        "system": arm.system,
        "seed": seed,
        "settings": dict(arm.settings),
        "options": {**claim.options, **arm.options},
        "data": data.recipe,
        "data_version": data.version,
        "schema": None,
        "task": arm.task or claim.task,
        "budget": arm.budget or claim.budget,
        "size": "nano",
        "evaluation": dict(claim.evaluation),
        "measure": claim.measure if name in claim.arms else "",
        "init": str(_folder(out, arm.start, seed)) if arm.start else None,
        # runs of other code are not taken for runs of this one
        "code": known[f"system {arm.system}"],
        "device": None,
        "cache": None,
    }
    return Cell(name, seed, _folder(out, name, seed), spec)


def _folder(out: Path, name: str, seed: int) -> Path:
    return out / "runs" / f"{name.replace(' ', '-')}-seed{seed}"


def _result(
    claim: Claim, cells: Mapping[tuple[str, int], Cell], known: Mapping[str, str]
) -> dict[str, Any]:
    seeds = sorted({seed for _, seed in cells})
    runs = {name: [cells[name, seed] for seed in seeds] for name in claim.runs}
    costs = {
        name: _mean_cost([RunFolder(cell.folder).read_run()["cost"] for cell in each])
        for name, each in runs.items()
    }
    shown = [claim.metric, *claim.shown]
    metrics = {name: _by_seed(list(map(_metrics, runs[name])), shown) for name in claim.arms}
    verdict, conditions = judge(claim, metrics)
    first, *others = claim.arms
    return {
        "claim": claim.name,
        "verdict": verdict,
        "conditions": conditions,
        "seeds": seeds,
        "arms": {
            name: {
                "seeds": values,
                "mean": {key: mean_over_seeds(value).as_dict() for key, value in values.items()},
                "cost": costs[name],
            }
            for name, values in metrics.items()
        },
        "starts": {
            name: {**_main_metric(runs[name]), "cost": costs[name]} for name in claim.starts
        },
        "differences": [
            {
                "of": first,
                "from": other,
                "metric": key,
                **paired_difference(metrics[first][key], metrics[other][key]).as_dict(),
            }
            for other in others
            for key in (claim.metric, *claim.shown)
        ],
        "configuration": claim.configuration,
        "fingerprints": dict(known),
        "code": {"version": __version__, "commit": _commit()},
        "environment": environment(),
        "date": datetime.now(UTC).date().isoformat(),
        "training_hours": sum(c["training_seconds"] for c in costs.values()) * len(seeds) / 3600,
    }


def _metrics(cell: Cell) -> dict[str, float]:
    found = {name: metric["value"] for name, metric in _evaluation(cell)["metrics"].items()}
    if cell.spec["measure"]:
        found |= json.loads(cell.measures_file.read_text())
    return found


def _main_metric(cells: Sequence[Cell]) -> dict[str, Any]:
    """How good runs are by the metric of their own task."""
    found = [_evaluation(cell) for cell in cells]
    name = found[0]["main_metric"]
    mean = mean_over_seeds([each["metrics"][name]["value"] for each in found])
    return {"metric": name, "mean": mean.as_dict()}


def _evaluation(cell: Cell) -> dict[str, Any]:
    evaluation: dict[str, Any] = json.loads(RunFolder(cell.folder).evaluation_file.read_text())
    return evaluation


def _by_seed(runs: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, list[float]]:
    return {name: [run[name] for run in runs] for name in names}


def _mean_cost(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([cost[name] for cost in costs])) for name in costs[0]}


def _commit() -> str | None:
    """The commit of the code, if it is a clean checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return (
            commit if not git("status", "--porcelain", "--", str(PACKAGE)) else f"{commit}, edited"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
