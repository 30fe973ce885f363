"""What a modality is: a plug-in that decodes, validates, collates and shows one kind of value.

A third party adds one by subclassing `Modality` and naming an instance under the entry point group
`sensorium.modalities`; every system whose card says "any" then takes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from sensorium.types import BadValue, Field, UserError
from sensorium.types.names import did_you_mean

LANGUAGES = ("en", "de", "id", "zh")
"""In which a flip of a picture knows the words for left and right."""


class View(BaseModel):
    """What a system wants from a field's raw values; each modality has a subclass of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @property
    def key(self) -> str:
        """What decoded values depend on, for the media cache; a subclass leaves out the rest."""
        return self.model_dump_json()


class Modality(ABC):
    """One kind of value.

    Attributes:
        name: how schemas speak of it.
        suffixes: the file endings it claims, with the dot, in lower case.
        View: what a system may ask of it; the defaults serve any system.
        cached: whether decoded values are slow to make, and worth keeping in the media cache.
        written: whether a tokenizer reads it; `str` of a decoded value is then what it says.
        options: what a field may set, and to what: a type, or one of some values. None leaves it to
            the modality to complain.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    View: ClassVar[type[View]] = View
    cached: ClassVar[bool] = False
    written: ClassVar[bool] = False
    options: ClassVar[Mapping[str, type | tuple[Any, ...]] | None] = None

    def check(self, field: Field) -> None:
        """Raise a `UserError` that says why, if the settings of a field make no sense."""
        if self.options is None:
            return
        for option, value in field.options.items():
            if option not in self.options:
                known = did_you_mean(option, self.options) if self.options else ""
                raise UserError(
                    f"field '{field.name}': {self.name} has no option '{option}'. {known}".rstrip()
                )
            expected = self.options[option]
            fits = isinstance(value, expected) if isinstance(expected, type) else value in expected
            if not fits or value == "":
                words = expected.__name__ if isinstance(expected, type) else list(expected)
                raise UserError(
                    f"field '{field.name}', option '{option}': expected {words}, found {value!r:.60}"
                )

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """How likely (0 to 1) a column of these values is of this modality."""
        return 0.0

    def entries(self, raw: Any, field: Field) -> list[Any]:
        """The entries in one cell; several for a list of pictures, none for an empty cell.

        Raises:
            BadValue: the cell cannot be taken apart, or holds too many.
        """
        if not isinstance(raw, (list, tuple)):
            return [] if is_missing(raw) else [raw]
        values = [value for value in raw if not is_missing(value)]
        if field.of is not None and 0 < len(values) < len(raw):
            raise BadValue(
                f"field '{field.name}': {len(raw) - len(values)} of {len(raw)} entries are empty, "
                f"so that the others would belong to the wrong entries of '{field.of}'"
            )
        return values

    def fit(self, field: Field, values: Iterable[Any]) -> dict[str, Any]:
        """What is learned from the raw values of the training rows, kept as `field.fitted`.

        For a table, `values` are mappings from column to cell. The result goes to YAML.
        """
        return {}

    @abstractmethod
    def decode(self, raw: Any, field: Field, view: Any) -> Any:
        """One entry, decoded and brought to the size the view asks for.

        None: there is nothing of this modality in it (no sound in a clip); the row then lacks the
        field, as it does for an empty cell.

        Raises:
            BadValue: the value cannot be used; the message says why.
        """

    def check_sample(
        self, values: list[Any], field: Field, view: Any, sample: Mapping[str, Sequence[Any]]
    ) -> list[Any]:
        """The decoded entries of a row once more, beside all that the row holds.

        Args:
            values: the entries of this field.
            field: this field.
            view: what is wanted of it.
            sample: for each field that is present, its decoded entries.

        Raises:
            BadValue: they do not go together; the message says why.
        """
        return values

    @abstractmethod
    def collate(
        self, values: Sequence[Any], field: Field, view: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Decoded entries as one tensor, and a mask of what is real if they differ in length."""

    def freeze(self, value: Any) -> tuple[NDArray[Any], str]:
        """A decoded value as an array and a note, for the media cache; `thaw` undoes it."""
        return value, ""

    def thaw(self, array: NDArray[Any], note: str) -> Any:
        """The decoded value that `freeze` took apart; the array is read-only."""
        return array

    def show(self, value: Any, field: Field) -> Any:
        """A decoded or raw entry for people: text, or a `PIL.Image.Image`."""
        return str(value)

    def encoder(self, field: Field, width: int) -> nn.Module | None:
        """A module `(values, mask) -> (tokens (M, N, width), mask (M, N) or None)`.

        None: the encoder that `nn.encoders` has for the modality, or its general one, which takes
        any float values.
        """
        return None


class Predictable(Modality):
    """A modality whose values systems can predict: there is a way back from a batch."""

    @abstractmethod
    def uncollate(self, value: Tensor, field: Field, view: Any) -> Any:
        """The decoded value that one of the values of `collate` stands for, as `show` takes it."""

    def as_cell(self, value: Any, field: Field) -> Any:
        """A decoded value as it stands in a table, fit for JSON."""
        return value


class PredictableMedia(Predictable):
    """Those whose values are files of their own."""

    @abstractmethod
    def as_file(self, value: Any, field: Field) -> tuple[str, bytes]:
        """A decoded value as a file that `decode` reads: the ending of its name, and what is in it."""


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, NaT, blank text, or media without bytes and path."""
    if value is None:
        return True
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    if isinstance(value, dict):
        return bool(value) and value.keys() <= {"bytes", "path"} and not any(value.values())
    return isinstance(value, str) and not value.strip()


_BUILT_IN = {
    "text": "sensorium.modalities.text:Text",
    "image": "sensorium.modalities.image:Image",
    "audio": "sensorium.modalities.audio:Audio",
    "table": "sensorium.modalities.table:Table",
    "series": "sensorium.modalities.series:Series",
    "graph": "sensorium.modalities.graph:Graph",
    "boxes": "sensorium.modalities.boxes:Boxes",
    "spans": "sensorium.modalities.boxes:Spans",
    "category": "sensorium.modalities.scalars:Category",
    "categories": "sensorium.modalities.scalars:Categories",
    "number": "sensorium.modalities.scalars:Number",
    "video": "sensorium.modalities.video:Video",
    "maps": "sensorium.modalities.maps:Maps",
    "points": "sensorium.modalities.points:Points",
    "conversation": "sensorium.modalities.conversation:Conversations",
}

_ADDED: dict[str, Modality] = {}


def add_modality(modality: Modality) -> None:
    """Make a modality known in this process (an entry point does so for good)."""
    _ADDED[modality.name] = modality
    get_modality.cache_clear()


def modality_names() -> tuple[str, ...]:
    """The names of all modalities."""
    plugged = [point.name for point in entry_points(group="sensorium.modalities")]
    return tuple(dict.fromkeys([*_BUILT_IN, *plugged, *_ADDED]))


@lru_cache
def get_modality(name: str) -> Modality:
    """The modality of that name.

    Raises:
        UserError: there is none; the message suggests the nearest.
    """
    if name in _ADDED:
        return _ADDED[name]
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        import importlib

        modality: Modality = getattr(importlib.import_module(module), attribute)()
        return modality
    for point in entry_points(group="sensorium.modalities"):
        if point.name == name:
            loaded = point.load()
            return loaded() if isinstance(loaded, type) else loaded  # type: ignore[no-any-return]
    raise UserError(f"unknown modality '{name}'. {did_you_mean(name, modality_names())}")


def side_by_side(
    values: Sequence[Float[np.ndarray, "_ features"]],
) -> tuple[Float[Tensor, "entries length features"], Bool[Tensor, "entries length"]]:
    """Sequences filled up to the longest with zeros, and what is no filling."""
    lengths = np.array([len(value) for value in values])
    real = np.arange(lengths.max()) < lengths[:, None]
    out = np.zeros((*real.shape, values[0].shape[1]), dtype=np.float32)
    out[real] = np.concatenate(values)
    return torch.from_numpy(out), torch.from_numpy(real)


def default_views(fields: Iterable[Field]) -> Mapping[str, View]:
    """For each field, its modality's default view."""
    return {field.name: get_modality(field.modality).View() for field in fields}
