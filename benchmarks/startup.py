"""How long the command line and the package take to start.

Each repeat is a fresh process. A process that imports nothing is timed beside it, for comparison.
"""

from __future__ import annotations

import subprocess
import sys

from harness import Figure, Result, Settings, Target, take_turns

COMMANDS = {
    "sensorium --help": ([sys.executable, "-m", "sensorium", "--help"], 0.5),
    "import sensorium": ([sys.executable, "-c", "import sensorium"], 0.3),
    "python that imports nothing": ([sys.executable, "-c", ""], None),
}


def start(command: list[str]) -> None:
    """Run to the end."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(settings: Settings) -> Result:
    """Seconds from start to end."""
    sides = {
        name: lambda command=command: start(command) for name, (command, _) in COMMANDS.items()
    }
    seconds = take_turns(sides, settings.repeats)
    return Result(
        [
            Figure(
                name,
                "s",
                seconds[name],
                target=None if limit is None else Target("at most", limit),
            )
            for name, (_, limit) in COMMANDS.items()
        ]
    )
