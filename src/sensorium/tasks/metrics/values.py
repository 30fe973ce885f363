"""How near a predicted field is to the true one: texts, classes, numbers, tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sensorium.modalities.map_pixels import is_classes
from sensorium.modalities.scalars import class_names
from sensorium.modalities.table import cardinalities
from sensorium.modalities.text import TextView
from sensorium.tasks.intervals import Metric, bootstrap_mean, ratio
from sensorium.tasks.metrics.fields import (
    ClassErrors,
    Columns,
    FieldErrors,
    NumberErrors,
    PictureErrors,
)
from sensorium.types import Field

NEAR = 0.5
"""Standard deviations of training rows within which a cell is right."""


class TextErrors(FieldErrors):
    """`F1` of the tokens of a text, in whatever order: the harmonic mean of precision and recall.

    What a constant text would reach is not known, so there is no `skill`.

    Args:
        field: which field.
        view: with the tokenizer whose ids the texts are.
    """

    own = "F1"

    def __init__(self, field: Field, view: TextView) -> None:
        super().__init__(field)
        assert view.tokenizer is not None
        self._size, self._specials = view.tokenizer.size, list(view.tokenizer.special_ids)

    def learn(self, truth: Int[Tensor, "rows length"]) -> None:
        """There is nothing to be learned."""

    def errors(
        self, predicted: Int[Tensor, "rows length"], truth: Int[Tensor, "rows true"]
    ) -> Columns:
        """F1."""
        told, true = self._counts(predicted), self._counts(truth)
        both = torch.minimum(told, true).sum(1)
        found: Columns = (2 * both / (told.sum(1) + true.sum(1)))[:, None].double().cpu().numpy()
        return found

    def _counts(self, ids: Int[Tensor, "rows length"]) -> Float[Tensor, "rows vocabulary"]:
        """How often each token occurs; those around a text do not count."""
        counts = torch.zeros(len(ids), self._size, device=ids.device)
        counts.scatter_add_(1, ids, torch.ones_like(ids, dtype=counts.dtype))
        counts[:, self._specials] = 0
        return counts

    def metrics(
        self, errors: Columns, groups: Shaped[np.ndarray, " rows"], seed: int
    ) -> dict[str, Metric]:
        """`F1`."""
        return {self.own: bootstrap_mean(errors[:, 0], groups, seed=seed)}

    def skill(self, errors: Columns) -> Float[np.ndarray, " rows"]:
        """None."""
        return np.full(len(errors), np.nan)


class LabelErrors(FieldErrors):
    """`accuracy` of a class; rows whose class is not known do not count."""

    own = "accuracy"

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self._often = np.zeros(len(class_names(field)))

    def learn(self, truth: Int[Tensor, "rows"]) -> None:
        """Take account of true classes."""
        known = truth[truth < len(self._often)].cpu().numpy()
        self._often += np.bincount(known, minlength=len(self._often))

    def errors(self, predicted: Int[Tensor, "rows"], truth: Int[Tensor, "rows"]) -> Columns:
        """1 for a right class."""
        right = (predicted == truth).double().masked_fill(truth >= len(self._often), np.nan)
        return right[:, None].cpu().numpy()

    def metrics(
        self, errors: Columns, groups: Shaped[np.ndarray, " rows"], seed: int
    ) -> dict[str, Metric]:
        """`accuracy`."""
        return {self.own: bootstrap_mean(errors[:, 0], groups, seed=seed)}

    def skill(self, errors: Columns) -> Float[np.ndarray, " rows"]:
        """Of the rows that are wrong if all are given the most frequent class."""
        wrong = 1 - self._often.max() / self._often.sum()
        return 1 - ratio(1 - errors[:, 0], np.array(wrong))


class ScalarErrors(FieldErrors):
    """`MAE` of a number, in its unit."""

    own = "MAE"

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self._truth: list[np.ndarray] = []

    def learn(self, truth: Float[Tensor, "rows"]) -> None:
        """Take account of true numbers."""
        self._truth.append(truth.double().cpu().numpy())

    def errors(self, predicted: Float[Tensor, "rows"], truth: Float[Tensor, "rows"]) -> Columns:
        """Squared and absolute error."""
        away = predicted.double() - truth.double()
        return torch.stack([away.square(), away.abs()], 1).cpu().numpy()

    def metrics(
        self, errors: Columns, groups: Shaped[np.ndarray, " rows"], seed: int
    ) -> dict[str, Metric]:
        """`MAE`."""
        return {self.own: bootstrap_mean(errors[:, 1], groups, seed=seed)}

    def skill(self, errors: Columns) -> Float[np.ndarray, " rows"]:
        """Of the variance."""
        return 1 - ratio(errors[:, 0], np.array(np.concatenate(self._truth).var()))


class TableErrors(FieldErrors):
    """`accuracy` of cells that are filled: a class is right, a number or date is at most `NEAR` away.

    Columns count alike within a row. What a constant leaves open is the variance of a number, and the rows
    that have not the most frequent class.
    """

    own = "accuracy"

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self._is_class = np.array(cardinalities(field)) > 0
        self._truth: list[np.ndarray] = []

    def learn(self, truth: Float[Tensor, "rows columns"]) -> None:
        """Take account of true cells."""
        self._truth.append(truth.double().cpu().numpy())

    def errors(
        self, predicted: Float[Tensor, "rows columns"], truth: Float[Tensor, "rows columns"]
    ) -> Columns:
        """The share of right cells; then of each column the error (0 or 1, or squared); which are filled."""
        away = (predicted.double() - truth.double()).cpu().numpy()
        filled = np.isfinite(away)
        away = np.where(filled, away, 0.0)
        each = np.where(self._is_class, away != 0, away**2)
        right = np.where(self._is_class, away == 0, np.abs(away) <= NEAR) & filled
        share = ratio(right.sum(1), filled.sum(1))
        return np.concatenate([share[:, None], each, filled], 1)

    def metrics(
        self, errors: Columns, groups: Shaped[np.ndarray, " rows"], seed: int
    ) -> dict[str, Metric]:
        """`accuracy`."""
        return {self.own: bootstrap_mean(errors[:, 0], groups, seed=seed)}

    def skill(self, errors: Columns) -> Float[np.ndarray, " rows"]:
        """Of what the best constant row leaves open, in the mean over columns."""
        each, filled = np.split(errors[:, 1:], 2, axis=1)
        left = np.array([self._left(column, k) for k, column in enumerate(self._columns())])
        counts = filled * (left > 0)
        explained = 1 - ratio(each, np.broadcast_to(left, each.shape))
        return ratio((np.nan_to_num(explained) * counts).sum(1), counts.sum(1))

    def _columns(self) -> list[np.ndarray]:
        return [column[np.isfinite(column)] for column in np.concatenate(self._truth).T]

    def _left(self, column: np.ndarray, number: int) -> float:
        if not len(column):
            return 0.0
        if self._is_class[number]:
            return float(1 - np.unique(column, return_counts=True)[1].max() / len(column))
        return float(column.var())


def field_errors(field: Field, view: object = None) -> FieldErrors | None:
    """What measures a field; None if nothing does, for its modality.

    Args:
        field: which field.
        view: what a system wants of it; of a text, with the tokenizer.
    """
    if field.modality == "text":
        assert isinstance(view, TextView)
        return TextErrors(field, view)
    if field.modality == "maps":
        return ClassErrors(field) if is_classes(field) else NumberErrors(field)
    one_kind: dict[str, Callable[[Field], FieldErrors]] = {
        "table": TableErrors,
        "image": PictureErrors,
        "category": LabelErrors,
        "number": ScalarErrors,
    }
    return one_kind[field.modality](field) if field.modality in one_kind else None
