"""One function that finds the encoder for a field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from sensorium.modalities.base import View, get_modality
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.nn.encoders.audio import AudioEncoder
from sensorium.nn.encoders.base import Encoded, Encoder
from sensorium.nn.encoders.colours import ColourEncoder
from sensorium.nn.encoders.graph import GraphEncoder
from sensorium.nn.encoders.image import ImageEncoder
from sensorium.nn.encoders.maps import MapEncoder
from sensorium.nn.encoders.points import PointNet, PointTransformer
from sensorium.nn.encoders.scalars import (
    BoxEncoder,
    CategoryEncoder,
    GeneralEncoder,
    NumberEncoder,
)
from sensorium.nn.encoders.series import SeriesEncoder
from sensorium.nn.encoders.table import TableEncoder
from sensorium.nn.encoders.text import TextEncoder
from sensorium.nn.encoders.video import VideoEncoder
from sensorium.types import Field, UserError
from sensorium.types.names import did_you_mean

OWN: dict[str, type[Encoder]] = {
    "audio": AudioEncoder,
    "boxes": BoxEncoder,
    "categories": CategoryEncoder,
    "category": CategoryEncoder,
    "graph": GraphEncoder,
    "image": ImageEncoder,
    "maps": MapEncoder,
    "number": NumberEncoder,
    "points": PointTransformer,
    "series": SeriesEncoder,
    "table": TableEncoder,
    "text": TextEncoder,
    "video": VideoEncoder,
}
"""The encoders that come with the library; any other modality gets the general one."""


NAMED: dict[str, dict[str, type[Encoder]]] = {
    "points": {"transformer": PointTransformer, "pointnet": PointNet},
}
"""Encoders from scratch among which a spec chooses, by modality."""

COLOURS_WIDTH = 128
NAMED_WIDTH = 128


class PluggedEncoder(Encoder):
    """The module that a modality brings itself."""

    def __init__(self, module: nn.Module, view: View, width: int) -> None:
        super().__init__(width, view)
        self.module = module

    def forward(
        self,
        values: Shaped[Tensor, "entries ..."],
        mask: Bool[Tensor, "entries length"] | None = None,
    ) -> Encoded:
        """What the module gives."""
        encoded: Encoded = self.module(values, mask)
        return encoded


def specs_of(fields: Iterable[Field], settings: Mapping[str, str]) -> dict[str, str | None]:
    """For each field its encoder's spec, from settings by the name of a field or of a modality.

    Raises:
        UserError: a setting fits none of the fields.
    """
    fields = list(fields)
    known = [name for field in fields for name in (field.name, field.modality)]
    for name in settings:
        if name not in known:
            raise UserError(
                f"setting encoder.{name}: the system reads no such field or modality. "
                + did_you_mean(name, known)
            )
    return {f.name: settings.get(f.name, settings.get(f.modality)) for f in fields}


def build_encoder(
    field: Field,
    *,
    width: int | None,
    depth: int = 2,
    heads: int = 4,
    spec: str | None = None,
    view: View | None = None,
    tokenizer: Tokenizer | None = None,
    **settings: Any,
) -> Encoder:
    """The encoder of a field's entries.

    Args:
        field: with its modality, and what that learned from the training rows.
        width: of the vectors it gives; a pretrained tower of another width gets a linear map. None,
            for such a tower, leaves its width.
        depth: layers of a tower from scratch.
        heads: of its attention.
        spec: `hf:NAME_OR_PATH`, a pretrained tower of `transformers`; `colours`, a control for
            pictures; `transformer` or `pointnet` for points; None for one from scratch.
        view: what it reads, if not the modality's default; a pretrained tower says so itself.
        tokenizer: for text from scratch, unless the view has one.
        settings: of the modality's own encoder, see there.

    Raises:
        UserError: the spec cannot be read, or is no tower for this modality.
    """
    own, named = OWN.get(field.modality, GeneralEncoder), NAMED.get(field.modality, {})
    if spec in named:
        own, spec, width = named[spec], None, width or NAMED_WIDTH
    if spec is not None:
        kind, _, name = spec.partition(":")
        if spec == "colours":
            modality = get_modality(field.modality)
            return ColourEncoder(field, view or modality.View(), width or COLOURS_WIDTH)
        if kind != "hf" or not name:
            known = "".join(f"'{other}', " for other in named)
            raise UserError(
                f"encoder of '{field.name}': expected {known}'hf:NAME_OR_PATH' or 'colours', not "
                f"'{spec}'"
            )
        from sensorium.nn.pretrained import pretrained_encoder

        return pretrained_encoder(name, field, width)
    if width is None:
        raise ValueError("an encoder from scratch needs a width")
    modality = get_modality(field.modality)
    view = view or modality.View()
    plugged = modality.encoder(field, width)
    if plugged is not None:
        return PluggedEncoder(plugged, view, width)
    if isinstance(view, TextView) and view.tokenizer is None:
        view = view.model_copy(update={"tokenizer": tokenizer})
    return own(field, view, width, depth, heads, **settings)  # type: ignore[arg-type,call-arg]
