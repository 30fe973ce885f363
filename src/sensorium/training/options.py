"""Settings of a training run that are not the system's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Setting

from sensorium.types import Stage, UserError
from sensorium.types.names import did_you_mean


class TrainingOptions(BaseModel):
    """How a run is carried out. What is None is what the system's stage says.

    Attributes:
        batch_size, learning_rate, weight_decay, ema, schedule, warmup: override every stage.
        stages: the names of the stages that are carried out; None for all.
        frozen: patterns of weights that stay as they begin in every stage, such as `media.*`, an
            assistant's encoders, that were learned in another run.
        accumulate: micro-batches in a step; more need less memory and give the same step.
        precision: `bf16` computes in bfloat16 and keeps the weights in float32.
        workers: processes that load data beside the training process.
        log_every: steps between lines of `metrics.jsonl`.
        validate_every: steps between validations; None for ten in a run.
        validation_rows: how many validation rows at most.
        patience: validations without a better loss before the run stops early and takes its best
            weights; None never stops early.
        checkpoint_every: seconds between checkpoints.
        max_fault_share: the share of unusable rows above which the run stops.
        augment: whether the augmentations that the system's views ask for are applied.
        shuffled: a field that is exchanged among the rows of each training batch, so that nothing
            can be learned from what it goes with: the control that must stay at chance.
        tensorboard: also write the metrics for TensorBoard.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int | None = Setting(default=None, gt=0)
    learning_rate: float | None = Setting(default=None, gt=0)
    weight_decay: float | None = Setting(default=None, ge=0)
    ema: float | None = Setting(default=None, gt=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] | None = None
    warmup: float | None = Setting(default=None, ge=0, le=1)
    stages: tuple[str, ...] | None = None
    frozen: tuple[str, ...] = ()
    accumulate: int = Setting(default=1, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: int = Setting(default=1, ge=0)
    log_every: int = Setting(default=10, gt=0)
    validate_every: int | None = Setting(default=None, gt=0)
    validation_rows: int = Setting(default=256, ge=0)
    patience: int | None = Setting(default=None, gt=0)
    checkpoint_every: float = Setting(default=30.0, gt=0)
    max_fault_share: float = Setting(default=0.05, ge=0, le=1)
    augment: bool = True
    shuffled: str | None = None
    tensorboard: bool = False

    def applied_to(self, stages: Sequence[Stage]) -> list[Stage]:
        """The stages that are carried out, with the overrides.

        Raises:
            UserError: a stage is named that the system does not have.
        """
        known = [stage.name for stage in stages]
        for name in self.stages or ():
            if name not in known:
                raise UserError(f"training.stages: no stage '{name}'. {did_you_mean(name, known)}")
        names = ("batch_size", "learning_rate", "weight_decay", "ema", "schedule", "warmup")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return [
            stage.model_copy(update={**changes, "frozen": (*stage.frozen, *self.frozen)})
            for stage in stages
            if self.stages is None or stage.name in self.stages
        ]
