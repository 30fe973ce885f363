"""What `datasets` reads: data sets of the hub, folders it saved, and Parquet files.

Rows stay on disk as memory-mapped Arrow. Decoding is ours: media come as bytes.
"""

from __future__ import annotations

import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sensorium.data.folders import SPLIT_COLUMN
from sensorium.data.sources import (
    SPLIT_NAMES,
    Broken,
    Rows,
    Source,
    arrow_list_lengths,
    cells_of,
    holds_media,
    unwrap_media,
)
from sensorium.data.tables import fingerprint, fingerprint_files, first_line
from sensorium.types import UserError


class HubSource(Source):
    """Rows of a `datasets.Dataset`, or of one for each split.

    Args:
        parts: the data sets by split; the empty name says that the rows know no split.
        name, version, root: see `Source`.
    """

    def __init__(
        self, parts: Mapping[str, Any], *, name: str, version: str, root: Path | None = None
    ) -> None:
        self.name, self.version, self.root = name, version, root
        self._splits = [SPLIT_NAMES.get(split.lower(), split) for split in parts]
        features: dict[str, Any] = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        for part in parts.values():
            for path, feature in _leaves(part.features):
                self._paths["_".join(path)] = path
                features.setdefault("_".join(path), feature)
        self.hints = {name: kind for name, f in features.items() if (kind := _modality_of(f))}
        self._class_names = {
            name: list(inner.names)
            for name, feature in features.items()
            if type(inner := _inside_lists(feature)).__name__ == "ClassLabel"
        }
        self._parts = [part.with_format("arrow") for part in parts.values()]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self._has_split_column = "" not in parts and SPLIT_COLUMN not in features
        self.column_names = (*features, *([SPLIT_COLUMN] if self._has_split_column else []))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def columns(self, names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
        """The cells; classes by name, media as bytes."""
        found: dict[str, list[Any]] = {name: [None] * len(rows) for name in names}
        part_of = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(part_of).tolist():
            places = np.flatnonzero(part_of == number)
            start = self._ends[number - 1] if number else 0
            cells = self._part_columns(number, names, rows[places] - start)
            for name, values in cells.items():
                for place, value in zip(places.tolist(), values, strict=True):
                    found[name][place] = value
        return found

    def _part_columns(self, number: int, names: Sequence[str], rows: Rows) -> dict[str, list[Any]]:
        part = self._parts[number]
        there = [n for n in names if n in self._paths and self._paths[n][0] in part.features]
        found: dict[str, list[Any]] = {}
        if there:
            table = part.select_columns(sorted({self._paths[n][0] for n in there}))[rows.tolist()]
        for name in there:
            column = _at(table, self._paths[name])
            cells = cells_of(column)
            if holds_media(column.type):
                cells = [unwrap_media(self.root, cell) for cell in cells]
            elif name in self._class_names:
                cells = [self._class_name(name, cell) for cell in cells]
            found[name] = cells
        if self._has_split_column and SPLIT_COLUMN in names:
            found[SPLIT_COLUMN] = [self._splits[number]] * len(rows)
        return found

    def _class_name(self, column: str, code: Any) -> Any:
        if isinstance(code, list):
            return [self._class_name(column, part) for part in code]
        if isinstance(code, Broken):
            return code
        names = self._class_names[column]
        return names[code] if code is not None and 0 <= code < len(names) else None

    def list_lengths(self, column: str) -> NDArray[np.int64] | None:
        """The lengths of a list column (0 for a null, or where a split lacks the column)."""
        if column not in self._paths:
            return None
        path, lengths = self._paths[column], []
        for part in self._parts:
            if path[0] not in part.features:
                lengths.append(np.zeros(len(part), dtype=np.int64))
                continue
            found = arrow_list_lengths(_at(part.select_columns([path[0]])[:], path))
            if found is None:
                return None
            lengths.append(found)
        return np.concatenate(lengths)


def _leaves(
    features: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The features, and those in structs, with their paths; media structs count as one."""
    for name, feature in features.items():
        if isinstance(feature, dict) and set(feature) != {"bytes", "path"}:
            yield from _leaves(feature, (*above, name))
        else:
            yield (*above, name), feature


def _at(table: pa.Table, path: tuple[str, ...]) -> pa.ChunkedArray:
    """The column at a path; structs in between are opened."""
    column = table.column(path[0])
    return pc.struct_field(column, list(path[1:])) if len(path) > 1 else column


def _modality_of(feature: Any) -> str:
    """The modality of a feature that says it."""
    kind = type(_inside_lists(feature)).__name__
    return {"Image": "image", "Audio": "audio", "Video": "video"}.get(kind, "")


def _inside_lists(feature: Any) -> Any:
    while type(feature).__name__ in ("List", "LargeList", "Sequence"):
        feature = feature.feature
    return feature


def splits_of_files(paths: Sequence[Path]) -> list[str]:
    """The split that each file's name, or its folder's, begins with.

    All are empty if one of them says none, or all say the same: then the files say nothing.
    """
    splits = []
    for path in paths:
        words = (re.split(r"[^a-z]", name.lower())[0] for name in (path.stem, path.parent.name))
        splits.append(next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), ""))
    return splits if len(set(splits)) > 1 and all(splits) else [""] * len(paths)


def open_parquet(paths: Sequence[Path], cache: Path | None) -> HubSource:
    """Parquet files; names such as `train-00000-of-00002.parquet` say the split.

    Raises:
        UserError: a file is damaged or all are empty.
    """
    import pyarrow.parquet as pq

    by_split: dict[str, list[str]] = {}
    for path, split in zip(paths, splits_of_files(paths), strict=True):
        try:
            num_rows = pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # names of columns, too
            raise UserError(f"{path}: not a whole Parquet file: {first_line(error)}") from None
        if num_rows:
            by_split.setdefault(split, []).append(str(path))
    if not by_split:
        raise UserError(f"{paths[0]} is an empty table: it has no rows")
    folder = _cache_folder(cache)
    parts = {}
    with _datasets() as datasets:
        for split, files in by_split.items():
            try:
                parts[split] = datasets.Dataset.from_parquet(
                    files, split=split or "train", cache_dir=folder
                )
            except Exception as error:  # damaged pages, and types and names it does not know
                cause = error.__cause__
                reason = first_line(cause if isinstance(cause, Exception) else error)
                raise UserError(f"{files[0]} cannot be read as rows: {reason}") from None
    single = len(paths) == 1
    return HubSource(
        parts,
        name=paths[0].name if single else paths[0].parent.resolve().name,
        version=fingerprint_files(paths),
        root=paths[0].parent,
    )


def open_saved(folder: Path) -> HubSource:
    """A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Raises:
        UserError: it is damaged.
    """
    with _datasets() as datasets:
        try:
            loaded = datasets.load_from_disk(str(folder))
        except Exception as error:  # damaged files raise whatever they like
            raise UserError(
                f"{folder} looks like a folder saved by `datasets`, but cannot be loaded: "
                f"{first_line(error)}"
            ) from None
    name = folder.resolve().name
    return _source(loaded, name, fingerprint_files(sorted(folder.rglob("*.arrow"))), folder)


def open_hub(reference: str, cache: Path | None) -> HubSource:
    """A data set of the hub: `NAME` or `NAME:CONFIG`.

    Raises:
        UserError: it cannot be loaded; the message says whether the network is off.
    """
    name, _, config = reference.partition(":")
    with _datasets() as datasets:
        online = _reaches_hub(datasets)
        folder = _cache_folder(cache)
        try:
            with nullcontext() if online else _offline(datasets):
                loaded = datasets.load_dataset(name, config or None, cache_dir=folder)
        except Exception as error:  # the hub's client and files raise all kinds
            hint = "Check the name at huggingface.co/datasets"
            if not online:
                hint = "There is no network, so that only what was loaded before can be read"
            raise UserError(
                f"hub:{reference} cannot be loaded: {first_line(error)}. {hint}"
            ) from None
        root = Path(datasets.config.HF_CACHE_HOME)
    parts = loaded.values() if isinstance(loaded, dict) else [loaded]
    version = fingerprint(reference, *(part._fingerprint for part in parts))
    return _source(loaded, f"hub:{reference}", version, root)


def _reaches_hub(datasets: Any) -> bool:
    """Whether the hub's name can be looked up, so that a try isn't repeated for half a minute."""
    if datasets.config.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():  # the proxy looks names up
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(datasets.config.HF_ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """No request is made meanwhile."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _source(loaded: Any, name: str, version: str, root: Path) -> HubSource:
    parts = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    for split in list(parts):
        if split and split.lower() not in SPLIT_NAMES:
            del parts[split]
    if len(parts) == 1:  # one split divides nothing; the hub calls it `train`
        parts = {"": next(iter(parts.values()))}
    if not sum(len(part) for part in parts.values()):
        raise UserError(
            f"{name} has no rows in a split called train, validation or test; it has "
            f"{', '.join(loaded)}"
        )
    return HubSource(parts, name=name, version=version, root=root)


def _cache_folder(cache: Path | None) -> str | None:
    if cache is None:
        return None
    folder = cache / "tables"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the cache folder {cache}: {error.strerror or error}. Choose another "
            "with --cache"
        ) from None
    return str(folder)


@contextmanager
def _datasets() -> Iterator[Any]:
    """The package, with its progress bars off meanwhile."""
    import datasets

    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        if shown:
            datasets.enable_progress_bars()
