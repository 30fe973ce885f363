"""Carry out a claim's experiment: all arms with all seeds, each a run in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sensorium import __version__
from sensorium.claims.base import Claim, judge
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
    cells = {
        (name, seed): _cell(claim, name, seed, out, known)
        for seed in range(seeds or claim.seeds)
        for name in claim.arms
    }
    for cell in cells.values():
        cell.check()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with RunFolder(out).locked(), ThreadPoolExecutor(jobs) as pool:
        waiting = [cell for cell in cells.values() if not cell.is_done()]
        errors = pool.map(lambda cell: run_cell(cell, report, threads), waiting)
        failed = [
            f"{cell.name}, seed {cell.seed}: {error}"
            for cell, error in zip(waiting, errors, strict=True)
            if error
        ]
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
        arms={
            name: replace(
                arm,
                data=_small(arm.data) if arm.data else "",
                options={k: v for k, v in arm.options.items() if k not in SMOKE_OPTIONS},
            )
            for name, arm in claim.arms.items()
        },
        budget=SMOKE_BUDGET,
        options={**claim.options, **SMOKE_OPTIONS},
        evaluation={**claim.evaluation, "max_rows": SMOKE_SCORED},
        seeds=1,
    )


def _small(where: str) -> str:
    if not where.startswith("playground:"):
        return where
    joint = "&" if "?" in where else "?"
    return where + joint + "&".join(f"{name}={count}" for name, count in SMOKE_ROWS.items())


def _cell(claim: Claim, name: str, seed: int, out: Path, known: Mapping[str, str]) -> Cell:
    arm = claim.arms[name]
    data = open_data(claim.data_of(arm), **claim.missing_of(arm))  # type: ignore[arg-type]
    folder = out / "runs" / f"{name.replace(' ', '-')}-seed{seed}"
    spec = {
        "system": arm.system,
        "seed": seed,
        "settings": dict(arm.settings),
        "options": {**claim.options, **arm.options},
        "data": data.recipe,
        "data_version": data.version,
        "schema": None,
        "task": claim.task,
        "budget": claim.budget,
        "size": "nano",
        "evaluation": dict(claim.evaluation),
        "measure": claim.measure,
        # runs of other code are not taken for runs of this one
        "code": known[f"system {arm.system}"],
        "device": None,
        "cache": None,
    }
    return Cell(name, seed, folder, spec)


def _result(
    claim: Claim, cells: Mapping[tuple[str, int], Cell], known: Mapping[str, str]
) -> dict[str, Any]:
    seeds = sorted({seed for _, seed in cells})
    metrics, costs = {}, {}
    for name in claim.arms:
        runs = [cells[name, seed] for seed in seeds]
        metrics[name] = _by_seed([_metrics(cell) for cell in runs], [claim.metric, *claim.shown])
        costs[name] = _mean_cost([RunFolder(cell.folder).read_run()["cost"] for cell in runs])
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
    evaluation = json.loads(RunFolder(cell.folder).evaluation_file.read_text())
    found = {name: metric["value"] for name, metric in evaluation["metrics"].items()}
    if cell.spec["measure"]:
        found |= json.loads(cell.measures_file.read_text())
    return found


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
