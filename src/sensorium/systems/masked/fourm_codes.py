"""Tokenizers that were learned in runs of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from sensorium.modalities.map_pixels import channels_of, is_classes
from sensorium.modalities.maps import class_numbers, value_range
from sensorium.systems.base import choose_field
from sensorium.systems.baselines.known_codes import FILE, KnownCodes, mark
from sensorium.systems.baselines.patch_tokenizer import GRIDS, PatchTokenizer
from sensorium.types import Field, Schema, UserError
from sensorium.types.plain_yaml import read_yaml


class Coding(BaseModel):
    """A tokenizer of another run; written as the path of its folder.

    Attributes:
        run: the folder.
        field: that it was learned of.
        settings: of the tokenizer.
        mark: of its weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    field: Field
    settings: PatchTokenizer.Config
    mark: str

    @model_validator(mode="before")
    @classmethod
    def _of_path(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        settings, field, weights = _read(Path(value))
        return {"run": value, "field": field, "settings": settings, "mark": mark(settings, weights)}

    def weights(self) -> Mapping[str, Tensor]:
        """Those of the run.

        Raises:
            UserError: the run is gone, or was made anew since.
        """
        settings, _, weights = _read(Path(self.run))
        if mark(settings, weights) != self.mark:
            raise UserError(
                f"setting codes: the tokenizer in {self.run} is not the one that this run began with; "
                "choose another folder with --out"
            )
        return weights

    def known(self) -> KnownCodes | None:
        """What it has read before, if that was kept (`sensorium tokenize`).

        Raises:
            UserError: the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(self.run) / FILE
        try:
            return KnownCodes.of(load_file(path), self.mark) if path.exists() else None
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path} cannot be read: {error}; remove it, and tokenize anew"
            ) from None

    def check(self, field: Field) -> Self:
        """Itself, if its codes mean the same of a field.

        Raises:
            UserError: they do not.
        """
        ours, theirs = _meaning(field), _meaning(self.field)
        for what, value in ours.items():
            if theirs.get(what) != value:
                raise UserError(
                    f"setting codes.{field.name}: the tokenizer in {self.run} reads {what} "
                    f"{theirs.get(what)!r:.60}, and the field has {value!r:.60}; learn one on these "
                    f"rows (sensorium train patch-tokenizer --set field={field.name}), or set the "
                    "options of the field in the schema"
                )
        return self


def _meaning(field: Field) -> dict[str, Any]:
    if field.modality != "maps":
        return {"modality": field.modality}
    if is_classes(field):
        return {"modality": field.modality, "classes": class_numbers(field)}
    return {
        "modality": field.modality,
        "channels": channels_of(field),
        "range": value_range(field),
    }


def _read(path: Path) -> tuple[PatchTokenizer.Config, Field, dict[str, Tensor]]:
    """The settings, the field and the weights of a run.

    Raises:
        UserError: it is no finished run of a tokenizer.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path / "model.safetensors")
        content = read_yaml((path / "config.yaml").read_text(encoding="utf-8"))["system"]
        settings = PatchTokenizer.Config(**content)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"setting codes: {path} is not the folder of a finished run of patch-tokenizer: {error}"
        ) from None
    schema = Schema.load(path / "schema.yaml")
    return settings, choose_field(PatchTokenizer, schema, GRIDS, settings.field, "field"), weights
