"""Multi-head attention over `Tokens`-shaped tensors, through PyTorch's fused kernels."""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention; keys and values come from `context`, or from the input itself.

    Args:
        width: of the input and the output.
        heads: number of heads; must divide `width`.
        dropout: of the attention weights.
        context_width: width of the context, if it differs.
        bias: whether the four linear maps have one.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        context_width: int | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(context_width or width, width, bias)
        self.value = nn.Linear(context_width or width, width, bias)
        self.output = nn.Linear(width, width, bias)

    def forward(
        self,
        x: Float[Tensor, "batch queries width"],
        mask: Bool[Tensor, "batch 1 #queries keys"] | None = None,
        context: Float[Tensor, "batch keys context_width"] | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """Attend. A query that may see no key gets the value zero, before the output projection."""
        context = x if context is None else context
        q, k, v = (
            rearrange(part, "b n (h d) -> b h n d", h=self.heads)
            for part in (self.query(x), self.key(context), self.value(context))
        )
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.output(rearrange(attended, "b h n d -> b n (h d)"))
        return out


class FeedForward(nn.Sequential):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__(
            nn.Linear(width, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, width)
        )


class GatedFeedForward(nn.Module):
    """Two linear maps, one of which gates the other, and a third (Shazeer, 2020, arXiv 2002.05202).

    Args:
        width: of the input and the output.
        hidden: between them.
        activation: of the gate: `silu` (SwiGLU), `gelu` (GEGLU), or another name in `ACTIVATIONS`.
        bias: whether the linear maps have one.
    """

    def __init__(
        self, width: int, hidden: int, activation: str = "silu", *, bias: bool = True
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias)
        self.value = nn.Linear(width, hidden, bias)
        self.activation = ACTIVATIONS[activation]()
        self.output = nn.Linear(hidden, width, bias)

    def forward(self, x: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape width"]:
        """Gate and map."""
        out: Tensor = self.output(self.activation(self.gate(x)) * self.value(x))
        return out


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it elementwise."""
        # x * sigmoid(1.702 x), through an activation whose backward is one kernel that keeps one tensor
        return F.silu(1.702 * x).mul_(1 / 1.702)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "quick_gelu": QuickGELU,
    "silu": nn.SiLU,
}
