"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Ends with exit code 0; 1 if a comparison has no finished run; 2 if something that the user gave
    does not fit; 130 after Ctrl-C. Anything else that goes wrong is a fault of the library, and its
    traceback is shown.

    Args:
        arguments: of the command line, without the name of the program; those of the process if
            None.
    """
    from sensorium.cli.app import app

    try:
        app(None if arguments is None else list(arguments), prog_name="sensorium")
    except BrokenPipeError:
        # the reader has seen enough (`sensorium systems | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        from sensorium.types.errors import UserError

        if not isinstance(error, UserError):
            raise
        from sensorium.cli.console import say_error

        say_error(str(error))
        sys.exit(error.exit_code)


__all__ = ["main"]
