"""Positions that are not learned: waves of many lengths (Vaswani et al., 2017, section 3.5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

BASE = 10000.0


def waves(
    places: Float[Tensor, "places"], width: int, base: float = BASE
) -> Float[Tensor, "places width"]:
    """Sines and cosines of each place, `width / 2` of each, their lengths in geometric order."""
    steps = torch.arange(width // 2, dtype=torch.float64) / (width // 2)
    angles = places.double()[:, None] * base**-steps
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def grid_waves(side: int, width: int) -> Float[Tensor, "places width"]:
    """Those of the places of a square, row by row: half for the row and half for the column.

    Raises:
        ValueError: the width is no multiple of four.
    """
    if width % 4:
        raise ValueError(f"width {width} is no multiple of 4, as positions in a square need")
    place = torch.arange(side * side)
    column, row = (place % side).float(), (place // side).float()
    return torch.cat([waves(row, width // 2), waves(column, width // 2)], 1)
