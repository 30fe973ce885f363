"""What is in a data set: what each field is, how much of it there is, and what is wrong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from sensorium.data.dataset import Data
from sensorium.data.decoding import is_filled
from sensorium.data.sources import Broken, Rows, chunked, spread
from sensorium.modalities.base import Modality, get_modality
from sensorium.types import BadValue, Fault, Field, UserError

_LOOKED_AT = 1000
_DECODED = 64
_COMPARED = 20_000
_EXAMPLES = 3
_CHUNK = 256  # media of so many rows are in memory at once


@dataclass(frozen=True)
class FieldReport:
    """One field.

    Attributes:
        name, modality, role, of: as in the schema.
        columns: that it reads.
        share_present: the share of the rows looked at that have it.
        num_distinct: different values in these rows; None for media.
        examples: a few values, shortened.
        num_bad: rows of those decoded that cannot be used because of it.
        reason: why the schema is as it is, if it was guessed.
    """

    name: str
    modality: str
    role: str
    of: str | None
    columns: tuple[str, ...]
    share_present: float
    num_distinct: int | None
    examples: tuple[str, ...]
    num_bad: int
    reason: str


@dataclass(frozen=True)
class Duplicates:
    """Rows of one split whose content in a field stands in another split as well.

    Attributes:
        field: its name.
        splits: the two; rows of the second are counted.
        num_rows: how many.
        examples: names of rows of the first and of the second with equal content.
    """

    field: str
    splits: tuple[str, str]
    num_rows: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Inspection:
    """What `inspect_data` found.

    Attributes:
        name: of the data.
        version: of the data.
        num_rows: by split; `all` counts those in no split too.
        organising: the columns for `key`, `group`, `split` and `time`.
        fields: a report of each.
        num_looked_at: rows in which presence and values were counted.
        num_decoded: rows that were decoded.
        faults: rows of these that cannot be used, and entries refused while rows were listed.
        duplicates: content that stands in two splits.
        num_compared: rows compared for them.
        notes: what else a person should know.
    """

    name: str
    version: str
    num_rows: dict[str, int]
    organising: dict[str, str]
    fields: tuple[FieldReport, ...]
    num_looked_at: int
    num_decoded: int
    faults: tuple[Fault, ...]
    duplicates: tuple[Duplicates, ...]
    num_compared: int
    notes: tuple[str, ...] = field(default=())


def inspect_data(data: Data) -> Inspection:
    """Look at a data set: at all rows for their number and splits, at a sample for the rest."""
    notes = list(_split_notes(data))
    try:
        data = data.fit()
    except UserError as error:
        notes.append(str(error))
    rows = spread(data.rows("all"), _LOOKED_AT)
    decoded = spread(data.rows("all"), _DECODED)
    used = [entry for entry in data.schema if entry.role != "ignore"]
    faults = _faults(data, used, decoded)
    bad = Counter(fault.field for fault in faults)
    duplicates, num_compared = find_duplicates(data)
    return Inspection(
        name=data.name,
        version=data.version,
        num_rows={**{split: len(found) for split, found in data.splits.items()}, "all": len(data)},
        organising={
            setting: column
            for setting in ("key", "group", "split", "time")
            if (column := data.schema.model_dump()[setting]) is not None
        },
        fields=_reports(data, rows, bad),
        num_looked_at=len(rows),
        num_decoded=len(decoded),
        faults=(*data.faults, *faults),
        duplicates=duplicates,
        num_compared=num_compared,
        notes=tuple(notes),
    )


def _reports(data: Data, rows: Rows, num_bad: Mapping[str, int]) -> tuple[FieldReport, ...]:
    present = Counter[str]()
    distinct: dict[str, set[str]] = {name: set() for name in data.schema.names}
    examples: dict[str, list[str]] = {name: [] for name in data.schema.names}
    there = [f.name for f in data.schema if set(f.source_columns) <= set(data.table.column_names)]
    for chunk in chunked(rows, _CHUNK):
        for name, raws in data.raw(there, chunk).items():
            for raw in raws:
                if not is_filled(raw) or isinstance(raw, Broken):
                    continue
                present[name] += 1
                distinct[name].add(str(raw) if not isinstance(raw, bytes) else "")
                if data.samples and len(examples[name]) < _EXAMPLES:
                    shown = _shown(_read(raw, data.schema[name]))
                    if shown not in examples[name]:
                        examples[name].append(shown)
    return tuple(
        FieldReport(
            name=entry.name,
            modality=entry.modality,
            role=entry.role,
            of=entry.of,
            columns=entry.source_columns,
            share_present=present[entry.name] / max(1, len(rows)),
            num_distinct=None if _is_medium(entry) else len(distinct[entry.name]),
            examples=tuple(examples[entry.name]),
            num_bad=num_bad.get(entry.name, 0),
            reason=_reason(data, entry),
        )
        for entry in data.schema
    )


def _read(raw: Any, entry: Field) -> Any:
    """The content of a text file; anything else as it is."""
    if not isinstance(raw, Path) or entry.modality != "text":
        return raw
    try:
        return get_modality("text").show(raw, entry)
    except BadValue as error:
        return str(error)


def _is_medium(entry: Field) -> bool:
    return get_modality(entry.modality).cached


def _reason(data: Data, entry: Field) -> str:
    if entry.columns:
        return "numbers, categories and dates, gathered" if data.reasons else ""
    return data.reasons.get(entry.source_columns[0], "")


def _shown(raw: Any) -> str:
    """A raw value in at most 60 characters."""
    if isinstance(raw, bytes):
        return f"{len(raw)} bytes"
    if isinstance(raw, np.ndarray):
        return f"{raw.dtype} array {raw.shape}"
    if isinstance(raw, Path):
        return raw.name
    if isinstance(raw, list):
        text = ", ".join(_shown(part) for part in raw)
    elif isinstance(raw, dict):
        text = ", ".join(f"{name}={_shown(cell)}" for name, cell in raw.items() if cell is not None)
    else:
        text = " ".join(str(raw).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _faults(data: Data, fields: Iterable[Field], rows: Rows) -> list[Fault]:
    """What is wrong with rows, field by field, so that one fault hides no other.

    Boxes are read with their image, which says how large it is.
    """
    found: list[Fault] = []
    for entry in fields:
        modality = get_modality(entry.modality)
        if type(modality).fit is not Modality.fit and not entry.fitted:
            continue  # that it could not be fitted is a note
        views = {entry.name: modality.View()}
        if entry.of is not None:
            anchor = data.schema[entry.of]
            views = {anchor.name: get_modality(anchor.modality).View(), **views}
        found += [
            replace(fault, field=entry.name)
            for fault in data.read(rows, views)[1]
            if fault.field in ("", entry.name)
        ]
    return found


def _split_notes(data: Data) -> Iterator[str]:
    outside = len(data) - sum(len(rows) for rows in data.splits.values())
    if outside:
        yield f"{outside} rows are in no split"
    for split, rows in data.splits.items():
        if not len(rows):
            yield f"no rows in the split '{split}'"
    if data.schema.group is not None and data.split is None:
        groups = {split: set(data.groups(rows).tolist()) for split, rows in data.splits.items()}
        for first, second in combinations(groups, 2):
            if both := len(groups[first] & groups[second]):
                yield (
                    f"{both} groups (column '{data.schema.group}') are both in {first} and in "
                    f"{second}; --split group:{data.schema.group} keeps each on one side"
                )


def find_duplicates(data: Data) -> tuple[tuple[Duplicates, ...], int]:
    """Equal pictures, recordings and texts in two splits, and how many rows were compared.

    Contents are compared byte by byte (through their hashes), in all rows of data of up to 20,000.
    """
    limit = min(_COMPARED, data.source.most_scanned)
    total = sum(len(rows) for rows in data.splits.values())
    samples = {
        split: spread(rows, max(1, len(rows) * limit // total)) if total > limit else rows
        for split, rows in data.splits.items()
        if len(rows)
    }
    fields = [
        entry
        for entry in data.schema
        if entry.role in ("input", "query", "target")
        and (entry.modality == "text" or _is_medium(entry))
    ]
    contents = _contents(data, fields, samples)
    found = []
    for entry in fields:
        for first, second in combinations(samples, 2):
            known = {digest: row for row, digest in contents[entry.name, first]}
            equal = [
                (known[digest], row)
                for row, digest in contents[entry.name, second]
                if digest in known
            ]
            if equal:
                pairs = np.asarray(equal[: _EXAMPLES if data.samples else 0], np.int64).reshape(
                    -1, 2
                )
                keys = zip(data.keys(pairs[:, 0]), data.keys(pairs[:, 1]), strict=True)
                found.append(Duplicates(entry.name, (first, second), len(equal), tuple(keys)))
    return tuple(found), sum(len(rows) for rows in samples.values())


_Hashed = dict[tuple[str, str], list[tuple[int, bytes]]]


def _contents(data: Data, fields: Sequence[Field], samples: Mapping[str, Rows]) -> _Hashed:
    """By field and split: rows with the hash of what they hold.

    Files are read only if another has the same length.
    """
    hashed: _Hashed = {(entry.name, split): [] for entry in fields for split in samples}
    files: list[tuple[str, str, int, Path]] = []
    for split, rows in samples.items():
        for chunk in chunked(rows, _CHUNK):
            for name, raws in data.raw([entry.name for entry in fields], chunk).items():
                for row, raw in zip(chunk.tolist(), raws, strict=True):
                    for value in raw if isinstance(raw, list) else [raw]:
                        if isinstance(value, Path):
                            files.append((name, split, row, value))
                        elif (content := _content(value)) is not None:
                            hashed[name, split].append((row, _digest(content)))
    uses = Counter(path for *_, path in files)
    sizes = {path: path.stat().st_size for path in uses}
    num_of_size = Counter(sizes.values())
    digests = {
        path: _digest(path.read_bytes())
        for path, size in sizes.items()
        if size and (num_of_size[size] > 1 or uses[path] > 1)
    }
    for name, split, row, path in files:
        if path in digests:
            hashed[name, split].append((row, digests[path]))
    return hashed


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _content(value: Any) -> bytes | None:
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value.strip():
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, dict) and isinstance(value.get("array"), np.ndarray):
        value = value["array"]
    return value.tobytes() if isinstance(value, np.ndarray) else None
