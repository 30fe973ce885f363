"""Masked modelling: what is hidden, and the losses by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.nn.regions import pairwise_iou
from sensorium.objectives.masked import (
    below,
    choose_spans,
    mask_region_groups,
    mask_single_regions,
    mask_words,
    masked_class_loss,
    masked_feature_loss,
    masked_word_loss,
    smoothed,
)
from sensorium.types import Batch

ROWS = 400
MASK_ID, VOCABULARY = 3, torch.arange(4, 100)


def draw_of(seed=0, rows=ROWS, first=0):
    """The draws of rows `first`, `first + 1`, ..."""
    return Batch({}, [str(i) for i in range(rows)], first + torch.arange(rows), seed).uniform


def sentences(lengths, width):
    """[CLS] words [SEP] padding: ids, and which may be hidden."""
    place = torch.arange(width)
    lengths = torch.as_tensor(lengths)[:, None]
    maskable = (place >= 1) & (place <= lengths)
    ids = torch.where(maskable, 10 + place, 0)
    ids[:, 0] = 1
    ids.scatter_(1, lengths + 1, 2)
    return ids, maskable


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    seed=st.integers(0, 2**40),
    policy=st.sampled_from(["anchor", "single", "token"]),
    rate=st.floats(0, 1),
)
@settings(max_examples=80, deadline=None)
def test_special_tokens_and_padding_are_never_touched(lengths, seed, policy, rate):
    ids, maskable = sentences(lengths, 14)
    draw = draw_of(seed, len(lengths))
    told = mask_words(
        ids, maskable, draw, mask_id=MASK_ID, vocabulary=VOCABULARY, policy=policy, rate=rate
    )
    assert not (told.where & ~maskable).any()
    assert torch.equal(told.ids[~told.where], ids[~told.where])
    assert torch.isin(told.ids[told.where], torch.tensor([MASK_ID, *range(4, 100)])).all()


def test_of_the_hidden_words_eighty_percent_are_masks_and_ten_random():
    ids, maskable = sentences([20] * ROWS, 22)
    told = mask_words(
        ids, maskable, draw_of(), mask_id=MASK_ID, vocabulary=VOCABULARY, policy="token", rate=1.0
    )
    assert torch.equal(told.where, maskable)
    was, now = ids[told.where], told.ids[told.where]
    masks, kept = (now == MASK_ID).double().mean(), (now == was).double().mean()
    assert masks == pytest.approx(0.8, abs=0.015)
    assert kept == pytest.approx(0.1 + 0.1 / 96, abs=0.015)
    others = now[(now != MASK_ID) & (now != was)]
    assert len(others.unique()) == len(VOCABULARY)


def test_anchor_spans_have_one_to_three_words_each_as_likely():
    """With few anchors spans seldom meet, so runs of hidden words are spans."""
    _, maskable = sentences([60] * 2000, 62)
    where = choose_spans(maskable, draw_of(rows=2000), "anchor", 0.01)
    runs = [len(run) for row in where.int().tolist() for run in "".join(map(str, row)).split("0")]
    shares = np.bincount([run for run in runs if run], minlength=4) / sum(run > 0 for run in runs)
    assert shares[1:4] == pytest.approx([1 / 3] * 3, abs=0.06)
    assert shares[4:].sum() < 0.05


def test_anchor_spans_hide_the_expected_share():
    """A word is hidden unless it, the one before (2/3) and the one before that (1/3) are none."""
    _, maskable = sentences([40] * ROWS, 42)
    where = choose_spans(maskable, draw_of(), "anchor", 0.1)
    expected = 1 - 0.9 * (1 - 0.1 * 2 / 3) * (1 - 0.1 / 3)
    assert where[:, 3:41].double().mean() == pytest.approx(expected, abs=0.01)


def test_a_single_span_begins_and_ends_as_the_release_draws_it():
    n = 4
    _, maskable = sentences([n] * 20_000, n + 2)
    where = choose_spans(maskable, draw_of(rows=20_000), "single", 0.0)[:, 1 : n + 1]
    expected = {}
    for start in range(n + 1):
        for length in range(1, n + 1):
            key = tuple(start <= i < start + length for i in range(n))
            expected[key] = expected.get(key, 0) + 1 / (n * (n + 1))
    found = dict.fromkeys(expected, 0.0)
    for row in where.tolist():
        found[tuple(row)] += 1 / len(where)
    assert found == pytest.approx(expected, abs=0.012)


def test_a_row_is_masked_alike_in_any_batch_and_with_any_padding():
    ids, maskable = sentences([5, 9, 3, 7], 11)
    wide = torch.nn.functional.pad(ids, (0, 6)), torch.nn.functional.pad(maskable, (0, 6))
    for policy in ("anchor", "single", "token"):
        settings = {"mask_id": MASK_ID, "vocabulary": VOCABULARY, "policy": policy, "rate": 0.5}
        whole = mask_words(ids, maskable, draw_of(1, 4), **settings)
        padded = mask_words(*wide, draw_of(1, 4), **settings)
        alone = mask_words(ids[2:3], maskable[2:3], draw_of(1, 1, first=2), **settings)
        assert torch.equal(padded.ids[:, :11], whole.ids)
        assert torch.equal(alone.ids, whole.ids[2:3])
        assert torch.equal(alone.where, whole.where[2:3])
        assert not torch.equal(mask_words(ids, maskable, draw_of(2, 4), **settings).ids, whole.ids)


BOXES = torch.tensor(
    [
        [0.0, 0.0, 0.5, 0.5],
        [0.05, 0.0, 0.5, 0.5],  # overlaps the first by 0.9
        [0.3, 0.0, 0.8, 0.5],  # by 0.25
        [0.6, 0.6, 1.0, 1.0],
        [0.0, 0.0, 0.5, 0.5],  # padding
    ]
)


def test_a_hidden_group_is_an_anchor_with_all_that_overlaps_it():
    boxes = BOXES.expand(ROWS, 5, 4)
    real = torch.tensor([True] * 4 + [False]).expand(ROWS, 5)
    hidden = mask_region_groups(boxes, real, draw_of(), rate=0.1, threshold=0.4)
    where = hidden.where
    assert torch.equal(hidden.zeroed, where)
    assert not where[:, 4].any()
    assert torch.equal(where[:, 0], where[:, 1])  # neither is left to show the other
    assert where[:, 0].double().mean() == pytest.approx(1 - 0.9**2, abs=0.05)
    for lonely in (2, 3):
        assert where[:, lonely].double().mean() == pytest.approx(0.1, abs=0.04)


@given(seed=st.integers(0, 2**40), threshold=st.floats(0.05, 0.95))
@settings(max_examples=50, deadline=None)
def test_what_overlaps_an_anchor_never_stays(seed, threshold):
    corners = (
        torch.from_numpy(np.random.default_rng(seed).uniform(size=(3, 6, 2, 2))).sort(2).values
    )
    boxes, real = corners.flatten(2), torch.ones(3, 6, dtype=torch.bool)
    draw = draw_of(seed, 3)
    where = mask_region_groups(boxes, real, draw, rate=0.3, threshold=threshold).where
    anchor = draw("region anchor", 6) < 0.3
    near = (pairwise_iou(boxes, boxes) >= threshold) | torch.eye(6, dtype=torch.bool)
    assert torch.equal(where, (near & anchor[:, None, :]).any(2))


def test_single_regions_are_zeroed_nine_times_in_ten():
    real = torch.ones(ROWS, 50, dtype=torch.bool)
    real[:, 40:] = False
    hidden = mask_single_regions(real, draw_of(), rate=0.15)
    assert not hidden.where[:, 40:].any()
    assert not (hidden.zeroed & ~hidden.where).any()
    assert hidden.where[:, :40].double().mean() == pytest.approx(0.15, abs=0.01)
    assert hidden.zeroed.sum() / hidden.where.sum() == pytest.approx(0.9, abs=0.02)


def test_word_loss_is_the_cross_entropy_of_each_hidden_word():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    loss = masked_word_loss(logits, torch.tensor([1, 0]))
    expected = [math.log(4 / 3), math.log(2)]
    assert loss.per_item.tolist() == pytest.approx(expected)
    assert float(loss.value) == pytest.approx(sum(expected) / 2)


def test_class_loss_is_the_divergence_from_the_detector_s_distribution():
    logits = torch.tensor([[0.0, math.log(3.0)]])  # says 1/4 and 3/4
    target = torch.tensor([[0.5, 0.5]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(masked_class_loss(logits, target).value) == pytest.approx(expected)
    exact = masked_class_loss(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.25, 0.75]]))
    assert float(exact.value) == pytest.approx(0, abs=1e-6)


def test_feature_loss_is_of_standardised_features_and_sends_them_no_gradient():
    features = torch.tensor([[1.0, 3.0]], requires_grad=True)  # standardised: -1 and 1
    predicted = torch.tensor([[0.0, 2.0]], requires_grad=True)
    loss = masked_feature_loss(predicted, features)
    assert loss.value.item() == pytest.approx((1 + 1) / 2, abs=1e-4)
    loss.value.backward()
    assert features.grad is None
    assert predicted.grad is not None


def test_losses_over_nothing_are_zero_and_have_gradients():
    logits = torch.zeros(0, 5, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    losses = [
        masked_word_loss(logits, nothing),
        masked_class_loss(logits, smoothed(nothing, 5)),
        masked_feature_loss(logits, torch.zeros(0, 5)),
    ]
    for loss in losses:
        assert float(loss.count) == 0
        assert loss.value.item() == 0
        loss.value.backward()


def test_smoothing_keeps_distributions():
    target = smoothed(torch.tensor([2, 0]), 4, 0.1)
    assert target.sum(1).tolist() == pytest.approx([1, 1])
    assert target[0].tolist() == pytest.approx([0.025, 0.025, 0.925, 0.025])


def test_draws_below_a_limit_stay_below_it():
    numbers = torch.tensor([0.0, 0.5, 1.0])  # 1.0 is what rounding can make of a number below it
    assert below(numbers, 4).tolist() == [0, 2, 3]
    assert below(numbers, torch.tensor([0, 1, 2])).tolist() == [0, 0, 1]
