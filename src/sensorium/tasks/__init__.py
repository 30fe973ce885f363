"""What a trained system is asked: roles, protocol and metrics."""

from collections.abc import Sequence

from sensorium.tasks.answering import QuestionAnswering
from sensorium.tasks.base import Evaluation, Task
from sensorium.tasks.captioning import Captioning
from sensorium.tasks.prediction import Classification, Regression
from sensorium.tasks.reconstruction import Reconstruction
from sensorium.tasks.retrieval import Retrieval
from sensorium.tasks.universal import UniversalRetrieval
from sensorium.types import Schema, UserError
from sensorium.types.names import did_you_mean

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        Retrieval,
        Classification,
        Regression,
        QuestionAnswering,
        Captioning,
        Reconstruction,
        UniversalRetrieval,
    )
}


def get_task(
    name: str,
    *,
    pools: Sequence[int] | None = None,
    max_rows: int | None = None,
    whole_groups: bool = False,
) -> Task:
    """The task of that name; the rest is for retrieval, and `max_rows` for universal retrieval too.

    Raises:
        UserError: there is none; the message suggests the nearest.
    """
    if name not in TASKS:
        raise UserError(f"unknown task '{name}'. {did_you_mean(name, TASKS)}")
    if name == Retrieval.name:
        return Retrieval(pools, max_rows, whole_groups)
    if name == UniversalRetrieval.name:
        return UniversalRetrieval(max_rows)
    return TASKS[name]()


def guess_task(schema: Schema, target: str | None = None) -> str:
    """The task that the roles of a schema (and a named target) speak of."""
    field = next((f for f in schema if f.name == target), None)
    if target is not None:
        kinds = {c: k for t in schema.find(modality="table") for c, k in t.columns.items()}
        modality = field.modality if field else kinds.get(target, "category")
        return "regression" if modality == "number" else "classification"
    if schema.find(role="answer"):
        return "vqa"
    if labels := schema.find(role="label"):
        return "regression" if labels[0].modality == "number" else "classification"
    if any(len(schema.find(role=side)) > 1 for side in ("query", "target")):
        return UniversalRetrieval.name
    return "vqa" if schema.find(modality="conversation") else "retrieval"


__all__ = [
    "TASKS",
    "Captioning",
    "Classification",
    "Evaluation",
    "QuestionAnswering",
    "Reconstruction",
    "Regression",
    "Retrieval",
    "Task",
    "UniversalRetrieval",
    "get_task",
    "guess_task",
]
