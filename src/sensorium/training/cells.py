"""A run in a process of its own: trained, scored, measured.

So a system that fails is one entry with its error, memory is measured alone, and what is finished is
not done again.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.data import open_data
from sensorium.training.files import write_json
from sensorium.training.folder import RunFolder
from sensorium.training.run import train
from sensorium.types import Schema, UserError

Report = Callable[[str, int, dict[str, Any]], None]

_WHERE = ("device", "cache")  # changes nothing of the outcome
_AFTER = ("evaluation", "measure")  # can be done again with the same run


@dataclass(frozen=True)
class Cell:
    """One system with one seed; what its process is told.

    Attributes:
        name: of the system or arm, for reports.
        seed: of the run.
        folder: of the run.
        spec: the arguments of `train` and of `Run.evaluate`; `data`, the arguments of `open_data`;
            `schema`, the path of a schema file, or None to let the task assign roles; `measure`, None
            or `module:function`, which is given the run and returns numbers by name.
    """

    name: str
    seed: int
    folder: Path
    spec: dict[str, Any]

    @property
    def spec_file(self) -> Path:
        """The file that tells it."""
        return self.folder / "cell.json"

    @property
    def measures_file(self) -> Path:
        """What `measure` found."""
        return self.folder / "measures.json"

    @property
    def log_file(self) -> Path:
        """What its process wrote on its standard error."""
        return self.folder / "log.txt"

    def is_done(self) -> bool:
        """Whether it was run, scored and measured, with exactly this specification."""
        files = [RunFolder(self.folder).evaluation_file]
        files += [self.measures_file] if self.spec.get("measure") else []
        return self.spec_file.exists() and not self._differing() and all(f.exists() for f in files)

    def check(self) -> None:
        """Refuse a folder that holds another run.

        Raises:
            UserError: naming what differs.
        """
        differing = self._differing() if self.spec_file.exists() else []
        for name in [name for name in differing if name not in _AFTER][:1]:
            before = json.loads(self.spec_file.read_text()).get(name)
            raise UserError(
                f"{self.folder} holds another run: its {name} was {before!r}, and now it is "
                f"{self.spec.get(name)!r}. Choose another folder with --out, or remove this one"
            )

    def _differing(self) -> list[str]:
        before: Mapping[str, Any] = json.loads(self.spec_file.read_text())
        now = json.loads(json.dumps(self.spec))
        names = [name for name in {**now, **before} if name not in _WHERE]
        return [name for name in names if before.get(name) != now.get(name)]


def run_cell(
    cell: Cell, report: Report = lambda name, seed, line: None, threads: int | None = None
) -> str | None:
    """Train, score and measure; the error if that fails.

    Args:
        cell: what is run; what it has already done is kept.
        report: called with name, seed and each line of metrics.
        threads: for the process; as many as it likes if None.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_json(cell.spec_file, cell.spec)
    command = [sys.executable, "-m", "sensorium.training.cells", str(cell.spec_file)]
    limits = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    message = None
    with (
        cell.log_file.open("w") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | limits,
            # a second Ctrl-C would end it without a checkpoint, so it gets the first from here alone
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for text in process.stdout:
                try:
                    line = json.loads(text)
                except json.JSONDecodeError:
                    continue
                message = line.get("error", message)
                if "error" not in line:
                    report(cell.name, cell.seed, line)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if process.returncode == 0:
        return None
    if message is None:
        how = f"signal {-process.returncode}" if process.returncode < 0 else "no message"
        message = f"the process ended with {how}"
    return f"{message} (log: {cell.log_file})"


def _run_in_this_process(spec_file: Path) -> None:
    """What the process of a cell does: train, score, measure, and print lines of metrics."""
    spec = json.loads(spec_file.read_text())

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)  # noqa: T201 - read by the process that started this one

    try:
        data = open_data(**spec["data"])
        if spec["schema"]:
            data = data.with_schema(Schema.load(Path(spec["schema"])))
        run = train(
            spec["system"],
            data,
            out=spec_file.parent,
            task=spec["task"],
            size=spec["size"],
            settings=spec["settings"],
            options=spec["options"],
            budget=spec["budget"],
            seed=spec["seed"],
            init=spec["init"],
            device=spec["device"],
            cache=spec["cache"],
            report=say,
        )
        run.evaluate(**spec["evaluation"])
        if spec.get("measure"):
            module, _, function = spec["measure"].partition(":")
            measures = getattr(importlib.import_module(module), function)(run)
            write_json(spec_file.parent / "measures.json", measures)
    except UserError as error:
        say({"error": str(error)})
        sys.exit(2)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    _run_in_this_process(Path(sys.argv[1]))
