"""From anything a user names to a data set."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sensorium.data import folders
from sensorium.data.dataset import Data
from sensorium.data.guess import guess_schema
from sensorium.data.missing import read_missing
from sensorium.data.sources import Source
from sensorium.data.tables import TABLE_SUFFIXES
from sensorium.types import Schema, UserError

_FORMS = (
    "a folder, a table (.csv, .tsv, .jsonl, .json, .parquet), a .tar or a pattern of tars, "
    "hub:NAME, or playground:VIEW"
)


def open_data(
    where: str | Path,
    schema: str | Path | Schema | Mapping[str, Any] | None = None,
    *,
    split: str | None = None,
    seed: int = 0,
    missing: Sequence[str] = (),
    missing_test: Sequence[str] | None = None,
    cache: Path | None = None,
    new: bool = False,
    samples: bool = True,
) -> Data:
    """Open data of any kind.

    Args:
        where: a folder of media (with a metadata table, files of equal stem, or class folders); a
            table; a `.tar`, a folder of them or a pattern such as `shards/*.tar` or
            `shards/{000..099}.tar` (WebDataset); a folder that `datasets` saved;
            `hub:NAME[:CONFIG]`; `playground:VIEW?objects=2`.
        schema: a schema, its file, or its content; guessed from the rows if None.
        split: `column:NAME`, `share:0.8,0.1,0.1`, `group:COLUMN`, `time:COLUMN` or `folds:K:I`; if
            None, as the data say, else by share.
        seed: of random splits, and of what is hidden.
        missing: fields to hide in some rows: `FIELD:RATE` or `FIELD:RATE:by=COLUMN=VALUE` (also
            `!=`, `<`, `>`).
        missing_test: what to hide in test rows, instead of `missing`; None for the same.
        cache: the folder for converted tables; that of `datasets` if None.
        new: rows that may lack columns of the schema, such as the label of rows to predict.
        samples: whether rows may be shown; if not, no value, text, picture or name of one gets into
            a report, a list of rows that were set aside, or another file of a run.

    Raises:
        UserError: there is nothing there, nothing readable, or nothing that fits the schema.
    """
    table = open_source(where, cache)
    if not len(table):
        raise UserError(f"{table.name} is empty: it has no rows")
    reasons = {}
    if isinstance(schema, (str, Path)):
        schema = Schema.load(Path(schema))
    elif isinstance(schema, Mapping):
        schema = Schema(**schema)
    if schema is None:
        if table.schema is not None:
            schema = table.schema
        else:
            guess = guess_schema(table, samples)
            schema, reasons = guess.schema, guess.reasons
    is_path = not str(where).startswith(("playground:", "hub:"))
    data = Data.build(
        table,
        schema,
        split=split,
        seed=seed,
        reasons=reasons,
        new=new,
        where=str(Path(where).expanduser().absolute() if is_path else where),
        samples=samples,
    )
    test = None if missing_test is None else read_missing(missing_test)
    return data.with_missing(*read_missing(missing), test=test)


def open_source(where: str | Path, cache: Path | None = None) -> Source:
    """The rows, without a schema.

    Raises:
        UserError: there is nothing there, or nothing readable.
    """
    text = str(where)
    if text.startswith("playground:"):
        from sensorium.data.playground import PlaygroundSource

        return PlaygroundSource(text.removeprefix("playground:"))
    if text.startswith("hub:"):
        from sensorium.data.hub import open_hub

        return open_hub(text.removeprefix("hub:"), cache)
    path = Path(text).expanduser()
    if path.is_dir():
        return _open_folder(path, cache)
    if path.is_file():
        return _open_files([path], cache)
    if numbered := re.fullmatch(r"([^{}]*)\{(\d+)\.\.(\d+)\}([^{}]*)", str(path)):
        before, first, last, after = numbered.groups()
        numbers = range(int(first), int(last) + 1)
        found = [Path(f"{before}{number:0{len(first)}}{after}") for number in numbers]
        for file in found:
            if not file.is_file():
                raise folders.no_such_path(file)
        return _open_files(found, cache)
    if glob.has_magic(text):
        # As the shell does, from any folder; `Path.glob` starts from one that must be named.
        found = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
        if not found:
            raise UserError(f"no file fits the pattern {text}")
        return _open_files(found, cache)
    raise folders.no_such_path(path)


def _open_files(paths: list[Path], cache: Path | None) -> Source:
    suffixes = {path.suffix.lower() for path in paths}
    if suffixes == {".tar"}:
        from sensorium.data.archives import open_tars

        return open_tars(paths)
    if suffixes == {".parquet"}:
        from sensorium.data.hub import open_parquet

        return open_parquet(paths, cache)
    if len(paths) == 1 and suffixes <= set(TABLE_SUFFIXES):
        return folders.open_table(paths[0])
    names = ", ".join(path.name for path in paths[:5])
    raise UserError(f"{names}: cannot be read as data. Expected {_FORMS}")


def _open_folder(folder: Path, cache: Path | None) -> Source:
    folders.refuse_run_folder(folder)
    names = {path.name for path in folder.iterdir()}
    if not names:
        raise UserError(f"{folder} is an empty folder. Expected {_FORMS}")
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= names:
        from sensorium.data.hub import open_saved

        return open_saved(folder)
    tables = folders.find_tables(folder)
    if tables:
        return folders.open_tables(folder, tables)
    for suffix in (".tar", ".parquet"):
        found = sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file())
        if found:
            return _open_files(found, cache)
    return folders.open_media(folder)
