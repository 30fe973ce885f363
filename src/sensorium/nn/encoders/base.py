"""What an encoder is, and how the entries of a field become tokens or vectors of its rows."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from sensorium.modalities.base import View
from sensorium.nn.blocks import Layers
from sensorium.nn.pooling import Pooling, end_place, pool
from sensorium.types import Batch, Field, Tokens, UserError, pack

Encoded = tuple[Float[Tensor, "entries tokens width"], Bool[Tensor, "entries tokens"] | None]
Prepared = tuple[
    Float[Tensor, "entries tokens width"],
    Bool[Tensor, "entries 1 #tokens tokens"] | None,
    Bool[Tensor, "entries tokens"] | None,
]


class Encoder(nn.Module, ABC):
    """Entries of one field to sequences of vectors.

    It sees the entries that are there and nothing else: a row without the field costs nothing.

    Attributes:
        width: of the vectors it gives.
        view: what it wants of the raw values; a system passes it on from `views`.
        pooling: how its vectors become one, unless a system has a reason to do otherwise.
    """

    width: int
    view: View
    pooling: Pooling = "mean"

    def __init__(self, width: int, view: View) -> None:
        super().__init__()
        self.width = width
        self.view = view

    @abstractmethod
    def forward(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """The vectors of each entry, and which are real (None if all are)."""

    def embed(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None,
        pooling: Pooling,
    ) -> Float[Tensor, "entries width"]:
        """One vector for each entry: its vectors, pooled."""
        vectors, real = self(values, mask)
        return pool(vectors, real, pooling)

    def each_level(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None,
        number: int,
    ) -> list[Float[Tensor, "entries width"]]:
        """One vector for each entry after each of the last layers, from shallow to deep.

        Each passes the norm that stands after the last layer, and is pooled as usual.

        Raises:
            UserError: the encoder is no stack of so many layers.
        """
        raise UserError(
            f"{type(self).__name__} is no stack of layers that could be read one by one"
        )


class TransformerEncoder(Encoder):
    """An encoder that ends with a transformer and a norm.

    Attributes:
        layers: the transformer.
        norm: after it.
    """

    layers: Layers
    norm: nn.LayerNorm

    @abstractmethod
    def prepare(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None,
    ) -> Prepared:
        """What goes into the layers, which token sees which (None: all), and which are real."""

    def forward(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """One vector for each token."""
        x, seen, real = self.prepare(values, mask)
        return self.norm(self.layers.walk(x, seen)), real

    def embed(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None,
        pooling: Pooling,
    ) -> Float[Tensor, "entries width"]:
        """One vector for each entry; if it is that of one token, the last layer computes no other."""
        x, seen, real = self.prepare(values, mask)
        if pooling in ("first", "last"):
            vectors: Tensor = self.norm(self.layers.walk_to(x, end_place(x, real, pooling), seen))
            return vectors
        return pool(self.norm(self.layers.walk(x, seen)), real, pooling)

    def each_level(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None,
        number: int,
    ) -> list[Float[Tensor, "entries width"]]:
        """One vector for each entry after each of the last layers, from shallow to deep."""
        if number > len(self.layers):
            raise UserError(f"{number} levels of an encoder that has {len(self.layers)} layers")
        x, seen, real = self.prepare(values, mask)
        found = []
        for layer in self.layers:
            x = layer(x, seen)
            found.append(pool(self.norm(x), real, self.pooling))
        return found[len(found) - number :]


def encode_field(encoder: Encoder, batch: Batch, field: Field) -> Tokens:
    """The tokens of a field for each row of a batch: those of all its entries, side by side.

    Rows without the field get no token; if no row has it, the stream has length 0.
    """
    if field.name not in batch or len(batch[field.name]) == 0:
        return _nothing(encoder, batch)
    entries = batch[field.name]
    values, mask = encoder(entries.values, entries.mask)
    return pack(values, mask, entries.row, entries.item, batch.size, field.modality)


def embed_field(
    encoder: Encoder, batch: Batch, field: Field, pooling: Pooling | None = None
) -> tuple[Float[Tensor, "batch width"], Bool[Tensor, "batch"]]:
    """One vector for each row (zeros for rows without the field), and which rows have the field.

    An entry is pooled by itself; a row with several entries gets their mean. Entries that are vectors
    already are taken as they are.
    """
    present = batch.present(field.name)
    if field.name not in batch or len(batch[field.name]) == 0:
        return _nothing(encoder, batch).mean(), present
    entries = batch[field.name]
    vectors = entries.values
    if not entries.embedded:
        vectors = encoder.embed(entries.values, entries.mask, pooling or encoder.pooling)
    total = vectors.new_zeros(batch.size, vectors.shape[1]).index_add(0, entries.row, vectors)
    return total / entries.counts(batch.size).clamp(min=1).unsqueeze(1), present


def _nothing(encoder: Encoder, batch: Batch) -> Tokens:
    """Tokens of no length, for a batch in which no row has the field."""
    weight = next(encoder.parameters())
    values = weight.new_zeros(batch.size, 0, encoder.width)
    mask = weight.new_zeros(batch.size, 0, dtype=bool)  # type: ignore[call-overload]
    return Tokens(values, mask)
