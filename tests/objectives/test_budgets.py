"""Budgets: shares follow the Dirichlet, every row gets exactly what is planned, nothing absent is chosen."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sensorium.objectives.budgets import chosen_tokens, dirichlet, token_counts
from sensorium.types import draws


def drawing(rows, seed=0):
    def draw(purpose, count):
        numbers = draws.uniform(purpose, seed, torch.arange(rows).numpy()[:, None], range(count))
        return torch.from_numpy(numbers).float()

    return draw


@pytest.mark.parametrize("alpha", [(1.0, 1.0, 1.0), (0.5, 2.0, 5.0)])
def test_shares_follow_the_distribution(alpha):
    rows = 20_000
    shares = dirichlet(drawing(rows), alpha, torch.ones(rows, 3, dtype=torch.bool)).numpy()
    assert shares.sum(1) == pytest.approx(1.0, abs=1e-5)
    for place, own in enumerate(alpha):  # one share of a Dirichlet is a Beta
        beta = stats.beta(own, sum(alpha) - own)
        assert stats.kstest(shares[:, place], beta.cdf).pvalue > 1e-3


def test_small_concentrations_give_all_to_one_and_large_ones_alike():
    present = torch.ones(500, 4, dtype=torch.bool)
    extreme = dirichlet(drawing(500), [1e-3] * 4, present)
    assert (extreme.amax(1) > 0.99).float().mean() > 0.97
    assert extreme.argmax(1).bincount(minlength=4).min() > 80
    even = dirichlet(drawing(500), [1e4] * 4, present)
    assert even.sub(0.25).abs().max() < 0.02


def test_what_is_absent_or_has_no_concentration_gets_nothing():
    present = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])
    shares = dirichlet(drawing(3), (1.0, 0.0, 1.0), present)
    assert (shares[:, 1] == 0).all()
    assert shares[1].tolist() == [0.0, 0.0, 1.0]
    assert shares[2].tolist() == [0.0, 0.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 40), st.integers(0, 999), st.data())
def test_every_row_has_exactly_as_many_as_planned(streams, tokens, total, seed, data):
    rows = 16
    draw = drawing(rows, seed)
    available = torch.rand(rows, streams, tokens, generator=torch.Generator().manual_seed(seed)) < (
        data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    )
    shares = dirichlet(draw, [1.0] * streams, available.any(2))
    places, real = chosen_tokens(draw, shares, available, total)
    there = available.flatten(1)
    assert real.sum(1).tolist() == there.sum(1).clamp(max=total).tolist()
    for row in range(rows):
        chosen = places[row][real[row]].tolist()
        assert len(set(chosen)) == len(chosen)
        assert there[row, chosen].all()
        assert real[row].tolist() == sorted(real[row].tolist(), reverse=True)


def test_streams_get_their_shares_where_they_can():
    rows = 3000
    available = torch.ones(rows, 2, 10, dtype=torch.bool)
    shares = torch.tensor([[0.7, 0.3]]).expand(rows, 2)
    places, _ = chosen_tokens(drawing(rows), shares, available, 10)
    assert ((places < 10).sum(1) == 7).all()
    # within a stream, each token as often as any other
    often = places[places < 10].bincount(minlength=10).float() / rows
    assert often.sub(0.7).abs().max() < 0.03
    # a stream with fewer tokens than its share: the rest comes from the other
    places, _ = chosen_tokens(
        drawing(rows), torch.tensor([[1.0, 0.0]]).expand(rows, 2), available, 14
    )
    assert ((places < 10).sum(1) == 10).all()


def test_a_row_is_drawn_alike_whatever_stands_beside_it():
    available = torch.ones(6, 3, 8, dtype=torch.bool)
    draw = drawing(6)
    shares = dirichlet(draw, [1.0] * 3, available.any(2))
    places, _ = chosen_tokens(draw, shares, available, 9)

    def alone(purpose, count):
        return draw(purpose, count)[4:5]

    own = dirichlet(alone, [1.0] * 3, available[4:5].any(2))
    found, _ = chosen_tokens(alone, own, available[4:5], 9)
    assert torch.equal(found[0], places[4])


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 17),
    st.integers(0, 200),
    st.sampled_from([0.1, 0.5, 1000.0]),
    st.integers(0, 999),
)
def test_counts_sum_to_the_total_or_to_all_there_is(streams, total, alpha, seed):
    rows, generator = 20, torch.Generator().manual_seed(seed)
    present = torch.rand(rows, streams, generator=generator) < 0.7
    draw, concentration = drawing(rows, seed), torch.full((rows,), alpha)
    for high in (1, 9, 60, 201):
        most = torch.randint(0, high + 1, (rows, streams), generator=generator)
        counts = token_counts(draw, concentration, present, total, most)
        assert (counts >= 0).all() and (counts <= most).all() and (counts[~present] == 0).all()
        assert torch.equal(counts.sum(1), (most * present).sum(1).clamp(max=total))


def test_what_a_stream_has_not_goes_to_others_by_their_shares():
    rows = 6000
    present = torch.ones(rows, 3, dtype=torch.bool)
    most, one = torch.tensor([2, 500, 500]).expand(rows, 3), torch.ones(rows)
    counts = token_counts(drawing(rows), one, present, 300, most)
    assert counts[:, 0].max() == 2
    # shares of what is left are those of two streams, uniform
    share = counts[:, 1] / (300 - counts[:, 0])
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3


def test_what_rounding_leaves_is_shared_evenly():
    rows = 4000
    present = torch.tensor([True, False, True, True]).expand(rows, 4)
    even, many = torch.full((rows,), 1e6), torch.full((rows, 4), 32)
    counts = token_counts(drawing(rows), even, present, 32, many)
    assert counts[:, 1].max() == 0  # 32 thirds: 10 each, and two that are left
    for place in (0, 2, 3):
        assert counts[:, place].float().mean() == pytest.approx(32 / 3, abs=0.05)
        assert set(counts[:, place].unique().tolist()) <= {9, 10, 11, 12}
