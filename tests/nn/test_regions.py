"""Regions: boxes, crops and features."""

import numpy as np
import pytest
import torch

from sensorium.nn.blocks import Layer
from sensorium.nn.co_attention import CoAttention, exchanges
from sensorium.nn.regions import (
    RegionEmbedding,
    RegionEncoder,
    Regions,
    areas,
    crop,
    grid_boxes,
    pairwise_iou,
    side_by_side,
)
from sensorium.types import Entries, Tokens


def test_overlap_by_hand():
    a = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]])
    b = torch.tensor(
        [[[0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.5, 0.5, 1, 1], [0.3, 0.3, 0.3, 0.3]]]
    )
    assert pairwise_iou(a, b)[0, 0].tolist() == pytest.approx([1, 1 / 3, 0, 0])
    empty = torch.zeros(1, 1, 4)
    assert pairwise_iou(empty, empty).item() == 0


def test_overlap_is_the_same_in_pixels():
    corners = torch.from_numpy(np.random.default_rng(0).uniform(size=(2, 7, 2, 2))).sort(2).values
    boxes = corners.flatten(2)
    pixels = boxes * torch.tensor([640.0, 480.0, 640.0, 480.0])
    torch.testing.assert_close(pairwise_iou(pixels, pixels), pairwise_iou(boxes, boxes))


def test_a_grid_covers_the_picture_line_by_line():
    cells = grid_boxes(2, 3)
    assert areas(cells).sum() == pytest.approx(1)
    assert cells[1].tolist() == pytest.approx([1 / 3, 0, 2 / 3, 0.5])
    assert cells[3].tolist() == pytest.approx([0, 0.5, 1 / 3, 1])


def test_the_crop_of_the_whole_picture_is_the_picture():
    images = torch.rand(2, 3, 8, 8)
    whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]).expand(2, 1, 4)
    torch.testing.assert_close(crop(images, whole, 8, samples=1)[:, 0], images)


def test_crops_are_the_pixels_under_the_boxes():
    images = torch.rand(1, 3, 8, 8)
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.25, 1.0, 0.75]]])
    found = crop(images, boxes, 4, samples=1)
    torch.testing.assert_close(found[0, 0], images[0, :, :4, :4])
    torch.testing.assert_close(found[0, 1], images[0, :, 2:6, 4:])


def test_a_smaller_crop_takes_all_pixels_into_account():
    images = torch.rand(1, 1, 8, 8)
    whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    expected = torch.nn.functional.avg_pool2d(images, 2)
    torch.testing.assert_close(crop(images, whole, 4, samples=2)[:, 0], expected)


def test_features_depend_on_their_own_box_alone_and_padding_is_zero():
    torch.manual_seed(0)
    encoder = RegionEncoder(12, 16).eval()
    images = torch.randn(2, 3, 32, 32)
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]]).repeat(2, 1, 1)
    mask = torch.tensor([[True, True], [True, False]])
    features = encoder(images, boxes, mask)
    assert (features[1, 1] == 0).all()
    changed = images.clone()
    changed[:, :, 20:, 20:] += 1.0  # inside the second box, away from the first
    others = encoder(changed, boxes, mask)
    torch.testing.assert_close(others[:, 0], features[:, 0])
    assert not torch.allclose(others[0, 1], features[0, 1])
    alone = encoder(images[:1], boxes[:1, 1:], mask[:1, 1:])
    torch.testing.assert_close(alone[0, 0], features[0, 1], atol=1e-5, rtol=1e-4)


def regions_of(features, mask):
    boxes = torch.tensor([0.2, 0.2, 0.6, 0.7]).expand(*features.shape[:2], 4)
    return Regions(features, boxes, mask)


def test_the_mean_in_front_is_of_real_regions_as_they_are_now():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    regions = regions_of(torch.arange(12.0).view(2, 3, 2), mask)
    front = regions.with_mean()
    assert front.features[0, 0].tolist() == [1, 2]
    assert front.boxes[:, 0].tolist() == [[0, 0, 1, 1]] * 2
    assert front.mask[:, 0].tolist() == [True, False]
    hidden = regions.hide(torch.tensor([[False, True, False]] * 2)).with_mean()
    assert hidden.features[0, 0].tolist() == [0, 0.5]
    assert torch.equal(hidden.boxes, front.boxes)


def test_an_embedding_is_feature_and_box_and_area_normed():
    torch.manual_seed(0)
    embedding = RegionEmbedding(2, 6).eval()
    regions = regions_of(torch.tensor([[[1.0, -2.0]]]), torch.tensor([[True]]))
    place = torch.tensor([0.2, 0.2, 0.6, 0.7, 0.4 * 0.5])
    summed = embedding.feature(torch.tensor([1.0, -2.0])) + embedding.box(place)
    expected = (summed - summed.mean()) / summed.std(unbiased=False)
    torch.testing.assert_close(embedding(regions).values[0, 0], expected)


def test_entries_stand_at_the_place_of_their_items():
    row, item = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2])
    values, mask = side_by_side(Entries(torch.tensor([5, 6, 7]), row, item), 3, 3)
    assert values.tolist() == [[5, 6, 0], [0, 0, 0], [0, 0, 7]]
    assert mask.tolist() == [[True, True, False], [False] * 3, [False, False, True]]
    values, mask = side_by_side(Entries(torch.tensor([5, 6, 7]), row, item), 3, 1)
    assert values.tolist() == [[5], [0], [0]]


def test_co_attention_reads_the_other_stream_as_it_was_and_not_its_own():
    torch.manual_seed(0)
    width = 8
    exchange = CoAttention(*(Layer(width, 2, norm="post") for _ in range(2))).eval()
    first = Tokens(torch.randn(1, 3, width), torch.tensor([[True, True, False]]))
    second = Tokens(torch.randn(1, 4, width), torch.ones(1, 4, dtype=torch.bool))
    seen, read = exchange(first, second)

    own = first.values.clone()
    own[:, 1] += 1.0
    again, moved = exchange(first.with_values(own), second)
    torch.testing.assert_close(again.values[:, 0], seen.values[:, 0])  # its own stream is not read
    assert not torch.allclose(moved.values, read.values)

    padded = first.values.clone()
    padded[:, 2] += 1.0
    torch.testing.assert_close(exchange(first.with_values(padded), second)[1].values, read.values)


def test_exchanges_have_the_settings_of_their_streams():
    stack = exchanges(2, 8, {"heads": 2, "norm": "post"}, {"heads": 4, "norm": "post"})
    assert len(stack) == 2
    assert [stack[0].first.attention.heads, stack[0].second.attention.heads] == [2, 4]
