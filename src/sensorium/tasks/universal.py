"""Universal retrieval: a query and its target may each be a text, a picture, several media, or both."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from sensorium.data import Data, MediaCache
from sensorium.systems.base import EmbedsSides, System
from sensorium.tasks.base import Evaluation, Reader, Task
from sensorium.tasks.intervals import bootstrap, ratio, summable
from sensorium.tasks.metrics import Scores
from sensorium.tasks.metrics.ranking import ranks_from_embeddings
from sensorium.types import Batch, Schema, UserError, concatenate

MODALITY_ACCURACY = "modality accuracy"
_CUTOFFS = (1, 5, 10)
_BLOCK = 1024


class UniversalRetrieval(Task):
    """Rank all targets for each query, whatever either consists of (as M-BEIR, arXiv 2311.17136).

    Fields with the role `query` make up the query, and those with the role `target` the target, each row
    those that it has; a field with the role `question` is the instruction, which the query brings. Equal
    targets of several rows are one candidate. Rows are of a kind: what stands in the field with the role
    `group`, or else which fields the row has.

    - `R@1`, `R@5`, `R@10`, `MRR`: among the targets of all rows (the global pool).
    - `local/R@5` and so on: among the targets of the rows of the same kind, where there is nothing of
      another modality to be misled by.
    - `modality accuracy`: the share of queries whose first candidate in the global pool has the modalities
      of the right one (M.A.@1 of MM-Embed, arXiv 2411.02571).

    Each is given for every kind, as `text->image/R@5`, and as the mean over kinds. Ties count against the
    system.

    Args:
        max_rows: how many rows are scored; all if None.
    """

    name = "universal-retrieval"

    def __init__(self, max_rows: int | None = None) -> None:
        self.max_rows = max_rows

    def assign(self, schema: Schema, target: str | None = None) -> Schema:
        """Labels and answers are of no use here."""
        if target is not None:
            schema = schema.with_roles({target: "target"})
        names = [field.name for field in schema.find(role=("label", "answer"))]
        schema = schema.with_roles(dict.fromkeys(names, "ignore"))
        for side in ("query", "target"):
            if not schema.find(role=side):
                names = [f"{f.name} ({f.modality}, {f.role})" for f in schema]
                raise UserError(
                    f"{self.name} needs a query and a target, and no field has the role '{side}'. Fields: "
                    f"{', '.join(names)}. Give the roles in the schema file"
                )
        return schema

    def fits(self, capabilities: frozenset[str]) -> bool:
        """Systems that embed whole sides."""
        return "embed_side" in capabilities

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
        """Recall in the global pool and in that of each kind, and what modality comes first."""
        if not isinstance(system, EmbedsSides):
            raise UserError(
                f"system '{system.name}' does not embed whole sides, which {self.name} asks for"
            )
        reader = Reader(system, data, batch_size, cache)
        pool = _Pool(reader, data, rows[: self.max_rows])
        queries = pool.embedded("query", np.arange(len(pool.rows)))
        targets = pool.embedded("target", np.arange(len(pool.rows)))
        return Evaluation(
            task=self.name,
            main_metric="R@5",
            rows=pool.rows,
            scores=pool.scores(queries, targets, seed),
            inference_ms_per_row=1000 * reader.seconds / len(pool.rows),
            pool=len(pool.first),
            faults=tuple(dict.fromkeys(reader.faults)),
        )


class _Pool:
    """The queries of some rows, and their targets, each of which is a candidate once.

    Attributes:
        rows: those that have both sides.
        target: the number of the candidate that is each row's target.
        first: for each candidate, the first row that has it.
        kinds: of each row.
        looks: of each row's target, which of its fields are there, as one number.
    """

    def __init__(self, reader: Reader, data: Data, rows: Int[np.ndarray, " rows"]) -> None:
        self.reader, self.data = reader, data
        self.fields = {side: _read(reader, data.schema, side) for side in ("query", "target")}
        whole = concatenate([batch.to("cpu") for batch in reader.batches(rows)])
        there = {side: _there(whole, names) for side, names in self.fields.items()}
        complete = there["query"].any(1) & there["target"].any(1)
        if complete.sum() < 2:
            raise UserError(
                f"{UniversalRetrieval.name} needs at least two rows with a query and a target, and "
                f"{int(complete.sum())} of {len(rows)} have both"
            )
        self.batch = whole.take(torch.from_numpy(np.flatnonzero(complete)))
        self.rows = self.batch.index.numpy()
        parts = {side: there[side][complete] for side in there}
        same = np.stack(
            [data.identities(name, self.rows) for name in self.fields["target"]], axis=1
        )
        same = np.concatenate([np.where(parts["target"], same, 0), parts["target"]], axis=1)
        _, self.first, self.target = np.unique(same, axis=0, return_index=True, return_inverse=True)
        self.target = self.target.reshape(-1)
        self.looks = parts["target"] @ (1 << np.arange(parts["target"].shape[1]))
        self.kinds = self._kinds(parts)

    def _kinds(
        self, parts: dict[str, Bool[np.ndarray, "rows fields"]]
    ) -> Shaped[np.ndarray, " rows"]:
        """What stands in the group field; without one, `query_image+query_text->target_text`."""
        if fields := self.data.schema.find(role="group"):
            column = fields[0].source_columns[0]
            return np.asarray([str(v) for v in self.data.columns([column], self.rows)[column]])
        names = {side: np.asarray(self.fields[side]) for side in parts}
        return np.asarray(
            [
                "->".join("+".join(names[side][parts[side][row]]) for side in ("query", "target"))
                for row in range(len(self.rows))
            ]
        )

    def embedded(
        self, side: Literal["query", "target"], at: Int[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows width"]:
        """Vectors of one side of some rows; the instruction belongs to the query alone."""
        system = cast(EmbedsSides, self.reader.system)
        names = [n for field in self.fields[side] for n in self.data.schema.family(field)]
        if side == "query":
            names += [field.name for field in self.data.schema.find(role="question")]
        parts = []
        for start in range(0, len(at), self.reader.batch_size):
            chosen = torch.from_numpy(at[start : start + self.reader.batch_size])
            batch = self.batch.take(chosen).only(*names).to(self.reader.device)
            with self.reader.asking():
                parts.append(system.embed_side(batch, side).float().cpu())
        return torch.cat(parts).numpy()

    def scores(
        self,
        queries: Float[np.ndarray, "rows width"],
        targets: Float[np.ndarray, "rows width"],
        seed: int,
    ) -> Scores:
        """Metrics of every kind, and their means over kinds."""
        candidates = targets[self.first]
        found = ranks_from_embeddings(queries, candidates, self.target, np.arange(len(candidates)))
        # in a local pool a candidate stands once, too
        pair = np.stack([np.unique(self.kinds, return_inverse=True)[1], self.target], axis=1)
        local, first = np.unique(pair, axis=0, return_index=True)
        near = ranks_from_embeddings(
            queries,
            targets[first],
            self.target,
            local[:, 1],
            query_pools=pair[:, 0],
            candidate_pools=local[:, 0],
        )
        right = right_modality(queries, candidates, self.looks, self.looks[self.first])
        per_row = {
            **_columns(found, ""),
            **_columns(near, "local/"),
            MODALITY_ACCURACY: right.astype(np.float64),
        }
        clusters = np.unique(self.data.groups(self.rows), return_inverse=True)[1]
        columns = summable(np.stack(list(per_row.values())))
        kinds = {kind: self.kinds == kind for kind in dict.fromkeys(self.kinds.tolist())}

        def statistic(weights: Float[np.ndarray, "rows resamples"]) -> dict[str, np.ndarray]:
            metrics: dict[str, np.ndarray] = {}
            for kind, members in kinds.items():
                own = weights * members[:, None]
                for name, mean in zip(per_row, ratio(columns @ own, own.sum(0)), strict=True):
                    metrics[f"{kind}/{name}"] = mean
            for name in per_row:
                of_kinds = np.stack([metrics[f"{kind}/{name}"] for kind in kinds])
                metrics[name] = of_kinds.mean(0)
            return metrics

        # scaled so that their mean over rows is the mean over kinds
        share = sum(
            members * (len(members) / members.sum() / len(kinds)) for members in kinds.values()
        )
        return Scores(
            metrics=bootstrap(statistic, clusters, seed=seed),
            per_row={name: values * share for name, values in per_row.items()},
            groups=dict.fromkeys(per_row, clusters),
        )


def right_modality(
    queries: Float[np.ndarray, "queries width"],
    candidates: Float[np.ndarray, "candidates width"],
    wanted: Int[np.ndarray, " queries"],
    looks: Int[np.ndarray, " candidates"],
) -> Bool[np.ndarray, " queries"]:
    """Whether the best candidate of each query is of the modality it wants; a tie is none.

    Args:
        queries: vectors.
        candidates: vectors.
        wanted: a number for the modalities of what each query is to find.
        looks: and of each candidate.
    """
    found = []
    for start in range(0, len(queries), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores = queries[part] @ candidates.T
        fits = wanted[part][:, None] == looks
        best = np.where(fits, scores, -np.inf).max(1)
        found.append(best > np.where(fits, -np.inf, scores).max(1))
    return np.concatenate(found)


def _columns(ranks: Int[np.ndarray, " rows"], prefix: str) -> dict[str, Any]:
    columns = {f"{prefix}R@{cut}": (ranks <= cut).astype(np.float64) for cut in _CUTOFFS}
    return columns | {f"{prefix}MRR": 1 / ranks}


def _read(reader: Reader, schema: Schema, side: str) -> list[str]:
    """The fields of a side that the system reads."""
    names = [field.name for field in schema.find(role=side)]
    read = [name for name in names if name in reader.views]
    if not read:
        raise UserError(
            f"system '{reader.system.name}' reads none of the fields with the role '{side}': "
            f"{', '.join(names)}"
        )
    return read


def _there(batch: Batch, names: list[str]) -> Bool[np.ndarray, "rows fields"]:
    return torch.stack([batch.present(name) for name in names], 1).numpy()
