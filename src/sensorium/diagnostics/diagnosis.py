"""What each modality contributes to a run's answers, and what its absence or contradiction costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from sensorium.data import Data
from sensorium.data.missing import Missing
from sensorium.data.sources import spread
from sensorium.diagnostics.answers import Answers
from sensorium.diagnostics.scoring import Score
from sensorium.diagnostics.shapley import Game, build_game
from sensorium.modalities.scalars import class_names
from sensorium.systems.base import Predicts
from sensorium.tasks import Retrieval
from sensorium.tasks.intervals import bootstrap_mean
from sensorium.training.files import write_json
from sensorium.training.run import Run, evaluate_system, load
from sensorium.types import UserError, draws

ROWS = 1000
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
NUM_EXAMPLES = 4
MOST_CLASSES = 20

Values = Float[np.ndarray, " rows"]


@dataclass(frozen=True)
class Diagnosis:
    """What was found, as `diagnosis.json` in the run folder holds it."""

    folder: Path
    content: dict[str, Any]

    def __str__(self) -> str:
        from sensorium.report.diagnosis import diagnosis_table
        from sensorium.report.terminal import to_text

        return to_text(diagnosis_table(self.content))


def diagnose(
    run: Run | str | Path, data: str | Path | Data | None = None, *, rows: int = ROWS
) -> Diagnosis:
    """Ask a run about test rows with modalities removed, exchanged and shuffled.

    Args:
        run: finished.
        data: other rows than its own test rows, all of which may be used.
        rows: how many at most, spread over all.

    Raises:
        UserError: there are no rows, or none that says what is right.
    """
    run = run if isinstance(run, Run) else load(run)
    own = run.data() if data is None else run.rows_of(data)
    chosen = spread(own.rows("test" if data is None else "all"), rows)
    if not len(chosen):
        raise UserError(f"there are no test rows in {own.name}; name some with --data")
    run.system.eval()
    if isinstance(run.system, Predicts) and run.info["task"] != Retrieval.name:
        content = _of_predictions(run, own, chosen)
    else:
        content = _of_retrieval(run, own, chosen)
    content = {"task": run.info["task"], "data": own.where or own.name, **content}
    write_json(run.folder.diagnosis_file, content)
    return Diagnosis(run.folder.path, content)


# ---------------------------------------------------------------------- predictions


def _of_predictions(run: Run, data: Data, rows: Int[np.ndarray, " rows"]) -> dict[str, Any]:
    answers = Answers(run, data, rows)
    names = answers.inputs
    score = Score.of(answers.field, answers.truth, data.groups(answers.rows))
    game = build_game(len(names))
    asked = {
        coalition: answers.without([n for i, n in enumerate(names) if not coalition >> i & 1])
        for coalition in game.coalitions
    }
    by_coalition = np.stack([score.contributions(asked[c]) for c in game.coalitions])
    full = 2 ** len(names) - 1
    whole = score.contributions(asked[full])
    left_out = {
        name: score.contributions(
            asked[full ^ 1 << i] if full ^ 1 << i in asked else answers.without([name])
        )
        for i, name in enumerate(names)
    }
    return {
        "metric": score.name,
        "rows": len(answers.rows),
        "fields": names,
        "score": score.total(whole).as_dict(),
        "chance": _chance(answers, score),
        "importance": _importance(game, by_coalition, names, answers, score),
        "without": {name: score.total(values).as_dict() for name, values in left_out.items()},
        "alone": {
            name: score.total(by_coalition[list(game.coalitions).index(1 << i)]).as_dict()
            for i, name in enumerate(names)
            if 1 << i in asked
        },
        "missing": {
            name: _missing(whole, values, answers.rows, name, score)
            for name, values in left_out.items()
        },
        "conflict": _conflicts(answers, data),
        "shuffled": _shuffled(answers, asked[full], score),
        "kinds": _kinds(
            game, by_coalition, names, answers, asked[full], NUM_EXAMPLES if data.samples else 0
        ),
    }


def _importance(
    game: Game,
    by_coalition: Float[np.ndarray, "coalitions rows"],
    names: Sequence[str],
    answers: Answers,
    score: Score,
) -> dict[str, Any]:
    """Shapley values of the inputs: of the score, and of each class's share of right answers."""
    phi = game.phi(by_coalition)
    means = by_coalition.mean(1)
    found: dict[str, Any] = {
        "method": "exact" if game.is_exact else f"sampled, {2 * len(game.orders)} orders",
        "coalitions": len(game.coalitions),
        "overall": {n: score.part(phi[i]).as_dict() for i, n in enumerate(names)},
        "sampling_error": dict(zip(names, game.sampling_error(means).tolist(), strict=True)),
        "by_class": {},
    }
    if answers.field.modality == "category":
        for code, label in list(enumerate(class_names(answers.field)))[:MOST_CLASSES]:
            of_class = answers.truth == code
            if of_class.any():
                found["by_class"][label] = {
                    "rows": int(of_class.sum()),
                    **{
                        n: score.part_of_rows(phi[i], of_class).as_dict()
                        for i, n in enumerate(names)
                    },
                }
    return found


def _missing(
    whole: Values, without: Values, rows: Int[np.ndarray, " rows"], name: str, score: Score
) -> list[dict[str, Any]]:
    """The score when an input is absent in more and more rows; those of a lower rate among them."""
    place = np.asarray(draws.uniform(f"absent {name}", rows))
    return [
        {"rate": rate, **score.total(np.where(place < rate, without, whole)).as_dict()}
        for rate in RATES
    ]


def _conflicts(answers: Answers, data: Data) -> dict[str, Any]:
    """Each input in turn comes from a row with another answer: which of the two answers is given?"""
    if answers.field.modality != "category":
        return {}
    found = {}
    for name in answers.inputs:
        partner, valid = _of_another_class(answers, data, name)
        if not valid.any():
            continue
        predicted = answers.exchanged(name, partner).argmax(1)[valid]
        own, other = answers.truth[valid], answers.truth[partner][valid]
        shares = {"own": predicted == own, "other": predicted == other}
        shares["neither"] = ~(shares["own"] | shares["other"])
        groups = data.groups(answers.rows)[valid]
        found[name] = {
            "rows": int(valid.sum()),
            **{k: bootstrap_mean(v.astype(float), groups).as_dict() for k, v in shares.items()},
        }
    return found


def _of_another_class(
    answers: Answers, data: Data, name: str
) -> tuple[Int[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """For each row one of another class and another group, and where both have the input."""
    place = np.asarray(draws.uniform(f"conflict {name}", answers.rows))
    order = np.lexsort((place, answers.truth))
    partner = np.empty_like(order)
    # Further on by as many rows as the largest class has: never the same class, if it is no majority.
    partner[order] = np.roll(order, -int(np.bincount(answers.truth).max()))
    groups, present = data.groups(answers.rows), answers.present(name)
    valid = (answers.truth != answers.truth[partner]) & (groups != groups[partner])
    return partner, valid & present & present[partner]


def _shuffled(
    answers: Answers, outputs: Float[np.ndarray, "rows outputs"], score: Score
) -> dict[str, Any]:
    """Scores when an input, or all of them together, come from another row."""
    place = np.asarray(draws.uniform("shuffled", answers.rows))
    order = place.argsort()
    partner = np.empty_like(order)
    partner[order] = np.roll(order, -1)
    found = {
        name: score.total(score.contributions(answers.exchanged(name, partner))).as_dict()
        for name in answers.inputs
    }
    return {**found, "everything": score.total(score.contributions(outputs[partner])).as_dict()}


def _chance(answers: Answers, score: Score) -> float:
    """The score of the best constant answer."""
    if score.name == "R2":
        return 0.0
    if answers.truth.ndim == 2:
        share = (answers.truth > 0.5).mean(0)
        return float(np.maximum(share, 1 - share).mean())
    return float(np.bincount(answers.truth).max() / len(answers.truth))


def _kinds(
    game: Game,
    by_coalition: Float[np.ndarray, "coalitions rows"],
    names: Sequence[str],
    answers: Answers,
    outputs: Float[np.ndarray, "rows outputs"],
    num_examples: int,
) -> dict[str, Any]:
    """Rows by what they need to be answered rightly (as in Modality Importance Score, 2408.12763).

    Of exact games alone, where every subset of the inputs was asked.
    """
    if not game.is_exact or answers.truth.ndim == 2 or answers.field.modality == "number":
        return {}
    right = by_coalition > 0.5
    full = len(game.coalitions) - 1
    alone = np.stack([right[1 << i] for i in range(len(names))])
    kinds = {}
    for i, name in enumerate(names):
        others = [c for c in game.coalitions if c and not c >> i & 1]
        needless = right[others].any(0) if others else np.zeros(len(right[0]), dtype=bool)
        kinds[f"only with {name}"] = right[full] & alone[i] & ~needless
    if len(names) > 1:
        kinds["only with several together"] = right[full] & ~alone.any(0)
        kinds["with any one"] = alone.all(0) & right[full]
        kinds["only if something is left out"] = ~right[full] & right[1:].any(0)
    kinds["never"] = ~right[1:].any(0)
    labels = class_names(answers.field)
    return {
        kind: {
            **bootstrap_mean(chosen.astype(float)).as_dict(),
            "examples": [
                {
                    "row": int(answers.rows[place]),
                    "predicted": labels[int(outputs[place].argmax())],
                    "truth": labels[int(answers.truth[place])],
                }
                for place in np.flatnonzero(chosen)[:num_examples]
            ],
        }
        for kind, chosen in kinds.items()
    }


# ---------------------------------------------------------------------- retrieval


def _of_retrieval(run: Run, data: Data, rows: Int[np.ndarray, " rows"]) -> dict[str, Any]:
    """Both sides are needed to be matched, so what can be removed is what hangs on them."""
    whole = evaluate_system(run.system, data, rows, Retrieval())
    key = whole.main_metric
    shuffled = evaluate_system(run.system, data, rows, Retrieval(shuffled=True))
    views = run.system.views()
    hanging = [f.name for f in data.schema if f.of is not None and f.name in views]
    without = {}
    for name in hanging:
        hidden = data.with_missing(*data.missing, Missing(name, 1.0))
        scores = evaluate_system(run.system, hidden, rows, Retrieval()).scores
        without[name] = scores.metrics[key].as_dict()
    return {
        "metric": key,
        "rows": len(whole.rows),
        "pool": whole.pool,
        "fields": hanging,
        "score": whole.scores.metrics[key].as_dict(),
        "chance": 1 / whole.pool if whole.pool else 0.0,
        "without": without,
        "shuffled": {"everything": shuffled.scores.metrics[key].as_dict()},
    }
