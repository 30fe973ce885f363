"""MoCa: a scale and a shift of what is seen, and of nothing else, helps an assistant."""

from __future__ import annotations

from sensorium.claims.base import Arm, Claim, above
from sensorium.diagnostics.streams.study import measure_integration
from sensorium.systems.baselines.assistant import Assistant
from sensorium.training.run import Run

SIZE = {"image_size": 32, "patch": 8, "encoder_depth": 1}
RATE = "integration rate"

CLAIM = Claim(
    name="modality-calibration",
    system="llava",
    statement=(
        "Scales and shifts of visual tokens behind each layer, which are learned along, bring these "
        "nearer to text and more questions to right answers: more than without, and than as many "
        "scales and shifts of all tokens"
    ),
    source=(
        "Huang et al., ICCV 2025, arXiv 2410.07167, official repository: LLaVA-1.5 7B, mean of nine "
        "benchmarks 59.1 without, 60.6 with; the control of all tokens is ours"
    ),
    data="playground:questions?objects=1-3&pictures=60&size=32",
    arms={
        "calibrated": Arm("llava", "system", {**SIZE, "calibration": "media"}),
        "plain": Arm("llava", "baseline", SIZE),
        "all tokens": Arm("llava", "control", {**SIZE, "calibration": "all"}),
    },
    task="vqa",
    metric="accuracy",
    shown=(RATE,),
    holds_if=(above("calibrated", "plain"), above("calibrated", "all tokens")),
    differs=(
        "Generated pictures of one to three things and questions of five kinds; a language model of "
        "four layers that has read their text in the first fifth of each run, and an encoder that "
        "learns along in the rest",
    ),
    budget="2000steps",
    options={"validate_every": 1000},
    measure="sensorium.claims.catalogue.modality_calibration:measure",
    hours=1.5,
)


def measure(run: Run) -> dict[str, float]:
    """The modality integration rate on test rows."""
    assert isinstance(run.system, Assistant)
    data = run.data()
    rate = measure_integration(run.system, data, data.rows("test"))["value"]["value"]
    return {RATE: rate}
