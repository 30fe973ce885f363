"""The streams of assistants: what is asked of a system, row by row, and what a report makes of it."""

import json

import numpy as np
import PIL.Image
import pytest
import torch

from sensorium.data import open_data, read_batches
from sensorium.diagnostics.answers import Answers
from sensorium.diagnostics.diagnosis import diagnose
from sensorium.diagnostics.streams.passages import long_texts, passages
from sensorium.diagnostics.streams.states import vision_and_text
from sensorium.diagnostics.streams.study import (
    Found,
    measure_flow,
    measure_integration,
    stream_of,
    study_streams,
)
from sensorium.modalities.text import Tokenizer
from sensorium.report import streams as report
from sensorium.report.diagnosis import diagnosis_view
from sensorium.systems.registry import get_system
from sensorium.training.folder import RunFolder
from sensorium.training.run import Run
from sensorium.types import Field, Schema, UserError

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230)}
NUM_ROWS = 40
SMALL = {
    "image_size": 32,
    "patch": 8,
    "width": 32,
    "encoder_width": 32,
    "encoder_depth": 2,
    "depth": 3,
    "user": "<image>\n{question}",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Pictures of one square, asked for its colour, with its box; one row has no picture."""
    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    lines = ["file_name;question;answer;boxes"]
    for number in range(NUM_ROWS):
        name = list(COLOURS)[number % 3]
        x, y = random.integers(0, 24, 2)
        pixels = np.full((32, 32, 3), 128, dtype=np.uint8)
        pixels[y : y + 8, x : x + 8] = COLOURS[name]
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        box = [[x / 32, y / 32, (x + 8) / 32, (y + 8) / 32]]
        file, box = (f"{number}.png", json.dumps(box)) if number != 4 else ("", "")
        lines.append(f"{file};what colour is it;{name};{box}")
    (folder / "rows.csv").write_text("\n".join(lines))
    fields = (
        Field(name="image", modality="image", column="file_name"),
        Field(name="question", modality="text", role="question"),
        Field(name="answer", modality="category", role="answer"),
        Field(name="boxes", modality="boxes", of="image"),
    )
    return open_data(folder / "rows.csv", schema=Schema(fields=fields))


def build(name, rows, **settings):
    system_class = get_system(name)
    if name == "epalm":
        settings = {"first": 1, "last": 3, "levels": 2, **settings}
    config = system_class.Config(**{**SMALL, **settings})
    data = rows.with_schema(system_class.fields(config, rows.schema)).fit()
    tokenizer = Tokenizer.train(data.texts(1000), 300)
    torch.manual_seed(0)
    return system_class(config, data.schema, tokenizer).eval(), data


@pytest.fixture(scope="module")
def llava(rows):
    return build("llava", rows)


def says_the_truth(system, also=""):
    """An answer that is right, whatever the model says."""

    def generate(batch, settings):
        answer = system.schema["answer"]
        codes, _ = batch["answer"].first(batch.size)
        return [f" {answer.fitted['classes'][code].upper()}{also}" for code in codes.tolist()]

    return generate


def test_a_text_is_long_and_made_of_those_of_other_rows(rows):
    data = rows.fit()
    texts = long_texts(data, 3, 100, ())
    assert all(len(text) >= 1200 for text in texts)
    assert set(texts[0].split("\n")) == {"what colour is it"}
    given = [f"word {number}" for number in range(500)]
    first, second, _ = long_texts(data, 3, 100, given)
    assert set(first.split("\n")) <= set(given)
    assert first != second and first == long_texts(data, 1, 100, given)[0]
    short = long_texts(data, 1, 50, ["one", " "])[0]
    assert set(short.split("\n")) == {"one"}


@pytest.mark.parametrize("name", ["llava", "aki", "epalm"])
def test_a_passage_is_pictures_and_then_a_text_that_is_read(name, rows):
    system, data = build(name, rows)
    views = system.views()
    batch = next(iter(read_batches(data, np.arange(4), views, batch_size=4)))
    texts = [f"{'far away ' * 40}{number}" for number in range(4)]
    texts[1] = "<image>" + texts[1]  # a placeholder that a text holds is none
    asked = passages(system.model, batch, "image", texts, num_tokens=30)
    with torch.no_grad():
        tokens = system.prompt(asked)
        states = system.model.language(tokens, system.model.rule, None, system.hooks(asked))
    assert states.values.isfinite().all()
    _, modality = stream_of(system)
    vision, text = vision_and_text(tokens, modality)
    assert vision.sum(1).tolist() == [{"llava": 16, "aki": 16, "epalm": 1}[name]] * 4
    word = tokens.id("word")
    for row in range(4):
        said = system.tokenizer.decode(word[row][text[row]])
        assert said.strip().removeprefix("Assistant:").strip().startswith("far away far away")
    assert len(set(text.sum(1).tolist())) == 1 and text[0].sum() >= 30


@pytest.mark.parametrize("name", ["llava", "aki", "epalm"])
def test_integration_rate_of_an_assistant(name, rows):
    system, data = build(name, rows)
    found = measure_integration(system, data, np.arange(12))
    assert (found["sets"], found["rows"]) == (1, 11)  # one has no picture
    assert len(found["layers"]) == 3
    assert found["value"]["value"] == pytest.approx(
        np.log10(sum(layer["value"] for layer in found["layers"]))
    )
    assert measure_integration(system, data, np.arange(12)) == found
    json.dumps(found, allow_nan=False)


def test_integration_rate_depends_on_the_pictures_and_on_given_texts(llava):
    system, data = llava
    chosen = np.arange(12)
    found = measure_integration(system, data, chosen)["value"]["value"]
    texts = ["the " + "quick brown fox " * 60]
    assert measure_integration(system, data, chosen, texts=texts)["value"]["value"] != found
    with torch.no_grad():
        for parameter in system.model.connectors.parameters():
            parameter.mul_(30)
        louder = measure_integration(system, data, chosen)["value"]["value"]
        for parameter in system.model.connectors.parameters():
            parameter.div_(30)
    assert louder > found + 0.3


def test_rows_without_pictures_have_no_rate(llava):
    system, data = llava
    with pytest.raises(UserError, match="no row has the modality image"):
        measure_integration(system, data, np.array([4]))


def test_flow_of_rows_that_are_answered_rightly(llava, monkeypatch):
    system, data = llava
    monkeypatch.setattr(system, "generate", says_the_truth(system))
    found = measure_flow(system, data, np.arange(20), boxes="boxes")
    assert (found["asked"], found["rows"], found["window"], found["layers"]) == (20, 20, 1, 3)
    assert sorted(found["row_numbers"]) == list(range(20))
    flows = {f"{each['source']} → {each['target']}": each for each in found["flows"]}
    assert list(flows) == [
        "question → last",
        "image → last",
        "last → last",
        "other → last",
        "image → question",
        "object → question",
        "background → question",
        "image → other",
    ]
    assert flows["image → last"]["cut"]["rows"] == 19  # one has no picture
    assert flows["last → last"]["cut"]["rows"] == 20
    assert flows["last → last"]["edges"] == 1
    # sixteen patches in all rows but one
    assert flows["image → last"]["edges"] == pytest.approx(16 * 19 / 20)
    parts = flows["object → question"]["edges"] + flows["background → question"]["edges"]
    assert parts == pytest.approx(flows["image → question"]["edges"])
    for flow in flows.values():
        assert len(flow["cut"]["layers"]) == len(flow["attention"]) == 3
        assert flow["single"] is None  # windows have one layer already
    # all that the last token attends to is in one of four groups
    into_last = [flows[f"{s} → last"]["attention"] for s in ("question", "last", "other")]
    assert 0 < sum(layers[0]["value"] for layers in into_last) < 1
    assert set(found["lens"]["plain"]) == {"small letters", "capital", "another answer"}
    assert len(found["lens"]["normed"]["capital"]) == 4
    json.dumps(found, allow_nan=False)


def test_an_answer_that_goes_on_is_not_right(llava, monkeypatch):
    system, data = llava
    monkeypatch.setattr(system, "generate", says_the_truth(system, also=" indeed"))
    with pytest.raises(UserError, match="none of 20 rows is answered rightly"):
        measure_flow(system, data, np.arange(20))
    study = study_streams(system, data, np.arange(20))
    assert list(study["skipped"]) == ["flow"]
    assert "flow" not in study and study["integration"]["rows"] == 19


def test_the_model_has_room_to_go_on_after_the_answer(llava, monkeypatch):
    system, data = llava
    lengths = []

    def generate(batch, settings):
        lengths.append(settings.max_tokens)
        return says_the_truth(system)(batch, settings)

    monkeypatch.setattr(system, "generate", generate)
    measure_flow(system, data, np.arange(3), most=2)
    longest = max(system.model.candidate_ids([name])[0].shape[1] for name in COLOURS)
    assert lengths == [longest + 1]


def test_search_ends_with_enough_rows_and_windows_of_one_layer_are_shown_beside_others(
    llava, monkeypatch
):
    system, data = llava
    monkeypatch.setattr(system, "generate", says_the_truth(system))
    found = measure_flow(system, data, np.arange(NUM_ROWS), most=10, size=3)
    assert found["rows"] == 10 and found["asked"] == 32
    flow = found["flows"][0]
    assert flow["cut"]["rows"] == flow["single"]["rows"] == 10
    assert flow["cut"]["layers"] != flow["single"]["layers"]
    assert [each["source"] for each in found["flows"] if each["target"] == "question"] == ["image"]


@pytest.mark.parametrize("name", ["aki", "epalm"])
def test_flow_of_assistants_with_rules_of_their_own(name, rows, monkeypatch):
    system, data = build(name, rows)
    monkeypatch.setattr(system, "generate", says_the_truth(system))
    found = measure_flow(system, data, np.arange(12), boxes="boxes")
    flows = {f"{each['source']} → {each['target']}": each for each in found["flows"]}
    stream = "perception" if name == "epalm" else "image"
    cut = flows[f"{stream} → last"]["cut"]
    assert cut["rows"] == 11
    assert cut["everywhere"]["value"] != 0
    assert "object → question" not in flows  # latents and class tokens are no patches
    if name == "epalm":  # nobody sees it before it comes in
        assert cut["layers"][0]["value"] == 0
        assert flows[f"{stream} → last"]["attention"][0]["value"] == 0


# ---------------------------------------------------------------------- report


def test_report_shows_the_rate_the_ways_and_the_lens(llava, monkeypatch):
    system, data = llava
    monkeypatch.setattr(system, "generate", says_the_truth(system))
    content = {"streams": study_streams(system, data, np.arange(12), boxes="boxes")}
    (title, rate), (other, ways) = report.grids(content)
    assert (title, other) == ("Integration", "Information flow")
    assert rate.lines[0].cells[2] == "1 x 11"
    lines = {line.name: line.cells for line in ways.lines}
    assert len(lines) == 8 and all(len(cells) == len(ways.headings) - 1 for cells in lines.values())
    everywhere = content["streams"]["flow"]["flows"][0]["cut"]["everywhere"]["value"]
    assert lines["question → last"][1].startswith(f"{everywhere:.1f} % [")
    plots = report.plots(content)
    captions = [plot.caption for plot in plots]
    assert captions[1].endswith("into the last token: change of the answer's probability")
    assert len(plots) == 6 and all(plot.svg.startswith("<svg") for plot in plots)
    assert "background" in plots[2].svg and "other" in plots[1].svg
    assert "in one layer, on average" in report.legend(content)
    assert "integration rate" in report.summary(content)
    assert "12 rows that it answers rightly (of 12)" in report.summary(content)


@pytest.fixture
def diagnosed(tmp_path):
    """The diagnosis of a run of a system on the first 12 rows, and the page of its report."""

    def of(system, data, task):
        (tmp_path / "run").mkdir()
        run = Run(RunFolder(tmp_path / "run"), {"task": task, "data": {}}, system)
        found = diagnose(run, data, rows=12, boxes="boxes")
        content = json.loads(run.folder.diagnosis_file.read_text())
        return content, str(found), diagnosis_view(content, None)

    return of


def test_a_diagnosis_of_an_assistant_also_looks_inside(llava, monkeypatch, diagnosed):
    system, data = llava
    monkeypatch.setattr(system, "generate", says_the_truth(system))
    content, text, view = diagnosed(system, data, "vqa")
    # what is asked cannot be left out, so that the picture is all there is
    assert list(content["importance"]["overall"]) == ["image"]
    assert content["streams"]["flow"]["rows"] == 12 and content["streams"]["skipped"] == {}
    assert (
        text.startswith("accuracy ") and "integration rate" in text and "image → question" in text
    )
    assert [title for title, _ in view.grids][-2:] == ["Integration", "Information flow"]
    assert len(view.plots) == 8
    assert "Shapley" in view.legend and "Information flow" in view.legend


def test_an_input_of_another_row_has_a_place_in_the_conversation(llava, tmp_path):
    """Row 4 has no picture, and so no place for one; it keeps what it has, and its neighbour too."""
    system, data = llava
    run = Run(RunFolder(tmp_path), {"task": "vqa", "data": {}}, system)
    answers = Answers(run, data, np.arange(3, 7))
    own = answers.without([])
    found = answers.exchanged("image", np.array([1, 0, 3, 2]))
    assert np.array_equal(found[:2], own[:2])
    assert not np.array_equal(found[2:], own[2:])


def test_a_diagnosis_of_open_answers_looks_inside_alone(rows, diagnosed):
    fields = [
        field.replace(modality="text") if field.name == "answer" else field for field in rows.schema
    ]
    system, data = build("llava", rows.with_schema(Schema(fields=tuple(fields))))
    content, text, view = diagnosed(system, data, "vqa")
    assert "metric" not in content
    assert "none of 12 rows is answered rightly" in content["streams"]["skipped"]["flow"]
    assert text.startswith("Asked about 12 rows of") and "integration rate" in text
    assert [title for title, _ in view.grids] == ["Integration"]
    assert len(view.plots) == 1
    assert view.warnings[-1].startswith("Not measured (flow)")
    assert "Not measured (flow)" in text and "Both sides of a pair" not in text


def test_answers_that_begin_alike_are_warned_of():
    found = Found()
    found.first = [(7, "red"), (7, "red"), (8, "green")]
    assert found.warnings() == []
    found.first.append((8, "grey"))
    (warning,) = found.warnings()
    assert warning.startswith("2 of 4 answers begin with a token that other answers begin with")
    content = {"streams": {"flow": {"warnings": [warning]}}}
    assert report.warnings(content) == [f"Information flow: {warning}."]


def test_report_says_what_could_not_be_measured():
    content = {"streams": {"skipped": {"flow": "no answers"}}}
    assert report.warnings(content) == ["Not measured (flow): no answers."]
    assert report.grids(content) == [] and report.plots(content) == []
    assert report.legend(content) == "" and report.summary(content) == ""
    assert report.grids({}) == [] and report.warnings({}) == []  # of another system
