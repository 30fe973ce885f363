"""What the catalogue says of a system."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["system", "pipeline", "policy", "probe", "suite"]


class Card(BaseModel):
    """The catalogue's entry of a system.

    Attributes:
        title: the title of the paper, or what a baseline is.
        paper: where it was published, for example `arXiv:2003.13198`; empty for a baseline.
        year: of the publication.
        family: the folder of `systems/` it lives in.
        modalities: what it reads; `("any",)` for every registered modality.
        tasks: what a trained one can be asked.
        kind: which contract it keeps.
        licence: of the original code.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    family: str
    modalities: tuple[str, ...]
    tasks: tuple[str, ...]
    paper: str = ""
    year: int | None = None
    kind: Kind = "system"
    licence: str = ""
