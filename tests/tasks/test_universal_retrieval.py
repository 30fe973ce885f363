"""Universal retrieval: pools of all kinds and of one, and whether the wanted modality comes first."""

import csv

import numpy as np
import pytest
import torch
from oracles import EmbeddingOracle, Oracle
from torch.nn import functional as F

from sensorium.data import open_data
from sensorium.modalities.text import Tokenizer
from sensorium.systems.base import SystemConfig
from sensorium.tasks import get_task, guess_task
from sensorium.tasks.universal import MODALITY_ACCURACY, right_modality
from sensorium.types import Field, Schema, UserError

SCHEMA = Schema(
    fields=(
        Field(name="wanted", modality="number", role="question"),
        Field(name="q", modality="number", role="query"),
        Field(name="a", modality="number", role="target"),
        Field(name="b", modality="number", role="target"),
    )
)
THINGS = 8


def things(tmp_path, wanted=(0, 1)):
    """For each thing one row that wants it as `a`, and one that wants it as `b`."""
    path = tmp_path / "things.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["wanted", "q", "a", "b"])
        for thing in range(THINGS):
            for field in wanted:
                writer.writerow([field, thing, *(("", thing) if field else (thing, ""))])
    return open_data(path, schema=SCHEMA)


class Obedient(Oracle):
    """Knows which thing is meant, and wants it as it is told to."""

    def wish(self, wanted):
        """How much it wants each field."""
        return F.one_hot(wanted, 2)

    def embed_side(self, batch, side):
        """The thing, and the field that it is in or is wanted in."""
        if side == "query":
            assert not {"a", "b"} & set(batch), "the query is asked without the answer"
            thing, wanted = (batch[name].first(batch.size)[0].long() for name in ("q", "wanted"))
            looks = self.wish(wanted.view(-1))
        else:
            assert set(batch) <= {"a", "b"}, "candidates come without the instruction"
            looks = torch.stack([batch.present("a"), batch.present("b")], 1)
            thing = sum(
                batch[name].first(batch.size)[0].long() for name in ("a", "b") if name in batch
            )
        return torch.cat([F.one_hot(thing.view(-1), THINGS).float(), 0.5 * looks.float()], 1)


class Biased(Obedient):
    """Wants `b` whatever it is told."""

    def wish(self, wanted):
        """Always the same."""
        return F.one_hot(torch.ones_like(wanted), 2)


class Indifferent(Obedient):
    """Finds all the same."""

    def embed_side(self, batch, side):
        """The same vector."""
        return torch.ones(batch.size, 3)


def evaluate(kind, data, **asked):
    task = get_task("universal-retrieval", **asked)
    data = data.with_schema(task.assign(data.schema))
    system = kind(SystemConfig(), data.schema)
    assert task.fits(system.capabilities)
    return task.evaluate(system, data, data.rows("all"))


def values(evaluation):
    return {key: metric.value for key, metric in evaluation.scores.metrics.items()}


def test_who_obeys_finds_all_in_either_pool(tmp_path):
    found = evaluate(Obedient, things(tmp_path))
    scores = values(found)
    assert found.pool == 2 * THINGS
    assert scores["R@1"] == scores["local/R@1"] == scores[MODALITY_ACCURACY] == 1
    assert scores["q->a/R@1"] == scores["q->b/MRR"] == 1


def test_bias_is_seen_in_the_global_pool_and_not_in_local_ones(tmp_path):
    """Each thing stands there as `b` too, which is first where `a` is wanted: by hand, rank 2."""
    scores = values(evaluate(Biased, things(tmp_path)))
    assert scores["q->a/R@1"] == scores[f"q->a/{MODALITY_ACCURACY}"] == 0
    assert scores["q->b/R@1"] == scores[f"q->b/{MODALITY_ACCURACY}"] == 1
    assert scores["q->a/MRR"] == 0.5 and scores["MRR"] == 0.75
    assert scores["R@1"] == scores[MODALITY_ACCURACY] == 0.5
    assert scores["local/R@1"] == 1


def test_ties_count_against_a_system(tmp_path):
    scores = values(evaluate(Indifferent, things(tmp_path)))
    assert scores["R@1"] == scores["local/R@5"] == scores[MODALITY_ACCURACY] == 0
    assert scores["MRR"] == pytest.approx(1 / (2 * THINGS))
    assert scores["local/MRR"] == pytest.approx(1 / THINGS)


def test_kinds_count_equally_however_many_rows_they_have(tmp_path):
    data = things(tmp_path, wanted=(0, 1, 1, 1))
    found = evaluate(Biased, data)
    assert values(found)[MODALITY_ACCURACY] == 0.5
    for name, per_row in found.scores.per_row.items():
        assert per_row.mean() == pytest.approx(values(found)[name]), name
    metric = found.scores.metrics[MODALITY_ACCURACY]
    assert metric.low <= metric.value <= metric.high


def test_a_modality_is_right_only_if_it_is_strictly_first():
    queries = np.eye(3, dtype=np.float32)
    candidates = np.array([[1, 0, 0], [0.5, 1, 0], [0, 1, 0.2], [0, 0, 0.1]], dtype=np.float32)
    looks = np.array([0, 0, 1, 1])
    # the first wants 0 and gets it, the second has a tie, the third wants 0 and gets 1
    assert right_modality(queries, candidates, np.zeros(3, int), looks).tolist() == [
        True,
        False,
        False,
    ]
    assert right_modality(queries, candidates, np.ones(3, int), looks).tolist() == [
        False,
        False,
        True,
    ]


class Remembers(Oracle):
    """Tells what is equal from what is not."""

    def views(self):
        """With a tokenizer for texts."""
        views = super().views()
        tokenizer = Tokenizer.train(["left right above below"], 300)
        return {
            name: view.model_copy(update={"tokenizer": tokenizer})
            if name.endswith("text") or name == "instruction"
            else view
            for name, view in views.items()
        }

    def embed_side(self, batch, side):
        """Of no meaning, equal for all."""
        return F.one_hot(torch.arange(batch.size) % 64, 64).float()


def test_equal_targets_of_several_rows_are_one_candidate():
    """Of a scene's eight rows two have the same target, its caption."""
    data = open_data("playground:universal?train=8&validation=0&test=16").fit()
    task = get_task("universal-retrieval")
    system = Remembers(SystemConfig(), data.schema)
    found = task.evaluate(system, data, data.rows("test"))
    assert found.pool == 14
    kinds = {key.split("/")[0] for key in found.scores.metrics if "->" in key}
    assert len(kinds) == 8 and "image+text->image" in kinds
    assert (
        len(
            get_task("universal-retrieval", max_rows=8)
            .evaluate(system, data, data.rows("test"))
            .rows
        )
        == 8
    )


def test_several_fields_on_a_side_speak_of_it():
    data = open_data("playground:universal?train=8")
    assert guess_task(data.schema) == "universal-retrieval"
    assert guess_task(open_data("playground:scenes?train=8").schema) == "retrieval"


def test_what_cannot_be_asked_is_told(tmp_path):
    data = things(tmp_path)
    task = get_task("universal-retrieval")
    assert not task.fits(EmbeddingOracle(SystemConfig(), data.schema).capabilities)
    with pytest.raises(UserError, match="does not embed whole sides"):
        evaluate_unfit = EmbeddingOracle(SystemConfig(), data.schema)
        task.evaluate(evaluate_unfit, data, data.rows("all"))
    alone = data.schema.with_roles({"a": "input", "b": "input"})
    with pytest.raises(UserError, match="no field has the role 'target'"):
        task.assign(alone)
    assert [f.name for f in task.assign(alone, "a").find(role="target")] == ["a"]
