"""Whether the bounds of the synergy hold, and how much they say, on random distributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from sensorium.diagnostics.interactions.bounds import CONSTANT, bound_synergy
from sensorium.diagnostics.interactions.decomposition import decompose, synergy
from sensorium.types import draws

VIOLATION = 1e-3  # bits


def bounds_on_random_tables(
    num_tables: int, shape: Sequence[int], *, constant: float = CONSTANT, seed: int = 0
) -> dict[str, dict[str, float]]:
    """How the bounds do on distributions that are drawn uniformly from all there are.

    Args:
        num_tables: how many p(x1, x2, y).
        shape: their sizes.
        constant: of the bound from uniqueness.
        seed: of the draw.

    Returns:
        For `redundancy`, `uniqueness`, `lower` (the larger of these and 0) and `upper`:
        `violations`, the share of tables whose synergy is beyond it by more than 0.001 bits; `worst`,
        by how much at most (negative if never); `distance`, how far it is from the synergy on average;
        `rank`, Spearman's correlation with it.
    """
    random = draws.generator("random tables", seed)
    tables = random.exponential(size=(num_tables, *shape))
    tables /= tables.sum((1, 2, 3), keepdims=True)
    pairs, first, second = tables.sum(3), tables.sum(2), tables.sum(1)
    parts = decompose(first, second)
    bounds = bound_synergy(first, second, pairs, parts=parts, constant=constant)
    true = synergy(tables, parts)
    limits = {
        "redundancy": bounds.from_redundancy,
        "uniqueness": bounds.from_uniqueness,
        "lower": bounds.lower,
        "upper": bounds.upper,
    }
    found = {}
    for name, limit in limits.items():
        beyond = true - limit if name == "upper" else limit - true
        found[name] = {
            "violations": float((beyond > VIOLATION).mean()),
            "worst": float(beyond.max()),
            "distance": float(np.abs(beyond).mean()),
            "rank": float(spearmanr(limit, true)[0]),
        }
    return found
