"""Ranks: the place at which each query finds the first of its relevant candidates.

A candidate is relevant if its group is the query's, so that a picture with several captions needs
nothing special. The rank is one plus the number of irrelevant candidates whose score is **at least**
the best relevant score: ties count against the system. A system that gives every candidate the same
score therefore comes last, not first.

Nothing here holds more than a block of scores at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from sensorium.types.draws import permutation

# Scores held at a time: 16 MiB of float32.
_BLOCK_ELEMENTS = 2**22


@dataclass(frozen=True, slots=True)
class RankResult:
    """One direction of retrieval: every query's rank.

    Attributes:
        ranks: from 1.
        groups: what the bootstrap resamples together.
        candidates: how many candidates each query was ranked among (the pool, if there are pools).
    """

    ranks: Int[np.ndarray, " queries"]
    groups: Shaped[np.ndarray, " queries"]
    candidates: Int[np.ndarray, " queries"]


def ranks_from_scores(
    scores: Real[np.ndarray, "queries candidates"],
    query_groups: Shaped[np.ndarray, " queries"],
    candidate_groups: Shaped[np.ndarray, " candidates"],
    query_pools: Shaped[np.ndarray, " queries"] | None = None,
    candidate_pools: Shaped[np.ndarray, " candidates"] | None = None,
    *,
    block: int | None = None,
) -> Int[np.ndarray, " queries"]:
    """The rank of each query's best relevant candidate.

    Args:
        scores: higher is more similar. With pools, only the scores within a pool are read.
        query_groups: candidates of the same group are relevant.
        candidate_groups: ids of the same kind; groups without a query are distractors.
        query_pools: a query is ranked among the candidates of its own pool only.
        candidate_pools: given exactly if `query_pools` is.
        block: queries handled at a time; decides memory, not the result.

    Raises:
        ValueError: a score is NaN, or a query has no relevant candidate (in its pool).
    """
    num_queries, num_candidates = scores.shape
    groups = _Groups(query_groups, candidate_groups, num_queries, num_candidates)
    ranks = np.empty(num_queries, dtype=np.int64)
    for queries, candidates in _pools(groups, query_pools, candidate_pools):
        whole = query_pools is None
        part = scores if whole else scores[np.ix_(queries, candidates)]
        ranks[queries] = _ranks(part.__getitem__, groups, queries, candidates, block)
    return ranks


def ranks_from_embeddings(
    queries: Float[np.ndarray, "queries width"],
    candidates: Float[np.ndarray, "candidates width"],
    query_groups: Shaped[np.ndarray, " queries"],
    candidate_groups: Shaped[np.ndarray, " candidates"],
    query_pools: Shaped[np.ndarray, " queries"] | None = None,
    candidate_pools: Shaped[np.ndarray, " candidates"] | None = None,
    *,
    block: int | None = None,
) -> Int[np.ndarray, " queries"]:
    """As `ranks_from_scores` on the inner products in float32, which are computed in blocks.

    Embeddings are taken as they are: normalise them first for cosine similarity.
    """
    groups = _Groups(query_groups, candidate_groups, len(queries), len(candidates))
    left, right = _finite("query", queries), _finite("candidate", candidates)
    ranks = np.empty(len(queries), dtype=np.int64)
    for rows, columns in _pools(groups, query_pools, candidate_pools):
        whole = query_pools is None
        product = partial(
            _product, left if whole else left[rows], right if whole else right[columns]
        )
        ranks[rows] = _ranks(product, groups, rows, columns, block)
    return ranks


def rank_pair_from_scores(
    scores: Real[np.ndarray, "first second"],
    first_groups: Shaped[np.ndarray, " first"],
    second_groups: Shaped[np.ndarray, " second"],
    first_pools: Shaped[np.ndarray, " first"] | None = None,
    second_pools: Shaped[np.ndarray, " second"] | None = None,
) -> tuple[RankResult, RankResult]:
    """Both directions of one score matrix: first side asks, then second side asks."""
    first = ranks_from_scores(scores, first_groups, second_groups, first_pools, second_pools)
    second = ranks_from_scores(scores.T, second_groups, first_groups, second_pools, first_pools)
    return (
        RankResult(first, first_groups, _candidates(len(first), first_pools, second_pools)),
        RankResult(second, second_groups, _candidates(len(second), second_pools, first_pools)),
    )


def rank_pair_from_embeddings(
    first: Float[np.ndarray, "first width"],
    second: Float[np.ndarray, "second width"],
    first_groups: Shaped[np.ndarray, " first"],
    second_groups: Shaped[np.ndarray, " second"],
    first_pools: Shaped[np.ndarray, " first"] | None = None,
    second_pools: Shaped[np.ndarray, " second"] | None = None,
) -> tuple[RankResult, RankResult]:
    """Both directions between two sets of embeddings: first side asks, then second side asks."""
    raise NotImplementedError


def assign_pools(
    first_groups: Shaped[np.ndarray, " first"],
    second_groups: Shaped[np.ndarray, " second"],
    size: int,
    seed: int = 0,
) -> tuple[Int[np.ndarray, " first"], Int[np.ndarray, " second"]]:
    """Random pools of about `size` groups, the same on both sides; no group is split.

    The groups are spread evenly (5,000 groups in pools of 256 give 20 pools of 250), because a
    small pool left over at the end would be an easier one.
    """
    raise NotImplementedError


class _Groups:
    """Group ids of both sides as integers, and the ids themselves for messages."""
