"""What two variables tell of a label: the same, something alone, or something only together.

    R  redundancy   told by each of the two
    U1 uniqueness   told by the first only
    U2 uniqueness   told by the second only
    S  synergy      told by both together and by neither alone

    R + U1 = I(X1;Y)      R + U2 = I(X2;Y)      R + U1 + U2 + S = I(X1,X2;Y)

(Bertschinger et al., 2014, "Quantifying unique information"; used for modalities by Liang et al.,
2023, arXiv 2302.12247.) With q the distribution of the same p(x1, y) and p(x2, y) that leaves the
label most uncertain, U1 = I_q(X1;Y|X2), U2 = I_q(X2;Y|X1), and R is the rest. So these three need
p(x1, y) and p(x2, y) alone; only the synergy needs to know which x1 and x2 go together. Each
uniqueness is conditional on the *other* variable.

All variables are discrete, all quantities are in bits, and all functions take many distributions at
once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sensorium.diagnostics.interactions.solver import most_uncertain

Bits = Float[np.ndarray, " tables"]


def entropy(probabilities: Float[np.ndarray, "tables ..."]) -> Bits:
    """The entropy of each distribution, whose cells may have any number of axes."""
    cells = probabilities.reshape(len(probabilities), -1)
    logs = np.log2(cells, out=np.zeros_like(cells), where=cells > 0)
    return np.asarray(-np.einsum("nk,nk->n", cells, logs))


def information(joint: Float[np.ndarray, "tables one other"]) -> Bits:
    """The mutual information of two variables, from their joint distributions."""
    return np.asarray(entropy(joint.sum(2)) + entropy(joint.sum(1)) - entropy(joint))


@dataclass(frozen=True)
class Decomposition:
    """What is known from p(x1, y) and p(x2, y).

    Attributes:
        redundancy: R.
        unique_first: U1, what the first tells and the second does not.
        unique_second: U2.
        gap: how wrong each of them can be, in bits; the solver's proof.
        joint: q, under which nothing is told by both together only.
    """

    redundancy: Bits
    unique_first: Bits
    unique_second: Bits
    gap: Bits
    joint: Float[np.ndarray, "tables first second label"]

    @property
    def without_synergy(self) -> Bits:
        """R + U1 + U2: the information of both under q."""
        return np.asarray(self.redundancy + self.unique_first + self.unique_second)


def decompose(
    first: Float[np.ndarray, "tables first label"], second: Float[np.ndarray, "tables second label"]
) -> Decomposition:
    """Redundancy and uniqueness.

    Args:
        first: p(x1, y); each table sums to 1.
        second: p(x2, y).

    Raises:
        ValueError: two tables disagree about p(y).
    """
    found = most_uncertain(first, second)
    of_first, of_second = information(first), information(second)
    both = entropy(first.sum(1)) - found.entropy
    return Decomposition(
        redundancy=of_first + of_second - both,
        unique_first=both - of_second,
        unique_second=both - of_first,
        gap=found.gap,
        joint=found.joint,
    )


def synergy(
    joint: Float[np.ndarray, "tables first second label"], parts: Decomposition
) -> Float[np.ndarray, " tables"]:
    """S, from p(x1, x2, y) and the decomposition of its marginals."""
    pairs = joint.reshape(len(joint), -1, joint.shape[3])
    return np.asarray(information(pairs) - parts.without_synergy)
