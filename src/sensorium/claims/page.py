"""Claims and their results for people: a table in the terminal, and `docs/claims.md` with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from sensorium.claims.base import Claim
from sensorium.claims.registry import Result, claims, read_result
from sensorium.data.missing import describe_missing
from sensorium.report import numbers
from sensorium.report.plots import Point, interval_plot, standalone
from sensorium.report.terminal import plain_table

VERDICT_STYLE = {"reproduced": "green", "not reproduced": "red", "inconclusive": "yellow"}
NOT_RUN = "not run"

INTRODUCTION = """# Claims

Generated from `src/sensorium/claims` by `make docs`.

What papers stand on, as experiments that anyone re-runs: `sensorium claims NAME --run`. Each was written
before it was run, with what would make it hold. Intervals are 95 % t intervals over seeds, paired where
two arms are compared. A claim is *reproduced* if the intervals of all its conditions lie within their
limits, *not reproduced* if one lies outside, and else *inconclusive*; with fewer than five seeds there is
no verdict. A result is *stale* when its configuration, a system's own code or its data have changed since.
"""


def claims_table(found: Sequence[Claim]) -> RenderableType:
    """A line for each claim."""
    table = plain_table()
    for heading in ("claim", "system", "verdict", "first condition", "seeds", "hours"):
        table.add_column(heading, justify="right" if heading in ("seeds", "hours") else "left")
    for claim in found:
        result = read_result(claim)
        verdict, style = _verdict(result)
        condition = _first_condition(result)
        seeds = "" if result is None else str(len(result.content["seeds"]))
        table.add_row(
            Text(claim.name, style="bold"),
            claim.system,
            Text(verdict, style=style),
            Text(condition),
            seeds,
            f"{claim.hours:g}",
        )
    return table


def claim_details(claim: Claim, content: Mapping[str, Any] | None, status: str) -> RenderableType:
    """What is claimed, and what came of it.

    Args:
        claim: which.
        content: of a result; None if there is none.
        status: of the result, as in `Result`.
    """
    parts: list[RenderableType] = [
        Text(claim.name, style="bold").append(f": {claim.statement}", style="not bold"),
        Text(claim.source, style="dim"),
    ]
    if content is None:
        text = (
            f"Not run yet: about {60 * claim.hours:g} minutes on two cores, `--smoke` two minutes."
        )
        return Group(*parts, Text(text, style="yellow"))
    table = plain_table()
    headings, *rows = _arms(claim, content)
    for number, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    parts.append(table)
    parts += [
        Text(f"{entry['condition']}: {_interval(claim, entry)}: {entry['outcome']}")
        for entry in content["conditions"]
    ]
    verdict, style = _verdict(Result(content, status))
    seeds = numbers.plural(len(content["seeds"]), "seed")
    parts.append(Text(f"{verdict}, {seeds}, {content['date']}", style=style))
    return Group(*parts)


def claims_page() -> dict[str, str]:
    """The page and its plots, by path within `docs/`."""
    lines = [
        INTRODUCTION,
        "| claim | of | verdict | first condition | seeds |",
        "|---|---|---|---|---|",
    ]
    sections: list[str] = []
    files: dict[str, str] = {}
    for claim in claims().values():
        result = read_result(claim)
        verdict = _verdict(result)[0]
        seeds = "" if result is None else str(len(result.content["seeds"]))
        cells = [f"[{claim.name}](#{claim.name})", f"`{claim.system}`", verdict]
        lines.append(_line([*cells, _first_condition(result), seeds]))
        sections += _section(claim, result)
        if result is not None:
            files[f"claims/{claim.name}.svg"] = standalone(_plot(claim, result.content))
    files["claims.md"] = "\n".join([*lines, "", *sections]).rstrip() + "\n"
    return files


def _section(claim: Claim, result: Result | None) -> list[str]:
    where = f"../src/sensorium/claims/catalogue/{claim.name.replace('-', '_')}.py"
    lines = [f"## {claim.name}", "", f"{claim.statement}. ([file]({where}))", ""]
    lines += [f"Source: {claim.source}.", ""]
    task = f"{claim.task} on `{claim.data}`, {claim.budget} a run"
    lines += [f"Experiment: {task}, about {60 * claim.hours:g} minutes on two cores.", ""]
    for name, what in describe_missing(claim.missing_of(next(iter(claim.arms.values())))).items():
        lines += [f"{name.capitalize()}: `{what}`.", ""]
    lines += [text for name in claim.starts for text in (_start(claim, name, result), "")]
    if claim.differs:
        lines += ["How it differs from the paper's or is smaller:", ""]
        lines += [*(f"- {text}" for text in claim.differs), ""]
    if result is None:
        return [*lines, "Not run yet.", ""]
    content = result.content
    lines += [f"**{_verdict(result)[0]}**", ""]
    headings, *rows = _arms(claim, content)
    lines += [_line(headings), "|" + "---|" * len(headings), *map(_line, rows)]
    lines += ["", f"![{claim.name}](claims/{claim.name}.svg)", ""]
    lines += ["| condition | measured | outcome |", "|---|---|---|"]
    for entry in content["conditions"]:
        lines.append(_line([entry["condition"], _interval(claim, entry), entry["outcome"]]))
    by_seed = [
        f"{name}: " + ", ".join(f"{value:.3f}" for value in arm["seeds"][claim.metric])
        for name, arm in content["arms"].items()
    ]
    machine = content["environment"]
    ran = f"{content['date']}, version {content['code']['version']} ({content['code']['commit']})"
    lines += ["", f"{numbers.one_line(claim.metric)} by seed: " + "; ".join(by_seed) + ".", ""]
    lines += [f"Run {ran} on {machine['cores']} cores ({machine['processor']}),"]
    lines += [f"torch {machine['torch']}, {content['training_hours']:.1f} hours of training.", ""]
    return lines


def _start(claim: Claim, name: str, result: Result | None) -> str:
    """What others begin with, and how good it is."""
    start = claim.starts[name]
    begun = [other for other, run in claim.runs.items() if run.start == name]
    who = "All arms" if begun == list(claim.arms) else "; ".join(begun)
    text = f"Made once a seed, *{name}*: `{start.system}` on `{claim.data_of(start)}`"
    text += f", {start.task or claim.task}, {start.budget or claim.budget}"
    found = result and result.content.get("starts", {}).get(name)
    if found:
        mean = numbers.with_interval(found["metric"], found["mean"])
        text += f"; {numbers.one_line(found['metric'])} {mean}"
    return f"{text}. With its weights begin: {who}."


def _arms(claim: Claim, content: Mapping[str, Any]) -> list[list[str]]:
    """The metrics of all arms, with headings; of arms and metrics, what there is more of goes down."""
    keys = [claim.metric, *claim.shown]
    rows = [["arm", "part", *map(numbers.one_line, keys), "training"]]
    for name, arm in content["arms"].items():
        values = [numbers.with_interval(key, arm["mean"][key]) for key in keys]
        cost = numbers.duration(arm["cost"]["training_seconds"])
        rows.append([name, claim.arms[name].part, *values, cost])
    return (
        rows
        if len(content["arms"]) >= len(keys)
        else [list(row) for row in zip(*rows, strict=True)]
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plot(claim: Claim, content: Mapping[str, Any]) -> str:
    first = next(iter(claim.arms))
    points = []
    for name, arm in content["arms"].items():
        mean, seeds = arm["mean"][claim.metric], tuple(arm["seeds"][claim.metric])
        is_first = name == first
        points.append(
            Point(name, mean["value"], mean["low"], mean["high"], is_best=is_first, seeds=seeds)
        )
    return interval_plot(points, numbers.one_line(claim.metric))


def _verdict(result: Result | None) -> tuple[str, str]:
    """The verdict with the status of the result, and its style."""
    if result is None:
        return NOT_RUN, "dim"
    verdict = result.content["verdict"]
    text = verdict or "no verdict: too few seeds"
    style = VERDICT_STYLE.get(verdict or "", "")
    if result.status == "stale":
        return f"{text} (stale: {result.changed})", "dim"
    return text, style


def _first_condition(result: Result | None) -> str:
    if result is None:
        return ""
    entry = result.content["conditions"][0]
    return f"{entry['condition']}: {entry['value']:.3f}"


def _interval(claim: Claim, entry: Mapping[str, Any]) -> str:
    metrics = {str(condition): condition.metric for condition in claim.holds_if}
    return numbers.with_interval(metrics.get(entry["condition"]) or claim.metric, entry)
