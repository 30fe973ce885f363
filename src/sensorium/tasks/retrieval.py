"""Retrieval: find the other side of a pair among the candidates of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int

from sensorium.data import Data, MediaCache
from sensorium.systems.base import Embeds, ScoresPairs, System
from sensorium.tasks.base import Evaluation, Reader, Task, one_field
from sensorium.tasks.intervals import Metric
from sensorium.tasks.metrics import (
    Scores,
    assign_pools,
    rank_pair_from_embeddings,
    rank_pair_from_scores,
    retrieval_scores,
)
from sensorium.types import Batch, Schema, UserError, concatenate

PAIR_POOL = 50
PAIR_ROWS = 300
NUM_EXAMPLES = 6
NUM_FOUND = 5


class Retrieval(Task):
    """Rank the targets for each query, and the queries for each target.

    A query that occurs in several rows (a picture with five captions) is one candidate, and any of
    its rows is a right answer. Ties count against the system.

    Args:
        pools: sizes of the pools. The metrics of the first have their bare names, those of another
            are called `pool256/R@1`. None: all test rows are one pool, or pools of 50 for a system
            that reads every pair.
        max_rows: how many rows are scored at the first pool size.
        whole_groups: rows of one group are in one pool, where they are the hardest candidates for
            each other; else pools are random.
        shuffled: take another target of the pool for the right one: a control that must be at chance.
    """

    name = "retrieval"

    def __init__(
        self,
        pools: Sequence[int] | None = None,
        max_rows: int | None = None,
        whole_groups: bool = False,
        shuffled: bool = False,
    ) -> None:
        self.shuffled = shuffled
        self.pools = tuple(pools) if pools else None
        self.max_rows = max_rows
        self.whole_groups = whole_groups

    def assign(self, schema: Schema, target: str | None = None) -> Schema:
        """One query and one target; labels are of no use here.

        Without roles in the schema, the first text is the target and the first field of another
        kind is the query.
        """
        roles = {
            field.name: "ignore" for field in schema.find(role=("label", "answer", "question"))
        }
        queries, targets = schema.find(role="query"), schema.find(role="target")
        if target is not None:
            roles |= {field.name: "input" for field in targets}
            roles[schema[target].name] = "target"
            targets = [schema[target]]
        free = [f for f in schema.find(role=("query", "target", "input")) if f.of is None]
        if not targets:
            targets = [field for field in free if field.modality == "text"][:1]
        if not queries:
            queries = [field for field in free if field not in targets][:1]
        if len(queries) != 1 or len(targets) != 1:
            names = ", ".join(f"{f.name} ({f.modality}, {f.role})" for f in schema)
            raise UserError(
                f"retrieval needs one query and one target field. Fields: {names}. "
                "Give the roles 'query' and 'target' in the schema file"
            )
        return schema.with_roles(roles | {queries[0].name: "query", targets[0].name: "target"})

    def fits(self, capabilities: frozenset[str]) -> bool:
        """Systems that embed, or that score pairs."""
        return bool(capabilities & {"embed", "score_pairs"})

    def evaluate(
        self,
        system: System,
        data: Data,
        rows: Int[np.ndarray, " rows"],
        *,
        batch_size: int = 64,
        cache: MediaCache | None = None,
        seed: int = 0,
    ) -> Evaluation:
        """Recall at 1, 5 and 10, ranks and reciprocal rank, in both directions."""
        query = one_field(data.schema, "query", "retrieval").name
        target = one_field(data.schema, "target", "retrieval").name
        reader = Reader(system, data, batch_size, cache)
        embeds = "embed" in system.capabilities
        pools: tuple[int | None, ...] = self.pools or (None,)
        if not embeds:
            pools = (self.pools or (PAIR_POOL,))[:1]
        limit = self.max_rows or (None if embeds else PAIR_ROWS)
        names = _direction_names(data.schema, query, target)
        metrics: dict[str, Metric] = {}
        per_row, groups = {}, {}
        examples: list[dict[str, Any]] = []
        main_pool, main_rows, asked = 0, rows, 0
        for number, pool in enumerate(pools):
            chosen = rows[:limit] if number == 0 else rows
            pairs = _Pairs(reader, data, chosen, query, target)
            size = min(pool or len(pairs.queries), len(pairs.queries))
            pairs.divide(size, self.whole_groups, seed)
            if self.shuffled:
                pairs.shuffle()
            matrix = pairs.embedded() if embeds else pairs.scored()
            scores = pairs.ranked(matrix, names, seed)
            asked += len(pairs.targets)
            prefix = "" if number == 0 else f"pool{size}/"
            metrics |= {prefix + key: metric for key, metric in scores.metrics.items()}
            if number == 0:
                main_pool, main_rows = size, pairs.targets
                per_row, groups = scores.per_row, scores.groups
                examples = pairs.examples(matrix, names)
        return Evaluation(
            task=self.name,
            main_metric="R@1",
            rows=main_rows,
            scores=Scores(metrics, per_row, groups),
            inference_ms_per_row=1000 * reader.seconds / max(1, asked),
            pool=main_pool,
            examples=examples,
            faults=tuple(dict.fromkeys(reader.faults)),
        )


def _direction_names(schema: Schema, query: str, target: str) -> tuple[str, str]:
    """Modalities name the directions (`text->image`), unless both sides are of one modality."""
    names = (schema[query].modality, schema[target].modality)
    return names if names[0] != names[1] else (query, target)


Matrix = tuple[Float[np.ndarray, "queries width"], Float[np.ndarray, "targets width"]]


class _Pairs:
    """The queries and targets of some rows, and what a system makes of them."""

    def __init__(
        self,
        reader: Reader,
        data: Data,
        rows: Int[np.ndarray, " rows"],
        query: str,
        target: str,
    ) -> None:
        self.reader, self.query, self.target = reader, query, target
        self.query_side, self.target_side = data.schema.family(query), data.schema.family(target)
        if system_lacks := [n for n in (query, target) if n not in reader.system.views()]:
            raise UserError(
                f"the system does not read the field '{system_lacks[0]}' that is asked for"
            )
        self.whole = concatenate([batch.to("cpu") for batch in reader.batches(rows)])
        complete = (self.whole.present(query) & self.whole.present(target)).numpy()
        if complete.sum() < 2:
            raise UserError(
                f"retrieval needs at least two rows with both '{query}' and '{target}', "
                f"and {int(complete.sum())} of {len(rows)} have both"
            )
        self.at = np.flatnonzero(complete)
        self.targets = self.whole.index.numpy()[self.at]
        same = data.identities(query, self.targets)
        _, first, self.target_groups = np.unique(same, return_index=True, return_inverse=True)
        self.query_at = self.at[first]
        self.queries = self.targets[first]
        self.query_groups = np.arange(len(first))
        clusters = np.unique(data.groups(self.targets), return_inverse=True)[1]
        self.query_clusters, self.target_clusters = clusters[first], clusters

    def divide(self, size: int, whole_groups: bool, seed: int) -> None:
        """Divide them into pools of about `size` queries."""
        groups = self.query_groups, self.target_groups
        if whole_groups:
            groups = self.query_clusters, self.target_clusters
            size = max(1, round(size * (1 + int(groups[1].max())) / len(self.queries)))
        self.query_pools, self.target_pools = assign_pools(*groups, size, seed)

    def shuffle(self) -> None:
        """Let each target belong to the next query of its pool."""
        order = np.argsort(self.query_pools, kind="stable")
        following = np.empty_like(order)
        for members in np.split(order, np.flatnonzero(np.diff(self.query_pools[order])) + 1):
            following[members] = np.roll(members, -1)
        self.target_groups = following[self.target_groups]

    def embedded(self) -> Matrix:
        """Embeddings of all queries and of all targets."""
        return (
            self._embed(self.query_at, self.query, self.query_side),
            self._embed(self.at, self.target, self.target_side),
        )

    def _embed(
        self, at: Int[np.ndarray, " rows"], field: str, side: tuple[str, ...]
    ) -> Float[np.ndarray, "rows width"]:
        system = cast(Embeds, self.reader.system)
        parts = []
        for start in range(0, len(at), self.reader.batch_size):
            chosen = torch.from_numpy(at[start : start + self.reader.batch_size])
            batch = self.whole.take(chosen).only(*side).to(self.reader.device)
            with self.reader.asking():
                parts.append(system.embed(batch, field).float().cpu())
        return torch.cat(parts).numpy()

    def scored(self) -> Float[np.ndarray, "queries targets"]:
        """Scores of all pairs within each pool; others are not computed."""
        system = cast(ScoresPairs, self.reader.system)
        scores = np.full((len(self.queries), len(self.targets)), -np.inf, dtype=np.float32)
        query_rows = self._prepared(self.query_at, self.query_side)
        target_rows = self._prepared(self.at, self.target_side)
        for pool in np.unique(self.query_pools):
            query_of = np.flatnonzero(self.query_pools == pool)
            target_of = np.flatnonzero(self.target_pools == pool)
            pairs = [grid.ravel() for grid in np.meshgrid(query_of, target_of, indexing="ij")]
            for start in range(0, len(pairs[0]), 4 * self.reader.batch_size):
                chosen = slice(start, start + 4 * self.reader.batch_size)
                left, right = pairs[0][chosen], pairs[1][chosen]
                queries = query_rows.take(torch.from_numpy(left))
                batch = queries.joined(target_rows.take(torch.from_numpy(right)))
                batch = batch.to(self.reader.device)
                with self.reader.asking():
                    scores[left, right] = system.score_pairs(batch).float().cpu().numpy()
        return scores

    def _prepared(self, at: Int[np.ndarray, " rows"], side: tuple[str, ...]) -> Batch:
        """One side of the pairs, with what the system computes once for each row."""
        parts = []
        for start in range(0, len(at), self.reader.batch_size):
            chosen = torch.from_numpy(at[start : start + self.reader.batch_size])
            batch = self.whole.take(chosen).only(*side).to(self.reader.device)
            with self.reader.asking():
                parts.append(self.reader.system.prepare(batch).only(*side).to("cpu"))
        return concatenate(parts)

    def ranked(
        self,
        matrix: Matrix | Float[np.ndarray, "queries targets"],
        names: tuple[str, str],
        seed: int,
    ) -> Scores:
        """Metrics of both directions."""
        groups, pools = (
            (self.query_groups, self.target_groups),
            (self.query_pools, self.target_pools),
        )
        if isinstance(matrix, tuple):
            first, second = rank_pair_from_embeddings(
                *matrix, *groups, first_pools=pools[0], second_pools=pools[1]
            )
        else:
            first, second = rank_pair_from_scores(
                matrix, *groups, first_pools=pools[0], second_pools=pools[1]
            )
        return retrieval_scores(first, second, names, seed=seed)

    def examples(
        self, matrix: Matrix | Float[np.ndarray, "queries targets"], names: tuple[str, str]
    ) -> list[dict[str, Any]]:
        """Targets as questions, with the queries found for them: right ones and wrong ones."""
        right: list[dict[str, Any]] = []
        wrong: list[dict[str, Any]] = []
        for column in range(len(self.targets)):
            members = np.flatnonzero(self.query_pools == self.target_pools[column])
            if isinstance(matrix, tuple):
                scores = matrix[0][members] @ matrix[1][column]
            else:
                scores = matrix[members, column]
            order = np.argsort(-scores, kind="stable")
            answer = int(
                np.flatnonzero(self.query_groups[members] == self.target_groups[column])[0]
            )
            rank = int((scores >= scores[answer]).sum())
            kind = right if rank == 1 else wrong
            if len(kind) < NUM_EXAMPLES:
                kind.append(
                    {
                        "direction": f"{names[1]}->{names[0]}",
                        "query": int(self.targets[column]),
                        "found": [int(self.queries[members[i]]) for i in order[:NUM_FOUND]],
                        "answer": int(self.queries[members[answer]]),
                        "rank": rank,
                    }
                )
            if len(right) == len(wrong) == NUM_EXAMPLES:
                break
        return wrong + right
