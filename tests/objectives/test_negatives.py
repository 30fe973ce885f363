"""Hard negatives: which candidates of a ranking may be drawn, by hand."""

import pytest
import torch
from torch.nn import functional as F

from sensorium.objectives.contrastive import info_nce_among
from sensorium.objectives.negatives import Mining, draw_negatives

TEXT, IMAGE = 1, 2


def drawn(scores, looks, own, mining, tries=200):
    """All that are drawn for one query that has these scores with its candidates."""
    candidates = torch.tensor(scores)[:, None]
    queries = torch.ones(tries, 1)
    uniform = torch.rand(tries, 2, generator=torch.Generator().manual_seed(0))
    own = torch.full((tries,), own)
    found = draw_negatives(queries, candidates, own, torch.tensor(looks), uniform, mining)
    return {int(number): float((found == number).float().mean()) for number in found.unique()}


# ranked: 0 text, 1 image, 2 text, 3 image (right), 4 text, 5 image, 6 image, 7 image
SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
LOOKS = [TEXT, IMAGE, TEXT, IMAGE, TEXT, IMAGE, IMAGE, IMAGE]


def test_of_the_wrong_modality_only_what_ranks_above_the_right_one():
    found = drawn(SCORES, LOOKS, 3, Mining(top=8, skip=0, wrong_share=1.0))
    assert found.keys() == {0, 2}  # 4 is a text as well, but below
    assert found[0] == pytest.approx(0.5, abs=0.12)


def test_of_the_right_modality_only_what_ranks_below_the_place():
    assert drawn(SCORES, LOOKS, 3, Mining(8, 5, 0.0)).keys() == {5, 6, 7}
    assert drawn(SCORES, LOOKS, 3, Mining(7, 5, 0.0)).keys() == {5, 6}
    assert drawn(SCORES, LOOKS, 3, Mining(8, 0, 0.0)).keys() == {1, 5, 6, 7}  # never the right one


def test_both_kinds_are_as_likely_and_stand_in_for_each_other():
    found = drawn(SCORES, LOOKS, 3, Mining(8, 6, 0.5))
    assert found.keys() == {0, 2, 6, 7}
    assert found[0] + found[2] == pytest.approx(0.5, abs=0.1)
    assert drawn(SCORES, LOOKS, 3, Mining(8, 8, 0.5)).keys() == {0, 2}
    assert drawn(SCORES, LOOKS, 1, Mining(8, 6, 0.5)).keys() == {0, 6, 7}
    # with one kind alone nothing stands in for it
    assert drawn(SCORES, LOOKS, 3, Mining(8, 8, 0.0)).keys() == {-1}
    assert drawn([0.5, 0.9], [TEXT, IMAGE], 1, Mining(8, 0, 1.0)).keys() == {-1}


def test_where_the_right_one_is_not_among_the_first_all_of_the_wrong_modality_count():
    assert drawn(SCORES, LOOKS, 7, Mining(top=5, skip=5, wrong_share=1.0)).keys() == {0, 2, 4}


def test_without_modalities_any_of_the_first_may_be_drawn():
    found = drawn(SCORES, LOOKS, 3, Mining(top=5, is_aware=False))
    assert found.keys() == {0, 1, 2, 4}


def test_a_draw_is_of_the_query_alone_however_many_are_drawn_at_once(monkeypatch):
    torch.manual_seed(0)
    queries, candidates = torch.randn(37, 8), torch.randn(60, 8)
    own, looks, uniform = torch.arange(37), torch.arange(60) % 3, torch.rand(37, 2)
    mining = Mining(top=20, skip=5)
    whole = draw_negatives(queries, candidates, own, looks, uniform, mining)
    monkeypatch.setattr("sensorium.objectives.negatives._BLOCK", 10)
    assert torch.equal(draw_negatives(queries, candidates, own, looks, uniform, mining), whole)
    assert (whole != own).all()


def test_further_candidates_are_there_for_all_queries():
    """Against a softmax written out, with equal targets left out."""
    torch.manual_seed(1)
    a, b, others = (F.normalize(torch.randn(n, 6), dim=1) for n in (4, 4, 3))
    groups, other_groups = torch.tensor([1, 2, 2, 3]), torch.tensor([9, 1, 8])
    scale = torch.tensor(7.0)
    found = info_nce_among(a, b, others, scale, groups=groups, other_groups=other_groups)
    keys, ids = torch.cat([b, others]), torch.cat([groups, other_groups])
    for row in range(4):
        logits = scale * keys @ a[row]
        counts = [k for k in range(7) if k == row or ids[k] != groups[row]]
        expected = -logits[row] + logits[counts].logsumexp(0)
        torch.testing.assert_close(found[row], expected)
    none = info_nce_among(
        a, b, others[:0], scale, groups=torch.arange(4), other_groups=other_groups[:0]
    )
    expected = F.cross_entropy(scale * a @ b.T, torch.arange(4), reduction="none")
    torch.testing.assert_close(none, expected)
