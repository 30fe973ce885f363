"""What all published models of `transformers` have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from sensorium.types import UserError


@contextmanager
def hub_errors(problem: str, files: str) -> Iterator[None]:
    """Say in one sentence why a published model cannot be used, and which files are expected."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"{problem}: {reason}. Expected a name on the hub, or a folder with {files} (weights as "
            "safetensors; pickles are refused)"
        ) from None


def layers_of(trunk: Any) -> nn.ModuleList:
    """The layers of a published model, in order.

    Raises:
        UserError: it has not one list of as many as its configuration says.
    """
    depth = trunk.config.num_hidden_layers
    for module in trunk.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(f"{type(trunk).__name__}: expected one list of {depth} layers, found none")
