"""AKI: a picture that sees the question keeps what is asked for."""

from __future__ import annotations

from sensorium.claims.base import Arm, Claim, above
from sensorium.claims.eyes import ASSISTANT, EYE, SEES, eyes
from sensorium.nn.masks import causal
from sensorium.systems.assistants.aki import AKI
from sensorium.systems.baselines.llava import TUNE
from sensorium.training.run import Run

LOST = "accuracy lost under the causal mask"

VIEW = "pictures=12&objects=2-4"
SIZE = {**ASSISTANT, "num_latents": 4}
LEARNS = {**SEES, "stages": [TUNE]}

CLAIM = Claim(
    name="aki",
    system="aki",
    statement=(
        "A language model answers more questions about a picture if the picture's places see the "
        "question, than under the causal mask, and than if they only see all of each other; and it "
        "relies on it"
    ),
    source=(
        "Wang et al., 2025, Table 1: the same training under the causal mask and with the question "
        "open, MME perception 1226 and 1364, POPE 79.8 and 82.7, CV-Bench 2D 45.2 and 57.8"
    ),
    data=f"playground:questions?size=32&tiles=1&kinds=colour&{VIEW}",
    starts=eyes(VIEW),
    arms={
        "mutual": Arm("aki", "system", SIZE, LEARNS, start=EYE),
        "causal": Arm("aki", "baseline", {**SIZE, "attention": "causal"}, LEARNS, start=EYE),
        "picture only": Arm("aki", "control", {**SIZE, "attention": "media"}, LEARNS, start=EYE),
        "question first": Arm(
            "aki",
            "control",
            {**SIZE, "attention": "causal", "user": "{question}\n<image>"},
            LEARNS,
            start=EYE,
        ),
    },
    task="vqa",
    metric="accuracy",
    shown=(LOST,),
    holds_if=(
        above("mutual", "causal"),
        above("mutual", "picture only"),
        above("mutual", 0.0, metric=LOST),
    ),
    differs=(
        "Generated pictures of two to four things on coloured tiles and questions for the colour under "
        "one, in place of twelve benchmarks; four latents in two layers, a language model of four layers",
        "The encoder has learned from captions and stays; resampler and language model learn from "
        "scratch, without the stage on captions",
        "Answers are written, and compared after the usual normalisation",
        "The question of another row in place of the own one, and full attention over picture and "
        "question, are left out for time",
    ),
    budget="1000steps",
    options={"validation_rows": 0},
    measure="sensorium.claims.catalogue.aki:measure",
    hours=1.0,
)


def measure(run: Run) -> dict[str, float]:
    """What the trained model loses if what was opened is closed when it is asked."""
    system = run.system
    assert isinstance(system, AKI)
    usual, rule = (
        run.evaluate(missing=[], samples=False).scores.metrics["accuracy"].value,
        system.model.rule,
    )
    system.model.rule = causal
    closed = run.evaluate(missing=[], samples=False).scores.metrics["accuracy"].value
    system.model.rule = rule
    assert usual is not None and closed is not None
    return {LOST: usual - closed}
