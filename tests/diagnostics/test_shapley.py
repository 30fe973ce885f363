"""Shapley values: games with known answers."""

import itertools

import numpy as np
import pytest

from sensorium.diagnostics.shapley import build_game


def values(game, worth):
    return np.array([[worth(coalition)] for coalition in game.coalitions], dtype=float)


def test_the_glove_game():
    """Players 0 and 1 have a left glove, 2 a right one; a pair is worth 1. By hand: 1/6, 1/6, 2/3."""
    game = build_game(3)
    phi = game.phi(values(game, lambda c: c & 4 > 0 and c & 3 > 0))
    np.testing.assert_allclose(phi[:, 0], [1 / 6, 1 / 6, 2 / 3])


@pytest.mark.parametrize("players", [1, 2, 4, 6])
def test_it_is_the_mean_over_all_orders_of_joining(players):
    numbers = np.random.default_rng(players).normal(size=2**players)
    expected = np.zeros(players)
    orders = list(itertools.permutations(range(players)))
    for order in orders:
        inside = 0
        for player in order:
            expected[player] += numbers[inside | 1 << player] - numbers[inside]
            inside |= 1 << player
    game = build_game(players)
    phi = game.phi(values(game, lambda c: numbers[c]))[:, 0]
    np.testing.assert_allclose(phi, expected / len(orders))
    assert phi.sum() == pytest.approx(numbers[-1] - numbers[0])


def test_rows_are_games_of_their_own():
    game = build_game(2)
    table = np.random.default_rng(0).normal(size=(4, 5))
    phi = game.phi(table)
    for row in range(5):
        np.testing.assert_allclose(phi[:, row], game.phi(table[:, [row]])[:, 0])


def test_drawn_orders_agree_with_the_exact_value_within_their_error():
    """Eight players; worth is a sum of own values and of one pair's, so phi is known."""
    own = np.arange(8) / 10

    def worth(coalition):
        inside = [i for i in range(8) if coalition >> i & 1]
        pair = 0.5 if coalition & 3 == 3 else 0.0
        return own[inside].sum() + pair

    game = build_game(8)
    assert not game.is_exact
    assert len(game.coalitions) < 2**8 * 2
    table = values(game, worth)
    phi, error = game.phi(table)[:, 0], game.sampling_error(table[:, 0])
    expected = own + np.array([0.25, 0.25, 0, 0, 0, 0, 0, 0])
    assert (np.abs(phi - expected) <= 3 * error + 1e-9).all()
    assert phi.sum() == pytest.approx(worth(255))
    assert error[4] == pytest.approx(0, abs=1e-12)  # alone it adds the same whenever it joins
