"""Draws: the same on every machine, independent of order, and uniform."""

import numpy as np
import pytest

from sensorium.types import draws


def test_the_numbers_are_fixed_for_all_time():
    assert int(draws.integers("test", 1, 2)) == 6976536751539272381
    assert draws.integers("test", 0, [0, 1]).tolist() != draws.integers("test", 0, [1, 0]).tolist()


def test_a_draw_depends_on_its_keys_alone():
    many = draws.uniform("order", 7, np.arange(10)[:, None], np.arange(3))
    assert many.shape == (10, 3)
    assert draws.uniform("order", 7, 4, 2) == many[4, 2]
    assert draws.uniform("other", 7, 4, 2) != many[4, 2]


def test_they_are_uniform_and_uncorrelated():
    numbers = draws.uniform("u", 0, np.arange(20000)[:, None], np.arange(2))
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.01
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.03
    counts, _ = np.histogram(numbers[:, 0], bins=10, range=(0, 1))
    assert counts.min() > 1800


@pytest.mark.parametrize("size", [0, 1, 17])
def test_a_permutation_holds_every_number_once(size):
    order = draws.permutation(size, "p", 3)
    assert sorted(order.tolist()) == list(range(size))


def test_negative_keys_are_allowed():
    assert draws.uniform("n", -1) != draws.uniform("n", 1)


def test_a_permutation_drawn_in_parts_is_that_of_the_whole(monkeypatch):
    whole = draws.permutation(1000, "order", 3)
    assert np.array_equal(whole, np.argsort(draws.integers("order", 3, np.arange(1000))))
    monkeypatch.setattr(draws, "_PART", 7)
    assert np.array_equal(draws.permutation(1000, "order", 3), whole)
