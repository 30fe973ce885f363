"""The run whose vectors an index holds, and how it is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float

from sensorium.data import Data
from sensorium.data.decoding import collate, decode_rows
from sensorium.systems.base import Embeds
from sensorium.training.folder import RunFolder
from sensorium.training.run import Run, load, rows_for
from sensorium.types import Batch, Field, Schema, UserError
from sensorium.types.names import did_you_mean

Vector = Float[np.ndarray, " width"]


class Model:
    """A run that embeds. Its weights are read when they are first needed, not to be known by them.

    Args:
        path: the folder of the run.
        device: as for `load`.

    Raises:
        UserError: this is no run that has ended.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        self.folder, self._device = RunFolder(path), device
        self.info = self.folder.read_run()
        if not self.folder.model_file.exists():
            self._load()  # which says why there is none

    @cached_property
    def identity(self) -> str:
        """A digest of all that its vectors depend on: weights, settings, schema, tokenizer."""
        digest = hashlib.sha256()
        folder = self.folder
        tokenizer = sorted(folder.tokenizer.glob("*")) if folder.tokenizer.exists() else []
        for path in (folder.model_file, folder.config_file, folder.schema_file, *tokenizer):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @property
    def samples(self) -> bool:
        """Whether rows may be shown, as the run was told."""
        return bool(self.info["data"].get("samples", True))

    @cached_property
    def schema(self) -> Schema:
        """The fields it reads."""
        return Schema.load(self.folder.schema_file)

    @cached_property
    def run(self) -> Run:
        """With its weights."""
        return self._load()

    def _load(self) -> Run:
        return load(self.folder.path, self._device)

    def rows(self, where: str | Path | Data) -> Data:
        """Rows, read as its fields."""
        return rows_for(self.schema, where, self.samples)

    @cached_property
    def embedded(self) -> dict[str, tuple[Field, int]]:
        """The fields of which it makes vectors, and how wide those are.

        Raises:
            UserError: it makes none.
        """
        system = self.run.system
        found = {}
        if "embed" in system.capabilities:
            # A row that has nothing: every system has an answer to that.
            nothing = Batch({}, ["0"], torch.zeros(1, dtype=torch.long)).to(self._place)
            for name in system.views():
                try:
                    with torch.inference_mode():
                        width = cast(Embeds, system).embed(nothing, name).shape[1]
                except UserError:
                    continue  # a field that it reads for something else
                found[name] = (system.schema[name], width)
        if not found:
            raise UserError(
                f"{self.folder.path}: system '{self.info['system']}' makes no vectors as it was trained "
                f"(task {self.info['task']}); train one that embeds, for example dual-encoder"
            )
        return found

    @property
    def _place(self) -> torch.device:
        return next(self.run.system.parameters()).device

    def embed(self, batch: Batch, name: str) -> Float[np.ndarray, "batch width"]:
        """Unit vectors of a field; NaN in rows without it."""
        family = batch.only(*self.schema.family(name)).to(self._place)
        with torch.inference_mode():
            vectors = cast(Embeds, self.run.system).embed(family, name)
            return vectors.float().cpu().numpy()

    def ask(self, question: Mapping[str, Any]) -> Vector:
        """The unit vector of a question: of several parts, the sum of their unit vectors, made unit.

        So a picture and a text ask for what is like both, each with equal weight.

        Args:
            question: what is asked by modality: a text, or a file, bytes or an array of a medium.

        Raises:
            UserError: a part cannot be read, or the model embeds no such field.
        """
        (answer,) = self.ask_all([question])
        if isinstance(answer, UserError):
            raise answer
        return answer

    def ask_all(self, questions: Sequence[Mapping[str, Any]]) -> list[Vector | UserError]:
        """The vectors of several questions, each as `ask` gives it; what is wrong with one that has none.

        What they have of one modality goes through the model together.
        """
        totals: list[Any] = [0.0] * len(questions)
        wrong: dict[int, UserError] = {}
        for kind in dict.fromkeys(kind for question in questions for kind in question):
            places = [place for place, question in enumerate(questions) if kind in question]
            try:
                field = self.field_of(kind)
            except UserError as error:
                wrong |= dict.fromkeys(places, error)
                continue
            raws = [questions[place][kind] for place in places]
            for place, part in zip(places, self._parts(field, raws), strict=True):
                if isinstance(part, UserError):
                    wrong.setdefault(place, part)
                else:
                    totals[place] = totals[place] + part
        return [wrong.get(place) or _unit(total) for place, total in enumerate(totals)]

    def field_of(self, modality: str) -> Field:
        """The embedded field that a part of a question stands for: of several, first query or target.

        Raises:
            UserError: there is none of the modality.
        """
        fields = [field for field, _ in self.embedded.values()]
        fitting = [field for field in fields if field.modality == modality]
        if not fitting:
            known = dict.fromkeys(field.modality for field in fields)
            raise UserError(
                f"the model of this index cannot be asked with {modality}. "
                + did_you_mean(modality, known)
            )
        return min(fitting, key=lambda field: field.role not in ("query", "target"))

    def _parts(self, field: Field, raws: list[Any]) -> list[Vector | UserError]:
        """Unit vectors of values of a field, each as if it were alone."""
        views = {field.name: self.run.system.views()[field.name]}
        # what is asked has no columns, and belongs to nothing
        schema = Schema(fields=(field.replace(of=None, columns={}, column=None),))
        places = [str(place) for place in range(len(raws))]
        samples, faults = decode_rows(
            np.zeros(len(raws), dtype=np.int64),
            places,
            {field.name: raws},
            schema=schema,
            views=views,
            cache=None,
            augment=None,
        )
        what = f"the question's {field.modality}"
        wrong = {fault.key: f"{what}: {fault.reason}" for fault in faults}
        vectors = []
        if samples:
            vectors = list(self.embed(collate(samples, schema, views, 0, ()), field.name))
        found = {sample.key: vector for sample, vector in zip(samples, vectors, strict=True)}
        return [
            found[place]
            if place in found and np.isfinite(found[place]).all()
            else UserError(wrong.get(place, f"{what} is empty"))
            for place in places
        ]


def _unit(total: Any) -> Vector | UserError:
    length = float(np.linalg.norm(total))
    if not length > 1e-6:
        return UserError(
            "the parts of the question contradict each other: their vectors cancel out"
        )
    return np.asarray(total / length, dtype=np.float32)
