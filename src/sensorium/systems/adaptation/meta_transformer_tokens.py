"""What Meta-Transformer puts around its trunk: tokens of one modality before it, a norm behind it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.nn.blocks import Layers
from sensorium.nn.encoders.base import Encoded, Encoder, Prepared, TransformerEncoder
from sensorium.nn.encoders.points import PointTransformer
from sensorium.nn.pooling import Pooling, at_place


class Nothing(nn.Module):
    """A trunk that is not there."""

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch 1 #tokens tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """What comes in."""
        return x

    def at(
        self,
        x: Float[Tensor, "batch tokens width"],
        place: Int[Tensor, "batch"],
        mask: Bool[Tensor, "batch 1 #tokens tokens"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        """What comes in at one place of each sequence."""
        return at_place(x, place)


def share(module: nn.Module, trunk: Layers) -> None:
    """Give a module layers that are another's, where they are counted, trained and saved."""
    if "layers" in dict(module.named_children()):
        del module.layers
    module.__dict__["layers"] = trunk


class Tokeniser(TransformerEncoder):
    """Tokens of one modality with a class token in front, through the trunk, and a norm.

    Args:
        encoder: of no layers; of a transformer what goes into them is taken, of others what they give.
        trunk: which is shared.
        pooling: what is read of the tokens.
    """

    def __init__(self, encoder: Encoder, trunk: Layers, pooling: Pooling) -> None:
        super().__init__(encoder.width, encoder.view)
        self.pooling = pooling
        self.encoder = encoder
        if isinstance(encoder, TransformerEncoder):
            del encoder.layers, encoder.norm
        self.class_token = nn.Parameter(torch.randn(encoder.width) * 0.02)
        self.norm = nn.LayerNorm(encoder.width)
        share(self, trunk)

    def prepare(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None,
    ) -> Prepared:
        """What goes into the trunk. All see the class token, which sees all."""
        seen: Tensor | None
        if isinstance(self.encoder, TransformerEncoder):
            x, seen, real = self.encoder.prepare(values, mask)
        else:
            x, real = self.encoder(values, mask)
            seen = None if real is None else real[:, None, None]
        x = torch.cat([self.class_token.to(x.dtype).expand(len(x), 1, -1), x], 1)
        if real is not None:
            real = F.pad(real, (1, 0), value=True)
        if seen is not None:
            seen = F.pad(seen, (1, 0), value=True)
            if seen.shape[2] > 1:  # not the same for all
                whole = torch.ones_like(seen[:, :, :1]) if real is None else real[:, None, None]
                seen = torch.cat([whole, seen], 2)
        return x, seen, real


class PointTokeniser(Encoder):
    """Groups of points through the trunk, their places added before every block.

    Args:
        encoder: twice as wide as the trunk: the class token lies beside the maximum over groups.
        trunk: which is shared.
    """

    def __init__(self, encoder: PointTransformer, trunk: Layers) -> None:
        super().__init__(encoder.width // 2, encoder.view)
        self.pooling = encoder.pooling
        self.encoder = encoder
        share(encoder, trunk)
        self.join = nn.Linear(encoder.width, self.width)

    def forward(
        self,
        values: Float[Tensor, "entries points channels"],
        mask: Bool[Tensor, "entries points"] | None = None,
    ) -> Encoded:
        """A vector for the cloud and one for each group."""
        vectors, real = self.encoder(values, mask)
        return self.join(vectors), real
