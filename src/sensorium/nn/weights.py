"""Weights by the names of their places."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def below(place: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a module within another, by the names that they have in it."""
    start = f"{place}."
    return {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}
