"""LanguageBind: language is the better anchor, and it must be frozen."""

from __future__ import annotations

from sensorium.claims.base import Arm, Claim, above
from sensorium.tasks.retrieval import Retrieval
from sensorium.training.run import Run

POOL = 256
PAIRS = (
    ("depth", "caption"),
    ("infrared", "caption"),
    ("image", "caption"),
    ("depth", "infrared"),  # which never stood side by side in training
)

CLAIM = Claim(
    name="languagebind",
    system="languagebind",
    statement=(
        "Modalities that are bound to frozen language are found by text more often than those that are "
        "bound to images, modalities that never met find each other, and tuning language with one "
        "modality hurts the others"
    ),
    source=(
        "Zhu et al., 2024, arXiv 2310.01852: abstract (MSR-VTT R@1 +1.2, LLVIP +23.8, NYU-D +11.1 over "
        "ImageBind), ablations of the anchor and of LoRA (figures not recalled)"
    ),
    data="playground:maps?objects=2&pictures=60",
    arms={
        "bound to language": Arm("languagebind", "system"),
        "bound to images": Arm("languagebind", "baseline", {"anchor": "image"}),
        "language tuned": Arm("languagebind", "ablation", {"freeze": False}),
        "from scratch": Arm("languagebind", "ablation", {"tune": "scratch"}),
    },
    task="retrieval",
    metric="maps-caption R@1",
    shown=("image-caption R@1", "depth-infrared R@1"),
    holds_if=(
        above("bound to language", "bound to images"),
        above("bound to language", "language tuned", metric="image-caption R@1"),
        above("bound to language", 2 / POOL, metric="depth-infrared R@1"),
        above("bound to language", "from scratch"),
    ),
    differs=(
        f"Depth and infrared of generated scenes; R@1 in pools of {POOL}, the mean of both directions. "
        "Maps are scored against captions, which name things by kind; there is no set of class names",
        "The towers are trained in stage 1 of each run on the same rows, not on other data",
        "Stage 1 has 500 steps of 128 rows, each modality 250",
    ),
    budget="1000steps",
    options={"validate_every": 500},
    evaluation={"pools": [POOL]},
    measure="sensorium.claims.catalogue.languagebind:measure",
    hours=1.5,
)


def measure(run: Run) -> dict[str, float]:
    """Recall between fields, whichever they were trained with."""
    data = run.data()
    rows = data.rows("test")
    found = {}
    for query, target in PAIRS:
        roles = {field.name: "input" for field in data.schema.find(role=("query", "target"))}
        asked = data.with_schema(data.schema.with_roles(roles | {query: "query", target: "target"}))
        evaluation = Retrieval(pools=[POOL]).evaluate(run.system, asked, rows)
        value = evaluation.scores.metrics[evaluation.main_metric].value
        assert value is not None
        found[f"{query}-{target} R@1"] = value
    maps = [found[f"{name}-caption R@1"] for name in ("depth", "infrared")]
    return found | {"maps-caption R@1": sum(maps) / len(maps)}
