"""ULIP: pictures tell points apart whose names were never seen with them; frozen towers keep that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sensorium.claims.base import Arm, Claim, Part, above
from sensorium.data import read_batches
from sensorium.modalities.points import seen_from, splat
from sensorium.modalities.scalars import class_names
from sensorium.playground.shapes import held_out
from sensorium.playground.solids import KINDS
from sensorium.systems.alignment.ulip import FIRST, SECOND, ULIP
from sensorium.training.run import Run
from sensorium.types import Batch, Entries

CLASSES, UNSEEN = 30, 10
VIEWS = 6  # from which the baseline looks at a cloud
LABELS = 5  # of each class, for the linear probe

POINTS = {"stages": [SECOND]}
TOWERS = {"stages": [FIRST]}


def _begun(part: Part, settings: Mapping[str, Any]) -> Arm:
    return Arm("ulip", part, settings, POINTS, start="towers")


CLAIM = Claim(
    name="ulip",
    system="ulip",
    statement=(
        "Points trained with pictures and names in a frozen space of images and language are told "
        "apart by names of which no points were seen: better than points trained with names alone, "
        "than with towers that learn too, and than depth maps of the points in the tower of images"
    ),
    source=(
        "Xue et al., 2023, arXiv 2212.05171: zero-shot ModelNet40 top-1 28.8 above PointCLIP "
        "(abstract); ablations of the image term and of frozen towers (figures not recalled)"
    ),
    data=f"playground:shapes?classes={CLASSES}&unseen={UNSEEN}&size=32&points=256&depth=50",
    arms={
        "both terms": _begun("system", {}),
        "text only": _begun("ablation", {"beta": 0.0}),
        "image only": _begun("ablation", {"theta": 0.0}),
        "towers tuned": _begun("ablation", {"towers": "tuned", "alpha": 1.0}),
        "render and classify": Arm("ulip", "baseline", {}, TOWERS, budget="1000steps"),
    },
    starts={"towers": Arm("ulip", "start", {}, TOWERS, budget="400steps")},
    task="classification",
    metric="unseen/top-1",
    shown=("seen/top-1", "unseen/top-5", "unseen/top-1 of all", "probe/top-1"),
    holds_if=(
        above("both terms", "text only", by=0.05),
        above("both terms", "image only", by=-0.01, metric="seen/top-1"),
        above("both terms", "towers tuned"),
        above("both terms", "render and classify", by=0.1),
    ),
    differs=(
        "20 kinds of solids with points and 10 without in training, whose 20,000 rows are each seen "
        "from one of 30 sides, half of them as depth maps; 256 points; pictures of 32 pixels",
        "The towers learn in 400 steps from pictures and captions of all 30 kinds, points in 600; the "
        "towers of the baseline, which needs nothing else, in 1,000",
        "Tuned towers also keep the term of images and texts (alpha = 1), the paper's full loss",
        "The baseline looks at depth maps of the points from 6 sides, as PointCLIP does, and the mean "
        "of their vectors decides",
        "unseen/top-1 chooses among the 10 kinds without points, as the paper's split of classes "
        "that pre-training had not seen; 'of all' among 30. The probe is a linear one of the "
        "vectors, on 5 labels for each of the 30",
    ),
    budget="600steps",
    options={"validate_every": 250},
    measure="sensorium.claims.catalogue.ulip:measure",
    hours=1.5,
)


def measure(run: Run) -> dict[str, float]:
    """How often the name of a test row's kind lies nearest, and a linear probe with few labels."""
    system = run.system
    assert isinstance(system, ULIP) and system.names is not None
    is_rendered = list(run.info["options"].get("stages", ())) == TOWERS["stages"]
    data = run.data()
    vectors, labels = [], []
    with torch.inference_mode():
        for batch in read_batches(data, data.rows("test"), system.views(), batch_size=64):
            labels.append(batch[system.names.label.name].values)
            here = batch.to(system.points.head.weight.device)
            embedded = rendered(system, here) if is_rendered else system.embed(here, "points")
            vectors.append(embedded.float().cpu())
        names = system.names.vectors().float().cpu()
    found, truth = torch.cat(vectors), torch.cat(labels)
    kinds = {KINDS[kind].names["en"] for kind in held_out(CLASSES, UNSEEN)}
    new = torch.tensor([name in kinds for name in class_names(system.names.label)])
    is_new = new[truth]
    scores = found @ names.T
    among_new = scores.masked_fill(~new, -torch.inf)
    among_seen = scores.masked_fill(new, -torch.inf)
    return {
        "unseen/top-1": top(among_new[is_new], truth[is_new], 1),
        "unseen/top-5": top(among_new[is_new], truth[is_new], 5),
        "unseen/top-1 of all": top(scores[is_new], truth[is_new], 1),
        "seen/top-1": top(among_seen[~is_new], truth[~is_new], 1),
        "probe/top-1": probe(found.numpy(), truth.numpy()),
    }


def top(scores: Float[Tensor, "rows classes"], truth: Tensor, number: int) -> float:
    """The share of rows whose class is among so many of the highest scores."""
    best = scores.topk(number, dim=1).indices
    return float((best == truth[:, None]).any(1).float().mean())


def probe(vectors: np.ndarray, labels: np.ndarray) -> float:
    """How well a linear classifier does that has a few labels of each class."""
    from sklearn.linear_model import LogisticRegression

    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[order])
    place, count = np.arange(len(order)) - first, np.bincount(labels)[labels[order]]
    chosen = place < np.minimum(LABELS, count // 2)
    fit, rest = order[chosen], order[~chosen]
    classifier = LogisticRegression(C=100.0, max_iter=2000).fit(vectors[fit], labels[fit])
    return float(classifier.score(vectors[rest], labels[rest]))


def rendered(system: ULIP, batch: Batch) -> Float[Tensor, "batch width"]:
    """Vectors of depth maps of the points, from several sides, by the tower of images."""
    clouds, image = batch["points"], system.space.query.field.name
    assert clouds.mask is not None
    size = system.config.image_size
    maps = [
        splat(seen_from(cloud[real], 360 / VIEWS * view, 15.0), size, width=max(2, size // 12))
        for cloud, real in zip(clouds.values.cpu().numpy(), clouds.mask.cpu().numpy(), strict=True)
        for view in range(VIEWS)
    ]
    pictures = torch.from_numpy(np.stack(maps)).to(batch.device)
    row = clouds.row.repeat_interleave(VIEWS)
    item = torch.arange(VIEWS, device=batch.device).repeat(len(clouds))
    shown = replace(batch, fields={image: Entries(pictures, row, item)})
    return F.normalize(system.embed(shown, image), dim=1)
