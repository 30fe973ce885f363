"""eP-ALM: one token in the last layers says more than one, or several, at the input."""

from __future__ import annotations

from sensorium.claims.base import Arm, Claim, above

FIRST = {"first": 0, "last": 1}

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
    data="playground:questions?objects=1-3&pictures=60",
    arms={
        "in the last layers": Arm("epalm", "system"),
        "last level at the input": Arm("epalm", "baseline", {"levels": 1, **FIRST}),
        "all levels at the input": Arm("epalm", "baseline", {"places": "each", **FIRST}),
        "last level in the last layers": Arm("epalm", "ablation", {"levels": 1}),
        "blind": Arm("epalm", "control", {"levels": 0}),
        "language model tuned": Arm("epalm", "control", {"tuned": True}),
    },
    task="vqa",
    metric="accuracy",
    holds_if=(
        above("in the last layers", "last level at the input"),
        above("in the last layers", "all levels at the input"),
        above("in the last layers", "blind"),
    ),
    differs=(
        "Generated pictures of one to three things and questions of five kinds with balanced answers; "
        "models of six layers, made in the first half of each run: the language model on the text of "
        "the rows, the encoder on what pictures look like in small",
        "Answers are written, and compared after the usual normalisation",
        "With one level there is one linear map in place of three",
    ),
    budget="1500steps",
    options={"validate_every": 500},
    hours=3.0,
)
