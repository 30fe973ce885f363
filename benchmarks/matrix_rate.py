"""What share of the machine's matrix rate a training step of the dual encoder reaches.

The rate is that of the best of a few large square matrix products in the same type; the work of a
step is what PyTorch's counter finds (forward and backward, without elementwise work and optimizer). On
the CPU a dual encoder of 20 million parameters in float32 and under bf16 autocast; on a GPU, if there
is one, ViT-B/16 under bf16 autocast, compiled, 512 pairs a step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import sensorium as sm
from clip_step import NUM_IDS, build_tokenizer, our_loss
from harness import Figure, Result, Settings, Target, timed
from sensorium.systems.baselines.dual_encoder import DualEncoder
from sensorium.types import Batch

SIZES = {"cpu": (256, 512, 1024, 2048), "cuda": (4096, 8192, 16384)}
SLOW, SLOW_BATCH_SIZE = 1e10, 2
COUNTED = 16
SMALL: dict[str, Any] = {
    "width": 384,
    "depth": 6,
    "heads": 6,
    "text_width": 384,
    "text_depth": 5,
    "embed_dim": 256,
    "image_size": 128,
    "patch": 16,
    "max_tokens": 32,
    "clip": True,
}


@dataclass(frozen=True)
class Case:
    """What is trained, where and how."""

    name: str
    config: DualEncoder.Config
    device: str
    dtype: torch.dtype
    batch_size: int
    num_ids: int = 4000
    target: float | None = None


CPU_CASES = [
    Case("CPU, 20M parameters, bf16", DualEncoder.Config(**SMALL), "cpu", torch.bfloat16, 32),
    Case("CPU, 20M parameters, float32", DualEncoder.Config(**SMALL), "cpu", torch.float32, 32),
]
GPU_CASES = [
    Case(
        "GPU, ViT-B/16 compiled, bf16",
        DualEncoder.Config.paper(),
        "cuda",
        torch.bfloat16,
        512,
        num_ids=NUM_IDS,
        target=0.4,
    )
]


def measure(settings: Settings) -> Result:
    """Steps and matrix products in turn."""
    torch.set_num_threads(settings.threads)
    cases = list(CPU_CASES)
    skipped = []
    if torch.cuda.is_available():
        cases += GPU_CASES
    else:
        skipped.append("no GPU")
    figures, notes = [], []
    for case in cases:
        if best_rate(case) < SLOW:
            case = replace(case, batch_size=SLOW_BATCH_SIZE)
            notes.append(
                f"{case.name}: this processor has no instructions for such products, so steps are of "
                f"{SLOW_BATCH_SIZE} pairs."
            )
        system, batch = build(case)
        work = count_flops(system, case) * case.batch_size / COUNTED
        step = training_step(system, batch, case)
        step()
        rates, shares = [], []
        for repeat in range(settings.repeats + 1):
            rate = best_rate(case)
            achieved = work / timed(step)
            if repeat:
                rates.append(rate / 1e9)
                shares.append(achieved / 1e9)
        millions = sum(parameter.numel() for parameter in system.parameters()) / 1e6
        figures.append(
            Figure(
                f"{case.name}, share of the matrix rate",
                "GFLOP/s",
                shares,
                "matrix products",
                rates,
                None if case.target is None else Target("at least", case.target),
            )
        )
        notes.append(f"{case.name}: {millions:.1f}M parameters, {work / 1e9:.0f} GFLOP a step.")
    return Result(figures, notes, skipped=skipped)


def build(case: Case) -> tuple[DualEncoder, Batch]:
    """A system with random weights, and a batch of the playground."""
    data = sm.open(f"playground:scenes?objects=2-3&caption=dense&size={case.config.image_size}")
    rows = data.rows("train")[: case.batch_size]
    tokenizer = build_tokenizer(data.columns(["caption"], rows)["caption"], case.num_ids)
    torch.manual_seed(0)
    system = DualEncoder(case.config, data.schema, tokenizer).train()
    samples, _ = data.read(rows, system.views())
    return system.to(case.device), data.collate(samples, system.views()).to(case.device)


def loss_of(system: nn.Module, batch: Batch, case: Case) -> Tensor:
    """As the trainer computes it."""
    half = case.dtype == torch.bfloat16
    with torch.autocast(case.device, torch.bfloat16, enabled=half):
        return our_loss(system, batch)


def count_flops(system: DualEncoder, case: Case) -> float:
    """Of forward and backward of `COUNTED` pairs, which is the same in any type of number."""
    _, batch = build(replace(case, batch_size=COUNTED))
    with FlopCounterMode(display=False) as counter:
        our_loss(system, batch).backward()
    system.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def training_step(system: DualEncoder, batch: Batch, case: Case) -> Any:
    """A function that takes one step and waits until it is done."""
    model = torch.compile(system) if case.device == "cuda" else system
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        loss_of(model, batch, case).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait(case)

    return step


def best_rate(case: Case) -> float:
    """Operations a second of the best matrix product; larger ones are left out if it takes long."""
    found: list[float] = []
    for size in SIZES[case.device]:
        if found and found[-1] < SLOW:
            break
        a, b = (torch.randn(size, size, device=case.device, dtype=case.dtype) for _ in range(2))
        a @ b
        wait(case)

        def product(a: Tensor = a, b: Tensor = b) -> None:
            a @ b
            wait(case)

        found.append(2 * size**3 / min(timed(product) for _ in range(2)))
    return max(found)


def wait(case: Case) -> None:
    """Until the device has done what it was asked."""
    if case.device == "cuda":
        torch.cuda.synchronize()
