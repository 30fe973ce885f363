"""An encoder that ends in a space which it shares with others."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.nn.encoders.base import Encoder, embed_field
from sensorium.nn.heads import UnitProjection
from sensorium.nn.pooling import Pooling
from sensorium.types import Batch, Field


class Tower(nn.Module):
    """An encoder, and a projection to unit vectors.

    Args:
        field: what it reads.
        encoder: of its entries.
        embed_dim: of the space.
        pooling: how the vectors of an entry become one; None leaves it to the encoder.
        shared: the projection of another tower, if this one's is a change of it (at first none).
    """

    def __init__(
        self,
        field: Field,
        encoder: Encoder,
        embed_dim: int,
        *,
        pooling: Pooling | None = None,
        shared: UnitProjection | None = None,
    ) -> None:
        super().__init__()
        self.field = field
        self.pooling: Pooling = pooling or encoder.pooling
        self.encoder = encoder
        self.head = UnitProjection(encoder.width, embed_dim)
        self._shared = (shared,)  # a tuple, so that its weights are counted once
        if shared is not None:
            nn.init.zeros_(self.head.weight)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "batch width"], Bool[Tensor, "batch"]]:
        """Unit vectors, and which rows have one."""
        vectors, present = embed_field(self.encoder, batch, self.field, self.pooling)
        (shared,) = self._shared
        if shared is None:
            return self.head(vectors), present
        return F.normalize(F.linear(vectors, shared.weight + self.head.weight), dim=-1), present
