"""Where the trunk of Meta-Transformer comes from, and how it is taken apart as a control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from sensorium.nn.blocks import Layers
from sensorium.nn.weights import below
from sensorium.systems.baselines.clip_weights import convert, read_clip
from sensorium.types import Schema, UserError
from sensorium.types.draws import permutation
from sensorium.types.plain_yaml import read_yaml

Kind = Literal["playground", "random", "none", "hf", "run"]


@dataclass(frozen=True)
class Source:
    """Where a trunk comes from.

    Attributes:
        kind: how it is written.
        where: the name or the path.
    """

    kind: Kind
    where: str = ""


def source_of(text: str) -> Source:
    """The source that a setting names.

    Raises:
        UserError: it names none.
    """
    kind, _, where = text.partition(":")
    if text in ("playground", "random", "none") or (kind in ("hf", "run") and where):
        return Source(cast(Kind, kind), where)
    raise UserError(
        f"setting trunk: '{text}' is none of playground, random, none, hf:NAME and run:PATH"
    )


def load_trunk(trunk: Layers, source: Source, shape: Mapping[str, object]) -> None:
    """Give a trunk the weights of its source, if it has one.

    Args:
        trunk: whose weights are replaced.
        source: of the new ones.
        shape: settings that must agree with those of the source, by name.

    Raises:
        UserError: they cannot be read, or are of another shape.
    """
    settings: Mapping[str, Any]
    if source.kind == "hf":
        settings, weights = read_clip(source.where)
        found = below("query.encoder.layers", convert(weights))
    elif source.kind == "run":
        settings, found = _of_run(Path(source.where))
    else:
        return
    for name, wanted in shape.items():
        if settings.get(name, wanted) != wanted:
            raise UserError(
                f"setting trunk: {source.kind}:{source.where} has {name} {settings[name]}, and the "
                f"trunk {wanted}; give --set {name}={settings[name]}"
            )
    try:
        trunk.load_state_dict(found)
    except RuntimeError as error:
        raise UserError(
            f"setting trunk: the blocks of {source.kind}:{source.where} do not fit: {error}"
        ) from None


def shuffle(trunk: Layers) -> None:
    """Put the numbers of each matrix in another order: all that is left is how they are spread."""
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if parameter.ndim > 1:
                order = torch.from_numpy(permutation(parameter.numel(), f"shuffled {name}"))
                flat = parameter.flatten()[order.to(parameter.device)]
                parameter.copy_(flat.view_as(parameter))


def _of_run(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """The settings and the blocks of the tower of pictures, or of the trunk, of a trained system."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path / "model.safetensors")
        settings = read_yaml((path / "config.yaml").read_text(encoding="utf-8"))["system"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"setting trunk: {path} is not the folder of a finished run: {error}"
        ) from None
    images = Schema.load(path / "schema.yaml").find(modality="image", role=("query", "target"))
    sides = [f"{field.role}.encoder.layers" for field in images]
    for prefix in ("trunk", "image.encoder.layers", *sides):
        if f"{prefix}.0.attention.query.weight" in weights:
            return settings, below(prefix, weights)
    raise UserError(
        f"setting trunk: the run in {path} has no tower of pictures; expected one of a dual encoder "
        "with an image on one side, or of meta-transformer"
    )
