"""Shapley values: games with known answers."""

import itertools
import math

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


def test_equal_players_get_the_same_and_a_useless_one_nothing():
    """Symmetry and the null player: 0 and 1 are interchangeable, 3 never adds anything."""
    game = build_game(4)
    worth = (0.0, 2.0, 5.0)  # by how many of players 0 and 1 are there; doubled by player 2
    phi = game.phi(values(game, lambda c: worth[(c & 3).bit_count()] * (2 if c & 4 else 1)))[:, 0]
    assert phi[0] == pytest.approx(phi[1])
    assert phi[3] == pytest.approx(0)


def test_seven_players_are_drawn_and_agree_with_the_exact_value():
    """Worth is the square of a sum of weights; by hand, phi_i = w_i * the sum of all weights."""
    weights = np.arange(1, 8) / 10

    def worth(coalition):
        return sum(w for i, w in enumerate(weights) if coalition >> i & 1) ** 2

    game = build_game(7)
    assert not game.is_exact
    table = values(game, worth)
    phi, error = game.phi(table)[:, 0], game.sampling_error(table[:, 0])
    # an order and its reverse together give the exact value of a quadratic game
    np.testing.assert_allclose(phi, weights * weights.sum())
    np.testing.assert_allclose(error, 0, atol=1e-12)

    cubic = values(game, lambda c: worth(c) ** 1.5)
    phi, error = game.phi(cubic)[:, 0], game.sampling_error(cubic[:, 0])
    exact = _by_all_subsets(lambda c: worth(c) ** 1.5, 7)
    assert (error > 0).all()
    assert (np.abs(phi - exact) <= 3 * error).all()
    assert phi.sum() == pytest.approx(exact.sum())


def _by_all_subsets(worth, players):
    """The textbook's sum over subsets."""
    phi = np.zeros(players)
    for coalition in range(2**players):
        size = coalition.bit_count()
        for player in range(players):
            if not coalition >> player & 1:
                share = 1 / (players * math.comb(players - 1, size))
                phi[player] += share * (worth(coalition | 1 << player) - worth(coalition))
    return phi


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
