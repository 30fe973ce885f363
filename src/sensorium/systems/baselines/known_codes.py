"""Codes of pictures and maps that a tokenizer has read before, found by what is in them.

They lie in the folder of the tokenizer's run and hold its mark, so that codes of one tokenizer are never
taken for those of another. Content is what is collated: the same picture has the same codes wherever it
comes from, and one that was cropped or flipped is another picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from jaxtyping import Bool, Int, Shaped, UInt8
from torch import Tensor

from sensorium.systems.baselines.patch_tokenizer import PatchTokenizer

FILE = "tokens.safetensors"
"""In the folder of a run of a tokenizer."""

_BYTES = 16
"""Of a digest: so many that no two contents share one."""


class KnownCodes:
    """Codes by content.

    Args:
        mark: of the tokenizer, as bytes.
        digests: of contents, and `codes`, of each.
    """

    def __init__(
        self,
        mark: UInt8[Tensor, "32"],
        digests: UInt8[Tensor, "contents 16"],
        codes: Int[Tensor, "contents length"],
    ) -> None:
        self._mark, self._digests, self._codes = mark, [digests], [codes]
        self._number: dict[bytes, int] = {}
        self._count(digests)

    @classmethod
    def none(cls, mark: str, length: int) -> Self:
        """None yet."""
        digests = torch.zeros(0, _BYTES, dtype=torch.uint8)
        return cls(as_bytes(mark), digests, torch.zeros(0, length, dtype=torch.int32))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], mark: str) -> Self | None:
        """Those of a file; None if it has none of this tokenizer."""
        has_all = {*tensors} == {"mark", "digests", "codes"}
        return cls(**tensors) if has_all and torch.equal(tensors["mark"], as_bytes(mark)) else None

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._number

    def __len__(self) -> int:
        return len(self._number)

    def _count(self, digests: UInt8[Tensor, "contents 16"]) -> None:
        for digest in digests.numpy():
            self._number.setdefault(digest.tobytes(), len(self._number))

    def find(
        self, digests: Sequence[bytes]
    ) -> tuple[Int[Tensor, "known length"], Bool[Tensor, "contents"]]:
        """The codes of those contents that are known, and which these are."""
        places = [self._number.get(digest, -1) for digest in digests]
        at = torch.tensor(places, dtype=torch.long)
        there = at >= 0
        return self.tensors()["codes"][at[there]], there

    def add(self, digests: Sequence[bytes], codes: Int[Tensor, "contents length"]) -> None:
        """Take up others, of which none is known and none comes twice."""
        new = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(-1, _BYTES)
        self._digests.append(new)
        self._codes.append(codes.to(torch.int32).cpu())
        self._count(new)

    def tensors(self) -> dict[str, Tensor]:
        """As a file holds them."""
        self._digests, self._codes = [torch.cat(self._digests)], [torch.cat(self._codes)]
        return {"mark": self._mark, "digests": self._digests[0], "codes": self._codes[0]}


def digests_of(values: Shaped[Tensor, "contents ..."]) -> list[bytes]:
    """What tells contents apart."""
    arrays = values.detach().cpu().contiguous().numpy()
    return [hashlib.sha256(array.data).digest()[:_BYTES] for array in arrays]


def mark(settings: PatchTokenizer.Config, weights: Mapping[str, Tensor]) -> str:
    """What tells codes of a tokenizer from those of any other: a digest of settings and weights."""
    own = settings.model_dump_json(exclude={"field", "tokenizer"})
    digest = hashlib.sha256(own.encode())
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def as_bytes(text: str) -> UInt8[Tensor, "32"]:
    """A mark as it is kept with weights."""
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
