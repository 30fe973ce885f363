"""How stages begin: with which rows, and with which weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sensorium.data import Data, MediaCache
from sensorium.data.partners import with_partners
from sensorium.systems.base import Mines, System
from sensorium.training.files import read_tensors, write_tensors
from sensorium.types import Stage

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Entrance:
    """What is done once when a stage begins; it is kept in files, so that a resumed run finds it again.

    Attributes:
        system: what is trained.
        stages: of the run.
        data: the rows of the run.
        folder: of the files.
        seed: of the draws of hard negatives.
        cache: of decoded media.
        accelerator: of the processes.
    """

    system: System
    stages: Sequence[Stage]
    data: Data
    folder: Path
    seed: int
    cache: MediaCache | None
    accelerator: Accelerator

    def keep_weights(self) -> None:
        """Keep those that the run begins with, if a stage will begin with them again."""
        if any(stage.restarts for stage in self.stages):
            self._write(self._first, self.system.state_dict())

    def enter(self, number: int, is_resumed: bool) -> Data:
        """Let a stage begin, or go on.

        Returns:
            The rows that it is given, which have partners from the first stage that mines on.
        """
        stage, system = self.stages[number], self.system
        if stage.mines and not is_resumed:
            assert isinstance(system, Mines)
            system.eval()
            with torch.no_grad():
                partner = system.mine(self.data, self.seed, self.cache)
            self._write(self._partners, {"partner": torch.from_numpy(partner)})
        rows = self.data
        if any(each.mines for each in self.stages[: number + 1]):
            assert isinstance(system, Mines)
            partner = read_tensors(self._partners)["partner"].numpy()
            rows = with_partners(rows, partner, system.partnered)
        if not is_resumed:
            if stage.restarts:
                system.load_state_dict(read_tensors(self._first))
            system.begin(stage.name)
        system.stage = stage.name
        return rows

    def _write(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """A file that all processes will read."""
        if self.accelerator.is_main_process:
            write_tensors(path, tensors)
        self.accelerator.wait_for_everyone()

    @property
    def _first(self) -> Path:
        return self.folder / "first.safetensors"

    @property
    def _partners(self) -> Path:
        return self.folder / "partners.safetensors"
