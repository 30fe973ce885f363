"""Codes of rows, made once and kept with the tokenizer that made them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sensorium.data import Data, MediaCache
from sensorium.systems.baselines.known_codes import FILE, KnownCodes, digests_of, mark
from sensorium.systems.baselines.patch_tokenizer import PatchTokenizer
from sensorium.tasks.base import Reader
from sensorium.training.files import read_tensors, write_tensors
from sensorium.training.run import Run
from sensorium.types import UserError

ROWS_AT_ONCE = 128


class Tokenized(NamedTuple):
    """What came of it.

    Attributes:
        field: the name of the field.
        contents: how many different ones the rows have.
        made: of how many codes were made.
    """

    field: str
    contents: int
    made: int


def tokenize(run: Run, data: str | Path | Data, *, cache: MediaCache | None = None) -> Tokenized:
    """Make the codes of all pictures or maps of rows that are not known, and keep them in the run.

    A system whose setting `codes` names the run reads them instead of making them in each step. What was
    made is kept if this is stopped.

    Args:
        run: of `patch-tokenizer`.
        data: rows with its field.
        cache: of decoded media.

    Raises:
        UserError: the run is of another system, or the rows cannot be read.
    """
    system = run.system
    if not isinstance(system, PatchTokenizer):
        raise UserError(
            f"system '{run.info['system']}' makes no codes of patches; give a run of patch-tokenizer"
        )
    name, file = system.field.name, run.folder.path / FILE
    own = mark(system.config, system.state_dict())
    known = KnownCodes.of(read_tensors(file), own) if file.exists() else None
    known = known or KnownCodes.none(own, system.patches.side**2)
    before, seen = len(known), set[bytes]()
    rows = run.rows_of(data)
    reader = Reader(system, rows, ROWS_AT_ONCE, cache)
    try:
        for batch in reader.batches(rows.rows("all")):
            if name not in batch:
                continue
            values = batch[name].values
            places = {digest: place for place, digest in enumerate(digests_of(values))}
            seen |= places.keys()
            new = {digest: place for digest, place in places.items() if digest not in known}
            if new:
                with reader.asking():
                    codes = system.encode(values[[*new.values()]])
                known.add([*new], codes)
    finally:
        if len(known) > before:
            write_tensors(file, known.tensors())
    return Tokenized(name, len(seen), len(known) - before)
