"""Matching: the loss by hand, and negatives that are drawn where similarity is high."""

import math

import pytest
import torch

from sensorium.objectives.matching import matching_loss, sample_negatives


def test_one_logit_by_hand():
    losses = matching_loss(torch.tensor([2.0, 2.0]), torch.tensor([True, False]))
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))])


@pytest.mark.parametrize("match_class", [0, 1])
def test_two_logits_by_hand(match_class):
    logits = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    losses = matching_loss(logits, torch.tensor([True, False]), match_class)
    likely, unlikely = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    wanted = [likely, unlikely] if match_class == 1 else [unlikely, likely]
    assert losses.tolist() == pytest.approx(wanted)


def test_negatives_follow_the_softmax_without_the_partner():
    similarity = torch.tensor([[9.0, 0.0, math.log(2), math.log(5)]]).repeat(4, 1)
    similarity[1:] = 0
    draws = (torch.arange(4000) + 0.5) / 4000
    counts = torch.zeros(4)
    for uniform in draws.split(1):
        chosen, possible = sample_negatives(similarity, uniform.repeat(4))
        counts[chosen[0]] += 1
        assert possible.all() and (chosen != torch.arange(4)).all()
    assert (counts / 4000).tolist() == pytest.approx([0, 1 / 8, 2 / 8, 5 / 8], abs=1e-3)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_a_true_candidate_is_never_drawn(uniform):
    groups = torch.tensor([0, 0, 1, 1, 0])
    similarity = torch.full((5, 5), 50.0) * torch.eye(5) + 30 * (groups[:, None] == groups)
    chosen, possible = sample_negatives(similarity, torch.full((5,), uniform), groups)
    assert possible.all() and (groups[chosen] != groups).all()


def test_no_other_candidate():
    chosen, possible = sample_negatives(torch.zeros(3, 3), torch.zeros(3), torch.tensor([0, 0, 1]))
    assert chosen.tolist() == [2, 2, 0] and possible.all()
    chosen, possible = sample_negatives(torch.zeros(2, 2), torch.zeros(2), torch.tensor([5, 5]))
    assert chosen.tolist() == [0, 1] and not possible.any()
    chosen, possible = sample_negatives(torch.zeros(1, 1), torch.zeros(1))
    assert chosen.tolist() == [0] and not possible.any()


def test_more_candidates_than_rows():
    similarity = torch.tensor([[0.0, 0.0, 0.0, 60.0]])
    chosen, _ = sample_negatives(similarity, torch.tensor([0.5]), torch.tensor([1, 2, 3, 4]))
    assert chosen.tolist() == [3]
    chosen, _ = sample_negatives(similarity, torch.tensor([0.1]), torch.tensor([1, 2, 3, 1]))
    assert chosen.tolist() == [1]
