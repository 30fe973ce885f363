"""Information flow: what is seen reaches the answer by way of the question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium.claims.base import Arm, Claim, above
from sensorium.claims.eyes import ASSISTANT, EYE, SEES, eyes
from sensorium.diagnostics.streams.study import NothingRight, measure_flow
from sensorium.systems.baselines.assistant import Assistant
from sensorium.systems.baselines.llava import LANGUAGE, TUNE
from sensorium.training.run import Run

WINDOW = 3
BY_QUESTION = "lost without image → question, above image → last"
ORDER = "layers from image → question to question → last"
OBJECTS = "layers from background → question to object → question"
OVER_RANDOM = "lost without image → question, above random edges"
FLOWS = ("image → question", "image → last", "question → last", "last → last", "other → last")

VIEW = "pictures=12&objects=2-3"
SIZE = {**ASSISTANT, "depth": 8, "connector": "linear"}
LEARNS = {**SEES, "stages": [TUNE]}

CLAIM = Claim(
    name="information-flow",
    system="llava",
    statement=(
        "In a model whose language was learned first, what is seen reaches the answer by way of the "
        "question rather than directly; the question reads the picture in lower layers than the last "
        "token reads the question, and reads the whole picture before the things it asks about"
    ),
    source=(
        "Zhang et al., CVPR 2025, arXiv 2411.18620: curves for four models and six tasks (figures; "
        "values not copied)"
    ),
    data=f"playground:questions?size=32&tiles=1&kinds=colour&{VIEW}",
    starts={
        **eyes(VIEW),
        LANGUAGE: Arm(
            "llava", "start", SIZE, {**SEES, "stages": [LANGUAGE]}, budget="150steps", start=EYE
        ),
    },
    arms={
        "text first": Arm("llava", "system", SIZE, LEARNS, start=LANGUAGE),
        "all at once": Arm("llava", "control", SIZE, LEARNS, start=EYE),
    },
    task="vqa",
    metric="accuracy",
    shown=(BY_QUESTION, ORDER, OBJECTS, OVER_RANDOM, *(f"lost without {flow}" for flow in FLOWS)),
    holds_if=(
        above("text first", 0.0, metric=OVER_RANDOM),
        above("text first", 0.0, metric=BY_QUESTION),
        above("text first", 0.0, metric=ORDER),
        above("text first", 0.0, metric=OBJECTS),
    ),
    differs=(
        "A language model of eight layers from scratch, four patches of generated scenes, and questions "
        f"for the colour under a thing; windows of {WINDOW} layers; eight seeds",
        "The encoder has learned from captions and stays; what has learned language first goes on to "
        "learn with pictures, since with a frozen decoder nothing is found in them at this size",
        "Lost is the mean change of the answer's probability, in percent of it, when all layers are cut "
        "at once; layers are compared by the mean layer of a curve, weighted by what is lost there",
        "Whether the measure itself is right is tested apart, on models whose ways are known",
    ),
    budget="1200steps",
    options={"validation_rows": 0},
    measure="sensorium.claims.catalogue.information_flow:measure",
    hours=0.5,
    seeds=8,
)


def measure(run: Run) -> dict[str, float]:
    """What cuts lose, and where; zeros for a model that answers nothing rightly."""
    system, data = run.system, run.data()
    assert isinstance(system, Assistant)
    try:
        found = measure_flow(system, data, data.rows("test"), size=WINDOW, boxes="asked")
    except NothingRight:
        found = {"flows": []}
    curves = {f"{entry['source']} → {entry['target']}": entry for entry in found["flows"]}
    lost = {name: _lost(curves, name, "cut") for name in FLOWS}
    by_question = lost["image → question"]
    return {
        **{f"lost without {name}": value for name, value in lost.items()},
        BY_QUESTION: by_question - lost["image → last"],
        OVER_RANDOM: by_question - _lost(curves, "image → question", "random"),
        ORDER: _peak(curves, "question → last") - _peak(curves, "image → question"),
        OBJECTS: _peak(curves, "object → question") - _peak(curves, "background → question"),
    }


def _lost(curves: Mapping[str, Any], name: str, kind: str) -> float:
    entry = curves.get(name)
    return -entry[kind]["everywhere"]["value"] if entry else 0.0


def _peak(curves: Mapping[str, Any], name: str) -> float:
    """The mean layer in which something is lost; 0 where nothing is."""
    entry = curves.get(name)
    return (entry["cut"]["peak"]["value"] or 0.0) if entry else 0.0
