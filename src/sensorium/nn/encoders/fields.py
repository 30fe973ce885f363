"""The encoders of several fields, for systems that read whatever a row holds, one vector for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Self, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sensorium.modalities.base import View
from sensorium.modalities.image import ImageView
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.encoders.base import Encoder, embed_field
from sensorium.nn.encoders.build import build_encoder, specs_of
from sensorium.nn.encoders.tower import Tower
from sensorium.nn.pretrained import Pretrained
from sensorium.types import Batch, Entries, Field


class ByField(nn.ModuleList):
    """A module for each of some fields, in their order; a field may have any name.

    Args:
        fields: which fields.
        modules: theirs.
    """

    def __init__(self, fields: Iterable[Field], modules: Iterable[nn.Module] = ()) -> None:
        super().__init__(modules)
        self.fields = list(fields)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(field.name for field in self.fields)


class FieldEncoders(ByField):
    """An encoder for each field.

    Args:
        fields: what is read.
        specs: pretrained towers, by the name of a field or of a modality; see `build_encoder`.
        tokenizer: for text that is encoded from scratch.
        width: of the vectors.
        tower_width: of those of pretrained towers; None leaves each its own.
        depth: layers of an encoder from scratch, and `heads`, of its attention.
        image_size: pixels of the side of an image.
        max_tokens: the longest text.
        freeze: whether pretrained towers stay as they are.
        settings: of encoders from scratch, by modality, where they are not those of all.

    Attributes:
        frozen: names, within this module, of the towers that stay as they are; a stage lists them.

    Raises:
        UserError: a spec fits no field, or cannot be loaded.
    """

    def __init__(
        self,
        fields: Iterable[Field],
        specs: Mapping[str, str],
        tokenizer: Tokenizer | None,
        *,
        width: int,
        tower_width: int | None,
        depth: int,
        heads: int,
        image_size: int,
        max_tokens: int,
        freeze: bool = False,
        settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        super().__init__(fields)
        spec_of = specs_of(self.fields, specs)
        views: dict[str, View] = {
            "image": ImageView(size=image_size),
            "text": TextView(tokenizer=tokenizer, max_tokens=max_tokens),
        }
        for field in self.fields:
            spec = spec_of[field.name]
            chosen: dict[str, Any] = {
                "width": width if spec is None else tower_width,
                "depth": depth,
                "heads": heads,
                "view": views.get(field.modality),
            }
            if spec is None:
                chosen |= settings.get(field.modality, {})
            self.append(build_encoder(field, spec=spec, **chosen))

        self.frozen = [
            f"{place}.tower"
            for place, encoder in enumerate(self)
            if freeze and isinstance(encoder, Pretrained)
        ]

    def train(self, mode: bool = True) -> Self:
        """What is frozen makes the same vectors in training as after it."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def each(self) -> Iterator[tuple[Field, Encoder]]:
        """Fields with their encoders."""
        return zip(self.fields, cast(Iterable[Encoder], self), strict=True)

    def views(self) -> dict[str, View]:
        """What the encoders read, by field."""
        return {field.name: encoder.view for field, encoder in self.each()}

    def vector(
        self, batch: Batch, place: int
    ) -> tuple[Float[Tensor, "batch width"], Bool[Tensor, "batch"]]:
        """The vector of one field in each row (zeros where it is absent), and where it is present."""
        return embed_field(cast(Encoder, self[place]), batch, self.fields[place])

    def prepare(self, batch: Batch) -> Batch:
        """Each field as its vector, for rows that are asked about with and without some of them."""
        vectors = {}
        for place, field in enumerate(self.fields):
            vector, present = self.vector(batch, place)
            rows = present.nonzero().squeeze(1)
            vectors[field.name] = Entries(vector[rows], rows, torch.zeros_like(rows), embedded=True)
        return batch.with_fields(**vectors)


def modules_of_fields(module: nn.Module) -> dict[str, Field]:
    """The names of the places, anywhere within a module, of what belongs to a field; and which one."""
    found = {}
    for name, part in module.named_modules():
        start = f"{name}." if name else ""
        if isinstance(part, Tower):
            found[f"{start}encoder"] = part.field
        elif isinstance(part, ByField):
            found |= {f"{start}{place}": field for place, field in enumerate(part.fields)}
    return found
