"""Whole fields of new rows, predicted from others and written as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch

from sensorium.data import Data
from sensorium.modalities.base import Predictable, get_modality
from sensorium.systems.base import Reconstructs
from sensorium.tasks.base import Reader
from sensorium.training.files import write_aside
from sensorium.training.folder import RunFolder
from sensorium.training.run import Run
from sensorium.types import UserError
from sensorium.types.names import did_you_mean

ROWS_AT_ONCE = 64
TABLE = "rows.jsonl"


def translate(
    run: Run,
    data: str | Path | Data,
    out: str | Path,
    *,
    given: Sequence[str] = (),
    wanted: Sequence[str] = (),
) -> int:
    """Predict fields, and write them into a folder: a file for each, and a table that names them.

    The table, `rows.jsonl`, can be opened as data. Rows that have none of the given fields are left out.

    Args:
        run: of a system that reconstructs.
        data: rows; the fields that are predicted need not be there.
        out: the folder.
        given: the fields that are read; all that the system reads, but for those wanted, if empty.
        wanted: those that are predicted; all that the system predicts, but for those given, if empty.

    Returns:
        How many rows were written.

    Raises:
        UserError: the system predicts no fields, or not these from those.
    """
    system = run.system
    if not isinstance(system, Reconstructs):
        raise UserError(f"system '{run.info['system']}' predicts no fields of rows")
    for name in given:
        if name not in system.sources:
            raise UserError(
                f"'{name}' is not read by this run. {did_you_mean(name, system.sources)}"
            )
    for name in wanted:
        if name not in system.reconstructed:
            known = did_you_mean(name, system.reconstructed)
            raise UserError(f"'{name}' is not predicted by this run. {known}")
    read = list(given) or [name for name in system.sources if name not in wanted]
    told = list(wanted) or [name for name in system.reconstructed if name not in given]
    if not read or not told or set(read) & set(told):
        raise UserError(
            f"nothing to be predicted: from {', '.join(read) or 'nothing'} to "
            f"{', '.join(told) or 'nothing'}. Name different fields with --from and --to"
        )
    rows = run.rows_of(data)
    reader = Reader(system, rows, ROWS_AT_ONCE, None)
    folder = Path(out)
    for name in told:
        RunFolder(folder / name).create()
    lines = []
    for batch in reader.batches(rows.rows("all")):
        there = torch.stack([batch.present(name) for name in read]).any(0)
        kept = batch.take(there.nonzero().squeeze(1))
        if not kept.size:
            continue
        with reader.asking():
            said = system.reconstruct(kept.without(*(n for n in kept if n not in read)), told)
        for place, (key, index) in enumerate(zip(kept.keys, kept.index.tolist(), strict=True)):
            line = {"key": key}
            for name in told:
                field = run.schema[name]
                modality = cast(Predictable, get_modality(field.modality))
                value = modality.uncollate(said[name].values[place], field)
                suffix, content = modality.as_file(value, field)
                line[name] = f"{name}/{index:06d}{suffix}"
                write_aside(folder / line[name], partial(Path.write_bytes, data=content))
            lines.append(json.dumps(line, ensure_ascii=False))
    text = "\n".join(lines) + "\n"
    write_aside(folder / TABLE, lambda aside: aside.write_text(text, encoding="utf-8"))
    return len(lines)
