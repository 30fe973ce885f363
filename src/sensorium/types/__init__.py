"""The few types that every part of the library speaks."""

from sensorium.types.batch import Batch, Entries, Fault, Sample, concatenate
from sensorium.types.card import Card
from sensorium.types.errors import BadValue, MissingExtra, UserError
from sensorium.types.loss import Loss
from sensorium.types.schema import Field, Schema
from sensorium.types.stage import Stage
from sensorium.types.tokens import Tokens, cat, pack

__all__ = [
    "BadValue",
    "Batch",
    "Card",
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
