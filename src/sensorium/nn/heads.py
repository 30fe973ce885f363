"""What stands at the end of a network: small maps from vectors to answers."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.nn.attention import ACTIVATIONS


def mlp(
    width: int,
    outputs: int,
    hidden: int | None = None,
    activation: str = "gelu",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Two linear layers with an activation between them; `hidden` is `width` if not given."""
    hidden = hidden or width
    return nn.Sequential(
        nn.Linear(width, hidden),
        ACTIVATIONS[activation](),
        nn.Dropout(dropout),
        nn.Linear(hidden, outputs),
    )


class UnitProjection(nn.Linear):
    """A linear map to a shared space, without bias, to vectors of length 1."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs, bias=False)

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... outputs"]:
        """Project and normalise."""
        return F.normalize(super().forward(x), dim=-1)
