"""Quantizers: every code has its vector, gradients pass, codes follow what they stand for."""

import copy

import pytest
import torch
from torch.nn import functional as F

from sensorium.nn.quantizers import Codebook, FiniteScalar, usage


def plain(values):
    return dict(values)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 3), (2, 4), (7,)])
def test_every_code_has_a_vector_and_comes_back(levels):
    quantizer = FiniteScalar(levels)
    codes = torch.arange(quantizer.num_codes)
    values = quantizer.decode(codes)
    assert len(torch.unique(values, dim=0)) == quantizer.num_codes
    assert values.abs().max() <= 1
    # large enough numbers reach each end, and rounding finds the level that is meant
    half = (torch.tensor(levels) - 1) * 1.001 / 2
    offset = (1 - torch.tensor(levels) % 2) / 2
    aim = (values * (torch.tensor(levels) // 2) + offset) / half
    found = quantizer(aim.atanh() - (offset / half).atanh())
    assert torch.equal(found.codes, codes)
    torch.testing.assert_close(found.values, values)


def test_rounding_lets_gradients_pass():
    quantizer = FiniteScalar((5, 5))
    x = torch.tensor([[0.3, -0.7]], requires_grad=True)
    quantizer(x).values.sum().backward()
    half = 4 * 1.001 / 2
    torch.testing.assert_close(x.grad, (1 - x.detach().tanh() ** 2) * half / 2)
    assert (quantizer(x).commitment == 0).all()


def test_levels_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="expected two or more"):
        FiniteScalar((5, 1))


def book(**settings):
    torch.manual_seed(0)
    return Codebook(4, 6, **settings).train()


def test_the_code_is_the_nearest_by_angle():
    codebook, x = book(), 3 * torch.randn(5, 7, 4)
    found = codebook(x)
    away = (F.normalize(x, dim=-1)[..., None, :] - codebook.codes).square().sum(-1)
    assert torch.equal(found.codes, away.argmin(-1))
    torch.testing.assert_close(found.commitment, away.amin(-1))
    torch.testing.assert_close(found.values, codebook.decode(found.codes))


def test_codes_are_running_means_of_what_they_stand_for():
    codebook, x = book(decay=0.8, least=0.0), torch.randn(40, 4)
    before = codebook.codes.clone()
    codes = codebook(x.requires_grad_()).codes
    codebook.after_step(plain)
    unit = F.normalize(x.detach(), dim=1)
    for number in range(6):
        own = unit[codes == number]
        if len(own) == 0:
            torch.testing.assert_close(codebook.codes[number], before[number])
            continue
        mean = F.normalize(own.sum(0), dim=0)
        expected = F.normalize(0.8 * before[number] + 0.2 * mean, dim=0)
        torch.testing.assert_close(codebook.codes[number], expected)
    counts = codes.bincount(minlength=6).float()
    torch.testing.assert_close(codebook.counts, 0.8 * torch.ones(6) + 0.2 * counts)


def test_micro_batches_and_processes_move_codes_as_one_batch_does():
    x = torch.randn(40, 4)
    whole, parts, first, second = (copy.deepcopy(book(least=0.0)) for _ in range(4))
    whole(x.requires_grad_())
    whole.after_step(plain)
    for part in x.split(15):
        parts(part)
    parts.after_step(plain)
    torch.testing.assert_close(parts.codes, whole.codes)
    # each process has a half; what they tell each other is added up
    told = []
    for codebook, part in ((first, x[:22]), (second, x[22:])):
        codebook(part)
        copy.deepcopy(codebook).after_step(lambda values: told.append(values) or dict(values))
    summed = {name: told[0][name] + told[1][name] for name in told[0]}
    for codebook in (first, second):
        codebook.after_step(lambda _: summed)
        torch.testing.assert_close(codebook.codes, whole.codes)
        torch.testing.assert_close(codebook.counts, whole.counts)


def test_a_code_that_is_hardly_used_gets_a_new_place():
    codebook = book(decay=0.5, least=0.3)
    x = F.normalize(torch.randn(1, 4), dim=1) + 0.05 * torch.randn(64, 4)
    for _ in range(12):
        codebook(x.requires_grad_())
        codebook.after_step(plain)
    codes = codebook.eval()(x).codes
    assert usage(codes, 6).share == 1.0  # all have moved to where vectors are
    assert usage(book(least=0.0).eval()(x).codes, 6).share < 1.0


def test_nothing_moves_when_nothing_is_learned():
    codebook, x = book(), torch.randn(40, 4)
    before = codebook.codes.clone()
    codebook.eval()(x.requires_grad_())
    with torch.no_grad():
        codebook.train()(x)
    assert codebook._seen == []
    codebook.eval()
    assert torch.equal(codebook.codes, before)


def test_gradients_pass_a_codebook_and_vectors_are_pulled_to_it():
    codebook = book()
    x = torch.randn(3, 4, requires_grad=True)
    found = codebook(x)
    (found.values * torch.arange(4.0)).sum().backward(retain_graph=True)
    assert x.grad.abs().sum() > 0
    x.grad = None
    found.commitment.sum().backward()
    step = x.detach() - 0.01 * x.grad
    assert (codebook.eval()(step).commitment < found.commitment).all()


def test_usage_counts_codes_and_their_evenness():
    even = usage(torch.arange(8).repeat(3), 8)
    assert even.share == 1.0 and even.perplexity == pytest.approx(8)
    one = usage(torch.zeros(10, dtype=torch.long), 8)
    assert one.share == 1 / 8 and one.perplexity == pytest.approx(1)
