"""Raw cells to decoded samples, and samples to batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sensorium.data.sources import Broken, Rows, locate
from sensorium.modalities.augment import augment_sample, place_boxes
from sensorium.modalities.base import Modality, View, get_modality, is_missing
from sensorium.modalities.image import ImageView
from sensorium.modalities.points import PointsView
from sensorium.types import BadValue, Batch, Entries, Fault, Field, Sample, Schema, draws


class Cache(Protocol):
    """Where decoded media are kept."""

    def get_or_decode(self, raw: Any, modality: Modality, field: Field, view: Any) -> Any:
        """The decoded value, from the cache if it is there."""
        ...

    def together(self) -> AbstractContextManager[None]:
        """A block at whose end all that was decoded in it is kept."""
        ...


def holds_paths(field: Field) -> bool:
    """Whether strings in a field's column are paths: in media they are, in text if so declared."""
    by_kind = bool(get_modality(field.modality).suffixes) and field.modality != "text"
    return bool(field.options.get("path", by_kind))


def field_values(field: Field, cells: Mapping[str, list[Any]], root: Path | None) -> list[Any]:
    """The raw values of a field, from the cells of its columns."""
    if field.columns:
        rows = zip(*(cells[column] for column in field.columns), strict=True)
        return [dict(zip(field.columns, row, strict=True)) for row in rows]
    values = cells[field.source_columns[0]]
    return [_located(root, value) for value in values] if holds_paths(field) else list(values)


def nothing(field: Field) -> Any:
    """The raw value of a field that is not there."""
    return dict.fromkeys(field.columns) if field.columns else None


def is_filled(raw: Any) -> bool:
    """Whether a raw value holds anything."""
    if isinstance(raw, dict) and not raw.keys() <= {"bytes", "path"}:
        return any(not is_missing(cell) for cell in raw.values())
    if isinstance(raw, (list, tuple)):
        return any(not is_missing(cell) for cell in raw)
    return not is_missing(raw)


def _located(root: Path | None, value: Any) -> Any:
    if isinstance(value, str) and not is_missing(value):
        return locate(root, value)
    if isinstance(value, list):
        return [_located(root, part) for part in value]
    return value


def entries_of(raw: Any, field: Field, modality: Modality) -> list[Any]:
    """The entries in a raw value.

    Raises:
        BadValue: it, or a part of it, cannot be read.
    """
    for value in raw if isinstance(raw, list) else (raw,):
        if isinstance(value, Broken):
            raise BadValue(value.reason, value.kind)
    return modality.entries(raw, field)


def decode_rows(
    rows: Rows,
    keys: Sequence[str],
    raws: Mapping[str, list[Any]],
    *,
    schema: Schema,
    views: Mapping[str, View],
    cache: Cache | None,
    augment: tuple[int, int] | None,
) -> tuple[list[Sample], list[Fault]]:
    """Samples of the rows that can be used, and what is wrong with the others.

    Args:
        rows: their numbers.
        keys: their names.
        raws: the raw values of each field that is viewed.
        schema: the fields.
        views: what is wanted of each.
        cache: where decoded media are kept.
        augment: seed and epoch of random changes; None for none.
    """
    plan = [
        (schema[name], get_modality(schema[name].modality), view, raws[name])
        for name, view in views.items()
    ]
    # Making a generator takes as long as decoding a small picture.
    augments = any(
        isinstance(view, (ImageView, PointsView)) and view.augment for view in views.values()
    )
    belong_together = any(field.of is not None for field, *_ in plan)
    samples, faults = [], []
    with nullcontext() if cache is None else cache.together():
        for place, (row, key) in enumerate(zip(rows.tolist(), keys, strict=True)):
            values: dict[str, list[Any]] = {}
            at = ""
            try:
                for field, modality, view, cells in plan:
                    at = field.name
                    decoded = [
                        modality.decode(raw, field, view)
                        if cache is None or not modality.cached
                        else cache.get_or_decode(raw, modality, field, view)
                        for raw in entries_of(cells[place], field, modality)
                    ]
                    if there := _without_nothing(decoded, field):
                        values[field.name] = there
                for field, modality, view, _ in plan:
                    at = field.name
                    if at in values:
                        values[at] = modality.check_sample(values[at], field, view, values)
                at = ""
                sample = Sample(key, row, values)
                if belong_together:
                    sample = place_boxes(sample, schema, views)
            except BadValue as error:
                reason = str(error).removeprefix(f"field '{at}': ")
                faults.append(Fault(key, at, reason, error.kind, row))
                continue
            if augment is not None and augments:
                sample = augment_sample(
                    sample, schema, views, draws.generator("augment", *augment, row)
                )
            samples.append(sample)
    return samples, faults


def _without_nothing(decoded: list[Any], field: Field) -> list[Any]:
    """The decoded entries in which there was something of the modality.

    Raises:
        BadValue: there was in some, and they belong to the entries of another field.
    """
    there = [value for value in decoded if value is not None]
    if field.of is not None and 0 < len(there) < len(decoded):
        raise BadValue(
            f"field '{field.name}': nothing in {len(decoded) - len(there)} of {len(decoded)} entries, "
            f"so that the others would belong to the wrong entries of '{field.of}'"
        )
    return there


def collate(
    samples: Sequence[Sample],
    schema: Schema,
    views: Mapping[str, View],
    seed: int,
    faults: Iterable[Fault],
) -> Batch:
    """Samples side by side; none at all is a batch of size 0."""
    fields = {}
    for name, view in views.items():
        values: list[Any] = []
        counts = [len(sample.values.get(name, ())) for sample in samples]
        for sample in samples:
            values += sample.values.get(name, ())
        if not values:
            continue
        tensor, mask = get_modality(schema[name].modality).collate(values, schema[name], view)
        row = np.repeat(np.arange(len(samples)), counts)
        item = np.concatenate([np.arange(count) for count in counts])
        fields[name] = Entries(tensor, torch.from_numpy(row), torch.from_numpy(item), mask)
    keys = [sample.key for sample in samples]
    index = torch.tensor([sample.index for sample in samples], dtype=torch.long)
    return Batch(fields, keys, index, seed, tuple(faults))
