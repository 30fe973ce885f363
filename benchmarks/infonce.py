"""Contrastive losses in tiles against the plain ones with their whole matrices.

Plain InfoNCE is one matrix and its transpose, with a cross-entropy of each; the plain sigmoid loss
is written as open_clip's `SigLipLoss` is, with a matrix of signs.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Figure, Result, Settings, Target, own_process, timed_with_memory
from sensorium.objectives.contrastive import info_nce, sigmoid_loss

PAIRS, WIDTH = 16384, 512
GROWTH = (2048, 4096, 8192, 16384, 32768)
WARM_PAIRS = 2048


def plain_info_nce(a: Tensor, b: Tensor, scale: Tensor, _: Tensor) -> Tensor:
    """Two cross-entropies."""
    logits = scale * a @ b.T
    numbers = torch.arange(len(a))
    return (F.cross_entropy(logits, numbers) + F.cross_entropy(logits.T, numbers)) / 2


def tiled_info_nce(a: Tensor, b: Tensor, scale: Tensor, _: Tensor) -> Tensor:
    """Ours."""
    forth, back = info_nce(a, b, scale)
    return (forth.sum() + back.sum()) / (2 * len(a))


def plain_sigmoid(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Signs times similarities."""
    logits = scale * a @ b.T + bias
    signs = 2 * torch.eye(len(a)) - torch.ones(len(a), len(a))
    return -F.logsigmoid(signs * logits).sum() / len(a)


def tiled_sigmoid(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Ours."""
    return sigmoid_loss(a, b, scale, bias).sum() / len(a)


LOSSES = {
    "InfoNCE": (tiled_info_nce, plain_info_nce),
    "sigmoid": (tiled_sigmoid, plain_sigmoid),
}


@cache
def inputs(pairs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit vectors whose partners are near, CLIP's first scale, SigLIP's first bias."""
    generator = torch.Generator().manual_seed(0)
    a = F.normalize(torch.randn(pairs, WIDTH, generator=generator), dim=1)
    b = F.normalize(a + 0.1 * torch.randn(pairs, WIDTH, generator=generator), dim=1)
    found = (a, b, torch.tensor(1 / 0.07), torch.tensor(-10.0))
    for tensor in found:
        tensor.requires_grad_()
    return found


def step(name: str, side: int, pairs: int, threads: int) -> tuple[float, float]:
    """Forward and backward: seconds, and MiB beyond the inputs."""
    torch.set_num_threads(threads)
    values = inputs(pairs)

    def forward_and_backward() -> None:
        for value in values:
            value.grad = None
        LOSSES[name][side](*values).backward()

    return timed_with_memory(forward_and_backward)


def difference(name: str, pairs: int) -> float:
    """The largest difference of the losses and of any gradient, as shares of the largest entry."""
    found = []
    for side in (0, 1):
        values = inputs(pairs)
        for value in values:
            value.grad = None
        loss = LOSSES[name][side](*values)
        loss.backward()
        found.append([loss.detach(), *(v.grad for v in values if v.grad is not None)])
    pairs_of = zip(*found, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs_of)


def measure(settings: Settings) -> Result:
    """Time, memory, growth of memory, and that both give the same."""
    torch.set_num_threads(settings.threads)
    figures: list[Figure] = []
    notes = [
        "Forward and backward in float32. Memory is by how much the resident set of a process of its "
        "own grew at its highest, gradients included."
    ]
    for name in LOSSES:
        with own_process() as ours, own_process() as theirs:
            found: tuple[list[tuple[float, float]], ...] = ([], [])
            for repeat in range(settings.repeats + 1):
                pairs = PAIRS if repeat else WARM_PAIRS
                for side, process in enumerate((ours, theirs)):
                    one = process.submit(step, name, side, pairs, settings.threads).result()
                    if repeat:
                        found[side].append(one)
        for index, (what, unit, limit) in enumerate(
            (("time", "s", 1.1), ("memory", "MiB", 1 / 12))
        ):
            figures.append(
                Figure(
                    f"{name}, {PAIRS:,} pairs of width {WIDTH}: {what}",
                    unit,
                    [one[index] for one in found[0]],
                    "whole matrices",
                    [one[index] for one in found[1]],
                    Target("at most", limit),
                )
            )
        peaks = []
        for pairs in GROWTH:
            with own_process() as process:
                peaks.append(process.submit(step, name, 0, pairs, settings.threads).result()[1])
        figures.append(
            Figure(
                f"{name}: growth of memory from {GROWTH[0]:,} to {GROWTH[-1]:,} pairs, of linear",
                "",
                [peaks[-1] / peaks[0] / (GROWTH[-1] / GROWTH[0])],
                target=Target("at most", 1.1),
            )
        )
        sizes = ", ".join(
            f"{pairs:,}: {peak:.0f}" for pairs, peak in zip(GROWTH, peaks, strict=True)
        )
        notes.append(f"{name}: MiB by number of pairs: {sizes}.")
        figures.append(
            Figure(
                f"{name}, 4,096 pairs: largest difference of loss and gradients",
                "",
                [difference(name, 4096)],
                target=Target("at most", 1e-5),
            )
        )
    return Result(figures, notes)
