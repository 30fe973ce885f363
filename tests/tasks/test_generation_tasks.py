"""Captioning and answering: what is asked of a system that writes, what it may not see, and its scores."""

import csv
import json

import pytest
import torch
from oracles import Oracle
from PIL import Image

from sensorium.data import open_data
from sensorium.modalities.base import default_views
from sensorium.modalities.scalars import class_names
from sensorium.report.examples import gather_examples
from sensorium.systems.base import SystemConfig
from sensorium.tasks import get_task, guess_task
from sensorium.tasks.metrics import caption_scores
from sensorium.types import Field, Schema, UserError

SHADES = ("black", "grey", "white")
NAMED = {0: "black", 120: "grey", 240: "white"}


class Writer(Oracle):
    """Says what shade a picture has, in the words it is given."""

    name = "writer"
    sentence = "{}"

    def __init__(self, config, schema, tokenizer=None):
        super().__init__(config, schema, tokenizer)
        self.read = []

    def views(self):
        """The picture, and what is to be said of it."""
        return {name: v for name, v in super().views().items() if name in ("image", "answer")}

    def generate(self, batch, settings):
        """One text for each row."""
        self.read.append((sorted(batch), batch.index.tolist(), settings.max_tokens))
        values, present = batch["image"].first(batch.size)
        shades = (values[:, 0, 0, 0] / 120).round().long().tolist()
        return [
            self.sentence.format(SHADES[shade] if there else "")
            for shade, there in zip(shades, present.tolist(), strict=True)
        ]


class Chooser(Oracle):
    """Predicts the class that `Writer` would write."""

    name = "chooser"

    def __init__(self, config, schema, tokenizer=None):
        super().__init__(config, schema, tokenizer)
        self.read = []

    def views(self):
        """The picture and the answer."""
        return {name: v for name, v in super().views().items() if name in ("image", "answer")}

    def predict(self, batch):
        """0.8 for the shade it sees, if that is a class; else the first class."""
        self.read.append(sorted(batch))
        classes = class_names(self.schema["answer"])
        values, _ = batch["image"].first(batch.size)
        shades = [SHADES[s] for s in (values[:, 0, 0, 0] / 120).round().long().tolist()]
        codes = [classes.index(shade) if shade in classes else 0 for shade in shades]
        others = 0.2 / (len(classes) - 1)
        hot = torch.nn.functional.one_hot(torch.tensor(codes), len(classes)).float()
        return others + (0.8 - others) * hot


def written(folder, rows, columns):
    for level, name in NAMED.items():
        Image.new("RGB", (8, 8), (level,) * 3).save(folder / f"{name}.png")
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([columns, *rows])
    return folder


def value(evaluation, key):
    return evaluation.scores.metrics[key].value


# Captions


CAPTIONED = Schema(
    fields=(
        Field(name="image", modality="image", column="file_name"),
        Field(name="caption", modality="text"),
        Field(name="shade", modality="category", role="label"),
    )
)


def captions(folder, rows):
    full = [[*row, "x"] if len(row) == 2 else row for row in rows]
    data = open_data(written(folder, full, ["file_name", "caption", "shade"]), schema=CAPTIONED)
    return data.with_schema(get_task("captioning").assign(data.schema))


@pytest.fixture
def shades(tmp_path):
    return captions(
        tmp_path,
        [
            ["black.png", "A black square."],
            ["grey.png", "a grey square on nothing"],
            ["black.png", "something black"],
            ["white.png", ""],
            ["grey.png", ""],
        ],
    )


def test_a_picture_is_asked_about_once_and_all_its_captions_are_right(shades):
    system = Writer(SystemConfig(), shades.schema)
    system.sentence = "a {} square"
    found = get_task("captioning").evaluate(system, shades, shades.rows("all"), batch_size=8)
    assert found.main_metric == "CIDEr-D"
    assert found.rows.tolist() == [0, 1]
    expected = caption_scores(
        ["a black square", "a grey square"],
        [["A black square.", "something black"], ["a grey square on nothing"]],
    )
    for key, metric in expected.metrics.items():
        assert value(found, key) == pytest.approx(metric.value)
    assert found.inference_ms_per_row > 0


def test_the_caption_is_hidden_from_the_system(shades):
    system = Writer(SystemConfig(), shades.schema)
    system.views = lambda: {**Writer.views(system), **default_views([shades.schema["caption"]])}
    get_task("captioning").evaluate(system, shades, shades.rows("all"))
    assert [names for names, _, _ in system.read] == [["image"]]


def test_pictures_of_one_group_are_resampled_together(tmp_path):
    rows = [["black.png", "black thing", "x"], ["grey.png", "some grey", "x"]]
    rows += [["white.png", "all white", "y"]]
    data = captions(tmp_path, rows)
    data = data.with_schema(data.schema.replace(group="shade"))
    system = Writer(SystemConfig(), data.schema)
    found = get_task("captioning").evaluate(system, data, data.rows("all"))
    groups = found.scores.groups["CIDEr-D"]
    assert groups[0] == groups[1] != groups[2]


def test_captions_in_a_list_are_references_of_one_picture(tmp_path):
    written(tmp_path, [], ["file_name", "caption"])
    lines = [
        {"image": str(tmp_path / "black.png"), "caption": ["a black one", "it is black"]},
        {"image": str(tmp_path / "white.png"), "caption": ["a white one", "it is white", "plain"]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    fields = (
        Field(name="image", modality="image", role="query"),
        Field(name="caption", modality="text", role="target"),
    )
    data = open_data(path, schema=Schema(fields=fields))
    assert len(data.rows("all")) == 5
    system = Writer(SystemConfig(), data.schema)
    system.sentence = "it is {}"
    found = get_task("captioning").evaluate(system, data, data.rows("all"))
    assert found.rows.tolist() == [0, 2]
    assert {example["row"]: example["truth"] for example in found.examples} == {
        0: "a black one / it is black",
        2: "a white one / it is white / plain",
    }


def test_the_worst_captions_and_the_best_are_shown(tmp_path):
    rows = [["black.png", "a black thing", "x"], ["white.png", "something else", "x"]]
    data = captions(tmp_path, rows)
    system = Writer(SystemConfig(), data.schema)
    system.sentence = " a {} thing\n"
    found = get_task("captioning").evaluate(system, data, data.rows("all"))
    assert [example["row"] for example in found.examples] == [1, 0]
    assert found.examples[0]["predicted"] == "a white thing"
    shown = gather_examples(data, json.loads(json.dumps(found.as_dict())), "writer")
    assert [card.truth for card in shown.wrong] == ["something else", "a black thing"]
    assert [name for name, _ in shown.wrong[0].fields] == ["image"]
    assert shown.wrong[0].confidence == "0.00"


def test_captioning_finds_its_sides():
    schema = get_task("captioning").assign(CAPTIONED)
    roles = {field.name: field.role for field in schema}
    assert roles == {"image": "query", "caption": "target", "shade": "ignore"}
    with_sound = CAPTIONED.replace(
        Field(name="sound", modality="audio", role="query"),
        Field(name="note", modality="text", role="target"),
    )
    found = get_task("captioning").assign(with_sound)
    assert (found["sound"].role, found["note"].role) == ("query", "target")
    assert found["image"].role == found["caption"].role == "input"
    assert get_task("captioning").assign(with_sound, "caption")["caption"].role == "target"


@pytest.mark.parametrize(
    ("fields", "target"),
    [
        ([("note", "text")], None),
        ([("image", "image"), ("shade", "category")], None),
        ([("image", "image"), ("note", "text")], "image"),
        ([("note", "text"), ("chat", "conversation")], None),
    ],
)
def test_captioning_needs_a_text_and_what_it_describes(fields, target):
    schema = Schema(fields=tuple(Field(name=name, modality=kind) for name, kind in fields))
    with pytest.raises(UserError, match="captioning needs a text and something that it describes"):
        get_task("captioning").assign(schema, target)


def test_rows_without_captions_cannot_be_scored(tmp_path):
    data = captions(tmp_path, [["black.png", ""], ["grey.png", ""]])
    system = Writer(SystemConfig(), data.schema)
    with pytest.raises(UserError, match="no row to be scored has the field 'caption'"):
        get_task("captioning").evaluate(system, data, data.rows("all"))


def test_only_systems_that_write_are_asked_for_captions(shades):
    system = Chooser(SystemConfig(), shades.schema)
    assert not get_task("captioning").fits(system.capabilities)
    with pytest.raises(UserError, match="does not generate, which captioning asks for"):
        get_task("captioning").evaluate(system, shades, shades.rows("all"))
    writer = Writer(SystemConfig(), shades.schema)
    assert writer.capabilities == {"generate"}
    assert get_task("captioning").fits(writer.capabilities)


# Answers


ASKED = Schema(
    fields=(
        Field(name="image", modality="image", column="file_name"),
        Field(name="question", modality="text", role="question"),
        Field(name="answer", modality="text", role="answer"),
        Field(name="kind", modality="category", role="group"),
    )
)


def questions(folder, rows):
    path = written(folder, [], ["file_name"]) / "rows.jsonl"
    names = ["file_name", "question", "answer", "kind"]
    lines = [dict(zip(names, row, strict=True)) for row in rows]
    for line in lines:
        line["file_name"] = str(folder / line["file_name"])
    path.write_text("\n".join(map(json.dumps, lines)))
    data = open_data(path, schema=ASKED, split="share:0.5,0,0.5")
    data = data.with_schema(get_task("vqa").assign(data.schema))
    return data, data.rows("all")


SHADED = [
    ["black.png", "which?", "black", "shade"],
    ["grey.png", "which?", "grey", "shade"],
    ["white.png", "which?", "black", "shade"],
    ["white.png", "any?", "white", "other"],
]


def evaluate(kind, data, rows, sentence="{}"):
    names = {"answer": data.schema["answer"].replace(fitted={"classes": ["black", "grey"]})}
    system = kind(SystemConfig(), data.schema.replace(*names.values()))
    system.sentence = sentence
    data = data.with_schema(system.schema)
    return get_task("vqa").evaluate(system, data, rows), system, data


def test_those_who_write_and_those_who_choose_stand_in_one_table(tmp_path):
    data, rows = questions(tmp_path, SHADED)
    wrote, writer, _ = evaluate(Writer, data, rows, "The {}.")
    chose, chooser, _ = evaluate(Chooser, data, rows)
    # black, grey, black (said white, and black is the first class), white (which is no class)
    assert wrote.scores.per_row["accuracy"].tolist() == [1, 1, 0, 1]
    assert chose.scores.per_row["accuracy"].tolist() == [1, 1, 1, 0]
    assert wrote.main_metric == chose.main_metric == "accuracy"
    assert wrote.rows.tolist() == chose.rows.tolist() == [0, 1, 2, 3]
    assert wrote.scores.metrics.keys() == chose.scores.metrics.keys()
    assert value(wrote, "accuracy/shade") == pytest.approx(2 / 3)
    assert value(chose, "accuracy/other") == 0
    assert wrote.faults == chose.faults == ()
    # neither is given the answer
    assert all("answer" not in names for names, _, _ in writer.read)
    assert all("answer" not in names for names in chooser.read)
    assert {limit for _, _, limit in writer.read} == {16}


def test_who_can_do_both_is_asked_to_write(tmp_path):
    class Both(Writer, Chooser):
        pass

    data, rows = questions(tmp_path, SHADED)
    found, _, _ = evaluate(Both, data, rows)
    assert found.scores.per_row["accuracy"].tolist() == [1, 1, 0, 1]


def test_who_can_do_neither_is_not_asked(tmp_path):
    class Silent(Oracle):
        name = "silent"

    data, rows = questions(tmp_path, SHADED)
    with pytest.raises(UserError, match="'silent' neither generates nor predicts"):
        get_task("vqa").evaluate(Silent(SystemConfig(), data.schema), data, rows)


def test_answers_of_ten_people_are_soft(tmp_path):
    people = ["grey"] * 2 + ["Gray"] * 5 + ["black", "white", "red"]
    data, rows = questions(
        tmp_path, [["grey.png", "?", people, "x"], ["black.png", "?", ["black"], "x"]]
    )
    found, _, _ = evaluate(Writer, data, rows)
    soft = (2 * 1 / 3 + 8 * 2 / 3) / 10
    assert found.scores.per_row["accuracy"].tolist() == pytest.approx([soft, 1])


def test_questions_of_yes_and_no_show_who_makes_things_up(tmp_path):
    rows = [[f"{s}.png", "is it black?", a, "exists"] for s, a in zip(SHADES, "ynn", strict=True)]
    names = {"y": "yes", "n": "no"}
    rows = [[*row[:2], names[row[2]], row[3]] for row in rows]
    data, at = questions(tmp_path, [*rows, *SHADED])
    found, _, _ = evaluate(Writer, data, at, "Yes, {}.")
    assert value(found, "yes_share/exists") == 1
    assert value(found, "yes_no_precision/exists") == pytest.approx(1 / 3)
    assert value(found, "yes_no_recall/exists") == 1
    assert "yes_share/shade" not in found.scores.metrics


def test_rows_without_an_answer_are_not_asked_about(tmp_path):
    data, rows = questions(tmp_path, [*SHADED, ["grey.png", "which?", None, "shade"]])
    found, writer, _ = evaluate(Writer, data, rows)
    assert found.rows.tolist() == [0, 1, 2, 3]
    assert writer.read[0][1] == [0, 1, 2, 3]
    with pytest.raises(UserError, match="no row to be scored has the field 'answer'"):
        evaluate(Writer, data, rows[4:])


def test_answers_are_shown_with_what_is_right(tmp_path):
    data, rows = questions(tmp_path, SHADED)
    for kind, sentence in ((Writer, "the {}"), (Chooser, "")):
        found, _, seen = evaluate(kind, data, rows, sentence)
        shown = gather_examples(seen, json.loads(json.dumps(found.as_dict())), "it")
        right = found.scores.per_row["accuracy"]
        assert len(shown.right) == right.sum() and len(shown.wrong) == (1 - right).sum()
        assert all(card.right for card in shown.right)
        assert not any(card.right for card in shown.wrong)
        assert all(bool(card.confidence) == (kind is Chooser) for card in shown.right)
    # of two that are right, "the grey" is so although its words are others
    wrote, _, _ = evaluate(Writer, data, rows, "the {}")
    assert {"predicted": "the grey", "truth": "grey", "right": True, "row": 1} in wrote.examples


def test_the_examples_are_the_surest(tmp_path):
    data, rows = questions(tmp_path, [["black.png", "which?", "grey", "shade"]] * 9 + SHADED[:2])

    class Surer(Chooser):
        def predict(self, batch):
            sure = 0.5 + batch.index.float() / 100
            return torch.stack([sure, 1 - sure], 1)

    found, _, _ = evaluate(Surer, data, rows)
    # row 10 is wrong, too: its picture is grey, and it says black
    wrong = [example["row"] for example in found.examples if not example["right"]]
    assert wrong == [10, 8, 7, 6, 5, 4]
    assert [example["row"] for example in found.examples if example["right"]] == [9]


def test_tasks_and_roles_go_together():
    assert guess_task(ASKED) == "vqa"
    assert not get_task("vqa").fits(frozenset({"embed", "choose"}))
    assert get_task("vqa").fits(frozenset({"generate"}))
    assert get_task("vqa").fits(frozenset({"predict"}))
