"""What a claim is, and when it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sensorium.tasks.intervals import Metric, mean_over_seeds, paired_difference

MOST_SEEDS_WITHOUT_VERDICT = 4

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Outcome = Literal["holds", "fails", "unclear"]
Part = Literal["system", "baseline", "ablation", "control", "start"]

Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""For each arm and metric, one value a seed; the seeds in the same order everywhere."""


@dataclass(frozen=True)
class Arm:
    """One side of the experiment.

    Attributes:
        system: its name.
        part: what it is there for.
        settings: of the system, where it is not the default.
        options: of the training, beside those of the claim.
        data: if it is trained and scored on other data than the claim's.
        missing: what is hidden, where it is not what the claim hides.
        task: where it is not the claim's.
        budget: where it is not the claim's.
        start: whose weights it begins with: those of the run with this name among the claim's starts,
            of the same seed.
    """

    system: str
    part: Part
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    missing: tuple[str, ...] | None = None
    task: str = ""
    budget: str = ""
    start: str = ""


@dataclass(frozen=True)
class Condition:
    """A number, its 95 % interval over seeds, and the limits within which it must lie.

    Attributes:
        arm: whose metric it is.
        minus: the arm whose metric is subtracted, paired by seed; None for the metric itself.
        metric: which; that of the claim if empty.
        low, high: it holds if the whole interval lies between them, and fails if the whole interval
            lies outside.
    """

    arm: str
    minus: str | None = None
    metric: str = ""
    low: float = float("-inf")
    high: float = float("inf")

    def measured(self, scores: Scores, metric: str) -> Metric:
        """The number with its interval."""
        name = self.metric or metric
        if self.minus is None:
            return mean_over_seeds(scores[self.arm][name])
        return paired_difference(scores[self.arm][name], scores[self.minus][name])

    def outcome(self, measured: Metric) -> Outcome:
        """Whether it holds; unclear where the interval reaches over a limit."""
        if measured.value is None or measured.low is None or measured.high is None:
            return "unclear"
        if self.low < measured.low and measured.high < self.high:
            return "holds"
        return "fails" if measured.high < self.low or self.high < measured.low else "unclear"

    def __str__(self) -> str:
        what = self.arm if self.minus is None else f"{self.arm} − {self.minus}"
        what += f", {self.metric}" if self.metric else ""
        if self.high == float("inf"):
            return f"{what} > {self.low:g}"
        if self.low == float("-inf"):
            return f"{what} < {self.high:g}"
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return f"{what} within {half:.3g} of {middle:.3g}"


def above(arm: str, other: str | float, by: float = 0.0, metric: str = "") -> Condition:
    """An arm is above a number, or above another arm by more than `by` (which may be negative)."""
    if isinstance(other, str):
        return Condition(arm, other, metric, low=by)
    return Condition(arm, None, metric, low=other + by)


def near(arm: str, value: float, within: float, metric: str = "") -> Condition:
    """An arm is at a number, such as chance."""
    return Condition(arm, None, metric, value - within, value + within)


@dataclass(frozen=True)
class Claim:
    """An experiment that tests what a paper stands on, written before it is run.

    Attributes:
        name: kebab-case; that of its file.
        system: whose claim it is.
        statement: what is claimed, in a sentence.
        source: where the paper says so, and its figures.
        data: what `sensorium.open` takes.
        arms: by name; the first is the one that the claim speaks of.
        task: for all arms.
        metric: the one that conditions speak of if they name none.
        shown: further metrics worth a column.
        holds_if: all must hold for `reproduced`; one that fails is enough for `not reproduced`.
        differs: how the experiment is smaller than, or other than, the paper's, and why.
        budget: of each run.
        hours: that the full experiment takes on two cores.
        starts: runs that others begin with, by name, in the order in which they are made: what all arms
            share, so that it is made once a seed and differences are none of its.
        missing: what is hidden in the rows, as `sensorium.open` takes it.
        missing_test: what is hidden in test rows instead; None for the same.
        options: of the training, for all arms.
        evaluation: arguments of `Run.evaluate`.
        measure: `module:function`, which is given each run and returns further metrics.
        seeds: of the full experiment.
    """

    name: str
    system: str
    statement: str
    source: str
    data: str
    arms: Mapping[str, Arm]
    task: str
    metric: str
    holds_if: tuple[Condition, ...]
    budget: str
    hours: float
    shown: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    starts: Mapping[str, Arm] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    missing_test: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    measure: str = ""
    seeds: int = 5

    def __post_init__(self) -> None:
        for condition in self.holds_if:
            for name in (condition.arm, condition.minus):
                if name is not None and name not in self.arms:
                    raise ValueError(f"claim '{self.name}': there is no arm '{name}'")
        made: list[str] = [""]
        for name, run in self.runs.items():
            if run.start not in made:
                raise ValueError(
                    f"claim '{self.name}': '{name}' begins with '{run.start}', which is not made before"
                )
            if name in self.starts:
                made.append(name)

    @property
    def runs(self) -> dict[str, Arm]:
        """All that is trained, by name: first what others begin with."""
        return {**self.starts, **self.arms}

    def data_of(self, arm: Arm) -> str:
        """What an arm is trained and scored on."""
        return arm.data or self.data

    def missing_of(self, arm: Arm) -> dict[str, list[str]]:
        """What is hidden from an arm: arguments of `sensorium.open`, those that are not the usual."""
        hidden = {"missing": self.missing if arm.missing is None else arm.missing}
        if self.missing_test is not None:
            hidden["missing_test"] = self.missing_test
        return {n: list(texts) for n, texts in hidden.items() if texts or n == "missing_test"}

    @property
    def configuration(self) -> dict[str, Any]:
        """All that decides the result, fit for JSON; a change makes results stale."""
        found = {
            "arms": {name: self._configured(arm) for name, arm in self.arms.items()},
            "task": self.task,
            "metric": self.metric,
            "budget": self.budget,
            "evaluation": dict(self.evaluation),
            "measure": self.measure,
            "holds_if": [str(condition) for condition in self.holds_if],
        }
        if self.starts:
            found["starts"] = {name: self._configured(arm) for name, arm in self.starts.items()}
        return found

    def _configured(self, arm: Arm) -> dict[str, Any]:
        own = {name: getattr(arm, name) for name in ("task", "budget", "start")}
        return {
            "system": arm.system,
            "settings": dict(arm.settings),
            "options": {**self.options, **arm.options},
            "data": self.data_of(arm),
            **self.missing_of(arm),
            **{name: value for name, value in own.items() if value},
        }


def judge(claim: Claim, scores: Scores) -> tuple[Verdict | None, list[dict[str, Any]]]:
    """The verdict, None with fewer than five seeds, and what came of each condition."""
    entries, outcomes = [], []
    for condition in claim.holds_if:
        measured = condition.measured(scores, claim.metric)
        outcomes.append(condition.outcome(measured))
        entries.append({"condition": str(condition), **measured.as_dict(), "outcome": outcomes[-1]})
    num_seeds = len(next(iter(scores.values()))[claim.metric])
    if num_seeds <= MOST_SEEDS_WITHOUT_VERDICT:
        return None, entries
    if "fails" in outcomes:
        return "not reproduced", entries
    return "inconclusive" if "unclear" in outcomes else "reproduced", entries
