"""Layers against PyTorch's own, and what padding and an empty context may do."""

import pytest
import torch
from torch import nn

from sensorium.nn.attention import Attention, QuickGELU
from sensorium.nn.blocks import Layer, transformer
from sensorium.nn.heads import UnitProjection
from sensorium.nn.masks import bidirectional, causal
from sensorium.nn.pooling import pool
from sensorium.types import Tokens


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_layer_is_that_of_torch(norm):
    torch.manual_seed(0)
    ours = Layer(12, 3, 20, norm=norm, epsilon=1e-6).eval()
    theirs = nn.TransformerEncoderLayer(
        12,
        3,
        20,
        activation="gelu",
        norm_first=norm == "pre",
        batch_first=True,
        layer_norm_eps=1e-6,
    ).eval()
    attention = ours.attention
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
    theirs.self_attn.out_proj.load_state_dict(attention.output.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[2].state_dict())
    theirs.norm1.load_state_dict(ours.attention_norm.state_dict())
    theirs.norm2.load_state_dict(ours.feed_forward_norm.state_dict())
    x = torch.randn(4, 7, 12)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rule", [bidirectional, causal], ids=["bidirectional", "causal"])
def test_padding_changes_nothing(rule):
    torch.manual_seed(0)
    layers = transformer(3, 12, 3)
    values = torch.randn(2, 9, 12)
    mask = torch.arange(9) < torch.tensor([[5], [9]])
    position = torch.arange(9).expand(2, 9)
    together = layers(Tokens(values, mask, {"position": position}), rule).values
    alone = layers(
        Tokens(values[:1, :5], mask[:1, :5], {"position": position[:1, :5]}), rule
    ).values
    torch.testing.assert_close(together[:1, :5], alone, atol=1e-6, rtol=1e-5)


def test_a_query_that_sees_nothing_gets_zero_and_no_nan():
    attention = Attention(8, 2)
    nn.init.zeros_(attention.output.bias)
    x = torch.randn(2, 3, 8, requires_grad=True)
    mask = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    mask[0, :, 1] = False
    out = attention(x, mask)
    assert (out[0, 1] == 0).all()
    out.square().sum().backward()
    assert x.grad.isfinite().all()


def test_attention_reads_a_context_of_another_width():
    attention = Attention(8, 2, context_width=5)
    x, context = torch.randn(2, 3, 8), torch.randn(2, 4, 5)
    before = attention(x, context=context)
    mask = torch.ones(2, 1, 1, 4, dtype=torch.bool)
    mask[:, :, :, 3] = False
    hidden = attention(x, mask, context)
    context[:, 3] = 9.0
    assert not torch.equal(before, hidden)
    torch.testing.assert_close(attention(x, mask, context), hidden)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="not a multiple"):
        Attention(10, 3)


def test_quick_gelu():
    x = torch.tensor([-1.0, 0.0, 2.0])
    wanted = [-1 / (1 + 2.718281828**1.702), 0.0, 2 / (1 + 2.718281828**-3.404)]
    torch.testing.assert_close(QuickGELU()(x), torch.tensor(wanted))


def test_pooling_by_hand():
    values = torch.tensor([[[1.0, -5.0], [3.0, -7.0], [90.0, 90.0]], [[2.0, 2.0]] * 3])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pool(values, mask, "mean").tolist() == [[2.0, -6.0], [0.0, 0.0]]
    assert pool(values, mask, "max").tolist() == [[3.0, -5.0], [0.0, 0.0]]
    assert pool(values, mask, "first").tolist() == [[1.0, -5.0], [2.0, 2.0]]
    assert pool(values, mask, "last")[0].tolist() == [3.0, -7.0]
    for how in ("mean", "max", "first", "last"):
        whole = pool(values, torch.ones_like(mask), how)
        torch.testing.assert_close(pool(values, None, how), whole)


def test_unit_projection_gives_unit_vectors():
    assert UnitProjection(6, 4)(torch.randn(5, 6)).norm(dim=1).allclose(torch.ones(5))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("rule", [bidirectional, causal], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_walking_to_one_place_gives_what_walking_gives_there(norm, rule, depth):
    torch.manual_seed(0)
    layers = transformer(depth, 12, 3, norm=norm)
    mask = torch.arange(7) < torch.tensor([[5], [7], [1]])
    position = torch.arange(7).expand(3, 7)
    seen = rule.dense(Tokens(torch.zeros(3, 7, 12), mask, {"position": position}))
    place = torch.tensor([4, 2, 0])
    found = []
    for walk in (
        lambda x: layers.walk(x, seen)[torch.arange(3), place],
        lambda x: layers.walk_to(x, place, seen),
    ):
        x = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = walk(x)
        gradients = torch.autograd.grad(out.square().sum(), [x, *layers.parameters()])
        found.append([out, *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_last_layer_computes_one_token_only():
    layers = transformer(2, 12, 3)
    rows = []
    for layer in layers:
        layer.feed_forward.register_forward_hook(lambda _, x, __: rows.append(x[0].shape[1]))
    layers.walk_to(torch.randn(2, 7, 12), torch.tensor([0, 6]))
    assert rows == [7, 1]
