"""Batches from worker processes, each in one block of shared memory that is used again.

Each tensor that a worker sends alone costs a new connection, about a millisecond, and fresh memory,
whose pages the system must hand out in both processes. So all tensors of a batch lie in one block, and
a block goes back to its worker once nothing of the batch is in use any more.
"""

from __future__ import annotations

import io
import os
import pickle
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

_ALIGNMENT = 64  # also the length of a block's head, whose first byte says whether it is in use


@dataclass(frozen=True)
class Packed:
    """An object whose tensors and arrays lie in a block, one after another.

    Attributes:
        head: all the rest of it, pickled.
        lengths: in bytes, of each tensor or array.
        block: its worker and its number there.
        memory: the block itself, the first time it is sent.
    """

    head: bytes
    lengths: list[int]
    block: tuple[int, int]
    memory: UInt8[Tensor, " bytes"] | None


class Packer:
    """A worker's side."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []

    def __call__(self, content: Any) -> Packed:
        """An object that holds tensors, ready to be sent."""
        buffers: list[pickle.PickleBuffer] = []
        head = io.BytesIO()
        _Pickler(head, protocol=5, buffer_callback=buffers.append).dump(content)
        parts = [buffer.raw() for buffer in buffers]
        lengths = [len(part) for part in parts]
        number, is_new = self._free(_ALIGNMENT + sum(map(_aligned, lengths)))
        block = self._blocks[number]
        into, start = block.numpy().data, _ALIGNMENT
        for part, length in zip(parts, lengths, strict=True):
            into[start : start + length] = part
            start += _aligned(length)
        block[0] = 1
        memory = block if is_new else None
        return Packed(head.getvalue(), lengths, (os.getpid(), number), memory)

    def _free(self, length: int) -> tuple[int, bool]:
        """The number of a block that is not in use, and whether it is new."""
        length = 1 << (length - 1).bit_length()  # few sizes, so that there are few blocks
        for number, block in enumerate(self._blocks):
            if len(block) == length and not block[0]:
                return number, False
        block = torch.empty(length, dtype=torch.uint8)
        self._blocks.append(block.share_memory_())  # type: ignore[no-untyped-call]
        return len(self._blocks) - 1, True


class Unpacker:
    """The side of the process that the workers serve."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int], Tensor] = {}

    def __call__(self, packed: Packed) -> Any:
        """What was packed. Its tensors lie in the block, which is free again once all are gone."""
        if packed.memory is not None:
            self._blocks[packed.block] = packed.memory
        block = self._blocks[packed.block]
        whole = block.numpy()
        weakref.finalize(whole, block.__setitem__, 0, 0).atexit = False
        parts, start = [], _ALIGNMENT
        for length in packed.lengths:
            parts.append(whole.data[start : start + length])
            start += _aligned(length)
        return pickle.loads(packed.head, buffers=parts)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Tensors as arrays, which give their bytes away without a copy."""
        if isinstance(value, Tensor):
            return torch.from_numpy, (value.contiguous().numpy(),)
        return NotImplemented


def _aligned(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT
