"""Connectors: what a projection keeps apart, and what a resampler gathers."""

import pytest
import torch

from sensorium.nn.connectors import Projection, build_connector
from sensorium.types import UserError


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@torch.no_grad()
def test_a_projection_maps_each_vector_by_itself(kind):
    torch.manual_seed(0)
    connector = build_connector(kind, 6, 4, num_latents=3)
    values, mask = torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool)
    out, real = connector(values, mask)
    assert out.shape == (2, 5, 4)
    assert real is mask
    assert torch.allclose(connector(values[:1, 2:3])[0][0, 0], out[0, 2])
    zero = connector(torch.zeros(1, 1, 6))[0]
    is_linear = torch.allclose(
        connector(values)[0] + zero, connector(2 * values)[0] / 2 + zero * 1.5, atol=1e-5
    )
    assert is_linear == (kind == "linear")
    assert isinstance(connector, Projection)


@torch.no_grad()
def test_a_resampler_gives_as_many_vectors_whatever_comes_in_and_reads_no_padding():
    torch.manual_seed(0)
    connector = build_connector("resampler", 8, 4, num_latents=3)
    values = torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)
    out, real = connector(values, mask)
    assert out.shape == (2, 3, 4)
    assert real is None
    assert torch.allclose(connector(values[1:, :2])[0], out[1:], atol=1e-6)
    # a set: the order of what comes in does not count, and every latent differs
    assert torch.allclose(connector(values[:1].flip(1))[0], out[:1], atol=1e-6)
    assert (out[0, 0] - out[0, 1]).abs().max() > 1e-3


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="4 heads do not divide the encoder's width 6"):
        build_connector("resampler", 6, 4, num_latents=3)
