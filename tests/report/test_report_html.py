import json
import re
from html.parser import HTMLParser

import PIL.Image
import pytest
from written_folders import (
    SCRIPT,
    evaluation,
    metric,
    retrieval_examples,
    write_comparison,
    write_run,
)

from sensorium.report.html import (
    reopened,
    write_combined_report,
    write_comparison_report,
    write_report,
    write_run_report,
)
from sensorium.report.pictures import show_cell, thumbnail
from sensorium.types import Field, UserError


class Page(HTMLParser):
    """Elements with their attributes, the text outside of styles, and whether all were closed."""

    VOID = ("meta", "img", "br", "use", "path", "rect", "line")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, text):
        if "style" not in self.open:
            self.texts.append(text.strip())

    @property
    def text(self):
        return " ".join(text for text in self.texts if text)

    def all(self, tag, **attributes):
        names = {name.rstrip("_"): value for name, value in attributes.items()}
        return [a for t, a in self.elements if t == tag and names.items() <= a.items()]


@pytest.fixture
def page(comparison, retrieval_data):
    return Page(write_comparison_report(comparison, retrieval_data).read_text())


@pytest.fixture
def classification_run(tmp_path, classification_data):
    rows = classification_data.rows("all")[:4].tolist()
    examples = [
        {"row": row, "predicted": "dark", "truth": truth, "confidence": 0.9}
        for row, truth in zip(rows, ("light", "light", "dark", "dark"), strict=True)
    ]
    scores = {"accuracy": metric(0.8), "recall/dark": metric(0.7)}
    scored = evaluation(scores, "accuracy", examples, None, "classification")
    folder = tmp_path / "run"
    write_run(folder, classification_data, scored, ("label",), system="late-fusion")
    return folder


def test_a_page_is_well_formed_and_loads_nothing(page):
    assert page.open == []
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "poster"):
            address = attributes.get(name, "")
            assert not address or address.startswith(("data:image/", "#")), (tag, address)
        assert not any(name.startswith("on") for name in attributes)


def test_styles_load_nothing_and_know_light_and_dark(comparison, retrieval_data):
    text = write_comparison_report(comparison, retrieval_data).read_text()
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text
    # colours in which plots are drawn all became those of the page
    assert not re.search(r"#(0[1-5])\1\1", text)


def test_what_comes_from_rows_and_errors_is_text(page, comparison):
    assert SCRIPT in page.text
    assert "out of memory & <b>patience</b>" in page.text
    assert "<script" not in (comparison / "report.html").read_text()


def test_names_are_text_in_plots_too(comparison, retrieval_data):
    hostile = "<script>x</script>$\\frac{1}$ 名"
    for name in ("compare.json", "summary.json"):
        text = (comparison / name).read_text()
        content = json.loads(text.replace('"interbert"', json.dumps(hostile)))
        (comparison / name).write_text(json.dumps(content))
    page = Page(write_comparison_report(comparison, retrieval_data).read_text())
    assert not page.all("script")
    assert page.text.count(hostile) >= 4  # title, table, plots, curves
    assert page.open == []


def test_a_comparison_says_what_was_compared_and_what_came_out(page):
    text = page.text
    assert "dual-encoder, interbert and MySystem: retrieval on products" in text
    assert "dual-encoder is ahead with R@1 0.810 [0.760, 0.860] in pools of 50" in text
    assert "dual-encoder − interbert +0.120 [0.050, 0.190] R@1, over rows" in text
    assert "100s for each run" in text
    assert "MySystem, seed 0" in text
    assert "late-fusion is not made for retrieval" in text
    assert "--seeds 3" in text
    assert "sensorium embed" in text and "sensorium predict" not in text


def test_a_page_says_how_rows_were_split_and_what_was_hidden(classification_run):
    file = classification_run / "run.json"
    info = json.loads(file.read_text())
    info["data"] |= {"split": "group:label", "missing": ["image:0.3"]}
    file.write_text(json.dumps(info))
    text = Page(write_run_report(classification_run).read_text()).text
    assert "split group:label" in text and "hidden image:0.3" in text


def test_each_loss_of_each_system_has_its_curve(page, comparison):
    text = (comparison / "report.html").read_text()
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert [name for name in captions if name in ("contrast", "words", "regions", "match")] == [
        "contrast", "words", "regions", "match",
    ]  # fmt: skip
    assert len(page.all("svg")) == 3 + 4
    assert text.count(">tuning<") == 3  # where the stage begins, in each plot of interbert


def test_found_pictures_are_framed_where_right_and_the_farther_answer_is_added(page, comparison):
    text = (comparison / "report.html").read_text()
    searches = re.findall(r'<article class="search">.*?</article>', text, flags=re.DOTALL)
    assert len(searches) == 8
    assert all(search.count('class="answer"') == 1 for search in searches)
    second, farther, first = searches[0], searches[1], searches[-1]
    assert second.count("<li") == 5 and re.search(r'"answer".*?<span>2 ✓', second, re.DOTALL)
    assert farther.count("<li") == 7 and "11 ✓" in farther and "⋯" in farther
    assert re.search(r'<li class="answer">.*?<span>1 ✓', first, re.DOTALL)
    assert first.count("data:image/webp;base64,") == 5


def test_pages_stay_small(page, comparison):
    assert (comparison / "report.html").stat().st_size < 150_000


def test_a_run_shows_rows_with_prediction_and_truth(classification_run, classification_data):
    (classification_run / "quarantine.jsonl").write_text(
        '{"key": "7.png", "field": "image", "reason": "truncated <b>file</b>"}\n'
    )
    page = Page(write_run_report(classification_run, classification_data).read_text())
    text = page.text
    assert "accuracy 0.800 [0.750, 0.850] on 300 test rows" in text
    assert len(page.all("article", class_="answered")) == 4
    assert len(page.all("p", class_="said wrong")) == 2
    assert len(page.all("p", class_="said right")) == 2
    assert len(page.all("img")) == 4
    assert "Rows that were set aside: 1" in text and "truncated <b>file</b>" in text
    assert "sensorium predict" in text
    assert "width: 128" in text


def test_without_data_no_row_is_shown(comparison, classification_run):
    for page in (write_comparison_report(comparison, None), write_run_report(classification_run)):
        text = page.read_text()
        assert "<img" not in text and "grey number" not in text
        assert "<svg" in text


def test_data_are_opened_again_unless_they_changed(classification_run, products):
    assert "<img" in write_report(classification_run).read_text()
    metadata = products / "metadata.csv"
    metadata.write_text(metadata.read_text().replace("dark", "dim"))
    assert reopened(classification_run) is None
    assert "<img" not in write_report(classification_run).read_text()
    metadata.unlink()
    assert "<img" not in write_report(classification_run).read_text()


def test_a_run_without_scores_has_a_report(classification_run):
    (classification_run / "evaluation.json").unlink()
    page = Page(write_run_report(classification_run).read_text())
    assert "Losses" in page.text and "Scores" not in page.text


def test_a_comparison_in_which_all_failed_has_a_report(comparison):
    rows = json.loads((comparison / "compare.json").read_text())
    summary = json.loads((comparison / "summary.json").read_text())
    for key in ("main_metric", "pool", "rows", "best_run"):
        del summary[key]
    summary |= {"systems": {}, "best": None, "differences": []}
    (comparison / "compare.json").write_text(json.dumps(rows[-1:]))
    (comparison / "summary.json").write_text(json.dumps(summary))
    text = Page(write_comparison_report(comparison, None).read_text()).text
    assert "No system has a score" in text and "out of memory" in text


def test_several_comparisons_on_one_page(tmp_path, retrieval_data):
    examples = retrieval_examples(retrieval_data)
    parts = [write_comparison(tmp_path / "all" / n, retrieval_data, examples) for n in "ab"]
    page = write_combined_report(tmp_path / "all", [(part, retrieval_data) for part in parts])
    assert page == tmp_path / "all" / "report.html"
    found = Page(page.read_text())
    assert found.open == [] and len(found.all("section", class_="view")) == 2
    assert write_report(tmp_path / "all").read_text().count("is ahead with") == 2


def test_a_folder_of_neither_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither a run nor a comparison"):
        write_report(tmp_path)


def test_a_thumbnail_is_small_and_keeps_its_shape():
    import base64
    import io

    address = thumbnail(PIL.Image.new("RGBA", (600, 300), "red"))
    head, _, content = address.partition(",")
    assert head == "data:image/webp;base64"
    assert PIL.Image.open(io.BytesIO(base64.b64decode(content))).size == (128, 64)


def test_a_value_that_cannot_be_shown_says_why(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    field = Field(name="image", modality="image")
    (shown,) = show_cell(broken, field)
    assert shown.picture == "" and shown.text.startswith("cannot be shown: field 'image'")
    assert show_cell(None, field) == []
    (long,) = show_cell("word " * 200, Field(name="caption", modality="text"))
    assert len(long.text) == 300 and long.text.endswith("…")
