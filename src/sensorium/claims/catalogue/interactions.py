"""Interactions: bounds on the synergy of two modalities tell where joint fusion helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.claims.base import Arm, Claim, Condition, above
from sensorium.data.sources import spread
from sensorium.diagnostics.answers import Answers
from sensorium.diagnostics.interactions.bounds import accuracy_limits
from sensorium.diagnostics.interactions.clusters import Clusters, vectors_of
from sensorium.diagnostics.interactions.decomposition import entropy, information
from sensorium.diagnostics.interactions.pairs import bound_pair
from sensorium.diagnostics.interactions.study import bounds_on_random_tables
from sensorium.modalities.scalars import class_names
from sensorium.nn.heads import mlp
from sensorium.training.run import Run

NUM_CLUSTERS = 8
ROWS = 3000  # a third for each of: labels of one stream, labels of the other, pairs
TABLES = 3000
STEPS = 200
HIDDEN = 32
WIDE = 0.8  # of what there is to know

HEURISTICS = ("accuracy difference", "mutual information", "disagreement")
PAIRS = {("image", "table"): (0, 1), ("image", "sound"): (0, 2), ("table", "sound"): (1, 2)}
"""Two streams, and which of the three facts are at home in them: warm, heavy, rising."""

CLAIM = Claim(
    name="interactions",
    system="late-fusion",
    statement=(
        "Bounds on the synergy of two modalities, from labels of each alone and pairs without "
        "labels, always hold, and tell better than simpler numbers on which tasks joint fusion "
        "beats additive fusion"
    ),
    source=(
        "Liang et al., 2024, arXiv 2306.04539: bounds on 100,000 random distributions, and estimates "
        "beside the accuracy of fusion models on real data (figures not recalled)"
    ),
    data="playground:attributes?size=32",
    arms={
        "trained encoders": Arm("late-fusion", "system"),
        "untrained encoders": Arm("late-fusion", "control", options={"learning_rate": 1e-12}),
    },
    task="classification",
    metric="rank",
    shown=(
        "rank of one bound, redundancy",
        "rank of one bound, uniqueness",
        *(f"rank of {name}" for name in HEURISTICS),
        *(f"rank over {name}" for name in HEURISTICS),
        "vacuous",
        "inside",
        "violations",
    ),
    holds_if=(
        above("trained encoders", 0.5),
        *(above("trained encoders", 0.0, metric=f"rank over {name}") for name in HEURISTICS),
        Condition("trained encoders", metric="vacuous", high=0.5),
        Condition("trained encoders", metric="violations", high=1e-9),
    ),
    differs=(
        "Twelve tasks with planned synergy: XOR, AND, majority and both of three facts, over three "
        "pairs of streams; every fact is also hinted at in another stream",
        "Encoders are those of late fusion, trained on a label that names the three facts, then "
        "frozen: no task's own label is seen by them, but facts are",
        "rank is Spearman's correlation over tasks between the middle of the interval and what joint "
        "fusion gains in accuracy over additive fusion, both trained on pairs with labels that the "
        "bounds have not seen; that of a heuristic counts with the sign that suits it",
        "inside is how often a joint network's accuracy lies within the limits that the bounds set; they "
        "know eight clusters of the vectors that it reads, and so miss an accuracy of 1 by some 0.003",
        "violations are those of 3,000 random 2x2x2 tables in place of 100,000",
    ),
    budget="300steps",
    options={"validate_every": 150},
    measure="sensorium.claims.catalogue.interactions:measure",
    hours=0.5,
)

Facts = Int[np.ndarray, "facts rows"]

GATES: dict[str, Callable[[Facts, int, int], Int[np.ndarray, " rows"]]] = {
    "xor": lambda facts, one, other: facts[one] ^ facts[other],
    "and": lambda facts, one, other: facts[one] & facts[other],
    "majority": lambda facts, one, other: (facts.sum(0) > 1).astype(int),
    "both": lambda facts, one, other: 2 * facts[one] + facts[other],
}


def measure(run: Run) -> dict[str, float]:
    """How estimates of twelve tasks agree with what joint fusion gains."""
    seed, data = run.info["seed"], run.data()
    training = Answers(run, data, spread(data.rows("train"), ROWS))
    test = Answers(run, data, spread(data.rows("test"), ROWS))
    codes, vectors = {}, {}
    for name in ("image", "table", "sound"):
        fields = [vectors_of(side.prepared, side.schema[name]) for side in (training, test)]
        known, asked = (found for found in fields if found is not None)
        codes[name] = Clusters.fit(known.values, NUM_CLUSTERS, seed).codes(known)
        vectors[name] = known.values, asked.values
    tasks = []
    for (first, second), (one, other) in PAIRS.items():
        for says in GATES.values():
            labels = [says(facts_of(side), one, other) for side in (training, test)]
            estimate = _estimate(codes[first], codes[second], labels[0])
            learned = _learned([vectors[first], vectors[second]], labels, seed)
            tasks.append({**estimate, **learned})
    table = {name: np.array([task[name] for task in tasks]) for name in tasks[0]}
    exact = bounds_on_random_tables(TABLES, (2, 2, 2), seed=seed)
    return {
        **_ranks(table),
        "vacuous": float((table["width"] > WIDE * table["entropy"]).mean()),
        "inside": float(
            ((table["least"] <= table["joint"]) & (table["joint"] <= table["most"])).mean()
        ),
        "violations": max(entry["violations"] for entry in exact.values()),
    }


def facts_of(answers: Answers) -> Facts:
    """Warm, heavy and rising, as the label of each row names them."""
    facts = [
        [word in name.split() for name in class_names(answers.field)]
        for word in ("warm", "heavy", "rising")
    ]
    return np.array(facts, dtype=int)[:, answers.truth]


def _estimate(
    first: Int[np.ndarray, " rows"],
    second: Int[np.ndarray, " rows"],
    label: Int[np.ndarray, " rows"],
) -> dict[str, float]:
    """What is known of the synergy if a third of the rows has one input and the label, a third the
    other, and a third both inputs.
    """
    of_first, of_second, of_pairs = (np.arange(len(label)) % 3 == part for part in range(3))
    parts, bounds = bound_pair(
        (first[of_first], label[of_first]),
        (second[of_second], label[of_second]),
        (first[of_pairs], second[of_pairs]),
    )
    shares = np.bincount(label)[None] / len(label)
    known, upper = parts.without_synergy, np.maximum(bounds.upper, 0)
    least, most = accuracy_limits(known + bounds.lower, known + upper, shares)
    unique = np.maximum(parts.unique_first, parts.unique_second)
    found = {
        "middle": (bounds.lower + upper) / 2,
        "redundancy": (np.maximum(bounds.from_redundancy, 0) + upper) / 2,
        "uniqueness": (np.maximum(bounds.from_uniqueness, 0) + upper) / 2,
        "width": upper - bounds.lower,
        "entropy": entropy(shares),
        "least": least,
        "most": most,
        "disagreement": 4 * (bounds.from_uniqueness + unique),
        "mutual information": information(_shares(first[of_pairs], second[of_pairs])),
    }
    right = [
        _shares(codes[rows], label[rows]).max(2).sum()
        for codes, rows in ((first, of_first), (second, of_second))
    ]
    difference = {"accuracy difference": float(abs(right[0] - right[1]))}
    return {name: float(values[0]) for name, values in found.items()} | difference


def _shares(
    one: Int[np.ndarray, " rows"], other: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "1 one other"]:
    table = np.zeros((1, one.max() + 1, other.max() + 1))
    np.add.at(table[0], (one, other), 1 / len(one))
    return table


def _learned(
    vectors: Sequence[tuple[Float[np.ndarray, "rows width"], Float[np.ndarray, "test width"]]],
    labels: Sequence[Int[np.ndarray, " rows"]],
    seed: int,
) -> dict[str, float]:
    """Accuracy of a joint network, and what it gains over one whose inputs only add up.

    Both learn from the pairs whose labels the bounds have not seen.
    """
    taken = np.arange(len(labels[0])) % 3 == 2
    sides = [
        (
            torch.from_numpy((known[taken] - known.mean(0)) / (known.std(0) + 1e-6)).float(),
            torch.from_numpy((asked - known.mean(0)) / (known.std(0) + 1e-6)).float(),
        )
        for known, asked in vectors
    ]
    training, test = zip(*sides, strict=True)
    known, asked = torch.from_numpy(labels[0][taken]), torch.from_numpy(labels[1])
    joint = _accuracy([torch.cat(training, 1)], known, [torch.cat(test, 1)], asked, seed)
    added = _accuracy(training, known, test, asked, seed)
    return {"joint": joint, "gain": joint - added}


def _accuracy(
    training: Sequence[Tensor], known: Tensor, test: Sequence[Tensor], asked: Tensor, seed: int
) -> float:
    """Of a sum of small networks, one for each input."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        outputs = int(known.max()) + 1
        parts = nn.ModuleList([mlp(x.shape[1], outputs, HIDDEN) for x in training])
        optimizer = torch.optim.AdamW(parts.parameters(), lr=1e-2, weight_decay=1e-2)
        for _ in range(STEPS):
            logits = torch.stack([f(x) for f, x in zip(parts, training, strict=True)]).sum(0)
            optimizer.zero_grad()
            loss = F.cross_entropy(logits, known)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.inference_mode():
        logits = torch.stack([f(x) for f, x in zip(parts, test, strict=True)]).sum(0)
    return float((logits.argmax(1) == asked).float().mean())


def _ranks(table: Mapping[str, Float[np.ndarray, " tasks"]]) -> dict[str, float]:
    """Correlations with what joint fusion gains, and by how much the estimate's is above others."""
    gain = table["gain"]
    rank = _rank(table["middle"], gain)
    found = {"rank": rank}
    for name in ("redundancy", "uniqueness"):
        found[f"rank of one bound, {name}"] = _rank(table[name], gain)
    for name in HEURISTICS:
        found[f"rank of {name}"] = abs(_rank(table[name], gain))
        found[f"rank over {name}"] = rank - found[f"rank of {name}"]
    return found


def _rank(one: Float[np.ndarray, " tasks"], other: Float[np.ndarray, " tasks"]) -> float:
    """Spearman's correlation; 0 where one of both is constant."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other)[0])
