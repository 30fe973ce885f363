"""The command line in this process, and what a folder holds."""

import contextlib
import io
from collections import namedtuple

from sensorium.cli import main

Outcome = namedtuple("Outcome", "code out err")

FAST = [f"--set=training.{pair}" for pair in ("batch_size=8", "workers=0", "validation_rows=8")]


def run(*arguments):
    """What a command prints, and its exit code; anything but a `UserError` is raised."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
    return Outcome(code, out.getvalue(), err.getvalue())


def listing(folder):
    """Every path below a folder, with the size and the time of files."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        if not path.is_dir()
        else None
        for path in sorted(folder.rglob("*"))
    }
