"""Who ranks found rows again by a score of its own (an assistant does so by its Yes and No: see `readers`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sensorium.data.decoding import collate, decode_rows
from sensorium.search.answering import Question, Scores
from sensorium.search.index import Hit
from sensorium.systems.retrieval.relevancy import Relevancy
from sensorium.training.run import Run
from sensorium.types import Schema, UserError

_AT_ONCE = 64


class RelevancyReranker:
    """A run of `relevancy`: the score of each row's picture for the words of the question.

    A row without a picture has nothing that it reads, and the score 0. Which score is enough is fitted with
    `tasks.metrics.selection` on questions of which it is known what is relevant.

    Args:
        run: of the system `relevancy`.

    Raises:
        UserError: it is of another system.
    """

    def __init__(self, run: Run) -> None:
        if not isinstance(run.system, Relevancy):
            raise UserError(
                f"{run.folder.path} is a run of '{run.info['system']}', which gives no relevancy score; "
                "expected one of 'relevancy'"
            )
        self.name = run.folder.path.name
        self._system = run.system

    def scores(self, question: Question, hits: Sequence[Hit]) -> Scores:
        """RS of each row, between 0 and 1."""
        system, found = self._system, np.zeros(len(hits))
        fields = [field.replace(of=None, column=None) for field in (system.image, system.statement)]
        # what is asked has no columns, and belongs to nothing
        schema = Schema(fields=tuple(fields))
        views = {name: view for name, view in system.views().items() if name in schema}
        shown = [place for place, hit in enumerate(hits) if hit.picture is not None]
        for start in range(0, len(shown), _AT_ONCE):
            places = shown[start : start + _AT_ONCE]
            raws: dict[str, list[Any]] = {
                system.image.name: [hits[place].picture for place in places],
                system.statement.name: [str(question["text"]) for _ in places],
            }
            samples, faults = decode_rows(
                np.asarray(places),
                [hits[place].key for place in places],
                raws,
                schema=schema,
                views=views,
                cache=None,
                augment=None,
            )
            if faults:
                raise UserError(f"row {faults[0].key}: {faults[0].reason}")
            batch = collate(samples, schema, views, 0, ()).to(next(system.parameters()).device)
            with torch.inference_mode():
                found[places] = system.relevancy(batch).cpu().numpy()
        return found
