"""Two processes give the loss and the gradients of one with all the rows."""

import os
import socket

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn import functional as F

from sensorium.objectives.contrastive import info_nce, sigmoid_loss
from sensorium.objectives.gather import gather_rows

COUNT, WIDTH = 7, 5
GROUPS = torch.tensor([[0, 9], [1, 8], [2, 7], [0, 6], [4, 5], [5, 5], [6, 3]])


def inputs():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(COUNT, 6, generator=g)
    weights = torch.randn(2, 6, WIDTH, generator=g).requires_grad_()
    return x, weights, torch.tensor(8.0, requires_grad=True), torch.tensor(-2.0, requires_grad=True)


def total(rows, kind):
    """The sum of losses over some rows, and what its gradient goes to."""
    x, weights, scale, bias = inputs()
    a, b = (F.normalize(x[rows] @ w, dim=1) for w in weights)
    options = {"groups": GROUPS[rows], "gather": True}
    if kind == "sigmoid":
        loss = sigmoid_loss(a, b, scale, bias, **options)
    else:
        forth, back = info_nce(a, b, scale, duplicates=kind, **options)
        loss = forth + 2 * back
    parameters = (weights, scale, bias) if kind == "sigmoid" else (weights, scale)
    return loss, parameters


CASES = [("ignored", 3), ("positive", 6), ("sigmoid", 4), ("ignored", 7)]


def worker(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    for number, (kind, cut) in enumerate(CASES):
        rows = torch.arange(COUNT)[:cut] if rank == 0 else torch.arange(COUNT)[cut:]
        gathered, first = gather_rows(torch.full((len(rows), 2), float(rank)))
        loss, parameters = total(rows, kind)
        loss.sum().backward()
        gradients = [parameter.grad for parameter in parameters]
        torch.save([loss.detach(), gathered, first, *gradients], f"{folder}/{number}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What two processes found, in a folder."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(worker, (port, folder), nprocs=2)
    return folder


@pytest.mark.parametrize("number", range(len(CASES)))
def test_two_processes_are_one(number, processes):
    """Also where one of them has no row at all."""
    kind, cut = CASES[number]
    parts = [torch.load(processes / f"{number}-{rank}.pt") for rank in range(2)]
    for rank, (_, gathered, first, *_) in enumerate(parts):
        assert gathered[:, 0].tolist() == [0.0] * cut + [1.0] * (COUNT - cut)
        assert first == cut * rank
    loss, parameters = total(torch.arange(COUNT), kind)
    loss.sum().backward()
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), loss.detach())
    for place, parameter in enumerate(parameters, start=3):
        summed = parts[0][place] + parts[1][place]
        torch.testing.assert_close(summed, parameter.grad, atol=1e-5, rtol=1e-5)


def test_one_process_keeps_its_rows():
    x = torch.randn(3, 2)
    gathered, first = gather_rows(x)
    assert gathered is x and first == 0
