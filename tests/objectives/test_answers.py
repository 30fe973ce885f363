"""Answers: losses and probabilities by hand."""

import math

import pytest
import torch

from sensorium.objectives.answers import answer_loss, answers_of, num_outputs
from sensorium.types import Batch, Entries, Field

CLASSES = Field(name="a", modality="category", role="label", fitted={"classes": ["x", "y"]})
LABELS = Field(name="a", modality="categories", role="label", fitted={"classes": ["x", "y"]})
NUMBER = Field(name="a", modality="number", role="label", fitted={"mean": 10.0, "std": 2.0})


def batch_of(values, rows, size=3):
    row = torch.tensor(rows)
    entries = Entries(values, row, torch.zeros_like(row))
    return Batch({"a": entries}, [str(i) for i in range(size)], torch.arange(size))


def test_a_class_costs_its_cross_entropy_and_a_row_without_one_nothing():
    outputs = torch.tensor([[0.0, math.log(3.0)], [9.0, 9.0], [0.0, 0.0]])
    loss = answer_loss(outputs, batch_of(torch.tensor([0, 1]), [0, 2]), CLASSES)
    assert loss.per_item.tolist() == pytest.approx([math.log(4), math.log(2)])
    assert answers_of(outputs, CLASSES)[0].tolist() == pytest.approx([0.25, 0.75])


def test_several_labels_are_judged_one_by_one():
    outputs = torch.tensor([[0.0, math.log(3.0)]])
    loss = answer_loss(outputs, batch_of(torch.tensor([[1.0, 0.0]]), [0], 1), LABELS)
    assert float(loss.value) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert answers_of(outputs, LABELS)[0].tolist() == pytest.approx([0.5, 0.75])


def test_a_number_is_learned_standardised_and_told_as_it_was():
    outputs = torch.tensor([[1.0], [0.0], [0.5]])
    loss = answer_loss(outputs, batch_of(torch.tensor([12.0, 14.0]), [0, 1]), NUMBER)
    assert loss.per_item.tolist() == pytest.approx([0.0, 4.0])
    assert answers_of(outputs, NUMBER).tolist() == pytest.approx([12.0, 10.0, 11.0])


def test_no_answers_at_all_are_no_loss():
    outputs = torch.ones(2, 2, requires_grad=True)
    loss = answer_loss(outputs, Batch({}, ["0", "1"], torch.arange(2)), CLASSES)
    assert loss.value.item() == 0
    loss.value.backward()


def test_there_is_an_output_for_each_class_and_one_for_a_number():
    assert [num_outputs(field) for field in (CLASSES, LABELS, NUMBER)] == [2, 2, 1]
