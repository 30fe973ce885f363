"""Classes as vectors of what they are called, for systems that meet them in a space with language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from sensorium.modalities.base import get_modality
from sensorium.modalities.scalars import class_names
from sensorium.modalities.text import TextView
from sensorium.nn.encoders.tower import Tower
from sensorium.types import Batch, Field

KINDS = (
    *("a photo", "a picture", "an image", "a drawing", "a sketch", "a render"),
    *("a bright photo", "a blurred photo", "a close-up"),
)
WAYS = ("{}", "a {}", "the {}", "one {}", "a small {}", "a large {}", "a clean {}")
PROMPTS = (
    *(f"{kind} of {way}." for kind in KINDS for way in WAYS),
    "a point cloud model of {}.",
)
"""63 that are common and one for points: as many as in ULIP, which does not list them."""


@dataclass(frozen=True)
class ClassNames:
    """The classes of a label in the space of a tower of texts.

    Attributes:
        tower: reads the texts.
        label: whose classes; `couch,sofa` is one class with two names.
        prompts: sentences with `{}` for a name.
    """

    tower: Tower
    label: Field
    prompts: Sequence[str]

    def vectors(self, codes: Sequence[int] | None = None) -> Float[Tensor, "classes width"]:
        """For each class the mean over prompts and names, each and in the end of length 1.

        Args:
            codes: which classes; all if None.
        """
        texts = [
            [prompt.replace("{}", name) for name in names for prompt in self.prompts]
            for names in self._names(codes)
        ]
        vectors = self._embed([text for each in texts for text in each])
        owner = torch.repeat_interleave(torch.tensor([len(each) for each in texts]))
        total = vectors.new_zeros(len(texts), vectors.shape[1])
        return F.normalize(total.index_add(0, owner.to(vectors.device), vectors), dim=-1)

    def drawn(
        self, codes: Int[Tensor, "rows"], draw: Float[Tensor, "rows"]
    ) -> Float[Tensor, "rows width"]:
        """One of the names of each row's class as it is, by numbers in [0, 1)."""
        used, which = torch.unique(codes, return_inverse=True)
        names = self._names(used.tolist())
        count = torch.tensor([len(each) for each in names], device=draw.device)
        place = (count.cumsum(0) - count)[which] + (draw * count[which]).long()
        return self._embed([name for each in names for name in each])[place]

    def of_batch(
        self, batch: Batch, ensemble: bool = True
    ) -> tuple[Float[Tensor, "batch width"], Bool[Tensor, "batch"]]:
        """The vectors of the classes of rows, zeros where there is none, and which rows have one.

        Args:
            batch: with the label.
            ensemble: whether it is the mean over names and prompts, or a name that is drawn.
        """
        present = batch.present(self.label.name)
        vectors = self.tower.head.weight.new_zeros(batch.size, self.tower.head.out_features)
        if not bool(present.any()):
            return vectors, present
        codes = batch[self.label.name].first(batch.size)[0][present]
        if ensemble:
            found = self.of_rows(codes)
        else:
            found = self.drawn(codes, batch.uniform("name", 1)[present, 0])
        return vectors.to(found.dtype).index_put((present.nonzero().squeeze(1),), found), present

    def of_rows(self, codes: Int[Tensor, "rows"]) -> Float[Tensor, "rows width"]:
        """The vectors of each row's class."""
        used, which = torch.unique(codes, return_inverse=True)
        return self.vectors(used.tolist())[which]

    def _names(self, codes: Sequence[int] | None) -> list[list[str]]:
        every = class_names(self.label)
        chosen = every if codes is None else [every[code] for code in codes]
        return [[part.strip() for part in name.split(",") if part.strip()] for name in chosen]

    def _embed(self, texts: list[str]) -> Float[Tensor, "texts width"]:
        view, modality = self.tower.encoder.view, get_modality("text")
        assert isinstance(view, TextView)
        field = self.tower.field
        ids, mask = modality.collate([modality.decode(t, field, view) for t in texts], field, view)
        assert mask is not None
        device = self.tower.head.weight.device
        pooling = self.tower.pooling
        unit: Tensor = self.tower.head(
            self.tower.encoder.embed(ids.to(device), mask.to(device), pooling)
        )
        return unit
