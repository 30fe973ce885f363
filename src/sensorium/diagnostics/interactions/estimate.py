"""Interactions of the inputs of a run, two at a time, with its label.

Each input becomes clusters: of the vectors that the system makes of it, or of its own values where they
are small. The clusters are found on training rows of that input alone, without labels. A row without
the input is in a cluster of its own, so that what its absence tells counts as well. More than two
inputs at a time are not defined, so that there is an estimate for each pair.

What is found holds for clusters: they can have lost what the values tell. The run itself shows where that
is so: its answers from the same inputs are proof of H(Y) minus their cross-entropy, at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Int

from sensorium.diagnostics.answers import Answers
from sensorium.diagnostics.interactions.clusters import Clusters, num_clusters, vectors_of
from sensorium.diagnostics.interactions.decomposition import entropy
from sensorium.diagnostics.interactions.pairs import PairEstimate, estimate_pair
from sensorium.diagnostics.scoring import Outputs

MOST_INPUTS = 4  # which are six pairs
MOST_CLASSES = 20
FEW_ROWS = 5  # in a cell of p(x1, x2, y)
LOST = 0.1  # bits
_QUARTERS = (0.25, 0.5, 0.75)
_LEAST = 1e-6  # probability

Codes = Int[np.ndarray, " rows"]


def interactions(
    answers: Answers,
    fitting: Answers,
    names: Sequence[str],
    groups: Int[np.ndarray, " rows"],
    asked: Mapping[frozenset[str], Outputs],
) -> dict[str, Any]:
    """What `diagnosis.json` says of pairs of inputs.

    Args:
        answers: the rows.
        fitting: those on which clusters are found.
        names: inputs, the most important first.
        groups: rows of one group are resampled together.
        asked: outputs of the run with these inputs alone.
    """
    if answers.field.modality == "categories":
        reason = "a row has several labels, and these are of one"
        return {"pairs": [], "inputs": {}, "skipped": {answers.field.name: reason}}
    label, is_whole = _label_codes(answers, fitting)
    most = num_clusters(len(label), len(np.unique(label)))
    codes, inputs, skipped = _clustered(answers, fitting, names, most)
    told = {
        together: _told(outputs, answers.truth)
        for together, outputs in asked.items()
        if is_whole and together <= set(codes) and 0 < len(together) < 3
    }
    pairs = []
    for first, second in combinations(codes, 2):
        estimate = estimate_pair(codes[first], codes[second], label, groups)
        pairs.append(
            {
                "inputs": [first, second],
                "rows": len(label),
                **estimate.as_dict(),
                "warnings": _warnings(first, second, estimate, len(label), told),
            }
        )
    return {"pairs": pairs, "inputs": inputs, "skipped": skipped}


def _clustered(
    answers: Answers, fitting: Answers, names: Sequence[str], most: int
) -> tuple[dict[str, Codes], dict[str, dict[str, float]], dict[str, str]]:
    """The clusters of each input, what is said of them, and why inputs have none."""
    codes: dict[str, Codes] = {}
    inputs, skipped = {}, {}
    for name in names:
        if len(codes) == MOST_INPUTS:
            skipped[name] = f"{MOST_INPUTS} others are more important"
            continue
        field = answers.schema[name]
        known = vectors_of(fitting.prepared, field)
        found = vectors_of(answers.prepared, field)
        if known is None or found is None:
            skipped[name] = "the system gives no vector of it"
        elif not len(known.values):
            skipped[name] = "it is absent in all rows in which clusters are looked for"
        else:
            clusters = Clusters.fit(known.values, most)
            codes[name] = clusters.codes(found)
            absent = float(1 - found.present.mean())
            inputs[name] = {"clusters": len(clusters.centres), "absent": absent}
    return codes, inputs, skipped


def _label_codes(answers: Answers, fitting: Answers) -> tuple[Codes, bool]:
    """A class for each row, and whether they are those that the run predicts.

    A number is in a quarter of the rows of `fitting`; the rarest of many classes are one.
    """
    if answers.field.modality == "number":
        edges = np.unique(np.quantile(fitting.truth.astype(np.float64), _QUARTERS))
        return np.searchsorted(edges, answers.truth, side="right"), False
    counts = np.bincount(answers.truth)
    if np.count_nonzero(counts) <= MOST_CLASSES:
        return answers.truth, True
    frequent = np.argsort(-counts, kind="stable")[: MOST_CLASSES - 1]
    place = np.full(len(counts), MOST_CLASSES - 1)
    place[frequent] = np.arange(MOST_CLASSES - 1)
    return place[answers.truth], False


def _told(outputs: Outputs, truth: Codes) -> float:
    """Bits of the label that answers prove: no classifier's cross-entropy is below H(Y|X)."""
    shares = np.bincount(truth) / len(truth)
    chances = outputs[np.arange(len(truth)), truth].astype(np.float64)
    cross = -np.log2(np.maximum(chances, _LEAST)).mean()
    return float(entropy(shares[None])[0] - cross)


def _warnings(
    first: str,
    second: str,
    estimate: PairEstimate,
    num_rows: int,
    told: Mapping[frozenset[str], float],
) -> list[str]:
    """Why not to trust an estimate."""
    warnings = []
    cells = int(np.prod(estimate.shape))
    if num_rows < FEW_ROWS * cells:
        warnings.append(
            f"{num_rows:,} rows are few for {cells:,} combinations of clusters and classes"
        )
    value = {name: metric.value or 0.0 for name, metric in estimate.parts.items()}
    kept = {
        frozenset([first]): value["redundancy"] + value["unique_first"],
        frozenset([second]): value["redundancy"] + value["unique_second"],
        frozenset([first, second]): sum(value.values()),
    }
    for names, bits in kept.items():
        if told.get(names, 0.0) > bits + LOST:
            what = " and ".join(name for name in (first, second) if name in names)
            warnings.append(
                f"clusters of {what} keep {bits:.2f} bits of the label, of which the run knows at "
                f"least {told[names]:.2f} from the same"
            )
    return warnings
