"""The folder of a run: what is in it, who may write it, and how it is read back.

run.json           what was run: system, size, data, seed, versions, progress, cost
config.yaml        settings of the system and of training
schema.yaml        fields with roles, and what was fitted on the training rows
tokenizer/         for text
model.safetensors  the weights that are evaluated
metrics.jsonl      losses and rates by step
checkpoints/       what a killed run resumes from
quarantine.jsonl   rows that were set aside, and why
evaluation.json    scores on the test rows
diagnosis.json     what each modality contributes, once it was asked for
report.html        the same for people
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sensorium.training.files import read_json, remove_parts, write_aside, write_text
from sensorium.types import Fault, UserError

FORMAT = 1

ENDING = 2.0
"""Seconds in which a folder may still be held by a run that was killed, whose workers are ending."""


class RunFolder:
    """Paths and small files of a run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.run_file = self.path / "run.json"
        self.config_file = self.path / "config.yaml"
        self.schema_file = self.path / "schema.yaml"
        self.tokenizer = self.path / "tokenizer"
        self.model_file = self.path / "model.safetensors"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.quarantine_file = self.path / "quarantine.jsonl"
        self.evaluation_file = self.path / "evaluation.json"
        self.scores_file = self.path / "scores.safetensors"
        self.diagnosis_file = self.path / "diagnosis.json"
        self.report_file = self.path / "report.html"

    def create(self) -> None:
        """Make the folder.

        Raises:
            UserError: it cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"cannot write the folder {self.path}: {error.strerror or error}. "
                "Choose another with --out"
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one run; a second one is refused.

        Raises:
            UserError: another process is writing it.
        """
        with (self.path / ".lock").open("w") as lock:
            until = time.monotonic() + ENDING
            while not _is_taken(lock):
                if time.monotonic() > until:
                    raise UserError(
                        f"another process is writing {self.path}; wait for it or choose another folder"
                    )
                time.sleep(0.05)
            remove_parts(self.path)
            yield

    def read_run(self) -> dict[str, Any]:
        """What `run.json` says.

        Raises:
            UserError: this is no run folder, or one of a later version of the library.
        """
        if not self.run_file.is_file():
            raise UserError(f"{self.path} is not a run folder: it has no run.json")
        run: dict[str, Any] = read_json(self.run_file)
        if not isinstance(run, dict) or not isinstance(run.get("format", 0), int):
            raise UserError(f"{self.run_file} is not what `sensorium train` writes")
        if run.get("format", 0) > FORMAT:
            raise UserError(
                f"{self.path} was written by a later version of sensorium "
                f"(format {run['format']}, this one reads up to {FORMAT}); upgrade sensorium"
            )
        return run

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`."""
        self._append(self.metrics_file, [line])

    def append_faults(self, faults: Iterable[Fault]) -> None:
        """Add lines to `quarantine.jsonl`."""
        if lines := [vars(fault) for fault in faults]:
            self._append(self.quarantine_file, lines)

    def _append(self, path: Path, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        try:
            # A line that a kill or a full disk cut short must not swallow the next one.
            with path.open("ab+") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                gap = b"" if file.read(1) in (b"", b"\n") else b"\n"
                file.write(gap + text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror or error}. Free some space and run the same "
                "command again: it resumes from the last checkpoint"
            ) from None

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; one cut short by a kill is left out."""
        return list(_json_lines(self.metrics_file))

    def read_faults(self) -> list[Fault]:
        """The rows that were set aside, each once."""
        return list(dict.fromkeys(Fault(**line) for line in _json_lines(self.quarantine_file)))

    def cut_metrics(self, step: int) -> None:
        """Drop the lines after a step, before a run resumes there."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        if self.metrics_file.exists():
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
            write_aside(self.metrics_file, lambda aside: write_text(aside, text))


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    # Not `splitlines`, which also divides at marks that may stand within a text.
    for line in path.read_bytes().split(b"\n"):
        try:
            content = json.loads(line)
        except ValueError:  # cut short
            continue
        if isinstance(content, dict):
            yield content


def _is_taken(lock: IO[str]) -> bool:
    """Whether the lock could be had."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
