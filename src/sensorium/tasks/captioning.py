"""Captioning: say in a sentence what there is to see or hear."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from jaxtyping import Int

from sensorium.data import Data, MediaCache
from sensorium.nn.language.generation import Generation
from sensorium.systems.base import Generates, System
from sensorium.tasks.base import Evaluation, Reader, Task, one_field, written
from sensorium.tasks.metrics import Scores, caption_scores
from sensorium.types import Schema, UserError

NUM_EXAMPLES = 12
CAPTION = Generation(max_tokens=64)

_SAID = ("text", "conversation")


class Captioning(Task):
    """One caption for each picture (sound, clip, ...), compared with what people wrote.

    A picture that occurs in several rows is asked about once, as in the first of them, and the captions
    of all its rows are its references. The caption is hidden from the system.
    """

    name = "captioning"

    def assign(self, schema: Schema, target: str | None = None) -> Schema:
        """A text as the target, and as the query what it describes; labels are of no use here.

        Without roles in the schema, the first text is the target and the first field of another
        kind is the query.
        """
        roles = {f.name: "ignore" for f in schema.find(role=("label", "answer", "question"))}
        free = [f for f in schema.find(role=("query", "target", "input")) if f.of is None]
        texts = [f for f in free if f.modality == "text"]
        targets = [f for f in texts if f.role == "target"] or texts
        if target is not None:
            targets = [schema[target]]
        queries = [f for f in free if f not in targets and f.modality not in _SAID]
        queries = [f for f in queries if f.role != "input"] or queries
        if not targets or not queries or targets[0].modality != "text":
            names = ", ".join(f"{f.name} ({f.modality}, {f.role})" for f in schema)
            raise UserError(
                f"{self.name} needs a text and something that it describes. Fields: {names}. Give "
                "the roles 'target' and 'query' in the schema file, or name the text with --target"
            )
        roles |= {f.name: "input" for f in schema.find(role=("query", "target"))}
        return schema.with_roles(roles | {queries[0].name: "query", targets[0].name: "target"})

    def fits(self, capabilities: frozenset[str]) -> bool:
        """Systems that generate."""
        return "generate" in capabilities

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
        """CIDEr-D, ROUGE-L and BLEU over the pictures that have a caption."""
        query = one_field(data.schema, "query", self.name).name
        target = one_field(data.schema, "target", self.name).name
        if not self.fits(system.capabilities):
            raise UserError(f"system '{system.name}' does not generate, which {self.name} asks for")
        references = _references(data, query, target, rows)
        reader = Reader(system, data, batch_size, cache, unread=target)
        said: list[str] = []
        asked: list[int] = []
        for batch in reader.batches(np.asarray(list(references), dtype=np.int64)):
            with reader.asking():
                texts = cast(Generates, system).generate(batch, CAPTION)
            said += [text.strip() for text in texts]
            asked += batch.index.tolist()
        if not asked:
            raise UserError(f"no row to be scored has the field '{target}'")
        at = np.asarray(asked)
        groups = data.groups(at)
        scores = caption_scores(said, [references[row] for row in asked], groups, seed=seed)
        return Evaluation(
            task=self.name,
            main_metric="CIDEr-D",
            rows=at,
            scores=scores,
            inference_ms_per_row=1000 * reader.seconds / len(asked),
            examples=_examples(asked, said, references, scores),
            faults=tuple(reader.faults),
        )


def _references(
    data: Data, query: str, target: str, rows: Int[np.ndarray, " rows"]
) -> dict[int, list[str]]:
    """The captions of each picture, by the first of its rows that has one."""
    captions = written(data, target, rows)
    first_rows: dict[int, int] = {}
    references: dict[int, list[str]] = {}
    for row, picture, texts in zip(
        rows.tolist(), data.identities(query, rows).tolist(), captions, strict=True
    ):
        if texts:
            references.setdefault(first_rows.setdefault(picture, row), []).extend(texts)
    return references


def _examples(
    rows: list[int], said: list[str], references: dict[int, list[str]], scores: Scores
) -> list[dict[str, Any]]:
    """The worst captions and the best, by CIDEr-D."""
    score = scores.per_row["CIDEr-D"]
    order = np.argsort(score, kind="stable")
    half = NUM_EXAMPLES // 2
    chosen = dict.fromkeys([*order[:half].tolist(), *order[half:][-half:].tolist()])
    return [
        {
            "row": rows[place],
            "predicted": said[place],
            "truth": " / ".join(references[rows[place]]),
            "CIDEr-D": float(score[place]),
        }
        for place in chosen
    ]
