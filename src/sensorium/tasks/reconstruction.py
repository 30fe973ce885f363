"""Reconstruction: predict whole fields from others, in every direction."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import combinations
from typing import Any, cast

import numpy as np
import PIL.Image
from jaxtyping import Int
from torch import Tensor

from sensorium.data import Data, MediaCache
from sensorium.modalities.base import Predictable, get_modality
from sensorium.systems.base import Reconstructs, System
from sensorium.tasks.base import Evaluation, Reader, Task
from sensorium.tasks.intervals import Metric, bootstrap_mean
from sensorium.tasks.metrics import Scores
from sensorium.tasks.metrics.fields import FieldErrors
from sensorium.tasks.metrics.values import field_errors
from sensorium.types import Batch, Entries, Schema, UserError

NUM_EXAMPLES = 3
MOST_PAIRED = 6
"""Of more fields there would be too many pairs."""

MAIN = "skill"


class Reconstruction(Task):
    """Each field from every other, and from every two others.

    Metrics are named `SOURCE->FIELD/NAME` and `SOURCE+SOURCE->FIELD/NAME`. The main one is the mean of
    `skill` over all directions from one field: the share that is explained of what the best constant
    field leaves open. A system for one field is asked for it itself.
    """

    name = "reconstruction"

    def assign(self, schema: Schema, target: str | None = None) -> Schema:
        """Labels and answers are of no use here."""
        if target is not None:
            raise UserError(
                f"{self.name} predicts each field from the others and takes no --target"
            )
        names = [field.name for field in schema.find(role=("label", "answer", "question"))]
        return schema.with_roles(dict.fromkeys(names, "ignore"))

    def fits(self, capabilities: frozenset[str]) -> bool:
        """Systems that reconstruct."""
        return "reconstruct" in capabilities

    def evaluate(
        self,
        system: System,
        data: Data,
        rows: Int[np.ndarray, " rows"],
        *,
        batch_size: int = 64,
        cache: MediaCache | None = None,
        seed: int = 0,
    ) -> Evaluation:
        """All directions, each over the rows that have its fields."""
        if not isinstance(system, Reconstructs):
            raise UserError(
                f"system '{system.name}' predicts no fields, which {self.name} asks for"
            )
        reader = Reader(system, data, batch_size, cache)
        sources = system.sources
        measures = _measures(system, reader)
        wanted = tuple(measures)
        sets: list[tuple[str, ...]] = [(name,) for name in sources]
        sets += list(combinations(sources, 2)) if len(sources) <= MOST_PAIRED else []
        is_alone = sources == wanted and len(wanted) == 1  # then the field is predicted from itself
        found: dict[str, list[np.ndarray]] = {}
        asked: dict[str, list[np.ndarray]] = {}
        examples: list[dict[str, Any]] = []
        for batch in reader.batches(rows):
            truth = {name: _only(batch, name) for name in wanted}
            for name, entries in truth.items():
                if entries is not None:
                    measures[name].learn(_true_values(entries))
            for given in sets:
                targets = [name for name in wanted if name not in given or is_alone]
                has = [batch.present(name) for name in given]
                there = has[0] if len(has) == 1 else has[0] & has[1]
                if not targets or not bool(there.any()):
                    continue
                kept = batch.take(there.nonzero().squeeze(1))
                shown = only_given(kept, given, system, data.schema)
                with reader.asking():
                    said = system.reconstruct(shown, targets)
                for name in targets:
                    if (true := _only(kept, name)) is None:
                        continue
                    key = f"{'+'.join(given)}->{name}"
                    told = said[name].values[true.row]
                    found.setdefault(key, []).append(
                        measures[name].errors(told, _true_values(true))
                    )
                    asked.setdefault(key, []).append(kept.index[true.row].cpu().numpy())
                if len(given) == 1:
                    told_alone = {name: said[name] for name in targets}
                    _note(examples, kept, given[0], told_alone, reader)
        if not found:
            raise UserError(
                f"no row to be scored has two of the fields that '{system.name}' reads and predicts: "
                f"{', '.join(dict.fromkeys([*sources, *wanted]))}"
            )
        scores = _scores(found, asked, measures, data, seed)
        return Evaluation(
            task=self.name,
            main_metric=MAIN,
            rows=np.unique(np.concatenate([part for parts in asked.values() for part in parts])),
            scores=scores,
            inference_ms_per_row=1000
            * reader.seconds
            / sum(len(p) for q in asked.values() for p in q),
            examples=examples,
            faults=tuple(reader.faults),
        )


def only_given(batch: Batch, given: Sequence[str], system: Reconstructs, schema: Schema) -> Batch:
    """Rows with nothing but some fields, and what belongs to these, such as the classes of boxes."""
    of_system = {*system.sources, *system.reconstructed}
    shown = [name for name in batch if name in given]
    shown += [name for name in batch if name not in of_system and schema[name].of in given]
    return batch.only(*shown)


def _measures(system: Reconstructs, reader: Reader) -> dict[str, FieldErrors]:
    """What measures each field that can be predicted, of those that something measures."""
    found = {
        name: field_errors(reader.data.schema[name], reader.views[name])
        for name in system.reconstructed
    }
    return {name: errors for name, errors in found.items() if errors is not None}


def _only(batch: Batch, name: str) -> Entries | None:
    """The first entry of a field in each row that has one; None if none has."""
    return batch[name].firsts(batch.size) if name in batch and len(batch[name]) else None


def _true_values(entries: Entries) -> Tensor:
    """What stands in entries; empty cells of tables are NaN."""
    if entries.mask is None or not entries.values.is_floating_point():
        return entries.values
    return entries.values.masked_fill(~entries.mask, float("nan"))


def _scores(
    found: dict[str, list[np.ndarray]],
    asked: dict[str, list[np.ndarray]],
    measures: dict[str, FieldErrors],
    data: Data,
    seed: int,
) -> Scores:
    metrics: dict[str, Metric] = {}
    per_row, groups = {}, {}
    single: list[tuple[np.ndarray, np.ndarray]] = []
    for key, parts in found.items():
        given, _, name = key.partition("->")
        errors, at = np.concatenate(parts), np.concatenate(asked[key])
        counts = np.isfinite(errors).all(1)
        if not counts.any():
            continue
        errors, clusters = errors[counts], data.groups(at[counts])
        skill = measures[name].skill(errors)
        own = measures[name].metrics(errors, clusters, seed)
        metrics |= {f"{key}/{metric}": value for metric, value in own.items()}
        if np.isnan(skill).any():
            continue
        metrics[f"{key}/{MAIN}"] = bootstrap_mean(skill, clusters, seed=seed)
        per_row[f"{key}/{MAIN}"], groups[f"{key}/{MAIN}"] = skill, clusters
        if "+" not in given:
            single.append((at[counts], skill))
    if not single:
        return Scores({MAIN: Metric(None, None, None), **metrics}, per_row, groups)
    main, per_row[MAIN], groups[MAIN] = _over_directions(single, data, seed)
    return Scores({MAIN: main, **metrics}, per_row, groups)


def _over_directions(
    single: list[tuple[np.ndarray, np.ndarray]], data: Data, seed: int
) -> tuple[Metric, np.ndarray, np.ndarray]:
    """The mean over rows of the mean over the directions that each has, with what each contributes."""
    at, place = np.unique(np.concatenate([rows for rows, _ in single]), return_inverse=True)
    skill = np.concatenate([values for _, values in single])
    means = np.bincount(place, skill) / np.bincount(place)
    clusters = data.groups(at)
    return bootstrap_mean(means, clusters, seed=seed), means, clusters


def _note(
    examples: list[dict[str, Any]],
    batch: Batch,
    source: str,
    said: dict[str, Entries],
    reader: Reader,
) -> None:
    """What is said of the first rows: texts, and pictures as addresses that hold all of them."""
    for place, row in enumerate(batch.index.tolist()[:NUM_EXAMPLES]):
        known = {example["row"]: example for example in examples}
        if row not in known:
            if len(examples) == NUM_EXAMPLES:
                continue
            known[row] = {"row": row, "reconstructed": {}}
            examples.append(known[row])
        of_source = known[row]["reconstructed"].setdefault(source, {})
        for name, entries in said.items():
            of_source[name] = _as_text(entries.values[place], name, reader)


def _as_text(value: Tensor, name: str, reader: Reader) -> str:
    field = reader.data.schema[name]
    modality = cast(Predictable, get_modality(field.modality))
    shown = modality.show(modality.uncollate(value, field, reader.views[name]), field)
    if isinstance(shown, str):
        return shown
    file = io.BytesIO()
    cast(PIL.Image.Image, shown).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
