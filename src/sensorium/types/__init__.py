"""The few types that every part of the library speaks.

They are imported when they are first used, so that the catalogue can be read without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensorium.types.batch import Batch, Draw, Entries, Fault, Sample, concatenate
    from sensorium.types.card import Card
    from sensorium.types.errors import BadValue, MissingExtra, UserError
    from sensorium.types.loss import Loss
    from sensorium.types.schema import Field, Schema
    from sensorium.types.stage import Stage
    from sensorium.types.tokens import Tokens, cat, pack
else:
    _WHERE = {
        name: module
        for module, names in {
            "batch": ("Batch", "Draw", "Entries", "Fault", "Sample", "concatenate"),
            "card": ("Card",),
            "errors": ("BadValue", "MissingExtra", "UserError"),
            "loss": ("Loss",),
            "schema": ("Field", "Schema"),
            "stage": ("Stage",),
            "tokens": ("Tokens", "cat", "pack"),
        }.items()
        for name in names
    }

    def __getattr__(name: str) -> Any:
        if name not in _WHERE:
            raise AttributeError(f"module 'sensorium.types' has no attribute '{name}'")
        found = getattr(import_module(f"sensorium.types.{_WHERE[name]}"), name)
        globals()[name] = found
        return found


__all__ = [
    "BadValue",
    "Batch",
    "Card",
    "Draw",
    "Entries",
    "Fault",
    "Field",
    "Loss",
    "MissingExtra",
    "Sample",
    "Schema",
    "Stage",
    "Tokens",
    "UserError",
    "cat",
    "concatenate",
    "pack",
]
