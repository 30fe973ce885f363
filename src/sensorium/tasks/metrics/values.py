"""How near a predicted field is to the true one, of which a row has one value: texts, classes, numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sensorium.modalities.map_pixels import is_classes
from sensorium.modalities.scalars import class_names
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
        "image": PictureErrors,
        "category": LabelErrors,
        "number": ScalarErrors,
    }
    return one_kind[field.modality](field) if field.modality in one_kind else None
