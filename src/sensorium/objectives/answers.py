"""From the outputs of a network to the answers of a field: how many, the loss, what they say."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sensorium.modalities.scalars import class_names
from sensorium.types import Batch, Field, Loss

ANSWERABLE = ("category", "categories", "number")
"""The modalities that can be predicted."""


def num_outputs(field: Field) -> int:
    """One output for each class, or one for a number."""
    return 1 if field.modality == "number" else len(class_names(field))


def answer_loss(outputs: Float[Tensor, "batch outputs"], batch: Batch, field: Field) -> Loss:
    """Cross-entropy of a class, or of each of several; squared error of a standardised number.

    Rows without an answer do not count.
    """
    if field.name not in batch:
        return Loss.mean(outputs[:0].sum(1))
    answers, present = batch[field.name].first(batch.size)
    outputs, answers = outputs[present].float(), answers[present]
    if field.modality == "category":
        return Loss.mean(F.cross_entropy(outputs, answers, reduction="none"))
    if field.modality == "categories":
        each = F.binary_cross_entropy_with_logits(outputs, answers, reduction="none")
        return Loss.mean(each.mean(1))
    wanted = (answers - field.fitted["mean"]) / field.fitted["std"]
    return Loss.mean((outputs.squeeze(1) - wanted).square())


def answers_of(outputs: Float[Tensor, "batch outputs"], field: Field) -> Float[Tensor, "batch ..."]:
    """Probabilities of the classes (that sum to 1, or independent ones), or the number."""
    outputs = outputs.float()
    if field.modality == "category":
        return outputs.softmax(-1)
    if field.modality == "categories":
        return torch.sigmoid(outputs)
    values: Tensor = outputs.squeeze(1) * field.fitted["std"] + field.fitted["mean"]
    return values
