"""The few types that every part of the library speaks.

They are imported when first used: the light ones (cards, errors, schemas) do without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensorium.types import draws as draws
    from sensorium.types.batch import Batch as Batch
    from sensorium.types.batch import Entries as Entries
    from sensorium.types.batch import Fault as Fault
    from sensorium.types.batch import Sample as Sample
    from sensorium.types.batch import concatenate as concatenate
    from sensorium.types.card import Card as Card
    from sensorium.types.errors import BadValue as BadValue
    from sensorium.types.errors import MissingExtra as MissingExtra
    from sensorium.types.errors import UserError as UserError
    from sensorium.types.loss import Loss as Loss
    from sensorium.types.schema import Field as Field
    from sensorium.types.schema import Schema as Schema
    from sensorium.types.stage import Stage as Stage
    from sensorium.types.tokens import Tokens as Tokens
    from sensorium.types.tokens import cat as cat
    from sensorium.types.tokens import pack as pack

_MODULES = {
    "batch": ("Batch", "Entries", "Fault", "Sample", "concatenate"),
    "card": ("Card",),
    "errors": ("BadValue", "MissingExtra", "UserError"),
    "loss": ("Loss",),
    "schema": ("Field", "Schema"),
    "stage": ("Stage",),
    "tokens": ("Tokens", "cat", "pack"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [*_WHERE, "draws"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"sensorium.types.{_WHERE[name]}"), name)
    if name == "draws":
        return import_module("sensorium.types.draws")
    raise AttributeError(f"module 'sensorium.types' has no attribute '{name}'")
