"""MoCa: a scale and a shift of what is seen, and of nothing else, helps an assistant."""

from __future__ import annotations

from sensorium.claims.base import Arm, Claim, above
from sensorium.claims.eyes import ASSISTANT, EYE, SEES, eyes
from sensorium.diagnostics.streams.study import measure_integration
from sensorium.systems.baselines.assistant import Assistant
from sensorium.systems.baselines.llava import TUNE
from sensorium.training.run import Run

VIEW = "pictures=12&objects=2-4"
SIZE = {**ASSISTANT, "connector": "linear"}
LEARNS = {**SEES, "stages": [TUNE]}
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
    data=f"playground:questions?size=32&tiles=1&kinds=colour&{VIEW}",
    starts=eyes(VIEW),
    arms={
        "calibrated": Arm("llava", "system", {**SIZE, "calibration": "media"}, LEARNS, start=EYE),
        "plain": Arm("llava", "baseline", SIZE, LEARNS, start=EYE),
        "all tokens": Arm("llava", "control", {**SIZE, "calibration": "all"}, LEARNS, start=EYE),
    },
    task="vqa",
    metric="accuracy",
    shown=(RATE,),
    holds_if=(above("calibrated", "plain"), above("calibrated", "all tokens")),
    differs=(
        "Generated pictures of two to four things on coloured tiles and questions for the colour under "
        "one; a language model of four layers from scratch, an encoder that has learned from captions "
        "and stays",
    ),
    budget="1000steps",
    options={"validation_rows": 0},
    measure="sensorium.claims.catalogue.modality_calibration:measure",
    hours=0.75,
)


def measure(run: Run) -> dict[str, float]:
    """The modality integration rate on test rows."""
    assert isinstance(run.system, Assistant)
    data = run.data()
    rate = measure_integration(run.system, data, data.rows("test"))["value"]["value"]
    return {RATE: rate}
