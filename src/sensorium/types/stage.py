"""A stage of training: what is trained, with which losses, for how long."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Setting


class Stage(BaseModel):
    """One stage of a system's training recipe.

    Attributes:
        name: how progress and metrics speak of it.
        share: the part of the budget it gets, relative to the other stages.
        losses: the losses that are trained, by name; all if None.
        train: patterns (`fnmatch`, on parameter names) of what is trained.
        frozen: patterns of what stays as it is; gradients still pass through it.
        learning_rate: peak learning rate.
        learning_rate_scale: factors of it by pattern; the first that fits counts.
        weight_decay: decoupled weight decay; never on biases, norms and embeddings of one number.
        betas: of AdamW.
        batch_size: rows in an optimizer step, over all processes and micro-batches.
        warmup: the part of the stage in which the learning rate rises linearly.
        schedule: its course after that.
        gradient_clip: the largest gradient norm; None for no limit.
        ema: the decay of the running average of the weights that is evaluated and saved; None for
            the raw weights.
        mines: when it begins, each training row gets a partner that the system chooses by what it has
            learned so far; later stages keep them.
        restarts: it begins with the weights that the run began with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "train"
    share: float = Setting(default=1.0, gt=0)
    losses: tuple[str, ...] | None = None
    train: tuple[str, ...] = ("*",)
    frozen: tuple[str, ...] = ()
    learning_rate: float = Setting(default=1e-3, gt=0)
    learning_rate_scale: dict[str, float] = Setting(default_factory=dict)
    weight_decay: float = Setting(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = Setting(default=64, gt=0)
    warmup: float = Setting(default=0.1, ge=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    gradient_clip: float | None = 1.0
    ema: float | None = Setting(default=None, gt=0, lt=1)
    mines: bool = False
    restarts: bool = False
