"""Between which limits the synergy lies if no label is known for any pair.

From labelled rows of each modality alone, p(x1, y) and p(x2, y), and pairs without labels, p(x1, x2)
(Liang et al., 2024, "Multimodal Learning Without Labeled Multimodal Data", arXiv 2306.04539). No
function here is given p(x1, x2, y).

    from redundancy   S >= R - I(X1;X2) + min I_r(X1;X2|Y)
    from uniqueness   S >= c * E || p(y|x1) - p(y|x2) ||^2 - max(U1, U2)
    from above        S <= H(X1,X2) + H(Y) - H_least(X1,X2,Y) - R - U1 - U2

The first minimum runs over all r with the three given marginals. That is hard, so that one of the two
marginals with the label is dropped, which the method of the decomposition solves; the better of the two
ways counts. The least entropy of a coupling is NP-hard, so that it is bounded by majorisation, in three
ways, of which the largest counts. All three bounds are valid, and may be loose.

Differs from the paper:
- c is 1/4 by default, as in its analysis. That leaves room: its proof gives bits with c = 1/(4 ln 2).
- The classifiers p(y|x1) and p(y|x2) are the tables' own, which are calibrated. A trained network that is
  not would make the disagreement, and with it the bound, too large.
- The upper bound on accuracy is Fano's inequality itself. The paper's (I + 1) / log |Y| takes all classes
  for equally frequent; where they are not, it can be below what is reached. With two classes it says
  nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sensorium.diagnostics.interactions.decomposition import (
    Bits,
    Decomposition,
    decompose,
    entropy,
    information,
)
from sensorium.diagnostics.interactions.solver import most_uncertain

CONSTANT = 0.25
SHARP_CONSTANT = 0.25 / float(np.log(2))
_HALVINGS = 50  # of an interval, to solve Fano's inequality


@dataclass(frozen=True)
class Bounds:
    """Limits of the synergy, in bits.

    Attributes:
        from_redundancy: S_R, which may be negative and then says nothing.
        from_uniqueness: S_U, likewise.
        upper: the synergy is at most this.
        gap: how wrong the first can be; the solver's proof.
    """

    from_redundancy: Bits
    from_uniqueness: Bits
    upper: Bits
    gap: Bits

    @property
    def lower(self) -> Bits:
        """The larger of both, and 0 if both are negative."""
        return np.asarray(np.maximum(np.maximum(self.from_redundancy, self.from_uniqueness), 0))


def bound_synergy(
    first: Float[np.ndarray, "tables first label"],
    second: Float[np.ndarray, "tables second label"],
    pairs: Float[np.ndarray, "tables first second"],
    *,
    parts: Decomposition | None = None,
    constant: float = CONSTANT,
) -> Bounds:
    """Limits of the synergy without labelled pairs.

    Args:
        first: p(x1, y).
        second: p(x2, y).
        pairs: p(x1, x2).
        parts: the decomposition of the first two, if it is known.
        constant: c of the bound from uniqueness; `SHARP_CONSTANT` is the largest that is proven.

    Raises:
        ValueError: two tables disagree about what they have in common.
    """
    parts = decompose(first, second) if parts is None else parts
    of_first, slack_first = least_conditional_information(first, pairs)
    of_second, slack_second = least_conditional_information(second, pairs.swapaxes(1, 2))
    least = np.maximum(of_first, of_second)
    unique = np.maximum(parts.unique_first, parts.unique_second)
    most = entropy(pairs) + entropy(first.sum(1)) - least_joint_entropy(first, second, pairs)
    return Bounds(
        from_redundancy=parts.redundancy - information(pairs) + least,
        from_uniqueness=constant * disagreement(first, second, pairs) - unique,
        upper=most - parts.without_synergy,
        gap=parts.gap + np.maximum(slack_first, slack_second),
    )


def least_conditional_information(
    first: Float[np.ndarray, "tables first label"], pairs: Float[np.ndarray, "tables first second"]
) -> tuple[Float[np.ndarray, " tables"], Float[np.ndarray, " tables"]]:
    """The least I(X1;X2|Y) that agrees with p(x1, y) and p(x1, x2), and the solver's gap.

    I(X1;X2|Y) = H(X1|Y) - H(X1|X2,Y), so it is least where X1 is most uncertain. p(x2, y) is left
    out, so that the least value can be smaller than any that agrees with all three.
    """
    found = most_uncertain(pairs.swapaxes(1, 2), first.swapaxes(1, 2))
    of_first = entropy(first) - entropy(first.sum(1))
    return np.asarray(of_first - found.entropy), found.gap


def disagreement(
    first: Float[np.ndarray, "tables first label"],
    second: Float[np.ndarray, "tables second label"],
    pairs: Float[np.ndarray, "tables first second"],
) -> Float[np.ndarray, " tables"]:
    """The mean over pairs of || p(y|x1) - p(y|x2) ||^2: 0 if both say the same, 2 at most."""
    one, other = _of_label(first), _of_label(second)
    norms = (one**2).sum(2)[:, :, None] + (other**2).sum(2)[:, None]
    distance = norms - 2 * np.einsum("nay,nby->nab", one, other)
    return np.asarray(np.einsum("nab,nab->n", pairs, distance))


def _of_label(table: Float[np.ndarray, "tables cells label"]) -> np.ndarray:
    total = table.sum(2, keepdims=True)
    return np.asarray(np.divide(table, total, out=np.zeros_like(table), where=total > 0))


def least_joint_entropy(
    first: Float[np.ndarray, "tables first label"],
    second: Float[np.ndarray, "tables second label"],
    pairs: Float[np.ndarray, "tables first second"],
) -> Float[np.ndarray, " tables"]:
    """H(X1,X2,Y) is at least this: the largest of three bounds, each for one variable and the rest."""
    label, one, other = first.sum(1), pairs.sum(2), pairs.sum(1)
    ways = [
        least_coupling_entropy(pairs, label),
        least_coupling_entropy(first, other),
        least_coupling_entropy(second, one),
    ]
    return np.asarray(np.max(ways, axis=0))


def least_coupling_entropy(
    one: Float[np.ndarray, "tables ..."], other: Float[np.ndarray, "tables ..."]
) -> Float[np.ndarray, " tables"]:
    """No joint distribution of two variables has a smaller entropy than this.

    Every coupling is majorised by both of its marginals, so by their greatest lower bound in that
    order, whose partial sums are the smaller of theirs (Cicalese et al., 2019, arXiv 1901.07530).
    """
    flat = [each.reshape(len(each), -1) for each in (one, other)]
    width = max(each.shape[1] for each in flat)
    sums = [
        np.cumsum(np.pad(-np.sort(-each, axis=1), ((0, 0), (0, width - each.shape[1]))), axis=1)
        for each in flat
    ]
    smaller = np.minimum(*sums)
    return entropy(np.diff(smaller, axis=1, prepend=0).clip(min=0))


def accuracy_limits(
    least: Float[np.ndarray, " tables"],
    most: Float[np.ndarray, " tables"],
    label: Float[np.ndarray, "tables label"],
) -> tuple[Float[np.ndarray, " tables"], Float[np.ndarray, " tables"]]:
    """Between which limits the accuracy of the best model lies.

    It is at least 2^(I - H(Y)) (Feder and Merhav, 1994), and its errors e are at least such that
    h(e) + e log(|Y| - 1) = H(Y) - I (Fano).

    Args:
        least: information of both inputs on the label at least, in bits.
        most: at most.
        label: p(y).
    """
    uncertainty = entropy(label)
    low = 2.0 ** (least - uncertainty)
    others = np.maximum((label > 0).sum(1) - 1, 0)
    remaining = np.maximum(uncertainty - most, 0)
    fewest, enough = np.zeros(len(label)), others / (others + 1)
    for _ in range(_HALVINGS):
        middle = (fewest + enough) / 2
        doubt = entropy(np.stack([middle, 1 - middle], 1)) + middle * np.log2(np.maximum(others, 1))
        fewest = np.where(doubt < remaining, middle, fewest)
        enough = np.where(doubt < remaining, enough, middle)
    return low.clip(0, 1), 1 - fewest
