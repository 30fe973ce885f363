"""Modality Integration Rate: how far a language model's states of pictures are from those of text.

(Huang et al., ICCV 2025, arXiv 2410.07167.) After each of L layers, with `V` the states of all visual
tokens and `T` those of all text tokens of about a hundred rows:

    V, T        times 1 / mean |t|          the norms of text are 1 on average; one factor for both
    V, T        rows of odd norm replaced   by the median of each coordinate, each modality apart
    D           |mean V - mean T|² + tr(S_V + S_T - 2 (S_V S_T)^½)

and the rate is log10(D_1 + ... + D_L): lower is better. No labels are needed. It depends on the number of
layers, so that only models of one depth are comparable; `mean_of_layers` is for others.

Differs from the release: the square root is exact by default. The released one, in its default mode, begins
at a fixed point of its own iteration and gives `S_V S_T` itself; that value is `released` here, in double
precision. The two are on different scales, and are never mixed. Nothing is replaced in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Distance = Literal["exact", "released", "means"]
States: TypeAlias = Float[Tensor, "tokens width"]

ODD = 3.0  # standard deviations of the norm from its median


@dataclass(frozen=True)
class Measure:
    """How two sets of states are compared; the defaults are the published metric.

    Attributes:
        distance: `exact`; `released`, without the square root; `means`, the first term alone.
        scaled: whether the norms of text become 1 on average. Without it layers and models differ by
            how long their vectors are.
        replaced: whether rows of odd norm are replaced. Without it a few of them decide.
    """

    distance: Distance = "exact"
    scaled: bool = True
    replaced: bool = True

    def between(self, vision: States, text: States) -> float:
        """The distance at one layer.

        Raises:
            ValueError: a modality has fewer than two states.
        """
        if min(len(vision), len(text)) < 2:
            raise ValueError(
                f"{len(vision)} visual and {len(text)} text states: at least two of each are needed"
            )
        vision, text = vision.double(), text.double()
        if self.scaled:
            factor = 1 / text.norm(dim=1).mean()
            vision, text = factor * vision, factor * text
        if self.replaced:
            vision, text = without_odd_norms(vision), without_odd_norms(text)
        return frechet_distance(vision, text, self.distance)


@dataclass(frozen=True)
class IntegrationRate:
    """The distances of all layers, the first layer's output first.

    Attributes:
        layers: one for each layer.
        measure: by which they were found.
        warnings: why not to trust them.
    """

    layers: tuple[float, ...]
    measure: Measure
    warnings: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The rate, which grows with the number of layers."""
        return _log10(sum(self.layers))

    @property
    def mean_of_layers(self) -> float:
        """The same of the mean layer, for models of different depth."""
        return _log10(sum(self.layers) / len(self.layers))


def integration_rate(
    states: Sequence[tuple[States, States]], measure: Measure | None = None
) -> IntegrationRate:
    """The rate, from the states of visual and of text tokens after each layer.

    Args:
        states: of the first layer's output to the last's; embeddings are no layer's output. The last
            may be behind the final norm: each layer has a factor of its own.
        measure: how they are compared; the published one if None.
    """
    measure = measure or Measure()
    layers = tuple(measure.between(vision, text) for vision, text in states)
    width = states[0][0].shape[1]
    warnings = tuple(
        f"{len(found):,} {name} tokens are few for {width:,} dimensions: their covariance is singular, "
        "and the distance too large"
        for name, found in zip(("visual", "text"), states[0], strict=True)
        if len(found) <= width
    )
    return IntegrationRate(layers, measure, warnings)


def without_odd_norms(states: States) -> States:
    """The states, with those of odd norm replaced by the median of each coordinate.

    The centre is the median norm, the spread the ordinary deviation (of n - 1), and the medians are those
    of all states, odd ones included; of an even number the lower middle one, as in the release.
    """
    norms = states.norm(dim=1)
    odd = (norms - norms.median()).abs() > ODD * norms.std()
    return torch.where(odd[:, None], states.median(dim=0).values, states)


def frechet_distance(vision: States, text: States, distance: Distance = "exact") -> float:
    """The squared Fréchet distance of two normal distributions with the states' means and covariances.

    With X the centred states over √(n - 1) and X = QR, tr((S_V S_T)^½) is the sum of the singular values
    of R_V R_Tᵀ: no covariance is formed, so that nothing is squared whose root is taken afterwards, and
    singular ones do no harm. The sum of their squares is tr(S_V S_T).
    """
    means = (vision.mean(0) - text.mean(0)).square().sum()
    if distance == "means":
        return float(means)
    first, second = _root(vision), _root(text)
    spread = first.square().sum() + second.square().sum()
    shared = torch.linalg.svdvals(first @ second.T)
    overlap = shared.sum() if distance == "exact" else shared.square().sum()
    whole = float(means + spread - 2 * overlap)
    # of equal states the exact distance is zero, which rounding may miss on the wrong side
    return max(whole, 0.0) if distance == "exact" else whole


def _root(states: States) -> Float[Tensor, "rank width"]:
    """A matrix R with RᵀR the covariance."""
    centred = (states - states.mean(0)) / (len(states) - 1) ** 0.5
    root: Tensor = torch.linalg.qr(centred, mode="r").R
    return root


def _log10(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).log10())
