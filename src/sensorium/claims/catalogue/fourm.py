"""4M: one model for all directions, from any part of any fields to any other, and in chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from sensorium.claims.base import Arm, Claim, Part, above
from sensorium.data import read_batches
from sensorium.nn.token_generation import Filling
from sensorium.playground.maps import FAR, FARTHEST, NEAR
from sensorium.systems.masked.fourm import MASKED, TOKENIZE, FourM
from sensorium.training.run import Run
from sensorium.types import Batch

DIRECTIONS = (  # what is predicted from what
    ("picture to segments", ("image",), "segments"),
    ("segments to picture", ("segments",), "image"),
    ("caption to segments", ("caption",), "segments"),
    ("picture to caption", ("image",), "caption"),
    ("depth and caption to segments", ("depth", "caption"), "segments"),
    ("half a picture to the other", ("image",), "image"),
)
CLASSES, PICTURE, WORDS, CAPTION, BOTH, HALF = (name for name, _, _ in DIRECTIONS)
ALL, LOST, CHAINED = "all six", "lost with another row", "agreement of chains"
NOTHING = -10.0
"""Nats of a token of what is not predicted: less than if all codes were alike, log 100 = 4.6."""

CODING = {"image_size": 32, "width": 64, "depth": 1, "heads": 2, "levels": [5, 5, 4]}
SIZE = {
    "reads": ["image", "depth", "segments", "caption"],
    "gives": ["image", "depth", "segments", "caption"],
    "coding": CODING,
    # as many as a picture has, so that all of a field can be read and asked for
    "inputs": 16,
    "targets": 16,
    "width": 64,
    "depth": 3,
    "max_tokens": 24,
    "filling": {"steps": 1},
}
STEPS = 1200
ROWS = 64
PAIR = {"width": 36, "pictures_alone": 1.0}  # three have about the weights of one of width 64


def _begun(part: Part, settings: Mapping[str, Any], budget: str = "") -> Arm:
    options = {"stages": [MASKED], "batch_size": 32, "learning_rate": 3e-3}
    return Arm("fourm", part, {**SIZE, **settings}, options, budget=budget, start="codes")


def _pair(source: str, target: str) -> Arm:
    return _begun("baseline", {**PAIR, "reads": [source], "gives": [target]}, f"{STEPS // 3}steps")


CLAIM = Claim(
    name="fourm",
    system="fourm",
    statement=(
        "One model that has learned from random parts of any fields to random parts of any others "
        "predicts each about as well as models of one direction that share its budget, and from what "
        "none of them reads better; it needs parts and several fields to read; and fields that are "
        "made one from the other agree with each other"
    ),
    source=(
        "Mizrahi et al., NeurIPS 2023: transfer to 35 tasks, ablations of fields and masks (figures; "
        "none recalled)"
    ),
    data="playground:aligned?size=32&objects=1-2&pictures=12&train=8000&test=192",
    starts={
        "codes": Arm(
            "fourm",
            "start",
            SIZE,
            {"stages": [TOKENIZE], "learning_rate": 3e-3},
            budget="600steps",
        ),
    },
    arms={
        "4M": _begun("system", {}),
        CLASSES: _pair("image", "segments"),
        PICTURE: _pair("segments", "image"),
        WORDS: _pair("caption", "segments"),
        "whole fields": _begun("ablation", {"alpha": 1e-3}),
        "pictures alone": _begun("ablation", {"pictures_alone": 1.0}),
        "one step": _begun("control", {}, "1steps"),
    },
    task="reconstruction",
    metric=ALL,
    shown=(CLASSES, PICTURE, WORDS, CAPTION, BOTH, HALF, LOST, CHAINED),
    holds_if=(
        above("4M", CLASSES, by=-0.1, metric=CLASSES),
        above("4M", PICTURE, by=-0.1, metric=PICTURE),
        above("4M", WORDS, by=-0.1, metric=WORDS),
        above("4M", WORDS, metric=BOTH),
        above("4M", "whole fields", metric=HALF),
        above("4M", "pictures alone", by=0.1, metric=WORDS),
        above("4M", 0.1, metric=LOST),
        above("4M", 0.0, metric=CHAINED),
    ),
    differs=(
        "8,000 generated scenes of one or two things, four fields (picture, depth, segments, "
        "caption), boxes left out; 16 patches of 100 codes, 16 tokens read and "
        "16 asked for; three and three layers of width 64",
        "Metrics are log-likelihoods of true tokens, in nats of a token: what a model of one direction "
        "lacks is not read, and what it does not predict has -10",
        "Three models of one direction in place of five, each with a third of the updates and about a "
        "third of the weights",
        "Whether chains help is seen from how well depth and segments that are made of a caption agree "
        "about where things are (intersection over union), against depth made of the caption alone; "
        "things are told from the ground by a threshold, so that no classifier is needed",
        f"'{LOST}' is what true tokens lose if all that is read is that of another row (control)",
    ),
    budget=f"{STEPS}steps",
    options={"validation_rows": 0, "augment": False, "batch_size": 64},
    measure="sensorium.claims.catalogue.fourm:measure",
    hours=0.6,
)


def measure(run: Run) -> dict[str, float]:
    """How likely true fields are held to be in each direction, and whether chains agree in themselves."""
    system, data = run.system, run.data()
    assert isinstance(system, FourM)
    own, strange, agreed = [], [], []
    for rows in read_batches(data, data.rows("test"), system.views(), batch_size=ROWS):
        batch = rows.to(system.pixels.scale.device)
        behind = batch.take(torch.arange(batch.size, device=batch.device).roll(-1))
        own.append(likelihoods(system, batch, batch))
        strange.append(likelihoods(system, batch, behind))
        agreed.append(agreement(system, batch))
    found = {name: mean([each[name] for each in own]) for name in own[0]}
    lost = [found[name] - mean([each[name] for each in strange]) for name in found if name != HALF]
    return {**found, ALL: mean([*found.values()]), LOST: mean(lost), CHAINED: mean(agreed)}


def likelihoods(system: FourM, truth: Batch, given: Batch) -> dict[str, float]:
    """By direction, the mean log-likelihood of true tokens from what other rows or these give."""
    found = {}
    for name, sources, target in DIRECTIONS:
        found[name] = NOTHING
        read = [source for source in sources if source in system.sources]
        if target in system.reconstructed and read:
            fields = {source: given[source] for source in read} | {target: truth[target]}
            places = torch.arange(system.streams.of(target).length, device=truth.device)
            upper = (places < len(places) // 2).expand(truth.size, -1)
            keep = {target: upper} if target in sources else {}
            each = system.chains.log_likelihood(replace(truth, fields=fields), target, keep)
            found[name] = float(each.mean())
    return found


def agreement(system: FourM, batch: Batch) -> float:
    """How much better two maps that are made of a caption agree if one is also made of the other."""
    if not {"depth", "segments"} <= {*system.reconstructed}:
        return 0.0
    asked = replace(batch, fields={"caption": batch["caption"]})
    how = Filling(steps=8, temperature=1.0)
    chained = system.chain(asked, ["segments", "depth"], how)
    apart = system.chain(asked, ["depth"], how)
    things = chained["segments"].values > 0  # 0 is the ground
    overlaps = []
    for made in (chained, apart):
        near = made["depth"].values[..., 0] * FAR[1] < (FARTHEST + NEAR[0]) / 2
        overlaps.append((things & near).sum() / (things | near).sum())
    return float(overlaps[0] - overlaps[1])


def mean(numbers: Sequence[float]) -> float:
    """The mean."""
    return sum(numbers) / len(numbers)
