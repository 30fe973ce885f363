"""MultiModN: skipping what is missing resists missingness that goes with the label."""

from __future__ import annotations

from dataclasses import replace

from sensorium.claims.base import Arm, Claim, Condition, above
from sensorium.training.run import Run

HIDDEN = "image:0.8:by=label=plus"
FLIPPED = "macro_AUROC/flipped"

SMALL = {"width": 32, "depth": 1, "heads": 2, "image_size": 32}
PARALLEL = {**SMALL, "hidden": 32, "dropout": 0.0, "absent": "zero", "modality_dropout": 0.0}

CLAIM = Claim(
    name="multimodn",
    system="multimodn",
    statement=(
        "Where a picture is missing from most training rows of one class, fusion in sequence that "
        "skips the missing encoder, for the row or for the batch, stays above chance when the picture "
        "is missing from the other class instead, and skipping is what does it; parallel fusion with "
        "zeros in its place falls below chance; and with complete rows both do as well"
    ),
    source=(
        "Swamy et al., 2023, arXiv 2309.14118: single-task experiment with missingness not at random, "
        "in which parallel fusion fails catastrophically at 80 % (in words; figures not recalled). "
        "The text skips for a sample, the released code for its batch of 16"
    ),
    data="playground:majority?train=3000&validation=500&test=2000",
    missing=(HIDDEN,),
    missing_test=(),
    arms={
        "per sample": Arm("multimodn", "system", SMALL),
        "per batch": Arm("multimodn", "system", {**SMALL, "skip": "batch"}),
        "zeros in sequence": Arm("multimodn", "ablation", {**SMALL, "skip": "zero"}),
        "last step only": Arm("multimodn", "ablation", {**SMALL, "loss_at": "last"}),
        "parallel zeros": Arm("late-fusion", "baseline", PARALLEL),
        "parallel with mask": Arm("late-fusion", "control", {**PARALLEL, "availability": True}),
        "parallel with dropout": Arm(
            "late-fusion", "control", {**PARALLEL, "modality_dropout": 0.5}
        ),
        "per sample complete": Arm("multimodn", "control", SMALL, missing=()),
        "parallel complete": Arm("late-fusion", "control", PARALLEL, missing=()),
    },
    task="classification",
    metric="macro_AUROC",
    shown=(FLIPPED, "balanced_accuracy", "balanced_accuracy/flipped"),
    holds_if=(
        above("per sample complete", "parallel complete", by=-0.02),
        Condition("parallel zeros", metric=FLIPPED, high=0.5),
        above("per sample", 0.5, metric=FLIPPED),
        above("per sample", "zeros in sequence", by=0.02, metric=FLIPPED),
        above("per sample", "parallel with dropout", metric=FLIPPED),
        above("per batch", 0.5, metric=FLIPPED),
        above("per batch", "zeros in sequence", by=0.02, metric=FLIPPED),
        above("per batch", "parallel with dropout", metric=FLIPPED),
    ),
    differs=(
        "Rows of the playground whose label is the majority of three facts, one told by the picture, "
        "one by a table, one by a sound, a tenth of the labels wrong; in place of X-rays, notes and "
        "tables of a hospital, which may not be passed on",
        "Small encoders that are trained along, in place of embeddings made beforehand; so a zero stands "
        "for the vector of a missing picture, not for its mean",
        "Parallel fusion is `late-fusion` with a hidden layer of 32 and a softmax, in place of two such "
        "layers and sigmoids",
        "Missing at 0 and 80 % only; the last weights in place of the best epoch by validation; with "
        "skipping for the batch, test batches have 64 rows",
        "Seeds draw weights and order; the rows, and which lack the picture, are the same for all",
    ),
    budget="8epochs",
    options={
        "batch_size": 16,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup": 0.0,
        "schedule": "constant",
        "validate_every": 500,
    },
    measure="sensorium.claims.catalogue.multimodn:measure",
    hours=1.5,
)


def measure(run: Run) -> dict[str, float]:
    """Scores when the picture is missing from the other class than in training."""
    flipped = [replace(entry, relation="!=") for entry in run.data().missing]
    metrics = run.evaluate(missing=[str(entry) for entry in flipped]).scores.metrics
    return {
        f"{name}/flipped": float(metrics[name].value or 0.0)
        for name in ("macro_AUROC", "balanced_accuracy")
    }
