"""Exact search: every vector of a field is compared, a block at a time, where it lies on disk.

Vectors of a field are two files, `NAME.ids` and `NAME.vectors`, in the order of ids. They are mapped
into memory, so that the system holds of them what it has room for.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

Ids = Int[NDArray[np.int64], "_"]
Positions = Int[NDArray[np.int64], "_"]
Queries = Float[NDArray[np.float32], "queries width"]

BLOCK_BYTES = 2**23
"""Of a block of vectors. Larger ones are no faster, and take memory where rows are chosen."""


class Vectors:
    """The vectors of a field, and the rows they belong to.

    Args:
        folder: where the files are.
        name: of the field, as it is stored.
        width: of a vector.
    """

    def __init__(self, folder: Path, name: str, width: int) -> None:
        self.ids = read_ids(folder / f"{name}.ids")
        self.values: Float[NDArray[np.float32], "entries width"] = _mapped(
            folder / f"{name}.vectors", np.float32
        ).reshape(-1, width)
        self._block = max(1, BLOCK_BYTES // (4 * width))

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, ids: Ids) -> Positions:
        """Where the vectors of some rows are; rows without one are left out."""
        ids = np.sort(ids)
        at = np.searchsorted(self.ids, ids)
        inside = at < len(self.ids)
        ids, at = ids[inside], at[inside]
        found: Positions = at[self.ids[at] == ids]
        return found

    def nearest(
        self, queries: Queries, count: int, among: Positions | None = None
    ) -> tuple[
        Float[NDArray[np.float32], "queries found"], Int[NDArray[np.int64], "queries found"]
    ]:
        """The vectors with the largest inner products; of equal ones, the first.

        Args:
            queries: what they are compared with.
            count: how many are wanted; fewer if there are not as many.
            among: the positions that are looked at; all if None.

        Returns:
            The inner products, falling, and the ids.
        """
        number = len(self) if among is None else len(among)
        scores = np.empty((len(queries), 0), np.float32)
        places = np.empty((len(queries), 0), np.int64)
        for start in range(0, number, self._block):
            end = min(start + self._block, number)
            at = np.arange(start, end) if among is None else among[start:end]
            block = self.values[start:end] if among is None else self.values[at]
            new = queries @ block.T
            scores, places = _best(scores, places, new, at, count)
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(scores, order, 1), self.ids[np.take_along_axis(places, order, 1)]


def _best(
    scores: NDArray[np.float32],
    places: NDArray[np.int64],
    new: NDArray[np.float32],
    at: Positions,
    count: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The best so far and those of a block, as the best so far, in the order of their places."""
    if scores.shape[1] == count:
        # Most of a later block is worse than all that was found: then there is little to sort.
        better = np.flatnonzero((new > scores.min(1, keepdims=True)).any(0))
        new, at = new[:, better], at[better]
    scores = np.concatenate([scores, new], axis=1)
    places = np.concatenate([places, np.broadcast_to(at, (len(new), len(at)))], axis=1)
    if scores.shape[1] <= count:
        return scores, places
    # Of those that equal the last one that is kept, the first are.
    last = -np.partition(-scores, count - 1, axis=1)[:, count - 1 : count]
    above = scores > last
    equal = scores == last
    room = count - above.sum(1, keepdims=True)
    kept = above | (equal & (equal.cumsum(1) <= room))
    shape = (len(scores), count)
    return scores[kept].reshape(shape), places[kept].reshape(shape)


def write_vectors(
    folder: Path,
    name: str,
    parts: Iterable[tuple[Ids, Float[NDArray[np.float32], "_ width"]]],
) -> int:
    """Write the files of a field, a part at a time, whose ids rise; how many there are."""
    count, last = 0, -1
    with (
        (folder / f"{name}.ids").open("wb") as ids,
        (folder / f"{name}.vectors").open("wb") as values,
    ):
        for own, vectors in parts:
            if len(own) and (own[0] <= last or (np.diff(own) <= 0).any()):
                raise RuntimeError(f"{name}: the rows are not in the order of their ids")
            own.astype(np.int64).tofile(ids)
            np.ascontiguousarray(vectors, dtype=np.float32).tofile(values)
            count, last = count + len(own), int(own[-1]) if len(own) else last
    return count


def write_ids(path: Path, parts: Iterable[Ids]) -> None:
    """Write the ids of all rows, in the order of the table."""
    with path.open("wb") as file:
        for part in parts:
            part.astype(np.int64).tofile(file)


def read_ids(path: Path) -> Ids:
    """The ids of a file."""
    ids: Ids = _mapped(path, np.int64)
    return ids


def _mapped(path: Path, kind: Any) -> Any:
    # An empty file cannot be mapped. As a plain array: what numpy makes of parts of others takes longer.
    return np.asarray(np.memmap(path, kind, mode="r")) if path.stat().st_size else np.empty(0, kind)
