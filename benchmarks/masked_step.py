"""What masked modelling costs: a step of 4M by declared modalities, a step of MultiMAE by visible patches.

- A training step of `fourm` on rows that have 4, 8 or 16 maps, of which it reads and is asked for as many
  tokens in all; codes of maps are known, as after `sensorium tokenize`.
- A training step of `multimae` that shows a sixth of the patches of three fields, against one that shows
  all; and how many tokens its encoder, and that of `fourm`, are given.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness import Figure, Result, Settings, Target, take_turns
from sensorium.systems.base import System
from sensorium.systems.baselines.known_codes import KnownCodes, digests_of
from sensorium.systems.masked.fourm import MASKED, FourM
from sensorium.systems.masked.fourm_tokens import GridTokens
from sensorium.systems.masked.multimae import MultiMAE
from sensorium.training.optimizer import build_optimizer, select_trained
from sensorium.training.trainer import objective
from sensorium.types import Batch, Entries, Field, Schema

ROWS, SIDE = 64, 64
DECLARED = (4, 8, 16)
RANGE = {"range": [0.0, 1.0]}


def measure(settings: Settings) -> Result:
    """Seconds of steps, and tokens of encoders."""
    torch.set_num_threads(settings.threads)
    steppers = {number: fourm(number) for number in DECLARED}
    sides = {f"{n}": partial(stepper, rows_of(n)) for n, stepper in steppers.items()}
    seconds = take_turns(sides, settings.repeats)
    least = f"{DECLARED[0]}"
    figures = [
        Figure(
            f"fourm: a step with {number} declared modalities, equal budgets",
            "s",
            seconds[f"{number}"],
            f"{least} declared",
            seconds[least],
            Target("at most", 1.1),
        )
        for number in DECLARED[1:]
    ]
    batch, num_patches = rows_of(3), 3 * 64
    few, every = (multimae(number) for number in (num_patches // 6, num_patches))
    seconds = take_turns(
        {"few": partial(few, batch), "all": partial(every, batch)}, settings.repeats
    )
    figures.append(
        Figure(
            "multimae: a step with a sixth of the patches visible",
            "s",
            seconds["few"],
            "all visible",
            seconds["all"],
            Target("at most", 1 / 3),
        )
    )
    for name, step, modules, planned in (
        ("fourm", steppers[16], steppers[16].system.model.encoder, 32),
        ("multimae", few, few.system.layers, num_patches // 6 + 1),
    ):
        figures.append(
            Figure(
                f"{name}: tokens of a row that the encoder is given",
                "tokens",
                [given(step, modules, rows_of(16 if name == "fourm" else 3))],
                "as planned",
                [planned],
                Target("at most", 1.0),
            )
        )
    return Result(
        figures,
        [
            f"Steps of {ROWS} rows of the nano size: losses, gradients, an update. The decoders of multimae, "
            "one for each field, read all places of their field, however many patches are visible."
        ],
    )


class Stepper:
    """A training step, as the trainer does it."""

    def __init__(self, system: System) -> None:
        self.system = system.train()
        stage = next(stage for stage in system.stages() if stage.name in (MASKED, "masked"))
        self.system.stage = stage.name
        self.optimizer = build_optimizer(select_trained(system, stage), stage)

    def __call__(self, batch: Batch) -> None:
        """Losses, gradients, an update."""
        losses = self.system(batch)
        objective(losses, {name: loss.count for name, loss in losses.items()}, 1).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def fourm(number: int) -> Stepper:
    """One of so many maps whose codes are known."""
    torch.manual_seed(0)
    system = FourM(FourM.Config.nano(), Schema(fields=fields(number)))
    for tokens in system.tokens:
        assert isinstance(tokens, GridTokens)
        tokens.settle()
        values = rows_of(number)[tokens.field.name].values
        known = KnownCodes.none("0" * 64, tokens.length)
        codes = torch.randint(0, tokens.vocabulary, (ROWS, tokens.length), dtype=torch.int32)
        known.add(digests_of(values), codes)
        tokens.__dict__["_known"] = known
    return Stepper(system)


def multimae(visible: int) -> Stepper:
    """One of three maps."""
    torch.manual_seed(0)
    config = MultiMAE.Config.nano().override({"visible": visible})
    return Stepper(MultiMAE(config, Schema(fields=fields(3))))


def given(step: Stepper, encoder: Any, batch: Batch) -> float:
    """How many tokens of a row an encoder is given in a step."""
    seen: list[int] = []
    walk = encoder.walk

    def counted(x: Tensor, *rest: Any) -> Tensor:
        seen.append(x.shape[1])
        found: Tensor = walk(x, *rest)
        return found

    encoder.walk = counted
    step(batch)
    del encoder.walk
    return float(sum(seen))


def fields(number: int) -> list[Field]:
    """Maps of numbers."""
    return [Field(name=f"map {k}", modality="maps", options=RANGE) for k in range(number)]


def rows_of(number: int) -> Batch:
    """Random rows that have so many maps."""
    generator = torch.Generator().manual_seed(0)
    at = torch.arange(ROWS)
    made = {}
    for field in fields(number):
        numbers = torch.rand(ROWS, SIDE, SIDE, 1, generator=generator)
        values = torch.cat([numbers, torch.ones_like(numbers)], -1)
        made[field.name] = Entries(values, at, torch.zeros_like(at))
    return Batch(made, [str(row) for row in range(ROWS)], at, seed=0)
