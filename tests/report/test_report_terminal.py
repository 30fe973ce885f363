import json
import re

import pytest
from written_folders import evaluation, metric

from sensorium.report.terminal import comparison_table, evaluation_table, systems_table, to_text
from sensorium.types import Card


@pytest.fixture
def result(comparison):
    rows = json.loads((comparison / "compare.json").read_text())
    return rows, json.loads((comparison / "summary.json").read_text())


def test_the_table_has_scores_costs_the_best_and_the_differences(result):
    lines = to_text(comparison_table(*result)).splitlines()
    (best,) = [line for line in lines if line.lstrip().startswith("dual-encoder (best)")]
    assert "0.810 [0.760, 0.860]" in best
    assert "1.71M" in best and "1:41" in best and "812 MB" in best and "0.41" in best
    (other,) = [line for line in lines if line.lstrip().startswith("interbert")]
    assert "0.690 [0.640, 0.740]" in other and "(best)" not in other
    assert "dual-encoder − interbert: +0.120 [0.050, 0.190] R@1, over rows" in lines


def test_a_system_that_failed_is_named_with_its_error(result):
    text = to_text(comparison_table(*result))
    assert "MySystem, seed 0, failed: UserError: out of memory & <b>patience</b>" in text
    assert "not compared: late-fusion: is not made for retrieval" in text


def test_a_difference_that_chance_explains_is_called_so(result):
    rows, summary = result
    summary["differences"][0] |= {"low": -0.02}
    assert "+0.120 [-0.020, 0.190] R@1, over rows: no clear difference" in to_text(
        comparison_table(rows, summary)
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_columns_that_do_not_fit_are_left_out_and_none_is_cut(result, width):
    lines = to_text(comparison_table(*result), width).splitlines()
    table = lines[: lines.index("") if "" in lines[1:] else None] or lines
    assert max(len(line) for line in lines) <= width
    assert "…" not in "\n".join(table)
    assert any("0.810 [0.760, 0.860]" in line for line in lines)
    more = to_text(comparison_table(*result), width + 60)
    assert len(more.splitlines()[1]) >= len(lines[1])


def test_a_wider_window_shows_the_other_pool(result):
    assert "pool 256" not in to_text(comparison_table(*result), 80)
    wide = to_text(comparison_table(*result), 200)
    assert "pool 256" in wide and "0.610" in wide


def test_a_comparison_in_which_all_failed_has_no_table(result):
    rows, summary = result
    summary = {**summary, "systems": {}, "best": None, "differences": []}
    text = to_text(comparison_table([rows[-1]], summary))
    assert text.startswith("MySystem, seed 0, failed")


def test_the_scores_of_a_run_start_with_the_main_metric(comparison):
    file = comparison / "runs" / "dual-encoder-seed0" / "evaluation.json"
    lines = to_text(evaluation_table(json.loads(file.read_text()))).splitlines()
    assert lines[0] == "retrieval on 300 rows, pools of 50"
    heading, _, first = lines[2:5]
    assert heading.split() == ["metric", "both", "ways", "image→text", "text→image"]
    assert first.split("  ")[0].strip() == "R@1"
    assert re.findall(r"0\.\d+ \[[^]]*\]", first) == [
        "0.810 [0.760, 0.860]", "0.830 [0.780, 0.880]", "0.790 [0.740, 0.840]",
    ]  # fmt: skip
    assert lines[5].split()[:4] == ["R@1,", "pool", "256", "0.610"]


def test_the_scores_of_classes_have_one_column():
    scored = evaluation({"accuracy": metric(0.8), "recall/a->b": metric(0.5)}, "accuracy", [], None)
    lines = to_text(evaluation_table(scored)).splitlines()
    assert lines[2].split() == ["metric", "value"]
    assert lines[5].split()[:2] == ["recall,", "a->b"]


def test_the_catalogue_has_a_line_for_each_system():
    cards = {
        "one": Card(title="First", family="f", modalities=("image",), tasks=("vqa",), paper="P"),
        "two": Card(title="[bold]Second", family="f", modalities=("any",), tasks=("retrieval",)),
    }
    text = to_text(systems_table(cards))
    assert "one" in text and "First" in text
    assert "[bold]Second" in text  # a title is no markup
