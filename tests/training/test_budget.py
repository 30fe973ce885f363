"""Budgets: what is read, what is refused, how they become steps."""

import pytest

from sensorium.training.budget import Budget
from sensorium.types import UserError


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("500steps", 500, "steps"),
        ("1 step", 1, "steps"),
        ("2m", 120, "seconds"),
        ("1.5h", 5400, "seconds"),
        ("90s", 90, "seconds"),
        ("3epochs", 3, "epochs"),
    ],
)
def test_what_is_read(text, amount, unit):
    assert Budget.parse(text) == Budget(amount, unit)


@pytest.mark.parametrize("text", ["", "5", "m", "-3m", "0steps", "2 weeks", "2m30s"])
def test_what_is_refused_says_what_is_expected(text):
    with pytest.raises(UserError, match="500steps, 3epochs, 90s"):
        Budget.parse(text)


def test_steps_of_each_unit():
    assert Budget(500, "steps").steps(10, 5, 1.0) == 500
    assert Budget(3, "epochs").steps(100, 32, 1.0) == 9
    assert Budget(3, "epochs").steps(10, 32, 1.0) == 3
    assert Budget(60, "seconds").steps(10, 5, 0.25) == 240
    assert Budget(60, "seconds").steps(10, 5, 100.0) == 1
    assert Budget(100, "steps").part(0.25) == Budget(25, "steps")
