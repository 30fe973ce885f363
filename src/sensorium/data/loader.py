"""Batches in an order that depends on the seed and the step alone.

The order of rows is f(seed, epoch), an augmentation f(seed, epoch, row), a step's seed f(seed,
step). So a run that was killed goes on from any step with the batches it would have had, and the
number of workers changes nothing. Nothing of the loader needs to be saved.
"""

from __future__ import annotations

import math
import multiprocessing
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sensorium.data.dataset import Data
from sensorium.data.decoding import Cache
from sensorium.data.packing import Packed, Packer, Unpacker
from sensorium.data.sources import Rows
from sensorium.modalities.base import View
from sensorium.types import Batch, UserError, draws

Item = TypeVar("Item")


class _Steps(Dataset[list[Batch]]):
    """Item `s` is what this rank sees of step `s`: its micro-batches."""

    def __init__(
        self,
        data: Data,
        views: Mapping[str, View],
        *,
        batch_size: int,
        seed: int,
        rank: int,
        num_ranks: int,
        accumulate: int,
        cache: Cache | None,
        augment: bool,
    ) -> None:
        self._data, self._views, self._cache = data, views, cache
        self._seed, self._augment = seed, augment
        self._rows = data.rows("train")
        if not len(self._rows):
            raise UserError(f"{data.name}: there are no training rows")
        self._batch_size = min(batch_size, len(self._rows))
        self._rank, self._num_ranks, self._accumulate = rank, num_ranks, accumulate
        self._epoch, self._order = -1, self._rows

    def __getitem__(self, step: int) -> list[Batch]:
        epoch, place = divmod(step, len(self._rows) // self._batch_size)
        if epoch != self._epoch:
            order = draws.permutation(len(self._rows), "order", self._seed, epoch)
            self._epoch, self._order = epoch, self._rows[order]
        rows = self._order[place * self._batch_size : (place + 1) * self._batch_size]
        own = np.array_split(rows, self._num_ranks)[self._rank]
        step_seed = int(draws.integers("step", self._seed, step) >> np.uint64(1))
        return [
            self._batch(part, epoch, step_seed) for part in np.array_split(own, self._accumulate)
        ]

    def _batch(self, rows: Rows, epoch: int, step_seed: int) -> Batch:
        key = (self._seed, epoch) if self._augment else None
        samples, faults = self._data.read(rows, self._views, self._cache, augment=key)
        return self._data.collate(samples, self._views, step_seed, faults)


class _Parts(Dataset[Batch]):
    """Item `i` is a batch of consecutive rows."""

    def __init__(
        self,
        data: Data,
        rows: Rows,
        views: Mapping[str, View],
        batch_size: int,
        cache: Cache | None,
    ) -> None:
        self._data, self._rows, self._views, self._cache = data, rows, views, cache
        self._batch_size = batch_size

    def __getitem__(self, part: int) -> Batch:
        rows = self._rows[part * self._batch_size : (part + 1) * self._batch_size]
        samples, faults = self._data.read(rows, self._views, self._cache)
        return self._data.collate(samples, self._views, 0, faults)


class _InOnePiece(Dataset[Packed]):
    """The items of another, ready to be sent to the process that asks for them."""

    def __init__(self, items: Dataset[Any]) -> None:
        self._items, self._pack = items, Packer()

    def __getitem__(self, number: int) -> Packed:
        return self._pack(self._items[number])


def train_batches(
    data: Data,
    views: Mapping[str, View],
    *,
    batch_size: int,
    seed: int,
    num_steps: int,
    start_step: int = 0,
    workers: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
    accumulate: int = 1,
    cache: Cache | None = None,
    augment: bool = True,
) -> Iterator[list[Batch]]:
    """For each of `num_steps` steps from `start_step` on, the micro-batches of this rank.

    An epoch's incomplete last batch is dropped. If there are fewer training rows than `batch_size`,
    a batch is all of them. Rows that cannot be used are left out and named in `Batch.faults`; a
    micro-batch of only such rows has size 0.

    Args:
        data: its training rows are read.
        views: what the system wants of each field.
        batch_size: rows in a step, over all ranks and micro-batches.
        seed: of order, augmentation and what the system draws.
        num_steps: how many steps to give.
        start_step: the first of them.
        workers: processes that read beside this one.
        rank: which of the training processes this is.
        num_ranks: how many there are.
        accumulate: micro-batches in a step.
        cache: where decoded media are kept.
        augment: whether the augmentations that the views ask for are applied.
    """
    steps = _Steps(
        data,
        views,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        num_ranks=num_ranks,
        accumulate=accumulate,
        cache=cache,
        augment=augment,
    )
    return _load(steps, range(start_step, start_step + num_steps), workers)


def read_batches(
    data: Data,
    rows: Rows,
    views: Mapping[str, View],
    *,
    batch_size: int,
    workers: int = 0,
    cache: Cache | None = None,
) -> Iterator[Batch]:
    """The named rows in order, without augmentation, for evaluation and prediction."""
    parts = _Parts(data, rows, views, batch_size, cache)
    return _load(parts, range(math.ceil(len(rows) / batch_size)), workers)


def _load(items: Dataset[Item], order: Iterable[int], workers: int) -> Iterator[Item]:
    if not workers:
        return iter(DataLoader(items, batch_size=None, sampler=order))
    # Forked workers share the rows with this process; spawned ones, where there is no fork, are
    # sent a pickle of them.
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    loader = DataLoader(
        _InOnePiece(items),
        batch_size=None,
        sampler=order,
        num_workers=workers,
        multiprocessing_context="fork" if can_fork else None,
        worker_init_fn=_one_thread,
    )
    with warnings.catch_warnings():
        # From Python 3.12 on, forking beside other threads warns that their locks stay locked. The
        # threads of torch, Arrow and the tokenizer are made anew, or not used, in workers.
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        return map(Unpacker(), iter(loader))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
