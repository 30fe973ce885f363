"""The training loop: stages, exact losses over micro-batches and processes, exact resume.

Everything random is a function of (seed, step) or (seed, row), never of what happened before; so a
run that was killed ends with the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sensorium.data import Data, MediaCache, read_batches, train_batches
from sensorium.data.partners import Partnered
from sensorium.modalities.base import View
from sensorium.systems.base import ComparesRows, System
from sensorium.training import checkpoints
from sensorium.training.budget import Budget
from sensorium.training.checkpoints import Progress
from sensorium.training.entering import Entrance
from sensorium.training.files import read_tensors, write_tensors
from sensorium.training.folder import RunFolder
from sensorium.training.interruption import Interrupted, interruption
from sensorium.training.optimizer import (
    WeightAverage,
    build_optimizer,
    check_patterns,
    learning_rate,
    select_trained,
    set_learning_rate,
)
from sensorium.training.options import TrainingOptions
from sensorium.types import Batch, Loss, MissingExtra, Stage, UserError, draws

if TYPE_CHECKING:
    from accelerate import Accelerator

PROBE_STEPS = 6
MOST_PROBE_STEPS = 100
PROBE_SHARE = 0.05
ROWS_BEFORE_FAULT_SHARE = 100


@dataclass
class Trainer:
    """Carries out a run.

    Attributes:
        system: what is trained.
        data: fitted, with its splits.
        folder: where the run is kept.
        budget: over all stages.
        seed: of all draws.
        options: settings of the run.
        device: `cpu` or `cuda`; None for the best there is.
        cache: of decoded media.
        report: called with each line of metrics, for a progress bar.
    """

    system: System
    data: Data
    folder: RunFolder
    budget: Budget
    seed: int = 0
    options: TrainingOptions = field(default_factory=TrainingOptions)
    device: str | None = None
    cache: MediaCache | None = None
    report: Callable[[dict[str, Any]], None] = lambda line: None

    def run(self) -> Progress:
        """Train through all stages, resuming from the newest checkpoint if there is one.

        Raises:
            UserError: a loss is not a number, too many rows are unusable, or the disk is full.
            Interrupted: Ctrl-C; the run can be resumed.
        """
        self.accelerator = build_accelerator(self.device)
        self.system.to(self.accelerator.device)
        check_patterns(self.system, self.options.frozen)
        self.stages = self.options.applied_to(self.system.stages())
        self.progress = Progress()
        self.writer = self._tensorboard()
        entrance = Entrance(
            self.system,
            self.stages,
            self.data,
            self.folder.checkpoints,
            self.seed,
            self.cache,
            self.accelerator,
        )
        checkpoint = checkpoints.latest_checkpoint(self.folder.checkpoints)
        if checkpoint is not None:
            self.progress = checkpoints.load_progress(checkpoint)
            checkpoints.load_model(checkpoint, self.system)
        else:
            entrance.keep_weights()
        if self.accelerator.is_main_process:
            self.folder.cut_metrics(self.progress.step)
        with interruption() as self.interrupted:
            for number in range(self.progress.stage, len(self.stages)):
                if number > self.progress.stage:
                    self.progress.stage, self.progress.stage_step = number, 0
                    # losses of one stage say nothing about those of another
                    self.progress.best_loss, self.progress.stale = None, 0
                    checkpoint = None
                self.rows = entrance.enter(number, is_resumed=checkpoint is not None)
                self._run_stage(self.stages[number], checkpoint)
        return self.progress

    @property
    def _views(self) -> dict[str, View]:
        views = self.system.views()
        return self.rows.viewed(views) if isinstance(self.rows, Partnered) else views

    def _run_stage(self, stage: Stage, checkpoint: Path | None) -> None:
        """One stage, from its beginning or from a checkpoint within it.

        The system ends with the weights that the stage leaves: with patience those of the lowest
        validation loss, else their running average if the stage has one.
        """
        trained = select_trained(self.system, stage)
        optimizer = build_optimizer(trained, stage)
        average = WeightAverage(self.system, stage.ema) if stage.ema else None
        model, prepared = self.accelerator.prepare(self.system, optimizer)
        if len(self.progress.stage_steps) == self.progress.stage:
            self._plan(stage, model)
        if checkpoint is not None:
            checkpoints.load_optimizer(checkpoint, trained, optimizer, average)
        num_steps = self.progress.stage_steps[self.progress.stage]
        validate_every = self.options.validate_every or max(1, num_steps // 10)
        first = self.progress.stage_step
        left = 0 if self._out_of_patience else num_steps - first
        clock = time.monotonic() - self.progress.seconds
        saved = time.monotonic()
        for step, micro in enumerate(self._batches(stage, first, left), start=first):
            usable = self._count_rows(micro)
            set_learning_rate(optimizer, learning_rate(stage, step, num_steps))
            losses = self._step(stage, model, prepared, micro) if usable else {}
            if average is not None:
                average.update(self.system)
            self.progress.step += 1
            self.progress.stage_step += 1
            self.progress.seconds = time.monotonic() - clock
            last = step + 1 == num_steps
            if step % self.options.log_every == 0 or last:
                self._log(stage, losses, learning_rate(stage, step, num_steps))
            if (step + 1) % validate_every == 0 or last:
                self._validate(stage, average)
            interrupted, stop, due = self._any_process(
                self.interrupted.is_set,
                self._out_of_patience,
                time.monotonic() - saved > self.options.checkpoint_every,
            )
            if last or interrupted or stop or due:
                self._check_finite(losses)
                self._check_weights(trained)
                self._save(trained, optimizer, average)
                saved = time.monotonic()
            if interrupted:
                raise Interrupted
            if stop:
                break
        self.accelerator.free_memory()
        if self.options.patience is not None and self.progress.best_loss is not None:
            self.accelerator.wait_for_everyone()  # one of them wrote it
            self.system.load_state_dict(read_tensors(self._best_file))
        elif average is not None:
            self.system.load_state_dict(average.applied_to(self.system.state_dict()))
        self.accelerator.wait_for_everyone()

    # ------------------------------------------------------------------ one step

    def _step(
        self,
        stage: Stage,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        micro: list[Batch],
    ) -> dict[str, Tensor]:
        """One optimizer step on the micro-batches of this process; the mean of each loss."""
        micro = [
            batch.to(self.accelerator.device, non_blocking=True) for batch in micro if batch.size
        ]
        if self.options.shuffled is not None:
            exchanged = self.data.schema.family(self.options.shuffled)
            micro = [batch.exchanged(*exchanged) for batch in micro]
        model.train()
        if self.options.accumulate > 1 and isinstance(self.system, ComparesRows):
            means = self._backward_of_all(stage, self.system, micro)
        else:
            means = self._backward_of_each(stage, model, micro)
        if stage.gradient_clip is not None:
            self.accelerator.clip_grad_norm_(model.parameters(), stage.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.system.after_step(self._summed)
        return means

    def _backward_of_each(
        self, stage: Stage, model: nn.Module, micro: list[Batch]
    ) -> dict[str, Tensor]:
        """Gradients of micro-batches, one after another; the mean of each loss."""
        torch.manual_seed(self._dropout_seed)
        counts = self._count(stage, model, micro) if len(micro) > 1 else None
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(micro):
            with self.accelerator.no_sync(model) if number + 1 < len(micro) else nullcontext():
                losses = self._losses(stage, model, batch)
                if counts is None:
                    counts = self._summed({name: loss.count for name, loss in losses.items()})
                self.accelerator.backward(objective(losses, counts, self.accelerator.num_processes))
            _accumulate(sums, {name: loss.per_item.detach().sum() for name, loss in losses.items()})
        assert counts is not None
        return {name: sums[name].float() / counts[name].clamp(min=1e-9) for name in sums}

    def _backward_of_all(
        self, stage: Stage, system: ComparesRows, micro: list[Batch]
    ) -> dict[str, Tensor]:
        """Gradients of losses that compare the rows of all micro-batches; the mean of each loss.

        Rows are embedded without gradients, compared at once, and embedded again, each micro-batch
        with the gradients that the comparison has for it (Gao et al., 2021, arXiv 2101.06983).
        """
        with torch.no_grad():
            parts = [self._embeddings(system, batch, number) for number, batch in enumerate(micro)]
        leaves = {
            name: torch.cat([part[name] for part in parts]).requires_grad_(
                value.is_floating_point()
            )
            for name, value in parts[0].items()
        }
        with self._precision():
            losses = system.compare(leaves)
        if stage.losses is not None:
            losses = {name: losses[name] for name in stage.losses}
        counts = self._summed({name: loss.count for name, loss in losses.items()})
        self.accelerator.backward(objective(losses, counts, self.accelerator.num_processes))
        first = 0
        for number, batch in enumerate(micro):
            embedded = self._embeddings(system, batch, number)
            last = first + len(next(iter(embedded.values())))
            reached = [name for name, leaf in leaves.items() if leaf.grad is not None]
            torch.autograd.backward(
                [embedded[name] for name in reached],
                [leaves[name].grad[first:last] for name in reached],  # type: ignore[index]
            )
            first = last
        self._average_gradients()
        return {
            name: loss.per_item.detach().float().sum() / counts[name].clamp(min=1e-9)
            for name, loss in losses.items()
        }

    def _embeddings(self, system: ComparesRows, batch: Batch, number: int) -> dict[str, Tensor]:
        """With the same dropout whenever they are computed."""
        torch.manual_seed(self._dropout_seed + number)
        with self._precision():
            return system.embeddings(batch)

    def _average_gradients(self) -> None:
        """Over processes, for what has not passed through their wrapper."""
        if self.accelerator.num_processes == 1:
            return
        trained = [p for p in self.system.parameters() if p.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # another process may have one
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
        flat = self.accelerator.reduce(flat, reduction="mean")
        for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            parameter.grad = part.view_as(parameter)

    def _precision(self) -> torch.autocast:
        half = self.options.precision == "bf16"
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=half)

    def _losses(self, stage: Stage, model: nn.Module, batch: Batch) -> dict[str, Loss]:
        with self._precision():
            losses: dict[str, Loss] = model(batch)
        if stage.losses is not None:
            losses = {name: losses[name] for name in stage.losses}
        return losses

    @torch.no_grad()
    def _count(self, stage: Stage, model: nn.Module, micro: list[Batch]) -> dict[str, Tensor]:
        """The divisors of a step that is computed in parts: known only after a look at each part.

        The look costs a forward pass without gradients; it is what makes the parts exact when the
        losses of a system count different things (masked words, masked regions, pairs).
        """
        counts: dict[str, Tensor] = {}
        for batch in micro:
            losses = self._losses(stage, model, batch)
            _accumulate(counts, {name: loss.count for name, loss in losses.items()})
        torch.manual_seed(self._dropout_seed)
        return self._summed(counts)

    def _summed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over processes, in one message."""
        names = sorted(values)
        flat = torch.cat([values[name].detach().float().flatten() for name in names])
        if self.accelerator.num_processes > 1:
            flat = self.accelerator.reduce(flat, reduction="sum")
        parts = torch.split(flat, [values[name].numel() for name in names])
        return {n: part.view_as(values[n]) for n, part in zip(names, parts, strict=True)}

    def _totals(self, *numbers: float) -> list[float]:
        """Sums over processes of what is no tensor."""
        if self.accelerator.num_processes == 1:
            return list(numbers)
        mine = torch.tensor(numbers, dtype=torch.float64, device=self.accelerator.device)
        totals: list[float] = self.accelerator.reduce(mine, reduction="sum").tolist()
        return totals

    def _any_process(self, *wishes: bool) -> list[bool]:
        """What at least one process wants. Their clocks differ; they must do the same nevertheless."""
        return [total > 0 for total in self._totals(*wishes)]

    @property
    def _dropout_seed(self) -> int:
        rank = self.accelerator.process_index
        return int(draws.integers("dropout", self.seed, self.progress.step, rank)) >> 1

    # ------------------------------------------------------------------ around the steps

    def _batches(self, stage: Stage, first: int, num_steps: int) -> Iterator[list[Batch]]:
        return iter(
            train_batches(
                self.rows,
                self._views,
                batch_size=stage.batch_size,
                seed=int(draws.integers("stage", self.seed, self.progress.stage)) >> 1,
                start_step=first,
                num_steps=num_steps,
                workers=self.options.workers,
                rank=self.accelerator.process_index,
                num_ranks=self.accelerator.num_processes,
                accumulate=self.options.accumulate,
                cache=self.cache,
                augment=self.options.augment,
            )
        )

    def _plan(self, stage: Stage, model: nn.Module) -> None:
        """Decide how many steps the stage has, from its share of the budget, and count their cost.

        A budget in time is turned into steps here, by measuring a few that change nothing. From
        then on the run is a function of its seed and its number of steps, so it can be resumed.
        """
        from torch.utils.flop_counter import FlopCounterMode

        timed = self.budget.unit == "seconds"
        budget = self.budget.part(stage.share / sum(each.share for each in self.stages))
        buffers = {name: buffer.clone() for name, buffer in self.system.named_buffers()}
        marks, flops = [time.monotonic()], 0.0
        model.train()
        for micro in self._batches(stage, 0, MOST_PROBE_STEPS if timed else 1):
            (empty,) = self._any_process(not all(batch.size for batch in micro))
            with FlopCounterMode(display=False) if len(marks) == 1 else nullcontext() as counter:
                for batch in () if empty else micro:
                    losses = self._losses(stage, model, batch.to(self.accelerator.device))
                    counts = {name: loss.count for name, loss in losses.items()}
                    self.accelerator.backward(objective(losses, counts, 1))
            if counter is not None:
                flops = float(counter.get_total_flops()) * self.accelerator.num_processes
            model.zero_grad(set_to_none=True)
            marks.append(time.monotonic())
            # every process must take as many steps, so the number alone may end it if there are several
            enough = marks[-1] - marks[0] > PROBE_SHARE * budget.amount
            if len(marks) > PROBE_STEPS and (enough or self.accelerator.num_processes > 1):
                break
        for name, buffer in self.system.named_buffers():
            buffer.copy_(buffers[name])
        seconds_per_step = 1.0
        if timed:  # the first half warms up the loader and the caches of what it reads
            half = len(marks) // 2
            seconds_per_step = (marks[-1] - marks[half]) / max(1, len(marks) - 1 - half)
            left = budget.amount - (marks[-1] - marks[0])
            budget = Budget(max(left, seconds_per_step), "seconds")
        rows = len(self.data.rows("train"))
        num_steps = budget.steps(rows, stage.batch_size, seconds_per_step)
        (agreed,) = self._totals(num_steps)
        num_steps = max(1, int(agreed) // self.accelerator.num_processes)
        self.progress.stage_steps.append(num_steps)
        self.progress.flops_per_step.append(flops)

    def _count_rows(self, micro: list[Batch]) -> bool:
        """Count rows and faults of all processes; stop when too many rows are unusable.

        Returns:
            Whether the step can be made: each process has a row. They average their gradients, so
            one that has none would keep the others waiting.
        """
        faults = [fault for batch in micro for fault in batch.faults]
        if faults:
            self.folder.append_faults(faults)
        rows = sum(batch.size for batch in micro)
        num_rows, num_faults, num_empty = self._totals(rows, len(faults), rows == 0)
        self.progress.rows_seen += int(num_rows)
        self.progress.faults += int(num_faults)
        seen = self.progress.rows_seen + self.progress.faults
        share = self.progress.faults / max(1, seen)
        enough = seen >= ROWS_BEFORE_FAULT_SHARE or self.progress.rows_seen == 0
        if num_faults and enough and share > self.options.max_fault_share:
            example = "".join(
                f" One of them: row '{fault.key}', field '{fault.field}': {fault.reason}."
                for fault in faults[:1]
            )
            raise UserError(
                f"{self.progress.faults} of {seen} rows could not be used ({share:.0%}; at most "
                f"{self.options.max_fault_share:.0%} may).{example} "
                f"All are listed in {self.folder.quarantine_file}. "
                "Mend them, or allow more with --set training.max_fault_share=..."
            )
        return num_empty == 0

    def _check_finite(self, losses: Mapping[str, Tensor]) -> None:
        for name, value in losses.items():
            if not bool(torch.isfinite(value)):
                raise self._not_finite(f"the loss '{name}'")

    def _check_weights(self, trained: Mapping[str, nn.Parameter]) -> None:
        """A finite loss may have had a gradient that is not; such weights must not be kept."""
        for name, parameter in trained.items():
            if not bool(torch.isfinite(parameter.detach()).all()):
                raise self._not_finite(f"the weight '{name}'")

    def _not_finite(self, what: str) -> UserError:
        kept = checkpoints.latest_checkpoint(self.folder.checkpoints)
        return UserError(
            f"{what} is not a finite number at step {self.progress.step}. Lower the learning rate "
            "with --set training.learning_rate=..., and keep training.precision=fp32. "
            + (f"The last good checkpoint is {kept}." if kept else "Nothing was saved yet.")
        )

    def _log(self, stage: Stage, losses: Mapping[str, Tensor], rate: float) -> None:
        """A line of training losses: means over all processes."""
        if not losses:
            return
        summed = self._summed(losses)
        self._check_finite(summed)
        self._emit(stage, "train", {n: float(value) for n, value in summed.items()}, rate)

    @torch.no_grad()
    def _validate(self, stage: Stage, average: WeightAverage | None) -> None:
        """Losses on the validation rows, with the weights that would be kept."""
        rows = self.data.rows("validation")[: self.options.validation_rows]
        if len(rows) == 0:
            return
        with _swapped(self.system, average):
            self.system.eval()
            sums: dict[str, Tensor] = {}
            counts: dict[str, Tensor] = {}
            weights: dict[str, float] = {}
            for batch in read_batches(
                self.rows, rows, self._views, batch_size=stage.batch_size, cache=self.cache
            ):
                if not batch.size:
                    continue
                losses = self._losses(stage, self.system, batch.to(self.accelerator.device))
                _accumulate(
                    sums, {name: loss.per_item.float().sum() for name, loss in losses.items()}
                )
                _accumulate(counts, {name: loss.count for name, loss in losses.items()})
                weights |= {name: loss.weight for name, loss in losses.items()}
            values = {name: float(sums[name] / counts[name].clamp(min=1e-9)) for name in sums}
            total = sum(weights[name] * value for name, value in values.items())
            self.progress.stale += 1
            if values and (self.progress.best_loss is None or total < self.progress.best_loss):
                self.progress.best_loss, self.progress.stale = total, 0
                if self.options.patience is not None and self.accelerator.is_main_process:
                    write_tensors(self._best_file, self.system.state_dict())
        self._emit(stage, "validation", values)

    @property
    def _best_file(self) -> Path:
        return self.folder.checkpoints / "best.safetensors"

    @property
    def _out_of_patience(self) -> bool:
        return self.options.patience is not None and self.progress.stale >= self.options.patience

    def _emit(
        self, stage: Stage, split: str, losses: Mapping[str, float], rate: float | None = None
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        line = {
            "step": self.progress.step,
            "stage": stage.name,
            "split": split,
            "stage_step": self.progress.stage_step,
            "stage_steps": self.progress.stage_steps[-1],
            "seconds": round(self.progress.seconds, 3),
            "losses": dict(losses),
            **({} if rate is None else {"learning_rate": rate}),
        }
        self.folder.append_metrics(line)
        self.report(line)
        if self.writer is not None:
            for name, value in losses.items():
                self.writer.add_scalar(f"{split}/{name}", value, self.progress.step)

    def _save(
        self,
        trained: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
    ) -> None:
        if self.accelerator.is_main_process:
            checkpoints.save_checkpoint(
                self.folder.checkpoints, self.progress, self.system, trained, optimizer, average
            )
        self.accelerator.wait_for_everyone()

    def _tensorboard(self) -> Any:
        if not self.options.tensorboard or not self.accelerator.is_main_process:
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra("training.tensorboard", "tensorboard") from None
        return SummaryWriter(str(self.folder.path / "tensorboard"))


def objective(
    losses: Mapping[str, Loss], counts: Mapping[str, Tensor], num_processes: int
) -> Tensor:
    """What is differentiated: weighted sums over items, divided by the counts of the whole step.

    Multiplied by the number of processes, because their gradients are averaged.
    """
    parts = [
        loss.weight * loss.per_item.sum() / counts[name].clamp(min=1e-9)
        for name, loss in losses.items()
    ]
    return torch.stack(parts).sum() * num_processes


def build_accelerator(device: str | None) -> Accelerator:
    """Devices and processes, as `accelerate launch` set them up, or one process."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # a modality may be absent in a whole batch, and its encoder then gets no gradient
    unused = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"device '{device}': expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': PyTorch finds no GPU here; use --device cpu")
    return Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[unused])


def _accumulate(into: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        into[name] = into[name] + value if name in into else value


@contextmanager
def _swapped(system: nn.Module, average: WeightAverage | None) -> Iterator[None]:
    """The running average in place of the raw weights, for a while."""
    if average is None:
        yield
        return
    raw = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    system.load_state_dict(average.applied_to(raw))
    try:
        yield
    finally:
        system.load_state_dict(raw)
