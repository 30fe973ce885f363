"""From the entries of a field to sequences of vectors."""

from sensorium.nn.encoders.base import Encoder, embed_field, encode_field
from sensorium.nn.encoders.build import build_encoder, specs_of
from sensorium.nn.encoders.fields import FieldEncoders, named_encoders

__all__ = [
    "Encoder",
    "FieldEncoders",
    "build_encoder",
    "embed_field",
    "encode_field",
    "named_encoders",
    "specs_of",
]
