"""Points: spread centres and near neighbours by hand, and encoders that no order of points can fool."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from sensorium.modalities.points import PointsView
from sensorium.nn.encoders import build_encoder
from sensorium.nn.encoders.points import BatchNorm, DropPath, PointNet, PointTransformer
from sensorium.nn.points import farthest_points, group_points, nearest_points, take_points
from sensorium.types import Field, UserError

FIELD = Field(name="points", modality="points")
VIEW = PointsView(num_points=60)
KINDS = {"transformer": PointTransformer, "pointnet": PointNet}
each_kind = pytest.mark.parametrize("kind", KINDS)


def clouds(count=3, points=60, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, points, channels, generator=generator)
    values[..., :3] /= values[..., :3].norm(dim=2).amax(1)[:, None, None]
    return values


def make(kind, view=VIEW, width=32, **settings):
    torch.manual_seed(0)
    small = {"groups": 8, "neighbours": 6} if kind == "transformer" else {"centres": (16, 4)}
    small |= {} if kind == "transformer" else {"neighbours": (8, 8)}
    encoder = KINDS[kind](FIELD, view, width, 2, 2, **small | settings)
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return encoder


# farthest points, neighbours, groups


def slow_farthest(places, count):
    """One cloud, by the definition."""
    chosen = [int(np.linalg.norm(places - places.mean(0), axis=1).argmax())]
    while len(chosen) < count:
        gaps = [min(np.linalg.norm(place - places[c]) for c in chosen) for place in places]
        chosen.append(int(np.argmax(gaps)))
    return chosen


def test_farthest_points_by_their_definition():
    places = clouds(4, 30)
    found = farthest_points(places, None, 9)
    assert found.tolist() == [slow_farthest(each.double().numpy(), 9) for each in places]


def test_farthest_points_of_a_line():
    places = torch.tensor([[[x, 0.0, 0.0] for x in (0, 1, 2, 3, 10)]])
    assert farthest_points(places, None, 3).tolist() == [[4, 0, 3]]


def test_padded_points_are_never_chosen():
    places = clouds(2, 20)
    places[0, 12:] = 100.0
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, 12:] = False
    found = farthest_points(places, mask, 15)
    assert found[0].max() < 12 and len(found[0].unique()) == 12
    torch.testing.assert_close(found[:1], farthest_points(places[:1, :12], None, 15))
    near = nearest_points(places[:, :3], places, mask, 16)
    assert near[0].max() < 12
    assert (near[0, :, 12:] == near[0, :, :1]).all()  # the nearest stands in
    assert near[1].sort(1)[0].unique().numel() <= 20


def test_nearest_points_by_hand():
    places = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [3.5, 0, 0]]])
    centres = torch.tensor([[[0.9, 0, 0], [4, 0, 0]]])
    assert nearest_points(centres, places, None, 3).tolist() == [[[1, 0, 2], [3, 2, 1]]]
    assert nearest_points(centres, places, None, 3, radius=1.0).tolist() == [[[1, 0, 1], [3, 2, 3]]]
    assert nearest_points(centres, places, None, 99).shape == (1, 2, 4)


def test_groups_are_seen_from_their_centres():
    values = clouds(2, 20, channels=5)
    near, centres, real = group_points(values, None, 4, 3)
    assert near.shape == (2, 4, 3, 5) and real is None
    assert (near[:, :, 0, :3] == 0).all()  # the centre is its own nearest point
    at = farthest_points(values[..., :3], None, 4)
    torch.testing.assert_close(centres, take_points(values, at)[..., :3])
    torch.testing.assert_close(near[:, :, 0, 3:], take_points(values, at)[..., 3:])
    mask = torch.arange(20).expand(2, 20) < torch.tensor([[3], [20]])
    assert group_points(values, mask, 4, 3)[2].tolist() == [[True] * 3 + [False], [True] * 4]


# encoders


@each_kind
def test_the_order_of_points_changes_nothing(kind):
    encoder, values = make(kind).eval(), clouds()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    for pooling in ("first", "mean", "max"):
        before, after = (encoder.embed(v, None, pooling) for v in (values, values[:, order]))
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert before.std(0).max() > 0.01  # and clouds are told apart


@each_kind
def test_a_cloud_alone_is_what_it_is_in_a_batch(kind):
    encoder, values = make(kind).eval(), clouds()
    together = encoder.embed(values, None, "first")
    for number in range(3):
        alone = encoder.embed(values[number : number + 1], None, "first")
        torch.testing.assert_close(alone[0], together[number], atol=1e-5, rtol=1e-5)


@each_kind
@pytest.mark.parametrize("real", [25, 5, 1])
def test_padding_changes_nothing(kind, real):
    encoder, values = make(kind).eval(), clouds()
    mask = torch.arange(60).expand(3, 60) < torch.tensor([[real], [60], [60]])
    padded = values.clone()
    padded[0, real:] = 7.0
    found = encoder.embed(padded, mask, "first")
    alone = encoder.embed(values[:1, :real], torch.ones(1, real, dtype=torch.bool), "first")
    torch.testing.assert_close(found[0], alone[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1:], encoder.embed(values[1:], None, "first"))
    assert found.isfinite().all()


@each_kind
def test_it_sees_where_points_are_and_further_channels(kind):
    view = PointsView(num_points=60, channels=("colour",))
    encoder, values = make(kind, view).eval(), clouds(channels=6)
    before = encoder.embed(values, None, "first")
    for part in (slice(0, 3), slice(3, 6)):
        other = values.clone()
        other[..., part] = other[..., part].flip(1)
        assert not torch.allclose(encoder.embed(other, None, "first"), before, atol=1e-3)


@each_kind
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_everything_learns(kind, norm):
    encoder = make(kind, norm=norm).train()
    encoder.embed(clouds(), None, "first").square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@each_kind
def test_half_precision_agrees(kind):
    encoder, values = make(kind).eval(), clouds()
    exact = encoder.embed(values, None, "first")
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder.embed(values, None, "first")
    assert (half.float() - exact).abs().max() < 0.06 * exact.abs().max()


def test_the_feature_is_class_token_and_maximum():
    encoder, values = make("transformer").eval(), clouds()
    vectors, real = encoder(values, None)
    assert vectors.shape == (3, 9, 32) and real is None
    tokens, whole = vectors.split(16, 2)
    torch.testing.assert_close(whole[:, 0], tokens[:, 1:].amax(1))
    feature = torch.cat([tokens[:, 0], tokens[:, 1:].amax(1)], 1)
    torch.testing.assert_close(encoder.embed(values, None, "first"), feature)


def test_places_are_added_before_every_layer():
    encoder, values = make("transformer").eval(), clouds()
    seen = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    encoder(values, None)
    _, centres, _ = group_points(values, None, 8, 6)
    place = encoder.place(centres)
    for number in (1,):
        (_, before), (after, _) = seen[number - 1 : number + 1]
        torch.testing.assert_close((after - before)[:, 1:], place)
        torch.testing.assert_close((after - before)[0, 0], encoder.class_place)
    first = seen[0][0][:, 0]
    torch.testing.assert_close(first[0], encoder.class_token + encoder.class_place)


def test_a_row_skips_branches_as_a_whole():
    drop, x = DropPath(0.5).train(), torch.ones(200, 3, 4)
    torch.manual_seed(0)
    found = drop(x).flatten(1)
    assert {tuple(row.unique().tolist()) for row in found} == {(0.0,), (2.0,)}
    assert 70 < (found[:, 0] > 0).sum() < 130
    assert drop.eval()(x) is x
    rates = [layer.dropout.rate for layer in make("transformer", drop_path=0.1).layers]
    assert rates == [0.0, 0.1]


def test_batch_norm_of_one_vector_takes_the_running_statistics():
    norm, x = BatchNorm(4), torch.randn(5, 7, 4)
    torch.testing.assert_close(norm.train()(x).mean((0, 1)), torch.zeros(4), atol=1e-6, rtol=0)
    alone = norm.train()(x[:1, 0])
    torch.testing.assert_close(alone, norm.eval()(x[:1, 0]))


def test_point_bert_and_pointnet_have_the_published_sizes():
    view = PointsView(num_points=8192)
    with torch.device("meta"):
        bert = PointTransformer(
            FIELD, view, 768, 12, 6, groups=512, neighbours=32, norm="batch", drop_path=0.1
        )
        net = PointNet(
            FIELD, view, 256, 0, 0, centres=(512, 128), neighbours=(32, 64), norm="batch"
        )
    shapes = {name: tuple(p.shape) for name, p in bert.named_parameters()}
    assert shapes["group.first.0.weight"] == (128, 3)
    assert shapes["group.first.3.weight"] == (256, 128)
    assert shapes["group.second.0.weight"] == (512, 512)
    assert shapes["group.second.3.weight"] == (256, 512)
    assert shapes["reduce.weight"] == (384, 256)
    assert shapes["place.0.weight"] == (128, 3) and shapes["place.2.weight"] == (384, 128)
    assert shapes["layers.11.feed_forward.0.weight"] == (1536, 384)
    linear = [
        module.weight.shape for module in net.modules() if isinstance(module, torch.nn.Linear)
    ]
    widths = [3, 64, 64, 128], [131, 128, 128, 256], [259, 256, 512, 1024], [1024, 512, 256]
    wanted = [(b, a) for part in widths for a, b in pairwise(part)]
    assert [tuple(shape) for shape in linear] == wanted


# by name


def test_encoders_by_name():
    assert isinstance(build_encoder(FIELD, width=32), PointTransformer)
    for name, kind in KINDS.items():
        encoder = build_encoder(FIELD, width=32, spec=name, view=VIEW)
        assert isinstance(encoder, kind) and encoder.view is VIEW
        assert encoder.embed(clouds(2), None, encoder.pooling).shape == (2, 32)
    assert build_encoder(FIELD, width=None, spec="pointnet").width == 128
    with pytest.raises(UserError, match="expected 'transformer', 'pointnet', 'hf:.*'pointnett'"):
        build_encoder(FIELD, width=32, spec="pointnett")
    with pytest.raises(UserError, match="expected 'hf:NAME_OR_PATH' or 'colours'"):
        build_encoder(Field(name="x", modality="image"), width=32, spec="pointnet")
    with pytest.raises(UserError, match="multiple of twice its 4 heads"):
        build_encoder(FIELD, width=36)
    with pytest.raises(UserError, match="multiple of 4"):
        build_encoder(FIELD, width=34, spec="pointnet")
