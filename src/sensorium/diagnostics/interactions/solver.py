"""The most uncertain target that agrees with two tables, for many pairs of tables at once.

Of all joint distributions q(a, b, t) whose marginals q(a, t) and q(b, t) are given, the one with the
largest conditional entropy H(T|A,B). Its negative is convex in q,

    f(q) = sum q log(q(a, b, t) / q(a, b)),

and homogeneous, so that the dual problem is simple:

    max  sum p(a, t) u(a, t) + sum p(b, t) v(b, t)   where, for all a and b,
         log sum_t exp(u(a, t) + v(b, t)) <= 0.

A primal-dual interior-point method solves both. The Hessian of f couples only cells of the same (a, b),
so a step costs one small linear system, in the multipliers v. Any u and v give a lower bound on f once u
is shifted to satisfy the condition: the gap to it is proof of how exact each result is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

TOLERANCE = 1e-6  # bits
MOST_STEPS = 60
SHRINK = 0.3  # of the complementarity, in a step
_TINY = 1e-12  # probability that is taken for none
_TO_BOUNDARY = 0.9  # of the way to the nearest zero, at most
_RIDGE = 1e-14  # of a matrix with ones on its diagonal
_BLOCK = 2**22  # numbers of intermediate results at a time

Tables = Float[np.ndarray, "tables first target"]
Joint = Float[np.ndarray, "tables first second target"]


@dataclass(frozen=True)
class Optimum:
    """What was found for each pair of tables.

    Attributes:
        joint: the distribution.
        entropy: H(T|A,B) under it, in bits.
        gap: how much larger the largest can be at most, in bits.
        residual: the largest difference to a given marginal.
    """

    joint: Joint
    entropy: Float[np.ndarray, " tables"]
    gap: Float[np.ndarray, " tables"]
    residual: Float[np.ndarray, " tables"]


def most_uncertain(
    first: Float[np.ndarray, "tables first target"],
    second: Float[np.ndarray, "tables second target"],
    tolerance: float = TOLERANCE,
) -> Optimum:
    """The joint distribution of each pair of tables that leaves the target most uncertain.

    Args:
        first: p(a, t); each table sums to 1.
        second: p(b, t), with the same p(t).
        tolerance: of the gap, in bits. Where rounding stops the steps before, the gap says so.

    Raises:
        ValueError: two tables disagree about the target.
    """
    if not np.allclose(first.sum(1), second.sum(1), rtol=0, atol=1e-9):
        raise ValueError("the two tables disagree about the distribution of the target")
    first, second = _without_tiny(first, second)
    if second.shape[1] > first.shape[1]:  # what is eliminated first should be the larger one
        swapped = most_uncertain(second, first, tolerance)
        joint = swapped.joint.swapaxes(1, 2)
        return Optimum(joint, swapped.entropy, swapped.gap, swapped.residual)
    num_tables, num_first, num_target = first.shape
    size = num_first * num_target * second.shape[1] * num_target
    block = max(1, _BLOCK // size)
    parts = [
        _solve(first[start : start + block], second[start : start + block], tolerance)
        for start in range(0, max(num_tables, 1), block)
    ]
    joint, negative, gap = (np.concatenate(each) for each in zip(*parts, strict=True))
    residual = np.maximum(
        np.abs(joint.sum(2) - first).max((1, 2)), np.abs(joint.sum(1) - second).max((1, 2))
    )
    return Optimum(joint, -negative / np.log(2), gap / np.log(2), residual)


def _without_tiny(first: Tables, second: Tables) -> tuple[Tables, Tables]:
    """The same tables without cells that change nothing, and spoil the arithmetic of steps."""
    first, second = (np.where(table < _TINY, 0.0, table) for table in (first, second))
    wanted, found = first.sum(1, keepdims=True), second.sum(1, keepdims=True)
    factor = np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0)
    return np.where(factor > 0, first, 0.0), second * factor


def _solve(
    first: Tables, second: Tables, tolerance: float
) -> tuple[Joint, Float[np.ndarray, " tables"], Float[np.ndarray, " tables"]]:
    """The best joint distribution of each pair, f there, and the gap, in nats."""
    state = _State.start(first, second)
    best, value = state.joint.copy(), _objective(state.joint)
    gap = np.full(len(first), np.inf)
    left: Int[np.ndarray, " left"] = np.arange(len(first))
    for _ in range(MOST_STEPS):
        reached = _objective(state.joint)
        distance = reached - state.lower_bound()
        better = distance < gap[left]
        at = left[better]
        best[at], value[at], gap[at] = state.joint[better], reached[better], distance[better]
        unfinished = gap[left] > tolerance * np.log(2)
        if not unfinished.any():
            break
        left, state = left[unfinished], state.take(unfinished)
        state.step()
    return best, value, np.maximum(gap, 0)


def _objective(joint: Joint) -> Float[np.ndarray, " tables"]:
    return np.asarray(np.einsum("nabt,nabt->n", joint, _log_share(joint)))


def _log_share(joint: Joint) -> Joint:
    """Log q(t|a,b), 0 where a cell is empty."""
    total = joint.sum(3, keepdims=True)
    out = np.zeros_like(joint)
    np.divide(joint, total, out=out, where=joint > 0)
    return np.asarray(np.log(out, out=out, where=joint > 0))


@dataclass
class _State:
    """Where the method is: q, its multipliers z of q >= 0, and u and v of the marginals."""

    first: Tables
    second: Tables
    active: Bool[np.ndarray, "tables first second target"]
    joint: Joint
    slack: Joint
    of_first: Tables
    of_second: Tables

    @classmethod
    def start(cls, first: Tables, second: Tables) -> _State:
        """Begin where the two are independent given the target, which has all cells that can be."""
        target = first.sum(1)
        share = np.zeros_like(second)
        np.divide(second, target[:, None], out=share, where=target[:, None] > 0)
        joint = first[:, :, None] * share[:, None]
        active = joint > 0
        return cls(
            first, second, active, joint, active * 1.0, np.zeros_like(first), np.zeros_like(second)
        )

    def take(self, rows: Bool[np.ndarray, " tables"]) -> _State:
        """Some of the tables."""
        if rows.all():
            return self
        return _State(
            self.first[rows],
            self.second[rows],
            self.active[rows],
            self.joint[rows],
            self.slack[rows],
            self.of_first[rows],
            self.of_second[rows],
        )

    def prices(self) -> Joint:
        """u(a, t) + v(b, t)."""
        return np.asarray(self.of_first[:, :, None] + self.of_second[:, None])

    def lower_bound(self) -> Float[np.ndarray, " tables"]:
        """The dual value, after a shift that makes the multipliers feasible."""
        prices = np.where(self.active, self.prices(), -np.inf)
        highest = prices.max(3, keepdims=True)
        highest = np.where(np.isfinite(highest), highest, 0.0)
        with np.errstate(divide="ignore"):  # where no cell is active
            excess = np.log(np.exp(prices - highest).sum(3)) + highest[..., 0]
        shift = excess.max(2)
        shift = np.where(np.isfinite(shift), shift, 0.0)
        of_first = np.einsum("nat,nat->n", self.first, self.of_first - shift[:, :, None])
        return np.asarray(of_first + np.einsum("nbt,nbt->n", self.second, self.of_second))

    def step(self) -> None:
        """A Newton step towards smaller complementarity, as far as all stays positive."""
        q, z, active = self.joint, self.slack, self.active
        number = active.sum((1, 2, 3))
        goal = SHRINK * np.einsum("nabt,nabt->n", q, z) / number
        barrier = np.zeros_like(q)
        np.divide(goal[:, None, None, None], q, out=barrier, where=active)
        wanted = np.where(active, _log_share(q) - self.prices() - barrier, 0.0)
        # the inverse of the Hessian with its barrier: diag(w) + w w' / rest, for each (a, b)
        w = q / (1 + z)
        rest = (w * z).sum(3, keepdims=True)
        scaled = np.zeros_like(w)
        np.divide(w, rest, out=scaled, where=rest > 0)

        def inverse(values: Joint) -> Joint:
            return np.asarray(w * values + scaled * (w * values).sum(3, keepdims=True))

        down = inverse(wanted)
        d_first, d_second = self._multipliers(
            w,
            scaled,
            self.first - q.sum(2) + down.sum(2),
            self.second - q.sum(1) + down.sum(1),
        )
        dq = inverse(d_first[:, :, None] + d_second[:, None]) - down
        ratio = np.zeros_like(q)
        np.divide(dq, q, out=ratio, where=active)
        dz = np.where(active, barrier - z - z * ratio, 0.0)
        back = np.zeros_like(z)
        np.divide(dz, z, out=back, where=active)
        furthest = np.maximum(-ratio, -back).max((1, 2, 3))
        length = np.minimum(1.0, _TO_BOUNDARY / np.maximum(furthest, 1e-12))
        self.joint = q + length[:, None, None, None] * dq
        self.slack = z + length[:, None, None, None] * dz
        self.of_first = self.of_first + length[:, None, None] * d_first
        self.of_second = self.of_second + length[:, None, None] * d_second

    def _multipliers(
        self, w: Joint, scaled: Joint, first: Tables, second: Tables
    ) -> tuple[Tables, Tables]:
        """Changes of u and v that bring about changes of the marginals.

        The equations of `u` fall apart by `a`, so they are eliminated.
        """
        tables, num_first, num_target = first.shape
        num_second = second.shape[1]
        own_first = np.einsum("nabt,nabs->nats", w, scaled)
        own_second = np.einsum("nabt,nabs->nbts", w, scaled)
        cross = np.einsum("nabt,nabs->natbs", w, scaled)
        each = np.arange(num_target)
        own_first[:, :, each, each] += w.sum(2) + (self.first == 0)  # 1: no such cell
        own_second[:, :, each, each] += w.sum(1)
        cross[:, :, each, :, each] += w.transpose(3, 0, 1, 2)
        size = num_second * num_target
        flat = cross.reshape(tables, num_first, num_target, size)
        solved = np.linalg.solve(own_first, np.concatenate([flat, first[..., None]], 3))
        products = flat.reshape(tables, -1, size).swapaxes(1, 2) @ solved.reshape(
            tables, -1, size + 1
        )
        reduced = np.negative(products[..., :-1], order="C")
        blocks = reduced.reshape(tables, num_second, num_target, num_second, num_target)
        beta = np.arange(num_second)
        blocks[:, beta, :, beta, :] += own_second.transpose(1, 0, 2, 3)
        # For each target, u + 1 and v - 1 are the same prices: sum p(b|t) v(b, t) = 0 chooses.
        weight = w.sum(1)
        total = weight.sum(1, keepdims=True)
        weight = weight / np.sqrt(np.where(total > 0, total, 1.0))
        for target in range(num_target):
            part = weight[:, :, target]
            blocks[:, :, target, :, target] += part[:, :, None] * part[:, None]
        wanted = second.reshape(tables, size) - products[..., -1]
        scale = np.sqrt(np.abs(np.einsum("nkk->nk", reduced)))
        scale = np.where((self.second > 0).reshape(scale.shape) & (scale > 0), scale, 1.0)
        reduced /= scale[:, :, None] * scale[:, None]
        diagonal = np.einsum("nkk->nk", reduced)
        diagonal += _RIDGE + (self.second == 0).reshape(scale.shape)  # 1: no such cell
        d_second = np.linalg.solve(reduced, (wanted / scale)[..., None])[..., 0] / scale
        d_first = solved[..., -1] - np.einsum("natk,nk->nat", solved[..., :-1], d_second)
        return d_first, d_second.reshape(second.shape)
