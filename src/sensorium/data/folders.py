"""Folders of media as tables: with a metadata table, files of equal stem, or class folders.

    clinic/metadata.csv            pets/                  trips/
      file_name,report,label         cats/1.jpg             001.jpg
      scans/1.png,"...",2            cats/2.jpg             001.txt
    clinic/scans/1.png               dogs/1.jpg             001.wav

Any of them may lie under `train/`, `validation/` and `test/`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from sensorium.data.sources import SPLIT_NAMES, ArrowSource, cells_of
from sensorium.data.tables import (
    TABLE_SUFFIXES,
    fingerprint,
    fingerprint_files,
    is_text,
    read_table,
)
from sensorium.modalities.base import get_modality, modality_names
from sensorium.types import Fault, UserError
from sensorium.types.names import did_you_mean

METADATA = tuple(f"metadata{suffix}" for suffix in TABLE_SUFFIXES)
SPLIT_COLUMN = "split"


def media_suffixes() -> dict[str, str]:
    """The modality of each file ending that some modality claims."""
    return {suffix: name for name in modality_names() for suffix in get_modality(name).suffixes}


def open_table(path: Path) -> ArrowSource:
    """One table file; paths in it start from its folder."""
    table = read_table(path)
    return ArrowSource(table, name=path.name, version=fingerprint_files([path]), root=path.parent)


def find_tables(folder: Path) -> dict[str, Path]:
    """The tables a folder's rows are in: by split, or one under the empty name; none at all.

    Raises:
        UserError: there are several and it isn't clear which.
    """
    here = _tables_in(folder)
    named = [path for path in here if path.name in METADATA]
    below = {}
    for name, split in _split_folders(folder).items():
        found = [path for path in _tables_in(folder / name) if path.name in METADATA]
        if found:
            below[split] = found[0]
    if len(named) == 1:
        return {"": named[0]}
    if not named and below:
        return below
    by_split = {
        SPLIT_NAMES[path.stem.lower()]: path for path in here if path.stem.lower() in SPLIT_NAMES
    }
    if not named and by_split and len(by_split) == len(here):
        return by_split
    if not named and len(here) == 1:
        return {"": here[0]}
    if here:
        names = ", ".join(path.name for path in here[:6])
        raise UserError(
            f"{folder} holds several tables ({names}); name the file that is meant, or call it "
            "metadata.csv. Files called train, validation and test are read as splits"
        )
    return {}


def open_tables(folder: Path, tables: Mapping[str, Path]) -> ArrowSource:
    """The rows of one metadata table, or of one for each split, with the folder's files."""
    parts = []
    for split, path in tables.items():
        table = read_table(path)
        if path.parent != folder:
            table = _from_above(table, path.parent, path.parent.relative_to(folder))
        if split and SPLIT_COLUMN not in table.column_names:
            table = table.append_column(SPLIT_COLUMN, pa.array([split] * table.num_rows))
        parts.append(table)
    try:
        table = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        names = ", ".join(str(path) for path in tables.values())
        raise UserError(f"{names}: their columns do not fit together: {error}") from None
    table, found = _with_files(table, folder)
    return ArrowSource(
        table,
        name=folder.resolve().name,
        version=fingerprint_files(list(tables.values())),
        root=folder,
        hints={modality: modality for modality in found},
        path_columns=found,
    )


def _with_files(table: pa.Table, folder: Path) -> tuple[pa.Table, list[str]]:
    """A table that names no files, with columns of those whose stem a column holds (an id, say).

    Returns:
        The table, and the names of the new columns, which are modalities.
    """
    suffixes = media_suffixes()
    heads = {name: cells_of(table.column(name).slice(0, 200)) for name in table.column_names}
    for cells in heads.values():
        texts = [cell for cell in cells if isinstance(cell, str) and cell]
        if texts and 2 * sum(Path(text).suffix.lower() in suffixes for text in texts) > len(texts):
            return table, []
    stems: dict[str, dict[str, str]] = {}
    for file in _walk(folder, []):
        stems.setdefault(file.modality, {}).setdefault(file.path.stem, str(file.path))
    added = []
    for modality, paths in stems.items():
        for name, cells in heads.items():
            filled = [str(cell) for cell in cells if cell is not None]
            fits = filled and 10 * sum(cell in paths for cell in filled) >= 9 * len(filled)
            if fits and modality not in table.column_names:
                found = [paths.get(str(cell)) for cell in cells_of(table.column(name))]
                table = table.append_column(modality, pa.array(found, pa.string()))
                added.append(modality)
                break
    return table, added


def _from_above(table: pa.Table, folder: Path, prefix: Path) -> pa.Table:
    """A table whose paths start one folder higher."""
    suffixes = media_suffixes()
    for place, name in enumerate(table.column_names):
        column = table.column(name)
        if not pa.types.is_string(column.type):
            continue
        cells = cells_of(column)
        first = next((cell for cell in cells if cell and isinstance(cell, str)), "")
        if Path(first).suffix.lower() in suffixes and (folder / first).is_file():
            above = PurePosixPath(prefix.as_posix())
            moved = [
                str(above / cell) if cell and isinstance(cell, str) else None for cell in cells
            ]
            table = table.set_column(place, name, pa.array(moved, pa.string()))
    return table


def _tables_in(folder: Path) -> list[Path]:
    # Parquet files that aren't called metadata are data themselves, too large for memory perhaps;
    # JSON files are settings more often than rows.
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in TABLE_SUFFIXES
        and (
            path.name in METADATA
            or path.suffix.lower() not in (".parquet", ".json")
            or (path.suffix.lower() == ".json" and path.stem.lower() in SPLIT_NAMES)
        )
        and not path.name.startswith((".", "_"))
        and path.is_file()
    )


def _split_folders(folder: Path) -> dict[str, str]:
    return {
        path.name: SPLIT_NAMES[path.name.lower()]
        for path in sorted(folder.iterdir())
        if path.name.lower() in SPLIT_NAMES and path.is_dir()
    }


@dataclass(frozen=True)
class _File:
    path: PurePosixPath  # from the folder of the data
    modality: str
    split: str
    folder: PurePosixPath  # without the split
    size: int


def open_media(folder: Path) -> ArrowSource:
    """Media without a table.

    Files whose paths differ in the ending alone make one row; so do files of equal stem in sibling
    folders of different kinds (`images/1.jpg`, `texts/1.txt`). If nothing is paired, and the files
    lie in two or more folders, the folder's name is the label.

    Raises:
        UserError: there are no files of a known kind.
    """
    faults: list[Fault] = []
    files = list(_walk(folder, faults))
    if not files:
        kinds = ", ".join(sorted(media_suffixes()))
        raise UserError(
            f"{folder} holds no rows: no table ({', '.join(METADATA[:3])}), no tars, and no files "
            f"of a known kind ({kinds})"
        )
    across = _pairs_across_folders(files)
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for file in files:
        place = "" if across else str(file.folder)
        stem = file.path.stem if not across else _stem_below(file)
        cells = rows.setdefault((file.split, place, stem), {})
        if file.modality in cells:  # a second file of the kind is a row of its own
            cells = rows.setdefault((file.split, place, file.path.name), {})
        cells[file.modality] = str(file.path)
    columns = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    content = {
        "name": ["/".join(filter(lambda part: part not in ("", "."), key)) for key in rows],
        **{name: [cells.get(name) for cells in rows.values()] for name in columns},
    }
    folders = {place for _, place, _ in rows}
    if not across and len(folders) > 1 and all("/" not in place for place in folders):
        content["label"] = [None if place == "." else place for _, place, _ in rows]
    if any(file.split for file in files):
        content[SPLIT_COLUMN] = [split or "train" for split, _, _ in rows]
    return ArrowSource(
        pa.table({name: pa.array(cells, pa.string()) for name, cells in content.items()}),
        name=folder.resolve().name,
        version=fingerprint(*(f"{file.path} {file.size}" for file in files)),
        root=folder,
        hints={name: name for name in columns},
        key="name",
        path_columns=columns,
        faults=faults,
    )


def _pairs_across_folders(files: list[_File]) -> bool:
    """Whether sibling folders hold different kinds of the same rows."""
    kinds: dict[PurePosixPath, set[str]] = {}
    stems: dict[str, set[str]] = {}
    for file in files:
        if not file.folder.parts:
            return False
        kinds.setdefault(PurePosixPath(file.folder.parts[0]), set()).add(file.modality)
        stems.setdefault(file.modality, set()).add(_stem_below(file))
    if len(stems) < 2 or any(len(kind) > 1 for kind in kinds.values()):
        return False
    if len(kinds) != len(stems):
        return False
    smallest, *others = sorted(stems.values(), key=len)
    return all(2 * len(smallest & other) >= len(smallest) for other in others)


def _stem_below(file: _File) -> str:
    return str(PurePosixPath(*file.folder.parts[1:]) / file.path.stem)


def _walk(folder: Path, faults: list[Fault]) -> Iterator[_File]:
    """The media in a folder, by path; hidden ones and linked folders are left out.

    Files whose names are no text are added to `faults`.
    """
    suffixes = media_suffixes()
    splits = _split_folders(folder)
    for directory, names, file_names in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        below = PurePosixPath(Path(directory).relative_to(folder).as_posix())
        split = splits.get(below.parts[0], "") if below.parts else ""
        inner = PurePosixPath(*below.parts[1:]) if split else below
        for name in sorted(file_names):
            modality = suffixes.get(Path(name).suffix.lower())
            if modality is None or name.startswith(".") or _is_note(name):
                continue
            if not is_text(str(below / name)):
                readable = str(below / name).encode("utf-8", "backslashreplace").decode()
                reason = "its name is not UTF-8; rename it"
                faults.append(Fault(readable, modality, reason, "has a name that is not UTF-8"))
                continue
            size = os.lstat(Path(directory) / name).st_size
            yield _File(below / name, modality, split, inner, size)


def _is_note(name: str) -> bool:
    """Whether a text file is about the folder and not one of its rows."""
    return Path(name).stem.lower() in ("readme", "license", "licence", "changelog", "copying")


def refuse_run_folder(folder: Path) -> None:
    """Raise a `UserError` if a folder is the result of a run."""
    if (folder / "run.json").is_file() or (folder / "compare.json").is_file():
        raise UserError(
            f"{folder} is the folder of a run, not data. Give it to `sensorium evaluate`, "
            "`predict` or `report`, and name the data with --data"
        )


def no_such_path(path: Path) -> UserError:
    """The error for a path that is not there, with the nearest name beside it."""
    parent = path.parent
    beside = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    hint = did_you_mean(path.name, beside) if beside else ""
    return UserError(f"{path}: no such file or folder. {hint}".strip())
