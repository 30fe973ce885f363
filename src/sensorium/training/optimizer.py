"""The optimizer of a stage, its learning rate over time, and the running average of weights."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sensorium.types import Stage, UserError


def select_trained(module: nn.Module, stage: Stage) -> dict[str, nn.Parameter]:
    """The parameters a stage trains, by name; all others are frozen (gradients pass through them).

    Raises:
        UserError: the patterns leave nothing to train.
    """
    trained = {}
    for name, parameter in module.named_parameters():
        fits = _fits(name, stage.train) and not _fits(name, stage.frozen)
        parameter.requires_grad_(fits)
        if fits:
            trained[name] = parameter
    if not trained:
        raise UserError(f"stage '{stage.name}' trains nothing: no parameter fits {stage.train}")
    return trained


def check_patterns(module: nn.Module, patterns: tuple[str, ...]) -> None:
    """Raise a `UserError` if a pattern of what is to be frozen fits no parameter."""
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            parts = sorted({f"{name.partition('.')[0]}.*" for name in names if "." in name})
            raise UserError(
                f"training.frozen: '{pattern}' fits no weight; there are {', '.join(parts)}"
            )


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def build_optimizer(trained: Mapping[str, nn.Parameter], stage: Stage) -> torch.optim.AdamW:
    """AdamW with one group for each factor of the learning rate, with decay and without.

    Biases, norms and single numbers (all of fewer than two dimensions) are not decayed.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        scale = next(
            (s for pattern, s in stage.learning_rate_scale.items() if _fits(name, (pattern,))), 1.0
        )
        decay = stage.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "scale": scale}
            for (scale, decay), parameters in groups.items()
        ],
        lr=stage.learning_rate,
        betas=stage.betas,
        fused=True,
    )


def learning_rate(stage: Stage, step: int, num_steps: int) -> float:
    """The learning rate of a step (counted from 0) of a stage of `num_steps`."""
    warmup_steps = max(1, round(stage.warmup * num_steps)) if stage.warmup else 0
    if step < warmup_steps:
        return stage.learning_rate * (step + 1) / warmup_steps
    if stage.schedule == "constant":
        return stage.learning_rate
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    if stage.schedule == "linear":
        return stage.learning_rate * (1 - progress)
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its factor of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


class WeightAverage:
    """An exponential moving average of weights, kept in float32.

    The decay is lowered in the first steps to `(1 + n) / (10 + n)`, so that a short run does not
    evaluate its initial weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.values = {
            name: tensor.detach().float().clone()
            for name, tensor in module.state_dict().items()
            if tensor.is_floating_point()
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move a step towards the present weights."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        state = module.state_dict()
        present = [state[name].detach().float() for name in self.values]
        torch._foreach_lerp_(list(self.values.values()), present, 1 - decay)

    def applied_to(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict in which the averages stand in for the raw weights."""
        return {
            name: self.values[name].to(tensor.dtype) if name in self.values else tensor
            for name, tensor in state.items()
        }
