"""Whole fields of new rows, predicted from others and written as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from sensorium.data import Data
from sensorium.modalities.base import Predictable, PredictableMedia, get_modality
from sensorium.systems.base import Chains, Reconstructs, System
from sensorium.tasks.base import Reader
from sensorium.tasks.reconstruction import only_given
from sensorium.training.files import write_aside
from sensorium.training.folder import RunFolder
from sensorium.training.run import Run
from sensorium.types import Batch, Entries, Field, UserError
from sensorium.types.names import did_you_mean

ROWS_AT_ONCE = 64
TABLE = "rows.jsonl"

Box = Sequence[float]


def translate(
    run: Run,
    data: str | Path | Data,
    out: str | Path,
    *,
    given: Sequence[str] = (),
    wanted: Sequence[str] = (),
    keep: Mapping[str, Box] | None = None,
    filling: Mapping[str, Any] | None = None,
) -> int:
    """Predict fields, and write them into a folder: a table, and a file for each picture or map.

    The table, `rows.jsonl`, can be opened as data. Rows that have none of the given fields are left out.
    A system that chains predicts each field from those before it as well, in the order in which they are
    wanted.

    Args:
        run: of a system that reconstructs.
        data: rows; the fields that are predicted need not be there.
        out: the folder.
        given: the fields that are read; all that the system reads, but for those wanted, if empty.
        wanted: those that are predicted; all that the system predicts, but for those given, if empty.
        keep: of fields that are given and wanted, the part that stays as it is (x1, y1, x2, y2, as shares
            of the sides); the rest is filled anew.
        filling: how a system that chains chooses tokens, where it is not as its settings say.

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
    keep = dict(keep or {})
    read = list(given) or [name for name in system.sources if name not in wanted or name in keep]
    told = list(wanted) or [name for name in system.reconstructed if name not in given]
    if not read or not told or ({*read} & {*told}) != {*keep}:
        raise UserError(
            f"nothing to be predicted: from {', '.join(read) or 'nothing'} to "
            f"{', '.join(told) or 'nothing'}. Name different fields with --from and --to, and one of which "
            "a part stays in both"
        )
    say = _chained(system, told, keep, filling or {})
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
            said = say(only_given(kept, read, system, run.schema))
        table: list[dict[str, Any]] = [{"key": key} for key in kept.keys]
        for name, entries in said.items():
            cells = _cells(entries, run.schema[name], reader, folder, kept.index.tolist())
            for place, cell in cells.items():
                # a table's cells stand in columns of their own
                table[place] |= cell if isinstance(cell, dict) else {name: cell}
        lines += [json.dumps(line, ensure_ascii=False) for line in table]
    text = "\n".join(lines) + "\n"
    write_aside(folder / TABLE, lambda aside: aside.write_text(text, encoding="utf-8"))
    return len(lines)


def _chained(
    system: Reconstructs, told: Sequence[str], keep: Mapping[str, Box], filling: Mapping[str, Any]
) -> Callable[[Batch], dict[str, Entries]]:
    """How rows are asked."""
    if not isinstance(system, Chains):
        if keep or filling:
            raise UserError(
                f"system '{cast(System, system).name}' predicts fields at once: it keeps no part of one "
                "(--keep), and has no settings of how they are filled (--set)"
            )
        return lambda batch: system.reconstruct(batch, told)
    how = system.config.override({f"filling.{name}": value for name, value in filling.items()})
    places = {name: system.places(name, box) for name, box in keep.items()}

    def say(batch: Batch) -> dict[str, Entries]:
        kept = {name: each.expand(batch.size, -1) for name, each in places.items()}
        return system.chain(batch, told, how.filling, kept)

    return say


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
