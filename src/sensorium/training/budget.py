"""How long a run may take: steps, epochs or time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sensorium.types import UserError

Unit = Literal["steps", "epochs", "seconds"]

_UNITS: dict[str, tuple[Unit, float]] = {
    "step": ("steps", 1),
    "steps": ("steps", 1),
    "epoch": ("epochs", 1),
    "epochs": ("epochs", 1),
    "s": ("seconds", 1),
    "m": ("seconds", 60),
    "h": ("seconds", 3600),
}


@dataclass(frozen=True)
class Budget:
    """An amount and its unit. Time is turned into steps by measuring a few before a stage begins."""

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `500steps`, `3epochs`, `90s`, `2m` or `1.5h`.

        Raises:
            UserError: it is none of these, or not above zero.
        """
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text.lower())
        if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
            raise UserError(
                f"budget '{text}': expected a number above zero with a unit, "
                "for example 500steps, 3epochs, 90s, 2m or 1.5h"
            )
        unit, factor = _UNITS[match[2]]
        return cls(float(match[1]) * factor, unit)

    def part(self, share: float) -> Budget:
        """A share of it."""
        return Budget(self.amount * share, self.unit)

    def steps(self, rows: int, batch_size: int, seconds_per_step: float) -> int:
        """The number of steps it pays for, at least one."""
        per_epoch = max(1, rows // batch_size)
        steps = {
            "steps": self.amount,
            "epochs": self.amount * per_epoch,
            "seconds": self.amount / seconds_per_step,
        }[self.unit]
        return max(1, round(steps))

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"
