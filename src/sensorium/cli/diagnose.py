"""The command that asks a run why it answers so."""

from __future__ import annotations

from typing import Annotated

import typer

from sensorium.cli.console import show, show_json
from sensorium.cli.options import DeviceOption, JsonOption, MissingNowOption, RunArgument


def diagnose(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DATA", help="Other rows than its own test rows; all may be used."
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", min=2, help="How many rows are asked at most.")
    ] = 1000,
    missing: MissingNowOption = None,
    boxes: Annotated[
        str,
        typer.Option(
            "--boxes",
            metavar="FIELD",
            help="For an assistant, the boxes around what is asked about: what flows from there?",
        ),
    ] = "",
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Show what each modality contributes, and what its absence or contradiction costs.

    The run is asked about test rows with its inputs removed, exchanged between rows, and shuffled.
    What two inputs tell of the label, each alone or only together, is estimated from the rows. Of an
    assistant it is also shown how far pictures are from text inside it, and by which ways they
    reach the answer.
    Adds a section to the report of the run.

    Example: sensorium diagnose runs/late-fusion-visits-seed0
    """
    from sensorium.diagnostics.diagnosis import diagnose as diagnose_run
    from sensorium.report.diagnosis import diagnosis_table
    from sensorium.report.html import write_report
    from sensorium.training.run import load

    loaded = load(run, device.value if device else None)
    found = diagnose_run(loaded, data, rows=rows, missing=missing or None, boxes=boxes)
    page = write_report(run)
    if json:
        show_json(found.content)
    else:
        show(diagnosis_table(found.content), f"Report: {page}")
