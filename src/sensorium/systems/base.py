"""What every system is: a module with a configuration, a recipe, losses, and what it can be asked.

Capabilities are methods a system has or has not; tasks ask for them and never for a class:

    embed(batch, field)   -> (B, D)   unit vectors of one field, comparable between fields
    embed_side(batch, side) -> (B, D) unit vectors of all that stands on one side of retrieval
    score(a, b)           -> (A, B)   similarity of two sets of embeddings; dot product by default
    score_pairs(batch)    -> (B,)     how well the two sides of each row match
    predict(batch)        -> (B, C)   class probabilities, or (B,) values
    generate(batch, how)  -> B texts  what is answered in each row
    choose(batch, texts)  -> (B, C)   log-likelihood of each of some answers
    reconstruct(batch, fields) -> Entries   of each field, as a row could have them
    chain(batch, fields, how) -> Entries    the same, each field from those before it too
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from sensorium.data import Data, MediaCache
from sensorium.data.sources import Rows
from sensorium.modalities.base import View
from sensorium.modalities.text import Tokenizer
from sensorium.nn.encoders import modules_of_fields
from sensorium.nn.language.generation import Generation
from sensorium.nn.quantizers import Summed
from sensorium.nn.weights import below
from sensorium.types import Batch, Card, Entries, Field, Loss, Schema, Stage, UserError
from sensorium.types.names import did_you_mean
from sensorium.types.schema import explain

Size = Literal["nano", "paper"]


class SystemConfig(BaseModel):
    """Settings every system has; a subclass adds its own. The defaults are the nano size.

    Attributes:
        tokenizer: `bpe:SIZE` trains a byte-level BPE on the training texts; `hf:NAME_OR_PATH` takes
            a published one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: str = "bpe:4096"

    @property
    def tokenizer_source(self) -> str:
        """Where the tokenizer comes from; a system whose language model has one says so."""
        return self.tokenizer

    @classmethod
    def nano(cls) -> Self:
        """The size that trains in minutes on two CPU cores."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """The published dimensions, layer for layer."""
        return cls()

    def override(self, settings: Mapping[str, Any]) -> Self:
        """A copy with settings by dotted path: `{"encoder.image": "hf:..."}`.

        Raises:
            UserError: an unknown setting (the nearest is suggested) or a value of the wrong kind.
        """
        content = self.model_dump()
        for path, value in settings.items():
            at: dict[str, Any] = content
            *parents, last = path.split(".")
            for part in parents:
                if not isinstance(at.get(part), dict):
                    raise UserError(f"unknown setting '{path}'. {did_you_mean(part, at)}")
                at = at[part]
            if not parents and last not in at:
                raise UserError(f"unknown setting '{path}'. {did_you_mean(last, at)}")
            at[last] = value
        try:
            return type(self)(**content)
        except ValidationError as error:
            raise UserError(f"setting {explain(error)}") from None


class System(nn.Module, ABC):
    """A published system, or a baseline.

    Args:
        config: its settings.
        schema: the fields it will see, with roles, and with what was fitted on the training rows.
        tokenizer: for its text fields; None if there are none.

    Attributes:
        stage: the name of the stage it is being trained in, set by the trainer.

    Raises:
        UserError: the schema has not what the system needs.
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    Config: ClassVar[type[SystemConfig]] = SystemConfig

    def __init__(self, config: Any, schema: Schema, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.config = config
        self.schema = schema
        self.tokenizer = tokenizer
        self.stage = ""

    @classmethod
    def check(cls, schema: Schema) -> None:
        """Raise a `UserError` that says why, if the system cannot work with these fields and roles."""

    @classmethod
    def fields(cls, config: Any, schema: Schema) -> Schema:
        """The schema that it reads: with fields that it makes of others, if it does."""
        return schema

    @abstractmethod
    def views(self) -> dict[str, View]:
        """What it wants from each field it reads; fields not named are not loaded."""

    def stages(self) -> list[Stage]:
        """Its training recipe."""
        return [Stage()]

    def begin(self, stage: str) -> None:
        """What changes between stages: called once before a stage, not when a run resumes within it."""
        return

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Loss]:
        """Its losses on a batch, by name."""

    def after_step(self, summed: Summed) -> None:
        """What changes beside the optimizer, after each of its steps.

        Args:
            summed: adds up tensors over processes, which must all ask for the same.
        """
        return

    def prepare(self, batch: Batch) -> Batch:
        """Rows that will be asked about repeatedly, with what can be computed once for each of them.

        In pairs, or with some fields absent.
        """
        return batch

    @classmethod
    def reads_words_as(cls, start: System) -> bool:
        """Whether a run that starts from another takes over what that has learned of words.

        Then it has the same tokenizer; otherwise one that is learned from its own texts.
        """
        return True

    def weights_from(self, start: System) -> dict[str, Tensor]:
        """The weights of another system by the names they have here, for a run that starts from it.

        These are the same names, but for what belongs to a field, such as its encoder: that of the same
        field there, or else of one of its modality, gives its weights if it has the same shape and no
        other fits as well.
        """
        weights, own = start.state_dict(), self.state_dict()
        theirs = modules_of_fields(start)
        shapes = {place: _shapes(below(place, weights)) for place in theirs}
        for place, field in modules_of_fields(self).items():
            fitting = [p for p in theirs if theirs[p].modality == field.modality]
            fitting = [p for p in fitting if shapes[p] == _shapes(below(place, own))]
            fitting = [p for p in fitting if theirs[p].name == field.name] or fitting
            beside = [p for p in fitting if p.rpartition(".")[0] == place.rpartition(".")[0]]
            for source in beside or fitting if len(beside or fitting) == 1 else []:
                found = below(source, weights)
                weights |= {f"{place}.{name}": value for name, value in found.items()}
        return weights

    def forward(self, batch: Batch) -> dict[str, Loss]:
        """The losses; what wrappers for several processes call."""
        return self.losses(batch)

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can be asked, given its schema."""
        return frozenset(
            name
            for name, protocol in (
                ("embed", Embeds),
                ("embed_side", EmbedsSides),
                ("score_pairs", ScoresPairs),
                ("predict", Predicts),
                ("generate", Generates),
                ("choose", Chooses),
                ("reconstruct", Reconstructs),
            )
            if isinstance(self, protocol)
        )


@runtime_checkable
class Embeds(Protocol):
    """Maps fields to one space."""

    def embed(self, batch: Batch, field: str) -> Float[Tensor, "batch width"]:
        """Unit vectors of a field; NaN in rows without it."""
        ...


@runtime_checkable
class EmbedsSides(Protocol):
    """Maps all fields of the query, or all of the target, to one vector."""

    def embed_side(
        self, batch: Batch, side: Literal["query", "target"]
    ) -> Float[Tensor, "batch width"]:
        """Unit vectors of whatever a row has on that side; NaN in rows that have nothing there."""
        ...


@runtime_checkable
class ComparesRows(Protocol):
    """Its losses compare the rows of a batch with each other, by what is embedded of each.

    So a step can be computed in micro-batches whose rows are all each other's negatives.
    """

    def embeddings(self, batch: Batch) -> dict[str, Shaped[Tensor, "rows ..."]]:
        """What rows are compared by; the same rows, which may be fewer than the batch's, for all."""
        ...

    def compare(self, embedded: dict[str, Shaped[Tensor, "rows ..."]]) -> dict[str, Loss]:
        """The losses, from the embeddings of one or several batches, one after another."""
        ...


@runtime_checkable
class Mines(Protocol):
    """Chooses what its training rows are to be seen with, such as hard negatives."""

    @property
    def partnered(self) -> tuple[str, ...]:
        """The fields that a row is given of its partner; `of_partner` says what they are called."""
        ...

    def mine(self, data: Data, seed: int, cache: MediaCache | None) -> Rows:
        """For each row of the data the number of its partner, -1 for none; asked between stages."""
        ...


@runtime_checkable
class ScoresPairs(Protocol):
    """Reads both sides of a pair together."""

    def prepare(self, batch: Batch) -> Batch:
        """Rows of one side, with what can be computed once for each of them."""
        ...

    def score_pairs(self, batch: Batch) -> Float[Tensor, "batch"]:
        """How well the query and the target of each row match; larger is better."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """Predicts the label, answer or value of a row."""

    def predict(self, batch: Batch) -> Float[Tensor, "batch ..."]:
        """Class probabilities (rows sum to 1), independent ones for several labels, or values."""
        ...


@runtime_checkable
class Generates(Protocol):
    """Writes an answer, a caption, a next turn."""

    def generate(self, batch: Batch, settings: Generation) -> list[str]:
        """One text for each row; an answer that the row holds is not read."""
        ...


@runtime_checkable
class Chooses(Protocol):
    """Says how likely it is to write a text."""

    def choose(self, batch: Batch, candidates: Sequence[str]) -> Float[Tensor, "batch candidates"]:
        """The log-likelihood of each candidate as the answer; the row's own is not read."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """Predicts whole fields from others."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the fields that it can predict from."""
        ...

    @property
    def reconstructed(self) -> tuple[str, ...]:
        """The names of those that it can predict."""
        ...

    def reconstruct(self, batch: Batch, fields: Sequence[str]) -> dict[str, Entries]:
        """One entry of each field for each row, collated as rows that have it are."""
        ...


@runtime_checkable
class Chains(Reconstructs, Protocol):
    """Predicts fields one after another, each from those before it as well."""

    config: Any
    """Settings, of which `filling` says how tokens are chosen."""

    def places(self, field: str, box: Sequence[float]) -> Bool[Tensor, "places"]:
        """Which places of a field lie in a box (x1, y1, x2, y2, as shares of its sides)."""
        ...

    def chain(
        self,
        batch: Batch,
        fields: Sequence[str],
        how: Any,
        keep: Mapping[str, Bool[Tensor, "batch places"]] | None = None,
    ) -> dict[str, Entries]:
        """As `reconstruct`, in the order of the fields; of those in `keep`, some places stay."""
        ...


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}


def choose_field(
    system: type[System],
    schema: Schema,
    modality: str | tuple[str, ...],
    name: str,
    setting: str,
) -> Field:
    """The field of a name, or the only one of a modality that the system may read.

    Args:
        system: which asks.
        schema: of its rows.
        modality: of the field, or some of which it is one.
        name: of the field; empty if there is but one.
        setting: that gives the name.

    Raises:
        UserError: there is none, or there are several.
    """
    if name:
        return schema[name]
    found = schema.find(role=("query", "target", "input"), modality=modality)
    if len(found) != 1:
        names = ", ".join(field.name for field in found) or "none"
        kinds = modality if isinstance(modality, str) else " or ".join(modality)
        raise UserError(
            f"{system.name} needs one field of modality {kinds}, and these may be read: {names}; "
            f"choose one with --set {setting}=NAME"
        )
    return found[0]


SystemClass = TypeVar("SystemClass", bound=type[System])

_REGISTERED: dict[str, type[System]] = {}


def register(name: str) -> Callable[[SystemClass], SystemClass]:
    """Make a system known by its kebab-case name."""

    def add(system: SystemClass) -> SystemClass:
        system.name = name
        _REGISTERED[name] = system
        return system

    return add
