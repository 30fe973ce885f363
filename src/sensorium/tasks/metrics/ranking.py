"""Ranks: the place at which each query finds the first of its relevant candidates.

A candidate is relevant if its group is the query's, so that a picture with several captions needs
nothing special. The rank is one plus the number of irrelevant candidates whose score is **at
least** the best relevant score: ties count against the system. A system that gives every candidate
the same score therefore comes last, not first.

Scores are looked at in tiles, so that neither memory nor speed depends on whether they exist as a
matrix. Both sides are put in the order of their groups first: relevant pairs then lie in few tiles,
which are visited once for the best relevant scores and again, with all others, for counting. A tile
is computed the same way both times, so its numbers are the same to the last bit, which a tie needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from sensorium.types.draws import permutation

# Rows and columns of a tile: 4 MiB of float32, large enough for the matrix product to run at full
# speed, small enough for the counting to find it in cache.
_BLOCK = 1024

_Tile: TypeAlias = Callable[[slice, slice], Real[np.ndarray, "rows columns"]]
_TileOf: TypeAlias = Callable[[Int[np.ndarray, " rows"], Int[np.ndarray, " columns"]], _Tile]


@dataclass(frozen=True, slots=True)
class RankResult:
    """One direction of retrieval: every query's rank.

    Attributes:
        ranks: from 1.
        groups: what the bootstrap resamples together.
        candidates: how many candidates each query was ranked among (its pool, if there are pools).
    """

    ranks: Int[np.ndarray, " queries"]
    groups: Shaped[np.ndarray, " queries"]
    candidates: Int[np.ndarray, " queries"]


class _Sides(NamedTuple):
    """Groups and pools of both sides as integers, equal where the ids are equal."""

    first_groups: Int[np.ndarray, " first"]
    second_groups: Int[np.ndarray, " second"]
    first_pools: Int[np.ndarray, " first"]
    second_pools: Int[np.ndarray, " second"]


def ranks_from_scores(
    scores: Real[np.ndarray, "queries candidates"],
    query_groups: Shaped[np.ndarray, " queries"],
    candidate_groups: Shaped[np.ndarray, " candidates"],
    *,
    query_pools: Shaped[np.ndarray, " queries"] | None = None,
    candidate_pools: Shaped[np.ndarray, " candidates"] | None = None,
    block: int = _BLOCK,
) -> Int[np.ndarray, " queries"]:
    """The rank of each query's best relevant candidate.

    Args:
        scores: higher is more similar. With pools, only the scores within a pool are read.
        query_groups: candidates of the same group are relevant.
        candidate_groups: ids of the same kind; groups without a query are distractors.
        query_pools: a query is ranked among the candidates of its own pool only.
        candidate_pools: given exactly if `query_pools` is.
        block: rows and columns of a tile; decides memory and speed, not the result.

    Raises:
        ValueError: a score is NaN, or a query has no relevant candidate (in its pool).
    """
    sides = _sides(scores.shape, query_groups, candidate_groups, query_pools, candidate_pools)
    ranks, _ = _rank_both(_matrix_tiles(scores), _matrix_type(scores), sides, block)
    return _all_found(ranks, query_groups, "query")


def ranks_from_embeddings(
    queries: Float[np.ndarray, "queries width"],
    candidates: Float[np.ndarray, "candidates width"],
    query_groups: Shaped[np.ndarray, " queries"],
    candidate_groups: Shaped[np.ndarray, " candidates"],
    *,
    query_pools: Shaped[np.ndarray, " queries"] | None = None,
    candidate_pools: Shaped[np.ndarray, " candidates"] | None = None,
    block: int = _BLOCK,
) -> Int[np.ndarray, " queries"]:
    """As `ranks_from_scores` on the inner products in float32, which exist a tile at a time.

    Embeddings are taken as they are: normalise them first for cosine similarity. Where both
    directions are wanted, `rank_pair_from_embeddings` computes the products once for both.
    """
    shape = (len(queries), len(candidates))
    sides = _sides(shape, query_groups, candidate_groups, query_pools, candidate_pools)
    tiles = _product_tiles(_finite(queries, "query"), _finite(candidates, "candidate"))
    ranks, _ = _rank_both(tiles, np.dtype(np.float32), sides, block)
    return _all_found(ranks, query_groups, "query")


def rank_pair_from_scores(
    scores: Real[np.ndarray, "first second"],
    first_groups: Shaped[np.ndarray, " first"],
    second_groups: Shaped[np.ndarray, " second"],
    *,
    first_pools: Shaped[np.ndarray, " first"] | None = None,
    second_pools: Shaped[np.ndarray, " second"] | None = None,
    block: int = _BLOCK,
) -> tuple[RankResult, RankResult]:
    """Both directions of one score matrix: the first side asks, then the second side asks."""
    sides = _sides(scores.shape, first_groups, second_groups, first_pools, second_pools)
    ranks = _rank_both(_matrix_tiles(scores), _matrix_type(scores), sides, block)
    return _results(ranks, first_groups, second_groups, sides)


def rank_pair_from_embeddings(
    first: Float[np.ndarray, "first width"],
    second: Float[np.ndarray, "second width"],
    first_groups: Shaped[np.ndarray, " first"],
    second_groups: Shaped[np.ndarray, " second"],
    *,
    first_pools: Shaped[np.ndarray, " first"] | None = None,
    second_pools: Shaped[np.ndarray, " second"] | None = None,
    block: int = _BLOCK,
) -> tuple[RankResult, RankResult]:
    """Both directions between two sets of embeddings, from one pass over their products."""
    shape = (len(first), len(second))
    sides = _sides(shape, first_groups, second_groups, first_pools, second_pools)
    tiles = _product_tiles(_finite(first, "first"), _finite(second, "second"))
    ranks = _rank_both(tiles, np.dtype(np.float32), sides, block)
    return _results(ranks, first_groups, second_groups, sides)


def assign_pools(
    first_groups: Shaped[np.ndarray, " first"],
    second_groups: Shaped[np.ndarray, " second"],
    size: int,
    seed: int = 0,
) -> tuple[Int[np.ndarray, " first"], Int[np.ndarray, " second"]]:
    """Random pools of about `size` groups, the same for both sides; no group is split.

    Groups are spread evenly (5,000 groups in pools of 256 make 20 pools of 250), because a small
    pool left over at the end would be an easier one.
    """
    if size < 1:
        raise ValueError(f"a pool holds at least one group, not {size}")
    first, second = _as_integers(first_groups, second_groups)
    num_groups = 1 + int(max(first.max(initial=-1), second.max(initial=-1)))
    num_pools = max(1, round(num_groups / size))
    pool_of_group = permutation(num_groups, "pools", seed) * num_pools // max(1, num_groups)
    return pool_of_group[first], pool_of_group[second]


def _rank_both(
    tiles: _TileOf,
    dtype: np.dtype[np.generic],
    sides: _Sides,
    block: int,
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " columns"]]:
    """Ranks of all rows and all columns, 0 where nothing is relevant."""
    row_groups, column_groups, row_pools, column_pools = sides
    row_ranks = np.zeros(len(row_groups), dtype=np.int64)
    column_ranks = np.zeros(len(column_groups), dtype=np.int64)
    row_order = np.lexsort((row_groups, row_pools))
    column_order = np.lexsort((column_groups, column_pools))
    for pool in np.intersect1d(row_pools, column_pools).tolist():
        rows = _pool_members(row_order, row_pools, pool)
        columns = _pool_members(column_order, column_pools, pool)
        row_ranks[rows], column_ranks[columns] = _rank_pool(
            tiles(rows, columns), dtype, row_groups[rows], column_groups[columns], block
        )
    return row_ranks, column_ranks


def _rank_pool(
    tile: _Tile,
    dtype: np.dtype[np.generic],
    row_groups: Int[np.ndarray, " rows"],
    column_groups: Int[np.ndarray, " columns"],
    block: int,
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " columns"]]:
    """Ranks within one pool, whose rows and columns are in the order of their groups."""
    row_best = np.full(len(row_groups), -np.inf, dtype)
    column_best = np.full(len(column_groups), -np.inf, dtype)
    for rows, columns in _tiles(row_groups, column_groups, block):
        relevant = _relevant(row_groups[rows], column_groups[columns])
        if relevant is not None:
            scores = np.where(relevant, tile(rows, columns), -np.inf)
            row_best[rows] = np.maximum(row_best[rows], scores.max(axis=1))
            column_best[columns] = np.maximum(column_best[columns], scores.max(axis=0))

    row_ahead = np.zeros(len(row_groups), dtype=np.int64)
    column_ahead = np.zeros(len(column_groups), dtype=np.int64)
    for rows, columns in _tiles(row_groups, column_groups, block):
        scores = tile(rows, columns)
        beats_row = scores >= row_best[rows, None]
        beats_column = scores >= column_best[columns]
        relevant = _relevant(row_groups[rows], column_groups[columns])
        if relevant is not None:
            beats_row &= ~relevant
            beats_column &= ~relevant
        row_ahead[rows] += np.count_nonzero(beats_row, axis=1)
        column_ahead[columns] += np.count_nonzero(beats_column, axis=0)
    return (
        np.where(np.isin(row_groups, column_groups), row_ahead + 1, 0),
        np.where(np.isin(column_groups, row_groups), column_ahead + 1, 0),
    )


def _tiles(
    row_groups: Int[np.ndarray, " rows"], column_groups: Int[np.ndarray, " columns"], block: int
) -> Iterator[tuple[slice, slice]]:
    for row in range(0, len(row_groups), block):
        for column in range(0, len(column_groups), block):
            yield slice(row, row + block), slice(column, column + block)


def _relevant(
    row_groups: Int[np.ndarray, " rows"], column_groups: Int[np.ndarray, " columns"]
) -> Bool[np.ndarray, "rows columns"] | None:
    """Which pairs of a tile are relevant; None if their ranges of groups do not even meet."""
    if row_groups[-1] < column_groups[0] or column_groups[-1] < row_groups[0]:
        return None
    relevant: Bool[np.ndarray, "rows columns"] = np.equal.outer(row_groups, column_groups)
    return relevant


def _matrix_type(scores: Real[np.ndarray, "rows columns"]) -> np.dtype[np.generic]:
    """A type in which scores are exact and minus infinity exists."""
    is_float = np.issubdtype(scores.dtype, np.floating)
    return scores.dtype if is_float else np.dtype(np.float64)


def _matrix_tiles(scores: Real[np.ndarray, "rows columns"]) -> _TileOf:
    def of_pool(rows: Int[np.ndarray, " rows"], columns: Int[np.ndarray, " columns"]) -> _Tile:
        def tile(row: slice, column: slice) -> Real[np.ndarray, "rows columns"]:
            values: np.ndarray = scores[np.ix_(rows[row], columns[column])]
            if np.isnan(values.min()):
                bad_row, bad_column = np.argwhere(np.isnan(values))[0]
                place = f"[{rows[row][bad_row]}, {columns[column][bad_column]}]"
                raise ValueError(f"scores{place} is NaN: a rank needs comparable scores")
            return values

        return tile

    return of_pool


def _product_tiles(
    first: Float[np.ndarray, "rows width"], second: Float[np.ndarray, "columns width"]
) -> _TileOf:
    def of_pool(rows: Int[np.ndarray, " rows"], columns: Int[np.ndarray, " columns"]) -> _Tile:
        left, right = first[rows], second[columns]

        def tile(row: slice, column: slice) -> Real[np.ndarray, "rows columns"]:
            product: np.ndarray = left[row] @ right[column].T
            return product

        return tile

    return of_pool


def _finite(embeddings: Float[np.ndarray, "rows width"], what: str) -> np.ndarray:
    """Embeddings in float32, refused where NaN, infinite or too large for an inner product."""
    result = embeddings.astype(np.float32)
    norms = np.einsum("rw,rw->r", result, result)
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        raise ValueError(
            f"{what} embedding {bad[0]} holds NaN, infinity or numbers too large for float32: "
            "a rank needs finite embeddings"
        )
    return result


def _as_integers(
    first: Shaped[np.ndarray, " first"], second: Shaped[np.ndarray, " second"]
) -> tuple[Int[np.ndarray, " first"], Int[np.ndarray, " second"]]:
    """Ids of both sides as integers from 0 in their order, equal where the ids are equal."""
    _, integers = np.unique(np.concatenate([first, second]), return_inverse=True)
    return integers[: len(first)], integers[len(first) :]


def _sides(
    shape: tuple[int, ...],
    first_groups: Shaped[np.ndarray, " first"],
    second_groups: Shaped[np.ndarray, " second"],
    first_pools: Shaped[np.ndarray, " first"] | None,
    second_pools: Shaped[np.ndarray, " second"] | None,
) -> _Sides:
    """Groups and pools of both sides as integers; without pools, everything is in pool 0."""
    if (first_pools is None) != (second_pools is None):
        raise ValueError("pools: expected ids for both sides or for neither")
    if first_pools is None or second_pools is None:
        first_pools, second_pools = np.zeros(shape[0], np.int64), np.zeros(shape[1], np.int64)
    for name, ids, expected in (
        ("groups of the first side", first_groups, shape[0]),
        ("groups of the second side", second_groups, shape[1]),
        ("pools of the first side", first_pools, shape[0]),
        ("pools of the second side", second_pools, shape[1]),
    ):
        if len(ids) != expected:
            raise ValueError(f"{name}: expected {expected} ids, not {len(ids)}")
    groups = _as_integers(first_groups, second_groups)
    return _Sides(*groups, *_as_integers(first_pools, second_pools))


def _pool_members(
    order: Int[np.ndarray, " rows"], pools: Int[np.ndarray, " rows"], pool: int
) -> Int[np.ndarray, " members"]:
    start, stop = np.searchsorted(pools[order], [pool, pool + 1])
    return order[start:stop]


def _all_found(
    ranks: Int[np.ndarray, " queries"], groups: Shaped[np.ndarray, " queries"], what: str
) -> Int[np.ndarray, " queries"]:
    missing = np.flatnonzero(ranks == 0)
    if len(missing):
        raise ValueError(
            f"{what} {missing[0]} (group {groups[missing[0]]}) has no relevant candidate to find "
            f"({len(missing)} of {len(ranks)} have none): leave such rows out of the queries"
        )
    return ranks


def _results(
    ranks: tuple[Int[np.ndarray, " first"], Int[np.ndarray, " second"]],
    first_groups: Shaped[np.ndarray, " first"],
    second_groups: Shaped[np.ndarray, " second"],
    sides: _Sides,
) -> tuple[RankResult, RankResult]:
    first_pools, second_pools = sides.first_pools, sides.second_pools
    num_pools = 1 + max(first_pools.max(initial=0), second_pools.max(initial=0))
    first_sizes = np.bincount(first_pools, minlength=num_pools)
    second_sizes = np.bincount(second_pools, minlength=num_pools)
    return (
        RankResult(
            _all_found(ranks[0], first_groups, "first side, row"),
            first_groups,
            second_sizes[first_pools],
        ),
        RankResult(
            _all_found(ranks[1], second_groups, "second side, row"),
            second_groups,
            first_sizes[second_pools],
        ),
    )
