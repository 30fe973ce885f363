"""From the entries of a field to sequences of vectors."""

from sensorium.nn.encoders.base import Encoder, embed_field, encode_field
from sensorium.nn.encoders.build import build_encoder, specs_of

__all__ = ["Encoder", "build_encoder", "embed_field", "encode_field", "specs_of"]
