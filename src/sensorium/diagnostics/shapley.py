"""Shapley values: what each of several players adds to a game, on average over all orders of joining.

    phi_m = mean over orders of  v(those before m, and m) - v(those before m)

(Shapley, 1953). A coalition is an integer whose bit `m` says whether player `m` is in it. All values
are linear in v, so they are given as weights: a matrix whose product with the values of coalitions is
phi. The game may have a value for each row; phi then has one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
from jaxtyping import Float

from sensorium.types.draws import permutation

MOST_EXACT = 6  # players for which all coalitions are asked
ORDERS = 32  # drawn beyond that, each with its reverse


@dataclass(frozen=True)
class Game:
    """Which coalitions are asked, and what their values mean for the players.

    Attributes:
        coalitions: the empty and the full one among them.
        orders: for each order of joining that was drawn, its weights; one with the exact weights if
            all orders are accounted for.
    """

    coalitions: Sequence[int]
    orders: Float[np.ndarray, "orders players coalitions"]

    @property
    def is_exact(self) -> bool:
        """Whether all orders are accounted for."""
        return len(self.orders) == 1

    @property
    def mixing(self) -> Float[np.ndarray, "players coalitions"]:
        """The weights of the coalitions' values in each player's Shapley value."""
        return np.asarray(self.orders.mean(0))

    def phi(
        self, values: Float[np.ndarray, "coalitions rows"]
    ) -> Float[np.ndarray, "players rows"]:
        """The Shapley values of each row."""
        return np.asarray(self.mixing @ values)

    def sampling_error(
        self, values: Float[np.ndarray, " coalitions"]
    ) -> Float[np.ndarray, " players"]:
        """The standard error that comes from having drawn orders; 0 if exact."""
        if self.is_exact:
            return np.zeros(self.orders.shape[1])
        each = self.orders @ values
        return np.asarray(each.std(0, ddof=1) / len(each) ** 0.5)


def build_game(num_players: int, seed: int = 0) -> Game:
    """Exact up to six players; beyond, orders are drawn, each with its reverse."""
    if num_players <= MOST_EXACT:
        return _exact(num_players)
    orders = []
    for number in range(ORDERS):
        order = [int(player) for player in permutation(num_players, "shapley", seed, number)]
        orders.append((order, order[::-1]))
    chains = [[_joined(order) for order in pair] for pair in orders]
    coalitions = sorted({c for pair in chains for chain in pair for c in chain})
    place = {coalition: index for index, coalition in enumerate(coalitions)}
    weights = np.zeros((ORDERS, num_players, len(coalitions)))
    for number, (pair, chained) in enumerate(zip(orders, chains, strict=True)):
        for order, chain in zip(pair, chained, strict=True):
            for step, player in enumerate(order):
                weights[number, player, place[chain[step + 1]]] += 0.5
                weights[number, player, place[chain[step]]] -= 0.5
    return Game(coalitions, weights)


def _joined(order: Sequence[int]) -> list[int]:
    """The coalitions that players form one after another, from the empty one."""
    chain = [0]
    for player in order:
        chain.append(chain[-1] | 1 << player)
    return chain


def _exact(num_players: int) -> Game:
    coalitions = range(2**num_players)
    weights = np.zeros((1, num_players, len(coalitions)))
    total = factorial(num_players)
    for coalition in coalitions:
        size = coalition.bit_count()
        for player in range(num_players):
            if coalition >> player & 1:
                before = factorial(size - 1) * factorial(num_players - size)
                weights[0, player, coalition] = before / total
            else:
                after = factorial(size) * factorial(num_players - size - 1)
                weights[0, player, coalition] = -after / total
    return Game(coalitions, weights)
