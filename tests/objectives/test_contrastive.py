"""Contrastive losses: by hand, against plain PyTorch, and tiled against whole."""

import math

import pytest
import torch
from torch.nn import functional as F

from sensorium.objectives import contrastive
from sensorium.objectives.contrastive import Temperature, info_nce, sigmoid_loss

A = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
B = torch.tensor([[1.0, 0.0], [0.6, 0.8]])


def vectors(count, width=6, seed=0, scale=10.0):
    g = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(count, width, generator=g), dim=1) for _ in range(2))
    return a.requires_grad_(), b.requires_grad_(), torch.tensor(scale, requires_grad=True)


def test_info_nce_by_hand():
    # Similarities times 2: [[2, 1.2], [0, 1.6]].
    forth, back = info_nce(A, B, torch.tensor(2.0))
    rows = [math.log(1 + math.exp(1.2 - 2)), math.log(1 + math.exp(0 - 1.6))]
    columns = [math.log(1 + math.exp(0 - 2)), math.log(1 + math.exp(1.2 - 1.6))]
    assert forth.tolist() == pytest.approx(rows) and back.tolist() == pytest.approx(columns)


def test_sigmoid_loss_by_hand():
    # Logits: [[1, 0.2], [-1, 0.6]].
    per_row = sigmoid_loss(A, B, torch.tensor(2.0), torch.tensor(-1.0))

    def softplus(x):
        return math.log(1 + math.exp(x))

    wanted = [softplus(-1) + softplus(0.2), softplus(-1) + softplus(-0.6)]
    assert per_row.tolist() == pytest.approx(wanted)


def test_info_nce_is_cross_entropy():
    a, b, scale = vectors(9)
    logits = scale * a @ b.T
    forth, back = info_nce(a, b, scale)
    numbers = torch.arange(9)
    torch.testing.assert_close(forth, F.cross_entropy(logits, numbers, reduction="none"))
    torch.testing.assert_close(back, F.cross_entropy(logits.T, numbers, reduction="none"))


def test_soft_targets_are_a_distribution_for_each_direction():
    a, b, scale = vectors(5)
    soft = torch.rand(5, 5, generator=torch.Generator().manual_seed(3))
    logits = scale * a @ b.T
    forth, back = info_nce(a, b, scale, soft=soft)
    rows, columns = soft / soft.sum(1, keepdim=True), soft / soft.sum(0)
    torch.testing.assert_close(forth, F.cross_entropy(logits, rows, reduction="none"))
    torch.testing.assert_close(back, F.cross_entropy(logits.T, columns.T, reduction="none"))
    same, _ = info_nce(a, b, scale, soft=torch.eye(5))
    torch.testing.assert_close(same, info_nce(a, b, scale)[0])


GROUPS = torch.tensor([[4], [7], [4], [9], [4]])


def test_rows_of_a_group_share_the_target():
    a, b, scale = vectors(5)
    same = (GROUPS == GROUPS.T).float()
    shared = info_nce(a, b, scale, groups=GROUPS, duplicates="positive")
    for one, other in zip(shared, info_nce(a, b, scale, soft=same), strict=True):
        torch.testing.assert_close(one, other)


def test_rows_of_a_group_are_no_candidates():
    a, b, scale = vectors(5)
    forth, back = info_nce(a, b, scale, groups=GROUPS)
    without = [0, 1, 3]  # what the first row is compared with: itself and other groups
    alone = info_nce(a[without], b[without], scale)
    torch.testing.assert_close(forth[0], alone[0][0])
    torch.testing.assert_close(back[0], alone[1][0])
    everything_equal = info_nce(a, b, scale, groups=torch.zeros(5, 1, dtype=torch.long))
    torch.testing.assert_close(everything_equal[0], torch.zeros(5), atol=1e-5, rtol=0)


def test_groups_in_the_sigmoid_loss():
    a, b, scale = vectors(5)
    bias = torch.tensor(-3.0)
    logits = scale * a @ b.T + bias
    same = GROUPS == GROUPS.T
    sign = torch.where(same, 1.0, -1.0)
    shared = sigmoid_loss(a, b, scale, bias, groups=GROUPS, duplicates="positive")
    torch.testing.assert_close(shared, F.softplus(-sign * logits).sum(1), atol=1e-5, rtol=1e-5)
    eye = torch.eye(5, dtype=torch.bool)
    sign = torch.where(eye, 1.0, -1.0)
    wanted = F.softplus(-sign * logits).masked_fill(same & ~eye, 0).sum(1)
    torch.testing.assert_close(sigmoid_loss(a, b, scale, bias, groups=GROUPS), wanted)


CASES = {
    "identity": {},
    "ignored": {"groups": True},
    "positive": {"groups": True, "duplicates": "positive"},
    "soft": {"soft": True},
}


def run(loss, count, options, tile, monkeypatch):
    monkeypatch.setattr(contrastive, "TILE", tile)
    g = torch.Generator().manual_seed(5)
    options = dict(options)
    if "groups" in options:
        options["groups"] = torch.randint(0, count // 2 + 1, (count, 2), generator=g)
        options["groups"][:, 1] = torch.arange(count) // 3
    if "soft" in options:
        options["soft"] = torch.rand(count, count, generator=g)
    a, b, scale = vectors(count)
    bias = torch.tensor(-2.0, requires_grad=True)
    weight = torch.randn(2, count, generator=g) / count  # as in a mean
    if loss is info_nce:
        values = torch.stack(info_nce(a, b, scale, **options))
        (values * weight).sum().backward()
        return values, a.grad, b.grad, scale.grad
    values = sigmoid_loss(a, b, scale, bias, **options)
    (values * weight[0]).sum().backward()
    return values, a.grad, b.grad, scale.grad, bias.grad


@pytest.mark.parametrize("count", [1, 7, 32, 61])
@pytest.mark.parametrize("tile", [1, 5, 16])
@pytest.mark.parametrize(
    ("loss", "case"),
    [(info_nce, case) for case in CASES] + [(sigmoid_loss, case) for case in list(CASES)[:3]],
)
def test_tiles_give_the_same_values_and_gradients(loss, case, count, tile, monkeypatch):
    whole = run(loss, count, CASES[case], 10_000, monkeypatch)
    tiled = run(loss, count, CASES[case], tile, monkeypatch)
    for one, other in zip(tiled, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_tiles_are_used_above_their_size(monkeypatch):
    called = []
    tiled = contrastive._TiledLogSumExp.apply
    monkeypatch.setattr(contrastive, "TILE", 4)
    monkeypatch.setattr(
        contrastive._TiledLogSumExp, "apply", lambda *x: called.append(len(x[0])) or tiled(*x)
    )
    for count in (8, 9):
        info_nce(*vectors(count))
    assert called == [9]


def test_half_precision_vectors_get_full_precision_losses():
    a, b, scale = vectors(6, scale=80.0)
    whole = info_nce(a.bfloat16(), b.bfloat16(), scale)[0]
    with torch.autocast("cpu", torch.bfloat16):
        again = info_nce(a.bfloat16(), b.bfloat16(), scale)[0]
    assert whole.dtype == torch.float32 and torch.equal(whole, again)


def test_no_pairs_no_loss():
    a = torch.zeros(0, 4, requires_grad=True)
    groups = torch.zeros(0, 2, dtype=torch.long)
    forth, back = info_nce(a, a, torch.tensor(2.0), groups=groups)
    each = sigmoid_loss(a, a, torch.tensor(2.0), torch.tensor(0.0), groups=groups)
    assert len(forth) == len(back) == len(each) == 0
    (forth.sum() + back.sum() + each.sum()).backward()


def test_temperature():
    temperature = Temperature()
    assert temperature().item() == pytest.approx(1 / 0.07)
    assert temperature.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    with torch.no_grad():
        temperature.log_scale.fill_(9.0)
    assert temperature.eval()().item() == pytest.approx(100)
    scale = temperature.train()()
    assert scale.item() == pytest.approx(100)
    scale.backward()
    # It stands at its limit, from where a gradient leads back.
    assert temperature.log_scale.item() == pytest.approx(math.log(100))
    assert temperature.log_scale.grad.item() == pytest.approx(100)


def test_a_fixed_temperature_is_not_trained():
    temperature = Temperature(0.05, learned=False)
    assert temperature().item() == pytest.approx(20)
    assert not temperature().requires_grad
