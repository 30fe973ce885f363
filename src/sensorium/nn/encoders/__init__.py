"""From the entries of a field to sequences of vectors."""

from sensorium.nn.encoders.base import Encoder, embed_field, encode_field
from sensorium.nn.encoders.build import build_encoder, specs_of
from sensorium.nn.encoders.fields import ByField, FieldEncoders, modules_of_fields

__all__ = [
    "ByField",
    "Encoder",
    "FieldEncoders",
    "build_encoder",
    "embed_field",
    "encode_field",
    "modules_of_fields",
    "specs_of",
]
