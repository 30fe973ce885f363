"""Claims: list them, read what came of them, run them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sensorium.cli.console import resumable, show, show_json, tell
from sensorium.cli.options import JsonOption


def claims(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A claim, or a system; all claims if not given."),
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Carry out the experiment, which may take hours.")
    ] = False,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="Only see that it can be carried out; gives no verdict."),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", metavar="N", min=1, help="Runs of each arm; fewer than 5 give no verdict."
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option("--jobs", metavar="N", min=1, help="Runs at a time, which share the cores."),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where runs are kept; runs/claims if not given."),
    ] = None,
    record: Annotated[
        bool,
        typer.Option("--record", help="Put the result among those of the library, in its source."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show what papers claim and whether it was reproduced, or run their experiments again.

    Runs that are finished are kept: after Ctrl-C the same command goes on, and with more --seeds it
    adds to what is there.

    Example: sensorium claims interbert --run --jobs 2
    """
    from sensorium.claims import experiment
    from sensorium.claims.page import claim_details, claims_table
    from sensorium.claims.registry import find_claims, read_result
    from sensorium.types import UserError

    found = find_claims(name)
    if not (run or smoke):
        results = {claim.name: read_result(claim) for claim in found}
        if json:
            show_json(
                {n: r and {**r.content, "status": r.status} for n, r in results.items()},
            )
        elif len(found) > 1:
            show(claims_table(found))
        else:
            result = results[found[0].name]
            content = None if result is None else result.content
            show(claim_details(found[0], content, result.status if result else ""))
        return
    if record and smoke:
        raise UserError("--record keeps results of full experiments, not those of --smoke")
    for claim in found:
        chosen = experiment.smoke(claim) if smoke else claim
        folder = (out or Path("runs") / "claims") / (f"{claim.name}-smoke" if smoke else claim.name)
        tell(
            f"{claim.name}: about {2 if smoke else 60 * claim.hours:g} minutes on two cores", "dim"
        )
        with resumable(f"Stopped. The same command goes on; runs are kept in {folder}."):
            content = experiment.run_claim(
                chosen, folder, seeds=seeds, jobs=jobs, report=_say_once_a_run()
            )
        show_json(content) if json else show(claim_details(chosen, content, "current"))
        if record:
            tell(f"Recorded in {experiment.record(content)}; `make docs` writes the page.")


def _say_once_a_run() -> Callable[[str, int, object], None]:
    """A line when a run of an arm begins."""
    begun: set[tuple[str, int]] = set()

    def say(arm: str, seed: int, _line: object) -> None:
        if (arm, seed) not in begun:
            begun.add((arm, seed))
            tell(f"{arm}, seed {seed}", "dim")

    return say
