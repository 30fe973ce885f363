"""Tasks that predict one field from the others: a class, several labels, a number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from sensorium.data import Data, MediaCache
from sensorium.systems.base import Predicts, System
from sensorium.tasks.base import Evaluation, Reader, Task, one_field
from sensorium.tasks.metrics import (
    Scores,
    classification_scores,
    multilabel_scores,
    regression_scores,
)
from sensorium.types import Field, Schema, UserError

NUM_EXAMPLES = 12


class Prediction(Task):
    """Asks a system to predict the field of one role, and compares with what the row says."""

    role = "label"

    def fits(self, capabilities: frozenset[str]) -> bool:
        """Systems that predict."""
        return "predict" in capabilities

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
        """Scores over the rows that say what is right."""
        field = one_field(data.schema, self.role, self.name)
        if not isinstance(system, Predicts):
            raise UserError(f"system '{system.name}' does not predict, which {self.name} asks for")
        reader = Reader(system, data, batch_size, cache)
        predicted, truths, scored = [], [], []
        for batch in reader.batches(rows):
            if field.name not in batch:
                continue
            truth, known = batch[field.name].first(batch.size)
            with reader.asking():
                output = system.predict(batch)
            predicted.append(output[known].float().cpu())
            truths.append(truth[known].cpu())
            scored.append(batch.index[known].cpu())
        if not scored or not sum(len(part) for part in scored):
            raise UserError(f"no row to be scored has the field '{field.name}'")
        outputs, truth_values = torch.cat(predicted).numpy(), torch.cat(truths).numpy()
        at = torch.cat(scored).numpy()
        scores = self.scores(field, outputs, truth_values, data, at, seed)
        return Evaluation(
            task=self.name,
            main_metric=self.main_metric(field),
            rows=at,
            scores=scores,
            inference_ms_per_row=1000 * reader.seconds / len(at),
            examples=_examples(field, at, outputs, truth_values),
            faults=tuple(reader.faults),
        )

    @abstractmethod
    def scores(
        self,
        field: Field,
        outputs: Float[np.ndarray, "rows ..."],
        truth: Shaped[np.ndarray, "rows ..."],
        data: Data,
        rows: Int[np.ndarray, " rows"],
        seed: int,
    ) -> Scores:
        """The metrics of the task."""

    @abstractmethod
    def main_metric(self, field: Field) -> str:
        """The metric that ranks systems."""


class Classification(Prediction):
    """One class for each row, or several labels."""

    name = "classification"

    def assign(self, schema: Schema, target: str | None = None) -> Schema:
        """The target as the label; other fields may be read."""
        schema = labelled(schema, target, self.name, {"number": "category", "text": "category"})
        label = one_field(schema, "label", self.name)
        if label.modality not in ("category", "categories"):
            raise UserError(
                f"classification needs a label of classes, and '{label.name}' is "
                f"{label.modality}; name another with --target, or ask for --task regression"
            )
        return schema

    def scores(
        self,
        field: Field,
        outputs: Float[np.ndarray, "rows classes"],
        truth: Shaped[np.ndarray, "rows ..."],
        data: Data,
        rows: Int[np.ndarray, " rows"],
        seed: int,
    ) -> Scores:
        """Accuracy, balanced accuracy, F1 and AUROC."""
        groups = data.groups(rows)
        if field.modality == "categories":
            return multilabel_scores(outputs, truth > 0.5, groups, seed=seed)
        names = [str(name) for name in field.fitted["classes"]]
        return classification_scores(outputs, truth, groups, class_names=names, seed=seed)

    def main_metric(self, field: Field) -> str:
        """Accuracy, or F1 for several labels."""
        return "accuracy" if field.modality == "category" else "macro_F1"


class Regression(Prediction):
    """A number for each row."""

    name = "regression"

    def assign(self, schema: Schema, target: str | None = None) -> Schema:
        """The target as the label; other fields may be read."""
        schema = labelled(schema, target, self.name, {"category": "number"})
        label = one_field(schema, "label", self.name)
        if label.modality != "number":
            raise UserError(
                f"regression needs a number as label, and '{label.name}' is {label.modality}; "
                "name another with --target, or ask for --task classification"
            )
        return schema

    def scores(
        self,
        field: Field,
        outputs: Float[np.ndarray, " rows"],
        truth: Float[np.ndarray, " rows"],
        data: Data,
        rows: Int[np.ndarray, " rows"],
        seed: int,
    ) -> Scores:
        """R2 and errors."""
        return regression_scores(outputs, truth, data.groups(rows), seed=seed)

    def main_metric(self, field: Field) -> str:
        """The share of variance explained."""
        return "R2"


def labelled(
    schema: Schema, target: str | None, task: str, modalities: Mapping[str, str]
) -> Schema:
    """The schema with `target` as its only label.

    A column that was gathered into a table becomes a field of its own.

    Args:
        schema: the fields.
        target: a field or a column; the schema's label if None.
        task: for messages.
        modalities: what the label's modality becomes, where the task wants it otherwise.
    """
    inputs = schema.find(role=("query", "target", "question", "answer"))
    schema = schema.with_roles({field.name: "input" for field in inputs})
    if target is not None:
        if target not in schema:
            schema = _out_of_table(schema, target)
        others = {field.name: "ignore" for field in schema.find(role="label")}
        schema = schema.with_roles({**others, schema[target].name: "label"})
    label = one_field(schema, "label", task)
    return schema.replace(label.replace(modality=modalities.get(label.modality, label.modality)))


def _out_of_table(schema: Schema, column: str) -> Schema:
    for table in schema.find(modality="table"):
        if column in table.columns:
            kind = table.columns[column]
            if kind == "date":
                raise UserError(f"column '{column}' holds dates, which cannot be predicted")
            columns = {name: k for name, k in table.columns.items() if name != column}
            rest = [table.replace(columns=columns)] if columns else []
            label = Field(name=column, modality=kind, role="label")
            kept = [f for f in schema if f.name != table.name]
            settings = {name: getattr(schema, name) for name in ("key", "group", "split", "time")}
            return Schema(fields=(*kept, *rest, label), **settings)
    columns_known = [c for table in schema.find(modality="table") for c in table.columns]
    from sensorium.types.names import did_you_mean

    raise UserError(
        f"there is no column '{column}'. {did_you_mean(column, [*schema.names, *columns_known])}"
    )


def _examples(
    field: Field,
    rows: Int[np.ndarray, " rows"],
    outputs: Float[np.ndarray, "rows ..."],
    truth: Shaped[np.ndarray, "rows ..."],
) -> list[dict[str, Any]]:
    """Rows with what was predicted: the most surely wrong ones, then the most surely right."""
    if field.modality == "number":
        error = np.abs(outputs - truth)
        order = np.argsort(-error, kind="stable")[:NUM_EXAMPLES]
        return [
            {"row": int(rows[i]), "predicted": float(outputs[i]), "truth": float(truth[i])}
            for i in order
        ]
    if field.modality != "category":
        return []
    classes = field.fitted["classes"]
    best, sure = outputs.argmax(1), outputs.max(1)
    wrong = best != truth
    order = np.lexsort((-sure, ~wrong))
    chosen = [*order[: NUM_EXAMPLES // 2], *order[wrong.sum() :][: NUM_EXAMPLES // 2]]
    return [
        {
            "row": int(rows[i]),
            "predicted": str(classes[best[i]]),
            "truth": str(classes[int(truth[i])]),
            "confidence": float(sure[i]),
        }
        for i in dict.fromkeys(chosen)
    ]
