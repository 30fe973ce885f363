"""Rows by the inputs that they need to be answered rightly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from sensorium.diagnostics.answers import Answers
from sensorium.diagnostics.scoring import Outputs
from sensorium.diagnostics.shapley import Game
from sensorium.modalities.scalars import class_names
from sensorium.tasks.intervals import bootstrap_mean


def kinds_of_rows(
    game: Game,
    asked: Mapping[int, Outputs],
    names: Sequence[str],
    answers: Answers,
    groups: Int[np.ndarray, " rows"],
    num_examples: int,
) -> dict[str, Any]:
    """The share of each kind, with examples; each row is of one kind.

    For games of which every subset was asked, and one class for each row. With two inputs these are
    the classes of the Modality Importance Score (arXiv 2408.12763): biased to one, complementary,
    agnostic, conflict or distracted (which are one here), unanswerable. The empty subset is left out.
    """
    if not game.is_exact or answers.field.modality != "category":
        return {}
    right = np.stack([asked[c].argmax(1) == answers.truth for c in game.coalitions])
    outputs, labels = asked[len(right) - 1], class_names(answers.field)
    return {
        kind: {
            **bootstrap_mean(chosen, groups).as_dict(),
            "examples": [
                {
                    "row": int(answers.rows[place]),
                    "predicted": labels[int(outputs[place].argmax())],
                    "truth": labels[int(answers.truth[place])],
                }
                for place in np.flatnonzero(chosen)[:num_examples]
            ],
        }
        for kind, chosen in sort_rows(right, names).items()
    }


def sort_rows(
    right: Bool[np.ndarray, "coalitions rows"], names: Sequence[str]
) -> dict[str, Bool[np.ndarray, " rows"]]:
    """Which rows are of which kind, from where they are right; bit `i` of a coalition is `names[i]`."""
    full = len(right) - 1
    alone = np.stack([right[1 << i] for i in range(len(names))])
    kinds = {}
    for i, name in enumerate(names):
        others = [coalition for coalition in range(1, full) if not coalition >> i & 1]
        kinds[f"only with {name}"] = right[full] & alone[i] & ~right[others].any(0)
    if len(names) > 1:
        kinds["only with several together"] = right[full] & ~alone.any(0)
        kinds["with any one"] = right[full] & alone.all(0)
        kinds["only if something is left out"] = ~right[full] & right[1:].any(0)
    if len(names) > 2:
        kinds["in several ways"] = right[full] & ~np.stack(list(kinds.values())).any(0)
    kinds["never"] = ~right[1:].any(0)
    return kinds
