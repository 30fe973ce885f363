"""The values of an input as a few clusters, found without the label and without the other inputs."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from sensorium.modalities.table import cardinalities
from sensorium.types import Batch, Entries, Field, draws

FEWEST = 5
MOST = 20
ROWS_PER_CELL = 10  # of p(x1, x2, y); with fewer there are no more clusters than the fewest
_DIGITS = 5  # within which vectors are equal


def num_clusters(num_rows: int, num_classes: int) -> int:
    """As many as rows allow: 7 for 1,000 rows of two classes."""
    return min(max(isqrt(num_rows // (ROWS_PER_CELL * num_classes)), FEWEST), MOST)


@dataclass(frozen=True)
class Vectors:
    """One vector for each row that has a field.

    Attributes:
        values: of these rows, in order.
        present: which rows have it.
    """

    values: Float[np.ndarray, "present width"]
    present: Bool[np.ndarray, " rows"]


@dataclass(frozen=True)
class Clusters:
    """Centres; a vector belongs to the nearest.

    Attributes:
        centres: of the clusters.
    """

    centres: Float[np.ndarray, "clusters width"]

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, "rows width"], most: int, seed: int = 0) -> Clusters:
        """By k-means; where there are no more than `most` different vectors, each is a cluster."""
        size = float(np.abs(vectors).max(initial=0.0)) or 1.0
        _, first = np.unique(np.round(vectors / size, _DIGITS), axis=0, return_index=True)
        if len(first) <= most:
            return cls(vectors[first])
        from sklearn.cluster import KMeans

        state = int(draws.integers("clusters", seed) % np.uint64(2**32))
        return cls(KMeans(most, n_init=3, random_state=state).fit(vectors).cluster_centers_)

    def codes(self, vectors: Vectors) -> Int[np.ndarray, " rows"]:
        """The number of each row's cluster; rows without the field are one of their own, the last."""
        codes = np.full(len(vectors.present), len(self.centres))
        if len(vectors.values):
            nearness = vectors.values @ self.centres.T - (self.centres**2).sum(1) / 2
            codes[vectors.present] = nearness.argmax(1)
        return codes


def vectors_of(batch: Batch, field: Field) -> Vectors | None:
    """What the system has made of a field; else a small value as it is; else None.

    Several entries of a row, and several vectors of an entry, count as their mean.
    """
    present = batch.present(field.name)
    if field.name not in batch:
        return Vectors(np.zeros((0, 1)), present.numpy())
    entries = batch[field.name]
    flat = _embedded(entries) if entries.embedded else _plain(entries, field)
    if flat is None:
        return None
    total = flat.new_zeros((batch.size, flat.shape[1])).index_add_(0, entries.row, flat)
    mean = total / entries.counts(batch.size).clamp(min=1)[:, None]
    return Vectors(mean[present].numpy(), present.numpy())


def _embedded(entries: Entries) -> torch.Tensor:
    values = entries.values.double()
    if values.dim() == 2:
        return values
    if entries.mask is None:
        return values.flatten(1, -2).mean(1)
    real = entries.mask[..., None].double()
    return (values * real).sum(1) / real.sum(1).clamp(min=1)


def _plain(entries: Entries, field: Field) -> torch.Tensor | None:
    """Classes as one of the most frequent or none of them, numbers as they are."""
    values = entries.values
    if field.modality == "category":
        frequent = np.argsort(field.fitted["counts"], kind="stable")[::-1][:MOST]
        return _one_of(values, torch.from_numpy(frequent.copy()))
    if field.modality == "number":
        return values.double().reshape(len(values), 1)
    if field.modality == "categories":
        return values.double()
    if field.modality != "table" or entries.mask is None:
        return None
    columns = [entries.mask.double()]
    for place, num_codes in enumerate(cardinalities(field)):
        column = values[:, place]
        if num_codes:  # by falling frequency, after the one for what no training row has
            column = _one_of(column.long(), torch.arange(1, min(num_codes, MOST + 1)))
        columns.append(column.double().reshape(len(values), -1))
    return torch.cat(columns, 1)


def _one_of(codes: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return (codes[:, None] == known).double()
