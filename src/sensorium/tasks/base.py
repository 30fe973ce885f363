"""What a trained system is asked: which roles a task speaks of, and how answers become scores."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int

from sensorium.data import Data, MediaCache, read_batches
from sensorium.data.decoding import entries_of
from sensorium.modalities.base import get_modality
from sensorium.modalities.conversation import Conversations
from sensorium.systems.base import System
from sensorium.tasks.metrics import Scores
from sensorium.types import BadValue, Batch, Fault, Field, Schema, UserError


@dataclass(frozen=True)
class Evaluation:
    """The scores of a system on some rows.

    Attributes:
        task: its name.
        main_metric: the one that ranks systems.
        rows: the rows that were scored.
        scores: metrics, and what each row contributes.
        pool: for retrieval, among how many candidates a query is ranked.
        inference_ms_per_row: time inside the system.
        examples: some rows with what the system said of them, right ones and wrong ones.
        faults: rows that could not be read.
    """

    task: str
    main_metric: str
    rows: Int[np.ndarray, " rows"]
    scores: Scores
    inference_ms_per_row: float
    pool: int | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)
    faults: tuple[Fault, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The form in which `evaluation.json` holds it."""
        return {
            "task": self.task,
            "main_metric": self.main_metric,
            "rows": len(self.rows),
            "pool": self.pool,
            "metrics": {key: metric.as_dict() for key, metric in self.scores.metrics.items()},
            "inference_ms_per_row": self.inference_ms_per_row,
            "examples": self.examples,
            "faults": len(self.faults),
        }


class Task(ABC):
    """A question to a trained system, with its protocol and metrics."""

    name: ClassVar[str]

    @abstractmethod
    def assign(self, schema: Schema, target: str | None = None) -> Schema:
        """The schema with the roles this task speaks of.

        Raises:
            UserError: the fields do not fit the task.
        """

    @abstractmethod
    def fits(self, capabilities: frozenset[str]) -> bool:
        """Whether a system with these capabilities can be asked."""

    @abstractmethod
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
        """Score the system on rows of data whose schema has the roles assigned."""


class Reader:
    """Reads rows for a system, and keeps time and faults.

    Args:
        system: that is asked.
        data: where the rows are.
        batch_size: how many are read at a time.
        cache: where decoded media are kept.
        unread: a field that is not given to the system: the answer.
    """

    def __init__(
        self,
        system: System,
        data: Data,
        batch_size: int,
        cache: MediaCache | None,
        unread: str | None = None,
    ) -> None:
        self.system, self.data = system, data
        self.batch_size, self.cache = batch_size, cache
        self.views = {name: view for name, view in system.views().items() if name != unread}
        self.device = next(system.parameters()).device
        self.seconds = 0.0
        self.faults: list[Fault] = []

    def batches(self, rows: Int[np.ndarray, " rows"]) -> Iterator[Batch]:
        """Batches of the rows, in order, without those that cannot be read."""
        for batch in read_batches(
            self.data, rows, self.views, batch_size=self.batch_size, cache=self.cache
        ):
            self.faults += batch.faults
            if batch.size:
                yield batch.to(self.device)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Time spent in the system; no gradients."""
        with torch.inference_mode():
            started = time.perf_counter()
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - started


def written(data: Data, name: str, rows: Int[np.ndarray, " rows"]) -> list[list[str]]:
    """What stands in a field of rows, as text: of each row its entries, none if they cannot be read.

    Of a conversation, its last turn counts, if that is the assistant's.
    """
    field = data.schema[name]
    modality = get_modality(field.modality)
    texts = []
    for raw in data.raw([name], rows)[name]:
        try:
            entries = entries_of(raw, field, modality)
            if isinstance(modality, Conversations):
                texts.append(
                    [turn for entry in entries for turn in modality.last_answer(entry, field)]
                )
            else:
                texts.append([modality.show(entry, field) for entry in entries])
        except BadValue:
            texts.append([])
    return texts


def one_field(schema: Schema, role: str, task: str) -> Field:
    """The only field of a role.

    Raises:
        UserError: there is none, or several.
    """
    found = schema.find(role=role)
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{f.name} ({f.modality}, {f.role})" for f in schema)
    problem = "no field has" if not found else f"{len(found)} fields have"
    raise UserError(
        f"{task} needs one field with the role '{role}', and {problem} it. Fields: {names}. "
        "Give one the role in the schema file"
    )
