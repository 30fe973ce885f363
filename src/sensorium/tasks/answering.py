"""Answering questions: one of the answers seen in training, or words of one's own."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from jaxtyping import Int

from sensorium.data import Data, MediaCache
from sensorium.modalities.scalars import class_names
from sensorium.nn.language.generation import Generation
from sensorium.systems.base import Generates, Predicts, System
from sensorium.tasks.base import Evaluation, Reader, Task, one_field, written
from sensorium.tasks.metrics import Scores, answer_scores
from sensorium.types import Batch, Field, Schema, UserError

NUM_EXAMPLES = 12
ANSWER = Generation(max_tokens=16)


class QuestionAnswering(Task):
    """Answers compared as texts, after the usual normalisation.

    A system that generates is asked for an answer in its own words, one that predicts for the likeliest
    of the answers seen in training. So both stand in one table, and on the same rows: the answer is
    hidden from both, and one that was never seen in training cannot be found by a system that chooses.
    Of a conversation, the last turn is the answer, which is not read.
    A row may have several answers, each of them right; ten are those of ten people (`answer_accuracy`).
    """

    name = "vqa"

    def assign(self, schema: Schema, target: str | None = None) -> Schema:
        """A question, an answer, and something to look at; or a conversation that ends with an answer."""
        if target is not None:
            schema = schema.with_roles({target: "answer"})
        if not schema.find(role="answer") and schema.find(modality="conversation"):
            return schema
        answer = one_field(schema, "answer", self.name)
        one_field(schema, "question", self.name)
        return schema.replace(answer.replace(modality="category"))

    def fits(self, capabilities: frozenset[str]) -> bool:
        """Systems that generate, or that predict."""
        return bool(capabilities & {"generate", "predict"})

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
        """Accuracy over the rows that have an answer, and by kind of question."""
        field = self._field(data.schema)
        if not self.fits(system.capabilities):
            raise UserError(
                f"system '{system.name}' neither generates nor predicts, one of which {self.name} "
                "asks for"
            )
        right = dict(zip(rows.tolist(), written(data, field.name, rows), strict=True))
        # of a conversation, all but its last answer is read
        unread = None if field.modality == "conversation" else field.name
        reader = Reader(system, data, batch_size, cache, unread=unread)
        said: list[str] = []
        sure: list[float] = []
        asked: list[int] = []
        for batch in reader.batches(rows[[bool(right[row]) for row in rows.tolist()]]):
            with reader.asking():
                answers, probabilities = ask(system, batch, field)
            said, sure = said + answers, sure + probabilities
            asked += batch.index.tolist()
        if not asked:
            raise UserError(f"no row to be scored has the field '{field.name}'")
        scores = self._scores(said, [right[row] for row in asked], data, np.asarray(asked), seed)
        return Evaluation(
            task=self.name,
            main_metric="accuracy",
            rows=np.asarray(asked),
            scores=scores,
            inference_ms_per_row=1000 * reader.seconds / len(asked),
            examples=_examples(asked, said, sure, right, scores),
            faults=tuple(reader.faults),
        )

    def _field(self, schema: Schema) -> Field:
        """The answer, or the conversation whose last turn it is."""
        conversations = schema.find(modality="conversation")
        if conversations and not schema.find(role="answer"):
            return conversations[0]
        return one_field(schema, "answer", self.name)

    def _scores(
        self,
        said: list[str],
        right: list[list[str]],
        data: Data,
        rows: Int[np.ndarray, " rows"],
        seed: int,
    ) -> Scores:
        kinds = None
        if kind_fields := data.schema.find(role="group"):
            column = kind_fields[0].source_columns[0]
            kinds = np.asarray([str(v) for v in data.columns([column], rows)[column]])
        return answer_scores(said, right, kinds, data.groups(rows), seed=seed)


def ask(system: System, batch: Batch, field: Field) -> tuple[list[str], list[float]]:
    """The answers of a system, and how sure it is of each, if it says so."""
    if "generate" in system.capabilities:
        return [text.strip() for text in cast(Generates, system).generate(batch, ANSWER)], []
    best = cast(Predicts, system).predict(batch).float().cpu().max(1)
    classes = class_names(field)
    return [str(classes[code]) for code in best.indices.tolist()], best.values.tolist()


def _examples(
    rows: list[int], said: list[str], sure: list[float], right: dict[int, list[str]], scores: Scores
) -> list[dict[str, Any]]:
    """Wrong answers and right ones, first those of which the system is most sure."""
    accuracy = scores.per_row["accuracy"]
    is_right = accuracy >= 0.5
    order = np.lexsort((-np.asarray(sure or accuracy), is_right))
    half, num_wrong = NUM_EXAMPLES // 2, int((~is_right).sum())
    chosen = [*order[:num_wrong][:half], *order[num_wrong:][:half]]
    return [
        {
            "row": rows[place],
            "predicted": said[place],
            "truth": " / ".join(dict.fromkeys(right[rows[place]])),
            "right": bool(is_right[place]),
            **({"confidence": sure[place]} if sure else {}),
        }
        for place in chosen
    ]
