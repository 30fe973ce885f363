"""MIR: how near pictures are to text tells, before any tuning, how good an assistant will be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from sensorium.claims.base import Arm, Claim, above
from sensorium.claims.eyes import ASSISTANT, EYE, SEES, eyes
from sensorium.data import Data, open_data, read_batches
from sensorium.diagnostics.streams.integration import Measure
from sensorium.diagnostics.streams.states import SET
from sensorium.diagnostics.streams.study import measure_integration
from sensorium.systems.baselines.llava import ALIGN, LANGUAGE, TUNE, LLaVA
from sensorium.training.budget import Budget
from sensorium.training.run import Run, train

THINGS = "pictures=12&objects=2-3"
VIEW = f"size=32&tiles=1&{THINGS}"

RATE = "rate"
OTHERS = {
    "rate without scaling": Measure(scaled=False),
    "rate with odd norms": Measure(replaced=False),
    "distance of means": Measure(distance="means"),
    "rate as released": Measure(distance="released"),
}
LOSS = "caption loss"
OVER_LOSS = "rank over caption loss"


@dataclass(frozen=True)
class Way:
    """One way of the first stage: rows, share of captions about something else, steps, and more."""

    rows: int = 4000
    unrelated: int = 0
    share: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


WAYS = {
    "usual": Way(),
    "250 rows": Way(rows=250),
    "1,000 rows": Way(rows=1000),
    "16,000 rows": Way(rows=16000),
    "low rate": Way(options={"learning_rate": 2e-4}),
    "high rate": Way(options={"learning_rate": 2e-2}),
    "half unrelated": Way(unrelated=50),
    "half unrelated, 16,000 rows": Way(rows=16000, unrelated=50),
    "a quarter of the steps": Way(share=0.25),
    "low rate, a quarter of the steps": Way(share=0.25, options={"learning_rate": 2e-4}),
    "linear": Way(settings={"connector": "linear"}),
    "linear, 250 rows": Way(rows=250, settings={"connector": "linear"}),
}

CLAIM = Claim(
    name="integration-rate",
    system="llava",
    statement=(
        "The modality integration rate after the first stage ranks ways of that stage by how many "
        "questions are answered after the same second stage, and better than the loss of captions does"
    ),
    source=(
        "Huang et al., ICCV 2025, arXiv 2410.07167: it falls as pre-training data grow and follows "
        "scores after tuning where loss and perplexity do not (abstract; no coefficient recalled)"
    ),
    data=f"playground:dialogues?{VIEW}&kinds=colour",
    starts=eyes(THINGS),
    arms={
        "assistant": Arm("llava", "system", ASSISTANT, {**SEES, "stages": [LANGUAGE]}, start=EYE)
    },
    task="vqa",
    metric="rank of rate",
    shown=(
        OVER_LOSS,
        f"rank of {LOSS}",
        *(f"rank of {name}" for name in OTHERS),
        "spread over rows, to that over ways",
        "accuracy, mean",
        "accuracy, spread",
    ),
    holds_if=(above("assistant", 0.5), above("assistant", 0.0, metric=OVER_LOSS)),
    differs=(
        f"{len(WAYS)} ways: rows, captions about something else, learning rate, steps and connector; "
        "the language model has read dialogues of the same world, the encoder has learned from captions "
        "and stays; questions are for the colour under a thing",
        "rank is Spearman's correlation over ways of accuracy with the negative rate, or loss; "
        "captions and questions are of rows that no stage has seen",
        "After each way, questions are tuned for as many steps as the usual way has",
    ),
    budget="300steps",
    options={"validation_rows": 0},
    measure="sensorium.claims.catalogue.integration_rate:measure",
    hours=0.6,
)


def measure(run: Run) -> dict[str, float]:
    """Rank correlations over all ways; of a run of few steps, over the first few."""
    steps = Budget.parse(run.info["budget"]).steps(1, 1, 1.0)
    names = list(WAYS) if steps >= len(WAYS) else list(WAYS)[:2]
    outcomes = [outcome(run, name, steps) for name in names]
    table = {name: np.array([found[name] for found in outcomes]) for name in outcomes[0]}
    accuracy = table["accuracy"]
    ranks = {f"rank of {name}": rank(-table[name], accuracy) for name in (RATE, *OTHERS, LOSS)}
    between = float(table["rate"].std())
    return {
        **ranks,
        OVER_LOSS: ranks["rank of rate"] - ranks[f"rank of {LOSS}"],
        "spread over rows, to that over ways": float(table["spread"].mean()) / max(between, 1e-9),
        "accuracy, mean": float(accuracy.mean()),
        "accuracy, spread": float(accuracy.std()),
        **{f"accuracy, {name}": float(value) for name, value in zip(names, accuracy, strict=True)},
        **{f"rate, {name}": float(v) for name, v in zip(names, table["rate"], strict=True)},
        **{f"{LOSS}, {name}": float(v) for name, v in zip(names, table[LOSS], strict=True)},
    }


def outcome(run: Run, name: str, steps: int) -> dict[str, float]:
    """What is measured after the first stage of one way, and the accuracy after the second."""
    way = WAYS[name]
    settings = {**run.info["settings"], **way.settings}
    common = {"seed": run.info["seed"], "settings": settings}
    options = {n: v for n, v in run.info["options"].items() if n != "stages"}
    noise = f"&caption=noisy&unrelated={way.unrelated}" if way.unrelated else ""
    aligned = train(
        "llava",
        rows_of(f"playground:scenes?{VIEW}{noise}", run, way.rows),
        out=run.folder.path / "ways" / name / ALIGN,
        task="captioning",
        options={**options, "stages": [ALIGN], **way.options},
        budget=f"{max(1, round(way.share * steps))}steps",
        init=run.folder.path,
        **common,
    )
    captions = rows_of(f"playground:scenes?{VIEW}", run, way.rows).with_schema(aligned.schema)
    test = captions.rows("test")
    assert isinstance(aligned.system, LLaVA)
    rates = {
        key: measure_integration(aligned.system, captions, test[:SET], measure=how)
        for key, how in OTHERS.items()
    }
    usual = measure_integration(aligned.system, captions, test)
    loss = caption_loss(aligned.system, captions)
    tuned = train(
        "llava",
        rows_of(f"playground:questions?{VIEW}&kinds=colour", run, 4000),
        out=run.folder.path / "ways" / name / TUNE,
        task="vqa",
        options={**options, "stages": [TUNE]},
        budget=f"{steps}steps",
        init=aligned.folder.path,
        **common,
    )
    accuracy = tuned.evaluate(samples=False).scores.metrics["accuracy"].value
    assert accuracy is not None
    return {
        "accuracy": accuracy,
        LOSS: loss,
        RATE: usual["value"]["value"],
        "spread": usual["spread"] or 0.0,
        **{key: found["value"]["value"] for key, found in rates.items()},
    }


def rows_of(where: str, run: Run, most: int) -> Data:
    """Rows of a view: as many as the run has, but no more for training than there are to be."""
    own = run.data()
    counts = {split: len(own.rows(split)) for split in ("validation", "test")}
    counts["train"] = min(most, len(own.rows("train")))
    return open_data(where + "".join(f"&{split}={count}" for split, count in counts.items()))


def caption_loss(system: LLaVA, data: Data) -> float:
    """The mean loss of a word of captions that were not learned."""
    system.stage = ALIGN
    losses = []
    with torch.inference_mode():
        for batch in read_batches(data, data.rows("test"), system.views(), batch_size=64):
            losses += system.losses(batch)["words"].per_item.tolist()
    return fmean(losses)


def rank(one: Float[np.ndarray, " ways"], other: Float[np.ndarray, " ways"]) -> float:
    """Spearman's correlation; 0 where one of both is constant."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other)[0])
