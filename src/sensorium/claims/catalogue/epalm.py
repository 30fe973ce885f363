"""eP-ALM: one token in the last layers says more than one, or several, at the input."""

from __future__ import annotations

from typing import Any

from sensorium.claims.base import Arm, Claim, Part, above
from sensorium.systems.assistants.epalm import CONNECT, LANGUAGE, SEE

MODELS = "models"
SIZE = {"image_size": 32, "patch": 8, "width": 64, "encoder_width": 64}
FIRST = {"first": 0, "last": 1}
MADE = {"stages": [LANGUAGE, SEE], "learning_rate": 2e-3}
SCENES = "size=32&objects=1-3&pictures=24"


def _arm(part: Part, *, rate: float = 1.5e-2, **settings: Any) -> Arm:
    options = {"stages": [CONNECT], "learning_rate": rate}
    return Arm("epalm", part, {**SIZE, **settings}, options, start=MODELS)


CLAIM = Claim(
    name="epalm",
    system="epalm",
    statement=(
        "With an encoder and a language model that stay as they are, and as many trained weights, a "
        "token that is written anew in the last layers, level by level, answers more questions than "
        "the last level at the input, than all levels at the input, and than no token"
    ),
    source=(
        "Shukor et al., 2023, arXiv 2303.11403: better than a linear map of the last layer at the "
        "input, and than a prompt alone, in the same setup (tables, figures not recalled)"
    ),
    data=f"playground:questions?{SCENES}&kinds=colour",
    starts={
        MODELS: Arm(
            "epalm",
            "start",
            SIZE,
            MADE,
            data=f"playground:dialogues?{SCENES}&kinds=colour,count,relation,exists&turns=1-2",
            budget="1000steps",
        )
    },
    arms={
        "in the last layers": _arm("system"),
        "last level at the input": _arm("baseline", levels=1, **FIRST),
        "all levels at the input": _arm("baseline", places="each", **FIRST),
        "last level in the last layers": _arm("ablation", levels=1),
        "blind": _arm("control", levels=0),
        "language model tuned": _arm("control", tuned=True, rate=2e-3),
    },
    task="vqa",
    metric="accuracy",
    holds_if=(
        above("in the last layers", "last level at the input"),
        above("in the last layers", "all levels at the input"),
        above("in the last layers", "blind"),
    ),
    differs=(
        "Generated pictures of one to three things and questions for the ground's colour, with balanced "
        "answers; models of six layers, made once a seed for all arms: the language model on the text of "
        "dialogues about such pictures, the encoder on what pictures look like in small. What it tells "
        "is too coarse to count things or to place them",
        "The maps learn at a rate of 0.015: at 0.003, a pilot was right about .30 after 2,000 steps, "
        "at 0.015 about .85 after 1,500; the language model is tuned at 0.002",
        "Answers are written, and compared after the usual normalisation",
        "With one level there is one linear map in place of three",
    ),
    budget="1500steps",
    options={"validation_rows": 0, "workers": 0},
    hours=0.7,
)
