"""Tasks: the roles they give, and what they make of systems whose answers are known."""

import csv

import numpy as np
import pytest
from oracles import ConstantPairs, EmbeddingOracle, PairOracle

from sensorium.data import open_data
from sensorium.systems.base import SystemConfig
from sensorium.tasks import get_task, guess_task
from sensorium.types import Field, Schema, UserError

PAIRS = Schema(
    fields=(
        Field(name="a", modality="number", role="query"),
        Field(name="b", modality="number", role="target"),
    )
)


def pairs(tmp_path, rows, schema=PAIRS):
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["a", "b"], *rows])
    return open_data(path, schema=schema)


def evaluate(kind, data, **asked):
    system = kind(SystemConfig(), data.schema)
    return get_task("retrieval", **asked).evaluate(system, data, data.rows("all"))


def value(evaluation, key):
    return evaluation.scores.metrics[key].value


def test_embeddings_that_are_right_find_everything(tmp_path):
    found = evaluate(EmbeddingOracle, pairs(tmp_path, [[i, i] for i in range(40)]))
    assert found.pool == 40
    assert value(found, "R@1") == value(found, "a->b/R@1") == value(found, "b->a/R@1") == 1
    assert value(found, "median_rank") == 1


def test_embeddings_that_are_shifted_find_nothing_at_once(tmp_path):
    found = evaluate(EmbeddingOracle, pairs(tmp_path, [[i, (i + 1) % 40] for i in range(40)]))
    assert value(found, "R@1") == 0
    assert all(example["rank"] > 1 for example in found.examples)


def test_pairs_give_what_embeddings_give_and_no_more_are_asked_than_needed(tmp_path):
    rows = [[i, i if i % 3 else (i + 5) % 60] for i in range(60)]
    data = pairs(tmp_path, rows)
    PairOracle.asked = PairOracle.prepared = 0
    by_pairs = evaluate(PairOracle, data, pools=[20])
    by_vectors = evaluate(EmbeddingOracle, data, pools=[20])
    assert by_pairs.scores.metrics == by_vectors.scores.metrics
    assert by_pairs.pool == by_vectors.pool == 20
    assert PairOracle.asked == 3 * 20 * 20
    assert PairOracle.prepared == 2 * 60


def test_ties_count_against_a_system(tmp_path):
    found = evaluate(ConstantPairs, pairs(tmp_path, [[i, i] for i in range(40)]), pools=[20])
    assert value(found, "R@1") == 0
    assert value(found, "median_rank") == 20


def test_further_pools_are_named_and_only_for_systems_that_embed(tmp_path):
    data = pairs(tmp_path, [[i, i] for i in range(60)])
    assert value(evaluate(EmbeddingOracle, data, pools=[10, 30]), "pool30/R@1") == 1
    assert "pool30/R@1" not in evaluate(PairOracle, data, pools=[10, 30]).scores.metrics


def test_rows_that_lack_a_side_are_left_out(tmp_path):
    data = pairs(tmp_path, [[i, i] for i in range(10)] + [["", 11], [12, ""]])
    assert len(evaluate(EmbeddingOracle, data).rows) == 10
    with pytest.raises(UserError, match="at least two rows with both"):
        evaluate(EmbeddingOracle, pairs(tmp_path, [[1, ""], ["", 2], [3, 3]]))


def test_a_picture_with_several_captions_is_one_candidate(tmp_path):
    from PIL import Image

    for name in range(4):
        Image.new("RGB", (8, 8), (name * 60, 0, 0)).save(tmp_path / f"{name}.png")
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "caption"])
        for name in range(4):
            writer.writerows([[f"{name}.png", f"text {name} number {i}"] for i in range(3)])
    data = open_data(tmp_path)

    class Reader(EmbeddingOracle):
        def embed(self, batch, field):
            import torch

            if field == "image":
                values, _ = batch[field].first(batch.size)
                codes = values[:, 0, 0, 0].long() // 60
            else:
                codes = torch.tensor([int(c) for c in self.codes(batch)])
            return torch.nn.functional.one_hot(codes, 4).float()

        def codes(self, batch):
            cells = data.columns(["caption"], batch.index.numpy())["caption"]
            return [cell.split()[1] for cell in cells]

        def views(self):
            from sensorium.modalities.text import TextView, Tokenizer

            tokenizer = Tokenizer.train(["text number"], 300)
            return {**super().views(), "caption": TextView(tokenizer=tokenizer)}

    found = evaluate(Reader, data.with_schema(get_task("retrieval").assign(data.schema)))
    assert found.pool == 4
    assert len(found.rows) == 12
    assert value(found, "image->text/R@1") == value(found, "text->image/R@1") == 1
    assert len(found.scores.per_row["image->text/R@1"]) == 4
    assert len(found.scores.per_row["text->image/R@1"]) == 12


TABLE = Schema(
    fields=(
        Field(name="scan", modality="image", role="query"),
        Field(name="note", modality="text", role="target"),
        Field(name="lab", modality="table", columns={"age": "number", "sex": "category"}),
        Field(name="day", modality="table", columns={"visit": "date"}),
        Field(name="diagnosis", modality="category", role="label"),
    )
)


def test_a_column_of_a_table_can_be_the_target():
    schema = get_task("regression").assign(TABLE, "age")
    assert schema["age"].modality == "number"
    assert schema["age"].role == "label"
    assert schema["lab"].columns == {"sex": "category"}
    assert schema["diagnosis"].role == "ignore"
    assert schema["scan"].role == schema["note"].role == "input"
    assert get_task("classification").assign(TABLE, "sex")["sex"].modality == "category"


def test_the_last_column_of_a_table_takes_the_table_with_it():
    schema = get_task("classification").assign(
        TABLE.replace(TABLE["lab"].replace(columns={"sex": "category"})), "sex"
    )
    assert "lab" not in schema


@pytest.mark.parametrize(
    ("task", "target", "message"),
    [
        ("classification", "diagnos", "Did you mean 'diagnosis'"),
        ("regression", "visit", "holds dates"),
        ("regression", "note", "needs a number as label"),
        ("vqa", None, "needs one field with the role 'answer'"),
    ],
)
def test_what_does_not_fit_a_task_is_said(task, target, message):
    with pytest.raises(UserError, match=message):
        get_task(task).assign(TABLE, target)


def test_retrieval_finds_its_sides():
    schema = get_task("retrieval").assign(
        Schema(fields=(Field(name="t", modality="text"), Field(name="i", modality="image")))
    )
    assert (schema["t"].role, schema["i"].role) == ("target", "query")
    with pytest.raises(UserError, match="one query and one target"):
        get_task("retrieval").assign(Schema(fields=(Field(name="t", modality="text"),)))


@pytest.mark.parametrize(
    ("target", "task"),
    [(None, "classification"), ("age", "regression"), ("sex", "classification")],
)
def test_the_task_is_guessed_from_roles_and_target(target, task):
    assert guess_task(TABLE, target) == task


def test_the_task_is_guessed_from_roles_alone():
    assert guess_task(PAIRS) == "retrieval"
    answers = Schema(fields=(Field(name="x", modality="category", role="answer"),))
    assert guess_task(answers) == "vqa"


def test_an_unknown_task_suggests_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'retrieval'"):
        get_task("retreival")


def test_pools_are_the_same_for_all_systems(tmp_path):
    data = pairs(tmp_path, [[i, i] for i in range(60)])
    a, b = (evaluate(kind, data, pools=[20]) for kind in (PairOracle, EmbeddingOracle))
    assert np.array_equal(a.rows, b.rows)
    for key, groups in a.scores.groups.items():
        assert np.array_equal(groups, b.scores.groups[key])
