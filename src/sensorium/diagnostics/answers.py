"""Ask a run about the same rows again and again, with fields removed or exchanged."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from sensorium.data import Data, MediaCache
from sensorium.objectives.duplicates import content_ids
from sensorium.systems.base import Predicts
from sensorium.tasks.base import Reader, one_field
from sensorium.training.run import Run, default_cache
from sensorium.types import Batch, Field, Schema, UserError, concatenate

BATCH = 64
ODD = 0x9E3779B97F4A7C15 - 2**64  # joins hashes of several fields; products wrap around
_READ = ("input", "query", "target", "question")


class Answers:
    """The predictions of a run on rows that are read and decoded once.

    Attributes:
        field: what is predicted.
        inputs: the fields that the system reads, without those that hang on others, and without a
            conversation, in which it is asked.
        prepared: the rows that say what is right, with what the system makes of each once.
        rows: their numbers.
        truth: what they say.
        content: for each input, numbers that are equal where it, and what hangs on it, is equal.
        num_faults: rows that could not be read.
    """

    def __init__(self, run: Run, data: Data, rows: Int[np.ndarray, " rows"]) -> None:
        self._system = run.system
        self.schema = data.schema
        self.field = one_field(data.schema, _role_of(data), run.info["task"])
        views = run.system.views()
        self.inputs = [
            field.name
            for field in data.schema.find(role=_READ)
            if field.name in views
            and field.modality != "conversation"
            and not _hangs_on(field, views, data.schema)
        ]
        reader = Reader(run.system, data, BATCH, MediaCache(default_cache()))
        self._device = reader.device
        batches = list(reader.batches(rows))
        if not batches:
            raise UserError(f"{data.name}: none of the rows can be read")
        contents = {name: self._contents(name, batches) for name in self.inputs}
        with torch.inference_mode():
            whole = concatenate([self._system.prepare(batch).to("cpu") for batch in batches])
        if self.field.name not in whole:
            raise UserError(f"no row has the field '{self.field.name}', which is predicted")
        truth, known = whole[self.field.name].first(whole.size)
        self.prepared = whole.take(known.nonzero().squeeze(1))
        self.content = {name: found[known.numpy()] for name, found in contents.items()}
        self.truth: Shaped[np.ndarray, "rows ..."] = truth[known].numpy()
        self.rows = self.prepared.index.numpy()
        self.num_faults = len(reader.faults)

    def present(self, name: str) -> Bool[np.ndarray, " rows"]:
        """Which rows have a field."""
        return self.prepared.present(name).numpy()

    def without(self, names: Sequence[str]) -> Float[np.ndarray, "rows outputs"]:
        """Outputs when some inputs, and what hangs on them, are absent in every row."""
        return self._ask(self.prepared.without(*self._families(names)))

    def exchanged(
        self, name: str, partner: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows outputs"]:
        """Outputs when each row has an input of another row.

        Where a conversation has places for as many entries as its row has, a row keeps its own if the
        other has more or fewer.
        """
        if name in self.prepared and self.schema.find(modality="conversation"):
            counts = self.prepared[name].counts(self.prepared.size).numpy()
            partner = np.where(counts[partner] == counts, partner, np.arange(len(partner)))
        family = self._families([name])
        theirs = self.prepared.take(torch.from_numpy(partner)).only(*family)
        return self._ask(self.prepared.without(*family).joined(theirs))

    def _contents(self, name: str, batches: Sequence[Batch]) -> Int[np.ndarray, " rows"]:
        """Numbers that are equal where a field, and what hangs on it, is."""
        found = []
        for batch in batches:
            numbers = torch.zeros(batch.size, dtype=torch.long, device=batch.device)
            for member in self._families([name]):
                numbers = numbers * ODD + content_ids(batch, member)
            found.append(numbers.cpu())
        return torch.cat(found).numpy()

    def _families(self, names: Sequence[str]) -> list[str]:
        return [member for name in names for member in self.schema.family(name)]

    def _ask(self, rows: Batch) -> Float[np.ndarray, "rows outputs"]:
        outputs = []
        with torch.inference_mode():
            for start in range(0, rows.size, BATCH):
                part = rows.take(torch.arange(start, min(start + BATCH, rows.size)))
                predicted = cast(Predicts, self._system).predict(part.to(self._device))
                outputs.append(predicted.float().cpu())
        found = torch.cat(outputs).numpy()
        return found[:, None] if found.ndim == 1 else found


def _hangs_on(field: Field, views: Container[str], schema: Schema) -> bool:
    """Whether a field hangs on another that is read as well, so that the two go together."""
    while field.of is not None:
        field = schema[field.of]
        if field.name in views:
            return True
    return False


def _role_of(data: Data) -> str:
    return "answer" if data.schema.find(role="answer") else "label"
