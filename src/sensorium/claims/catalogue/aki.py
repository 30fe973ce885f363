"""AKI: a picture that sees the question keeps what is asked for."""

from __future__ import annotations

from sensorium.claims.base import Arm, Claim, above
from sensorium.nn.masks import causal
from sensorium.systems.assistants.aki import AKI
from sensorium.training.run import Run

LOST = "accuracy lost under the causal mask"

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
    data="playground:questions?objects=4-6&tiles=1&pictures=60",
    arms={
        "mutual": Arm("aki", "system"),
        "causal": Arm("aki", "baseline", {"attention": "causal"}),
        "picture only": Arm("aki", "control", {"attention": "media"}),
        "question first": Arm(
            "aki", "control", {"attention": "causal", "user": "{question}\n<image>"}
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
        "Generated pictures of four to six things on coloured tiles and questions of five kinds, in "
        "place of twelve benchmarks; 16 latents in two layers, a language model of four layers",
        "Encoder and language model are trained along: the language model on the text alone in the "
        "first fifth, connector and encoder in the second; the encoder is shallow, not frozen",
        "Answers are written, and compared after the usual normalisation",
        "The question of another row in place of the own one, and full attention over picture and "
        "question, are left out for time",
    ),
    budget="1000steps",
    options={"validate_every": 500},
    measure="sensorium.claims.catalogue.aki:measure",
    hours=2.5,
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
