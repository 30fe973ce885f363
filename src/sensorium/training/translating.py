"""Whole fields of new rows, predicted from others and written as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from sensorium.data import Data
from sensorium.modalities.base import Predictable, PredictableMedia, get_modality
from sensorium.systems.base import Reconstructs
from sensorium.tasks.base import Reader
from sensorium.training.files import write_aside
from sensorium.training.folder import RunFolder
from sensorium.training.run import Run
from sensorium.types import Entries, Field, UserError
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
    """Predict fields, and write them into a folder: a table, and a file for each picture or map.

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
        if isinstance(get_modality(run.schema[name].modality), PredictableMedia):
            RunFolder(folder / name).create()
    lines = []
    for batch in reader.batches(rows.rows("all")):
        there = torch.stack([batch.present(name) for name in read]).any(0)
        kept = batch.take(there.nonzero().squeeze(1))
        if not kept.size:
            continue
        with reader.asking():
            said = system.reconstruct(kept.without(*(n for n in kept if n not in read)), told)
        table = [{"key": key} for key in kept.keys]
        for name, entries in said.items():
            cells = _cells(entries, run.schema[name], reader, folder, kept.index.tolist())
            for place, cell in cells.items():
                table[place][name] = cell
        lines += [json.dumps(line, ensure_ascii=False) for line in table]
    text = "\n".join(lines) + "\n"
    write_aside(folder / TABLE, lambda aside: aside.write_text(text, encoding="utf-8"))
    return len(lines)


def _cells(
    entries: Entries, field: Field, reader: Reader, folder: Path, index: Sequence[int]
) -> dict[int, Any]:
    """What stands in the table, by row; media are written as files, which it names."""
    modality = cast(Predictable, get_modality(field.modality))
    # boxes of a row, and what they have, are lists
    is_list = "boxes" in (field.modality, field.of and reader.data.schema[field.of].modality)
    cells: dict[int, Any] = {}
    for place, tensor in zip(entries.row.tolist(), entries.values, strict=True):
        value = modality.uncollate(tensor, field, reader.views[field.name])
        if isinstance(modality, PredictableMedia):
            suffix, content = modality.as_file(value, field)
            cells[place] = f"{field.name}/{index[place]:06d}{suffix}"
            write_aside(folder / cells[place], partial(Path.write_bytes, data=content))
        elif is_list:
            cells.setdefault(place, []).append(modality.as_cell(value, field))
        else:
            cells[place] = modality.as_cell(value, field)
    return cells
