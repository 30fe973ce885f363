"""MultiMAE: masked patches of several fields serve one field and several, and tell one from another."""

from __future__ import annotations

import json

from sensorium.claims.base import Arm, Claim, above
from sensorium.data import open_data
from sensorium.systems.masked.multimae import MASKED, TASK
from sensorium.training.run import Run, train

ONE, BOTH = "accuracy, picture", "accuracy, picture and depth"
DEPTH, UNSEEN = "image->depth/skill", "depth->segments/skill"
ROWS, STEPS = 200, 150  # that have a label, and in which it is learned
SIZE = {
    "image_size": 32,
    "visible": 16,  # of 3 x 16 patches, a third
    "width": 64,
    "depth": 3,
    "decoder_width": 48,
    "relative_colours": False,
}
ALONE = {**SIZE, "visible": 5, "reads": ["image"]}  # of 16, a third

CLAIM = Claim(
    name="multimae",
    system="multimae",
    statement=(
        "An encoder that has learned to fill in masked patches of pictures, depth and classes of things "
        "serves pictures alone as well as one that has seen nothing else, and pictures with depth "
        "better; and it predicts what it sees nothing of, depth from a picture and classes from depth, for "
        "which it needs uneven shares"
    ),
    source=(
        "Bachmann et al., ECCV 2022: ImageNet 83.3 as MAE; Hypersim mIoU with pictures and depth 47.6, "
        "MAE 36.9 (tables, recalled)"
    ),
    data="playground:layers?size=32&objects=1-3&pictures=12&train=8000&test=400",
    arms={
        "three fields": Arm("multimae", "system", SIZE),
        # which has nothing to predict from another field
        "pictures alone": Arm(
            "multimae", "baseline", {**ALONE, "gives": ["image"]}, task="classification"
        ),
        "pictures in, three out": Arm("multimae", "ablation", ALONE),
        "three in, pictures out": Arm("multimae", "ablation", {**SIZE, "gives": ["image"]}),
        "equal shares": Arm("multimae", "ablation", {**SIZE, "shares": "equal"}),
        "one step": Arm("multimae", "control", SIZE, budget="1steps"),
    },
    task="reconstruction",
    metric=BOTH,
    shown=(ONE, DEPTH, UNSEEN),
    holds_if=(
        above("three fields", "pictures alone", by=0.02),
        above("three fields", "pictures alone", by=-0.02, metric=ONE),
        above("three fields", 0.3, metric=DEPTH),
        above("three fields", 0.1, metric=UNSEEN),
        above("three fields", "equal shares", metric=UNSEEN),
    ),
    differs=(
        "8,000 generated scenes of one to three things, 16 patches of each of three fields, of which a "
        "third is visible; what is true in place of what networks guess; encoders of three layers; no "
        "second decoder for colours relative to their patch",
        f"Then the number of things is learned from {ROWS} rows in {STEPS} steps, all weights along; "
        "what reads depth is new where depth was not read before",
        "Trials of 1,300 steps learned nothing of what a picture says of depth (skill at most 0.01; the "
        "distance of the ground cannot be seen in it), but what depth says of classes: so uneven shares are "
        "judged by the latter. The skill of depth is the share of its variance that is explained, that of "
        "classes the share of pixels that is right beyond the most frequent one; it is 0 where a field is "
        "not predicted",
    ),
    budget="1000steps",
    options={
        "stages": [MASKED],
        "batch_size": 32,
        "learning_rate": 5e-3,
        "validation_rows": 0,
        "augment": False,
    },
    measure="sensorium.claims.catalogue.multimae:measure",
    hours=0.6,
)


def measure(run: Run) -> dict[str, float]:
    """How well few labels teach the encoder to count, from a picture, and from a picture and depth."""
    own = run.data()
    few = min(ROWS, len(own.rows("train")))
    labelled = open_data(f"{run.info['data']['where']}&train={few}")
    scored = json.loads(run.folder.evaluation_file.read_text())["metrics"]
    found = {name: 0.0 for name in (DEPTH, UNSEEN) if name not in scored}
    for name, ignored in ((ONE, ("depth", "segments")), (BOTH, ("segments",))):
        tuned = train(
            "multimae",
            labelled.with_schema(labelled.schema.with_roles(dict.fromkeys(ignored, "ignore"))),
            out=run.folder.path / "tuned" / ("one" if name == ONE else "both"),
            task="classification",
            settings={**run.info["settings"], "reads": [], "gives": []},
            options={**run.info["options"], "stages": [TASK], "learning_rate": 1e-3},
            # with fewer rows it is but a trial
            budget=f"{STEPS if few == ROWS else 2}steps",
            seed=run.info["seed"],
            init=run.folder.path,
        )
        accuracy = tuned.evaluate(samples=False).scores.metrics["accuracy"].value
        assert accuracy is not None
        found[name] = accuracy
    return found
