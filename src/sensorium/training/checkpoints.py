"""Checkpoints: all that a killed run needs to end as if it had not been killed.

Batches, augmentations and dropout are functions of (seed, step), so the state is weights, optimizer
moments, running averages and a few numbers; safetensors and JSON only.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sensorium.training.files import (
    read_json,
    read_tensors,
    remove_parts,
    write_folder_aside,
    write_json,
    write_tensors,
)
from sensorium.training.optimizer import WeightAverage
from sensorium.types import UserError

KEPT = 2


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: optimizer steps done, over all stages.
        stage: the number of the stage.
        stage_step: steps done in it.
        stage_steps: for each stage begun, how many steps it has.
        seconds: spent training.
        rows_seen: rows that took part.
        faults: rows that were set aside.
        best_loss: the best validation loss so far.
        stale: validations since then.
        flops_per_step: for each stage begun, floating-point operations in a step.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    stage_steps: list[int] = field(default_factory=list)
    seconds: float = 0.0
    rows_seen: int = 0
    faults: int = 0
    best_loss: float | None = None
    stale: int = 0
    flops_per_step: list[float] = field(default_factory=list)


def save_checkpoint(
    folder: Path,
    progress: Progress,
    model: nn.Module,
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> None:
    """Write a checkpoint and remove all but the last two."""

    def write(aside: Path) -> None:
        write_tensors(aside / "model.safetensors", model.state_dict())
        write_tensors(aside / "optimizer.safetensors", _optimizer_tensors(trained, optimizer))
        if average is not None:
            write_tensors(aside / "average.safetensors", average.values)
        state = {**asdict(progress), "average_updates": average.num_updates if average else 0}
        write_json(aside / "progress.json", state)

    write_folder_aside(folder / f"step-{progress.step:08d}", write)
    for old in _all_checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _optimizer_tensors(
    trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    return {
        f"{key}/{name}": tensor
        for name, parameter in trained.items()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


def _all_checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint. Parts of one that a kill left behind are removed."""
    remove_parts(folder)
    found = _all_checkpoints(folder)
    return found[-1] if found else None


def load_progress(checkpoint: Path) -> Progress:
    """Where the run was."""
    state = read_json(checkpoint / "progress.json")
    try:
        state.pop("average_updates")
        return Progress(**state)
    except (AttributeError, KeyError, TypeError):
        raise _unfit(checkpoint, "progress.json says something else") from None


def load_model(checkpoint: Path, model: nn.Module) -> None:
    """Put back the weights.

    Raises:
        UserError: they are damaged, or those of another system.
    """
    try:
        model.load_state_dict(read_tensors(checkpoint / "model.safetensors"))
    except RuntimeError as error:
        raise _unfit(checkpoint, str(error)) from None


def _unfit(checkpoint: Path, why: str) -> UserError:
    return UserError(
        f"the checkpoint {checkpoint} does not fit this run: {why}. Remove it to go on from the "
        "one before, or the run folder to begin anew"
    )


def load_optimizer(
    checkpoint: Path,
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> None:
    """Put back the optimizer's moments and the running average."""
    for key_name, tensor in read_tensors(checkpoint / "optimizer.safetensors").items():
        key, _, name = key_name.partition("/")
        if name not in trained:
            raise _unfit(checkpoint, f"'{name}' is not trained in this stage")
        parameter = trained[name]
        on = tensor if key == "step" else tensor.to(parameter.device)
        optimizer.state[parameter][key] = on
    if average is not None:
        for name, tensor in read_tensors(checkpoint / "average.safetensors").items():
            average.values[name].copy_(tensor)
        average.num_updates = read_json(checkpoint / "progress.json")["average_updates"]
