import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sensorium.nn.adapters import ALPHA, Deltas


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def test_at_first_nothing_changes():
    shared, x = network(), torch.randn(5, 6)
    deltas = Deltas(shared, ("*.weight",), 2, ("2.bias",))
    torch.testing.assert_close(functional_call(shared, deltas(shared), (x,)), shared(x))


def test_a_product_of_low_rank_is_added_as_in_the_paper():
    shared, x = network(), torch.randn(5, 6)
    deltas = Deltas(shared, ("0.weight",), 2, ("2.bias",))
    nn.init.normal_(deltas.up["0/weight"])
    nn.init.normal_(deltas.change["2/bias"])
    low = F.linear(F.linear(x, deltas.down["0/weight"]), deltas.up["0/weight"])
    hidden = (shared[0](x) + ALPHA / 2 * low).relu()
    wanted = shared[2](hidden) + deltas.change["2/bias"]
    torch.testing.assert_close(functional_call(shared, deltas(shared), (x,)), wanted)
    assert torch.linalg.matrix_rank(deltas(shared)["0.weight"] - shared[0].weight) == 2


def test_gradients_reach_the_changes_and_a_frozen_network_stays():
    shared, x = network().requires_grad_(False), torch.randn(5, 6)
    deltas = Deltas(shared, ("0.weight",), 2)
    nn.init.normal_(deltas.up["0/weight"])
    functional_call(shared, deltas(shared), (x,)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in deltas.parameters())
    assert all(p.grad is None for p in shared.parameters())
