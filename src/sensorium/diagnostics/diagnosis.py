"""What each modality contributes to a run's answers, and what its absence or contradiction costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sensorium.data import Data, MediaCache
from sensorium.data.missing import Missing, with_missing_now
from sensorium.data.sources import spread
from sensorium.diagnostics.answers import Answers
from sensorium.diagnostics.interactions.estimate import interactions
from sensorium.diagnostics.kinds import kinds_of_rows
from sensorium.diagnostics.partners import draw_partners
from sensorium.diagnostics.scoring import Outputs, Score
from sensorium.diagnostics.shapley import Game, build_game
from sensorium.diagnostics.streams.study import study_streams
from sensorium.modalities.scalars import class_names
from sensorium.systems.base import System
from sensorium.systems.baselines.assistant import Assistant
from sensorium.tasks import Retrieval
from sensorium.tasks.intervals import Metric, bootstrap_mean, paired_bootstrap
from sensorium.training.files import write_json
from sensorium.training.run import Run, default_cache, evaluate_system, load
from sensorium.types import UserError, draws

ROWS = 1000
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
NUM_EXAMPLES = 4
MOST_CLASSES = 20


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
    run: Run | str | Path,
    data: str | Path | Data | None = None,
    *,
    rows: int = ROWS,
    missing: Sequence[str] | None = None,
    boxes: str = "",
) -> Diagnosis:
    """Ask a run about test rows with modalities removed, exchanged and shuffled.

    An assistant is also looked into: how far its streams are apart in each layer, and by which ways
    what is seen reaches the answer.

    Args:
        run: finished.
        data: other rows than its own test rows, all of which may be used; the report shows none.
        rows: how many at most, spread over all.
        missing: what is hidden in these rows, as in `open_data`; None for what the data say.
        boxes: for an assistant, the field of boxes around what is asked about.

    Raises:
        UserError: there are no rows, or none that says what is right.
    """
    run = run if isinstance(run, Run) else load(run)
    own = run.data() if data is None else run.rows_of(data)
    chosen = spread(own.rows("test" if data is None else "all"), rows)
    if not len(chosen):
        raise UserError(f"there are no test rows in {own.name}; name some with --data")
    if missing is not None:
        own = with_missing_now(own, missing, chosen)
    asked = own.missing if data is not None or own.missing_test is None else own.missing_test
    run.system.eval()
    if run.info["task"] == Retrieval.name:
        content = _of_retrieval(run, own, chosen)
    elif _has_inputs(run.system):
        num_examples = NUM_EXAMPLES if data is None and own.samples else 0
        training = spread(own.rows("train"), rows) if data is None else None
        content = _of_predictions(run, own, chosen, training, num_examples)
    else:
        content = {"rows": len(chosen), "set_aside": 0}
    if isinstance(run.system, Assistant):
        cache = MediaCache(default_cache())
        content["streams"] = study_streams(run.system, own, chosen, boxes=boxes, cache=cache)
    content = {
        "task": run.info["task"],
        "data": own.where or own.name,
        "split": "test" if data is None else "all",
        "hidden": [str(entry) for entry in asked],
        **content,
    }
    write_json(run.folder.diagnosis_file, content)
    return Diagnosis(run.folder.path, content)


def _has_inputs(system: System) -> bool:
    """Whether it predicts from something that can be left out."""
    reads_text_alone = isinstance(system, Assistant) and not len(system.media)
    return "predict" in system.capabilities and not reads_text_alone


def _as_dicts(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    return {name: metric.as_dict() for name, metric in metrics.items()}


# ---------------------------------------------------------------------- predictions


def _of_predictions(
    run: Run,
    data: Data,
    rows: Int[np.ndarray, " rows"],
    training: Int[np.ndarray, " training"] | None,
    num_examples: int,
) -> dict[str, Any]:
    answers = Answers(run, data, rows)
    names = answers.inputs
    score = Score.of(answers.field, answers.truth, data.groups(answers.rows))
    game = build_game(len(names))
    asked = {
        coalition: answers.without([n for i, n in enumerate(names) if not coalition >> i & 1])
        for coalition in game.coalitions
    }
    full = 2 ** len(names) - 1
    whole = asked[full]
    left_out = {
        name: found if (found := asked.get(full ^ 1 << i)) is not None else answers.without([name])
        for i, name in enumerate(names)
    }
    alone = {name: asked[1 << i] for i, name in enumerate(names) if 1 << i in asked}
    kinds = kinds_of_rows(game, asked, names, answers, score.groups, num_examples)
    importance = _importance(game, asked, names, answers, score)
    return {
        "metric": score.name,
        "rows": len(answers.rows),
        "set_aside": answers.num_faults,
        "fields": names,
        "score": score.metrics({"score": whole})["score"].as_dict(),
        "chance": score.constant(),
        "importance": importance,
        "without": _as_dicts(score.metrics(left_out)),
        "alone": _as_dicts(score.metrics(alone)),
        "missing": {
            name: _missing(whole, outputs, answers.rows, name, score)
            for name, outputs in left_out.items()
        },
        "conflict": _conflicts(answers, whole, score),
        "shuffled": _shuffled(answers, whole, score),
        "kinds": kinds,
        "interactions": _interactions(run, data, training, answers, asked, importance, score),
    }


def _importance(
    game: Game, asked: Mapping[int, Outputs], names: Sequence[str], answers: Answers, score: Score
) -> dict[str, Any]:
    """Shapley values of the inputs: of the score, and of each class's recall."""
    outputs = [asked[coalition] for coalition in game.coalitions]
    mixing = dict(zip(names, game.mixing, strict=True))
    errors = [
        None if np.isnan(error) else float(error)
        for error in game.sampling_error(score.values(outputs))
    ]
    found: dict[str, Any] = {
        "method": "exact" if game.is_exact else f"sampled, {2 * len(game.orders)} orders",
        "coalitions": len(game.coalitions),
        "nothing": score.metrics({"nothing": asked[0]})["nothing"].as_dict(),
        "overall": _as_dicts(score.mixtures(outputs, mixing)),
        "sampling_error": dict(zip(names, errors, strict=True)),
        "by_class": {},
    }
    if answers.field.modality == "number":
        return found
    for code, label in list(enumerate(class_names(answers.field)))[:MOST_CLASSES]:
        of_class = score.of_class(code)
        if num_rows := len(of_class.truth):
            recalls = [score.outputs_of_class(each, code) for each in outputs]
            ends = {"nothing": recalls[0], "score": recalls[-1]}  # the empty and the full subset
            found["by_class"][label] = {
                "rows": num_rows,
                **_as_dicts(of_class.metrics(ends)),
                "importance": _as_dicts(of_class.mixtures(recalls, mixing)),
            }
    return found


def _missing(
    whole: Outputs, without: Outputs, rows: Int[np.ndarray, " rows"], name: str, score: Score
) -> list[dict[str, Any]]:
    """The score when an input is absent in more and more rows; those of a lower rate among them."""
    place = np.asarray(draws.uniform(f"absent {name}", rows))[:, None]
    outputs = {str(rate): np.where(place < rate, without, whole) for rate in RATES}
    scores = score.metrics(outputs)
    return [{"rate": rate, **scores[str(rate)].as_dict()} for rate in RATES]


def _conflicts(answers: Answers, whole: Outputs, score: Score) -> dict[str, Any]:
    """Each input in turn comes from a row with another answer: which of the two answers is given?

    `before` is how often the other answer was given with the row's own input.
    """
    if answers.field.modality != "category":
        return {}
    found = {}
    for name in answers.inputs:
        members = np.flatnonzero(answers.present(name))
        ids = (answers.truth, score.groups, answers.content[name])
        partner, fits = draw_partners(
            f"conflict {name}", answers.rows[members], [each[members] for each in ids]
        )
        if not fits.any():
            continue
        places, others = members[fits], members[partner[fits]]
        swapped = np.arange(len(answers.rows))
        swapped[places] = others
        given = answers.exchanged(name, swapped)[places].argmax(1)
        own, other = answers.truth[places], answers.truth[others]
        shares = {
            "own": given == own,
            "other": given == other,
            "neither": (given != own) & (given != other),
            "before": whole[places].argmax(1) == other,
        }
        groups = score.groups[places]
        means = {kind: bootstrap_mean(rows, groups) for kind, rows in shares.items()}
        found[name] = {"rows": len(places), **_as_dicts(means)}
    return found


def _shuffled(answers: Answers, whole: Outputs, score: Score) -> dict[str, Any]:
    """Scores when an input, or all of them together, come from any other row."""
    place = np.asarray(draws.uniform("shuffled", answers.rows))
    order = place.argsort()
    partner = np.empty_like(order)
    partner[order] = np.roll(order, -1)
    outputs = {name: answers.exchanged(name, partner) for name in answers.inputs}
    return _as_dicts(score.metrics({**outputs, "everything": whole[partner]}))


def _interactions(
    run: Run,
    data: Data,
    training: Int[np.ndarray, " training"] | None,
    answers: Answers,
    asked: Mapping[int, Outputs],
    importance: Mapping[str, Any],
    score: Score,
) -> dict[str, Any]:
    """What pairs of inputs tell of the label; clusters are those of training rows, if there are any."""
    names, overall = answers.inputs, importance["overall"]
    if len(names) < 2:
        return {}
    fitting = answers if training is None else Answers(run, data, training)
    by_names = {
        frozenset(name for i, name in enumerate(names) if coalition >> i & 1): outputs
        for coalition, outputs in asked.items()
    }
    order = sorted(names, key=lambda name: -(overall[name]["value"] or 0))
    return interactions(answers, fitting, order, score.groups, by_names)


# ---------------------------------------------------------------------- retrieval


def _of_retrieval(run: Run, data: Data, rows: Int[np.ndarray, " rows"]) -> dict[str, Any]:
    """Both sides are needed to be matched, so what can be removed is what hangs on them."""
    whole = evaluate_system(run.system, data, rows, Retrieval())
    key = whole.main_metric
    shuffled = evaluate_system(run.system, data, rows, Retrieval(shuffled=True))
    views = run.system.views()
    hanging = [f.name for f in data.schema if f.of is not None and f.name in views]
    without, gain = {}, {}
    for name in hanging:
        family = [Missing(member, 1.0) for member in data.schema.family(name)]
        test = None if data.missing_test is None else (*data.missing_test, *family)
        hidden = data.with_missing(*data.missing, *family, test=test)
        scores = evaluate_system(run.system, hidden, rows, Retrieval()).scores
        without[name] = scores.metrics[key].as_dict()
        gain[name] = paired_bootstrap(
            whole.scores.per_row[key], scores.per_row[key], whole.scores.groups[key]
        ).as_dict()
    return {
        "metric": key,
        "rows": len(whole.rows),
        "set_aside": len(whole.faults),
        "pool": whole.pool,
        "fields": hanging,
        "score": whole.scores.metrics[key].as_dict(),
        "chance": 1 / whole.pool if whole.pool else 0.0,
        "gain": gain,
        "without": without,
        "shuffled": {"everything": shuffled.scores.metrics[key].as_dict()},
    }
