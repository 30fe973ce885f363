"""How near a predicted grid is to the true one: pictures, maps of numbers, maps of classes.

Each has metrics of its own, and `skill`, by which fields can be compared: the share that is explained of
what the best constant field leaves open. 1 is perfect, 0 as good as the constant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from sensorium.modalities.maps import class_numbers, value_range
from sensorium.tasks.intervals import Metric, bootstrap, bootstrap_mean, ratio, summable
from sensorium.types import Field

LARGEST_RATIO = 1.25  # of a number to the true one, for `delta1`
SMALLEST_ERROR = 1e-10  # squared, of a picture that is exact: 100 dB

Columns = Float[np.ndarray, "rows columns"]


class FieldErrors(ABC):
    """Errors of one field, and the constant that is best for its rows.

    Args:
        field: which field.

    Attributes:
        own: the name of the metric that is most usual for it.
    """

    own: str

    def __init__(self, field: Field) -> None:
        self.field = field

    @abstractmethod
    def learn(self, truth: Shaped[Tensor, "rows ..."]) -> None:
        """Take account of true fields, for the constant."""

    @abstractmethod
    def errors(
        self, predicted: Shaped[Tensor, "rows ..."], truth: Shaped[Tensor, "rows ..."]
    ) -> Columns:
        """Numbers of each row; NaN in rows in which nothing counts."""

    @abstractmethod
    def metrics(
        self, errors: Columns, groups: Shaped[np.ndarray, " rows"], seed: int
    ) -> dict[str, Metric]:
        """All metrics but `skill`."""

    @abstractmethod
    def skill(self, errors: Columns) -> Float[np.ndarray, " rows"]:
        """What each row contributes to `skill`, which is their mean; NaN if all rows are alike."""


class PictureErrors(FieldErrors):
    """`PSNR` in decibels: the mean over rows; errors are squared, of colours in [0, 1]."""

    own = "PSNR"

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self._moments = _Moments()

    def learn(self, truth: Shaped[Tensor, "rows size size 3"]) -> None:
        """Take account of true pictures."""
        self._moments.add(truth / 255, torch.ones_like(truth, dtype=torch.float32))

    def errors(
        self,
        predicted: Shaped[Tensor, "rows size size 3"],
        truth: Shaped[Tensor, "rows size size 3"],
    ) -> Columns:
        """Mean squared errors."""
        squared = ((predicted.float() - truth.float()) / 255).square().flatten(1).mean(1)
        return squared[:, None].double().cpu().numpy()

    def metrics(
        self, errors: Columns, groups: Shaped[np.ndarray, " rows"], seed: int
    ) -> dict[str, Metric]:
        """`PSNR`."""
        decibels = -10 * np.log10(np.maximum(errors[:, 0], SMALLEST_ERROR))
        return {"PSNR": bootstrap_mean(decibels, groups, seed=seed)}

    def skill(self, errors: Columns) -> Float[np.ndarray, " rows"]:
        """Of the variance of each pixel around its mean."""
        return 1 - ratio(errors[:, 0], np.array(self._moments.variance()))


class NumberErrors(FieldErrors):
    """`MAE` in the unit of the field, and `delta1` if it has no negative numbers.

    `delta1` is the share of pixels whose number is at most 1.25 times too large or too small. Pixels
    that say nothing do not count.
    """

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        low, high = torch.tensor(value_range(field)).unbind(1)
        self._low, self._span = low, high - low
        self._has_ratio = bool((low >= 0).all())
        self.own = "delta1" if self._has_ratio else "MAE"
        self._moments = _Moments()

    def learn(self, truth: Shaped[Tensor, "rows size size read"]) -> None:
        """Take account of true maps."""
        self._moments.add(truth[..., :-1], truth[..., -1:].expand_as(truth[..., :-1]))

    def errors(
        self,
        predicted: Shaped[Tensor, "rows size size read"],
        truth: Shaped[Tensor, "rows size size read"],
    ) -> Columns:
        """Mean squared error in shares of the range, mean absolute one in the unit, share within 1.25."""
        low, span = self._low.to(truth.device), self._span.to(truth.device)
        told, wanted = predicted[..., :-1].float(), truth[..., :-1].float()
        there = truth[..., -1:].expand_as(wanted) > 0
        away = told - wanted
        said, true = low + span * told, low + span * wanted
        near = (said < LARGEST_RATIO * true) & (true < LARGEST_RATIO * said)
        each = torch.stack([away.square(), (span * away).abs(), near.float()], -1)
        total = (each * there[..., None]).flatten(1, 3).sum(1).double()
        found: Columns = (total / there.flatten(1).sum(1, keepdim=True)).cpu().numpy()
        return found

    def metrics(
        self, errors: Columns, groups: Shaped[np.ndarray, " rows"], seed: int
    ) -> dict[str, Metric]:
        """`MAE`, and `delta1` if ratios make sense."""
        found = (
            {"delta1": bootstrap_mean(errors[:, 2], groups, seed=seed)} if self._has_ratio else {}
        )
        return found | {"MAE": bootstrap_mean(errors[:, 1], groups, seed=seed)}

    def skill(self, errors: Columns) -> Float[np.ndarray, " rows"]:
        """Of the variance of each pixel around its mean."""
        return 1 - ratio(errors[:, 0], np.array(self._moments.variance()))


class ClassErrors(FieldErrors):
    """`mIoU`, the mean over classes that occur, and `accuracy` of pixels whose class is known."""

    own = "mIoU"

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self._classes = len(class_numbers(field))
        self._often: Tensor | None = None

    def learn(self, truth: Shaped[Tensor, "rows size size"]) -> None:
        """Take account of true maps."""
        counts = F.one_hot(truth, self._classes + 1)[..., :-1].sum(0)
        self._often = counts if self._often is None else self._often + counts

    def errors(
        self, predicted: Shaped[Tensor, "rows size size"], truth: Shaped[Tensor, "rows size size"]
    ) -> Columns:
        """The share of right pixels, then for each class the pixels of both and of either."""
        known = truth < self._classes
        right = ((predicted == truth) & known).flatten(1).sum(1)
        said = F.one_hot(predicted.masked_fill(~known, self._classes).flatten(1), self._classes + 1)
        true = F.one_hot(truth.flatten(1), self._classes + 1)
        both = (said & true).sum(1)[:, :-1]
        either = (said | true).sum(1)[:, :-1]
        share = right / known.flatten(1).sum(1)
        return torch.cat([share[:, None], both, either], 1).double().cpu().numpy()

    def metrics(
        self, errors: Columns, groups: Shaped[np.ndarray, " rows"], seed: int
    ) -> dict[str, Metric]:
        """`mIoU` and `accuracy`."""
        columns = summable(errors.T)

        def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
            share, *counts = columns @ weights
            both, either = np.array(counts).reshape(2, self._classes, -1)
            with np.errstate(invalid="ignore"):
                occurs = either > 0
                union = (ratio(both, either) * occurs).sum(0, where=occurs) / occurs.sum(0)
            return {"mIoU": union, "accuracy": share / weights.sum(0)}

        return bootstrap(statistic, groups, seed=seed)

    def skill(self, errors: Columns) -> Float[np.ndarray, " rows"]:
        """Of the pixels that are wrong if each is given its most frequent class."""
        assert self._often is not None
        wrong = 1 - float(self._often.amax(-1).sum() / self._often.sum())
        return 1 - ratio(1 - errors[:, 0], np.array(wrong))


class _Moments:
    """Means and variances of pixels, from sums over rows."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, values: Shaped[Tensor, "rows ..."], there: Float[Tensor, "rows ..."]) -> None:
        values = values.double() * there
        sums = torch.stack([there.double(), values, values.square()]).sum(1)
        self._sums = sums if self._sums is None else self._sums + sums

    def variance(self) -> float:
        """The mean over all pixels that count of their squared distance from the mean of their place."""
        assert self._sums is not None
        count, first, second = self._sums
        return float((second - first.square() / count.clamp(min=1)).sum() / count.sum())
