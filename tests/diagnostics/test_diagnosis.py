"""Diagnosis of trained systems, on rows of which it is known what tells the label."""

import json

import pytest
import torch

import sensorium as sm
from sensorium.cli import main
from sensorium.data import open_data
from sensorium.diagnostics.answers import Answers
from sensorium.diagnostics.diagnosis import diagnose
from sensorium.modalities.image import ImageView
from sensorium.modalities.text import TextView, Tokenizer
from sensorium.types import UserError

SMALL = {"width": 16, "depth": 1, "heads": 2, "hidden": 64, "image_size": 16}
OPTIONS = {"batch_size": 32, "learning_rate": 5e-3, "workers": 0, "validation_rows": 0}
TINY = {"width": 16, "heads": 2, "joint_layers": 1, "split_layers": 1}
FEW = {"workers": 0, "validation_rows": 0, "batch_size": 16}


def trained(signal, out):
    where = f"playground:known?signal={signal}&train=400&validation=8&test=300"
    return sm.train(
        "late-fusion", where, out=out, budget="80steps", settings=SMALL, options=OPTIONS
    )


def low(entry):
    return entry["low"]


def around(entry, value):
    return entry["low"] - 0.02 <= value <= entry["high"] + 0.02


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is found, by signal; each is trained when it is first asked for."""
    folder, results = tmp_path_factory.mktemp("known"), {}

    def of(signal):
        if signal not in results:
            results[signal] = diagnose(trained(signal, folder / signal)).content
        return results[signal]

    of.folder = folder
    return of


@pytest.mark.parametrize(("signal", "other"), [("table", "image"), ("image", "table")])
def test_the_modality_with_the_signal_ranks_first(found, signal, other):
    content = found(signal)
    importance = content["importance"]["overall"]
    assert content["score"]["value"] > 0.95
    assert low(importance[signal]) > 0.4
    assert around(importance[other], 0)
    assert content["without"][signal]["value"] < 0.65
    assert content["shuffled"][signal]["value"] < 0.65
    assert content["shuffled"][other]["value"] > 0.95
    # an input of a row with another label takes the answer with it, or changes nothing
    assert content["conflict"][signal]["other"]["value"] > 0.9
    assert content["conflict"][other]["own"]["value"] > 0.9
    assert content["kinds"][f"only with {signal}"]["value"] > 0.3
    assert content["kinds"][f"only with {other}"]["value"] < 0.1


def test_xor_needs_both(found):
    content = found("xor")
    importance = content["importance"]["overall"]
    assert content["score"]["value"] > 0.95
    assert low(importance["image"]) > 0.15
    assert low(importance["table"]) > 0.15
    assert all(content["alone"][name]["value"] < 0.65 for name in ("image", "table"))
    assert abs(importance["image"]["value"] - importance["table"]["value"]) < 0.15
    kinds = content["kinds"]
    # half of the rows are right by luck with an input that tells nothing
    assert kinds["only with several together"]["value"] > 0.2
    assert kinds["only with several together"]["value"] > kinds["only with image"]["value"]
    for name in ("image", "table"):  # either of them takes the answer with it
        assert content["conflict"][name]["own"]["value"] < 0.65


def test_redundant_modalities_share(found):
    content = found("redundant")
    importance = content["importance"]["overall"]
    assert low(importance["image"]) > 0.1
    assert low(importance["table"]) > 0.1
    assert content["kinds"]["with any one"]["value"] > 0.9
    assert all(content["without"][name]["value"] > 0.9 for name in ("image", "table"))


def test_a_modality_that_is_absent_in_half_of_the_rows_counts_for_the_others(found):
    """Both tell the label. By hand: with pictures alone 0.75, so 0.375 and 0.125 over 0.5."""
    content = found("missing")
    importance = content["importance"]["overall"]
    assert content["score"]["value"] > 0.95
    assert content["alone"]["image"]["value"] == pytest.approx(0.75, abs=0.07)
    assert importance["table"]["value"] == pytest.approx(0.375, abs=0.07)
    assert importance["image"]["value"] == pytest.approx(0.125, abs=0.07)
    assert importance["table"]["low"] > importance["image"]["high"]
    assert content["conflict"]["image"]["rows"] < 180  # of rows that have one
    assert content["conflict"]["table"]["rows"] > 250


def test_noise_gives_nothing_within_the_interval(found):
    content = found("noise")
    assert around(content["score"], 0.5)
    for entry in content["importance"]["overall"].values():
        assert around(entry, 0)
    for entry in content["shuffled"].values():
        assert around(entry, 0.5)


@pytest.mark.parametrize("signal", ["table", "xor", "noise"])
def test_importance_sums_to_what_all_have_over_nothing(found, signal):
    content = found(signal)
    importance = content["importance"]
    total = sum(entry["value"] for entry in importance["overall"].values())
    assert total == pytest.approx(content["score"]["value"] - importance["nothing"]["value"])
    weighted = 0
    for entry in importance["by_class"].values():
        of_class = sum(part["value"] for part in entry["importance"].values())
        assert of_class == pytest.approx(entry["score"]["value"] - entry["nothing"]["value"])
        weighted += entry["rows"] * of_class
    assert weighted / content["rows"] == pytest.approx(total)


@pytest.mark.parametrize(
    ("signal", "largest"),
    [
        ("xor", "synergy"),
        ("redundant", "redundancy"),
        ("table", "unique to table"),
        ("image", "unique to image"),
    ],
)
def test_interactions_rank_as_the_rows_were_made(found, signal, largest):
    (pair,) = found(signal)["interactions"]["pairs"]
    first, second = pair["inputs"]
    names = ("redundancy", "unique_first", "unique_second", "synergy")
    said = ("redundancy", f"unique to {first}", f"unique to {second}", "synergy")
    parts = dict(zip(said, (pair[name]["value"] for name in names), strict=True))
    assert parts.pop(largest) > 0.7
    assert max(parts.values()) < 0.2
    assert pair["label"] == pytest.approx(1, abs=0.02)
    assert pair["gap"] < 1e-5
    assert pair["warnings"] == []


def test_noise_has_no_interactions(found):
    (pair,) = found("noise")["interactions"]["pairs"]
    for name in ("redundancy", "unique_first", "unique_second", "synergy"):
        assert pair[name]["value"] < 0.1
        assert pair[name]["low"] < 0.02


def test_what_an_absent_input_tells_is_counted(found):
    """Pictures tell the label where they are not absent, tables always: one bit between the two."""
    content = found("missing")["interactions"]
    (pair,) = content["pairs"]
    table = "unique_first" if pair["inputs"][0] == "table" else "unique_second"
    absent = content["inputs"]["image"]["absent"]
    assert absent == pytest.approx(0.5, abs=0.1)
    assert pair["redundancy"]["value"] == pytest.approx(1 - absent, abs=0.08)
    assert pair[table]["value"] == pytest.approx(absent, abs=0.08)


def test_absence_runs_from_the_whole_score_to_that_without(found):
    content = found("redundant")
    for name, steps in content["missing"].items():
        assert [step["rate"] for step in steps] == [0, 0.25, 0.5, 0.75, 1]
        assert steps[0]["value"] == content["score"]["value"]
        assert steps[-1]["value"] == content["without"][name]["value"]


def test_the_command_prints_and_adds_to_the_report(found, tmp_path, capsys):
    found("table")
    run = found.folder / "table"
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(run), "--rows", "50"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "Most comes from table" in out
    page = (run / "report.html").read_text()
    assert "<h2>Diagnosis</h2>" in page
    assert page.count("<svg") >= 3
    assert "<h4>Interactions without labelled pairs</h4>" in page
    assert "<summary>Rows of each kind</summary>" in page
    content = json.loads((run / "diagnosis.json").read_text())
    assert content["rows"] == 50
    with pytest.raises(SystemExit):
        main(["report", str(run)])
    assert "<h2>Diagnosis</h2>" in (run / "report.html").read_text()
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(tmp_path / "nothing")])
    assert ended.value.code == 2


def test_other_rows_are_asked_and_named_but_not_shown(found, capsys):
    """The report opens the run's own rows: those of the same numbers would be others."""
    found("table")
    run = found.folder / "table"
    other = "playground:known?signal=table&seed=5&train=0&validation=0&test=40"
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(run), "--data", other, "--json"])
    assert ended.value.code == 0
    content = json.loads(capsys.readouterr().out)
    assert content["rows"] == 40
    assert all(entry["examples"] == [] for entry in content["kinds"].values())
    page = (run / "report.html").read_text()
    assert "on 40 rows of playground:known" in page
    assert "<summary>Rows of each kind</summary>" not in page


def test_numbers_are_explained_in_shares_of_r2(tmp_path):
    """`weight` is heavy on warm ground, and the price tells nothing."""
    data = open_data("playground:known?signal=redundant&train=400&validation=8&test=80")
    run = sm.train(
        "late-fusion", data, out=tmp_path, budget="60steps", target="weight", settings=SMALL,
        options=OPTIONS,
    )  # fmt: skip
    content = diagnose(run).content
    assert content["metric"] == "R2"
    assert content["conflict"] == {} and content["kinds"] == {}
    again = run.evaluate().scores.metrics["R2"].value
    assert content["score"]["value"] == pytest.approx(again, abs=1e-6)
    assert content["importance"]["overall"]["image"]["low"] > 0.3
    assert around(content["importance"]["overall"]["table"], 0)
    assert content["shuffled"]["everything"]["value"] < 0


@pytest.mark.parametrize(
    ("where", "inputs"),
    [
        ("playground:questions?train=48&validation=8&test=30", {"image", "question"}),
        ("playground:attributes?train=48&validation=8&test=30", {"image", "caption"}),
    ],
)
def test_a_fusion_system_answers_with_any_subset_of_what_it_reads(tmp_path, where, inputs):
    run = sm.train(
        "interbert", where, out=tmp_path, budget="2steps", settings=TINY, options=FEW,
        task="vqa" if "questions" in where else "classification",
    )  # fmt: skip
    content = diagnose(run).content
    assert set(content["fields"]) == set(content["importance"]["overall"]) == inputs
    assert content["importance"]["coalitions"] == 4
    assert content["importance"]["nothing"]["value"] is not None
    assert set(content["conflict"]) == inputs
    assert content["score"]["value"] == run.evaluate().scores.metrics["accuracy"].value


def test_rows_have_the_same_content_where_they_say_the_same(tmp_path):
    """Also in another batch, which is padded to another length."""
    where = "playground:questions?train=48&validation=8&test=150&pictures=24"
    run = sm.train("interbert", where, out=tmp_path, budget="1steps", settings=TINY, options=FEW)
    data = run.data()
    answers = Answers(run, data, data.rows("test"))
    texts = data.columns(["question"], answers.rows)["question"]
    codes = answers.content["question"]
    assert 4 < len(set(texts)) < 100
    assert len(set(zip(texts, codes, strict=True))) == len(set(texts)) == len(set(codes))


def test_retrieval_has_controls_and_leaves_out_what_hangs_on_a_side(tmp_path):
    """No Shapley values: neither side of a pair can be left out."""
    where = "playground:scenes?train=64&validation=8&test=40&pictures=20"
    run = sm.train("interbert", where, out=tmp_path, budget="3steps", settings=TINY, options=FEW)
    found = diagnose(run)
    content = found.content
    assert "importance" not in content
    assert set(content["without"]) == {"boxes", "things"}
    for name, gain in content["gain"].items():
        without = content["without"][name]["value"]
        assert gain["value"] == pytest.approx(content["score"]["value"] - without)
    assert content["gain"]["things"]["value"] == 0  # it is no input, but what is to be found
    assert content["chance"] == pytest.approx(1 / content["pool"])
    assert "neither has an importance" in str(found)


def test_shuffled_pairs_are_at_most_at_chance():
    """An oracle finds every partner, so that another target of the pool is never first."""
    from sensorium.systems.base import System
    from sensorium.tasks import Retrieval
    from sensorium.training.run import evaluate_system

    class Oracle(System):
        name = "oracle"

        def __init__(self):
            super().__init__(None, data.schema)
            self.scale = torch.nn.Parameter(torch.ones(1))

        def views(self):
            text = TextView(tokenizer=Tokenizer.train(["a picture of a thing"], 300))
            return {"image": ImageView(size=32), "caption": text}

        def losses(self, batch):
            return {}

        def embed(self, batch, field):
            angle = batch.index.float() / 10
            return torch.stack([angle.cos(), angle.sin()], 1)

    data = open_data("playground:scenes?train=10&validation=1&test=30").fit()
    oracle = Oracle()
    rows = data.rows("test")
    assert evaluate_system(oracle, data, rows, Retrieval()).scores.metrics["R@1"].value == 1
    for pools in (None, [10]):
        shuffled = evaluate_system(oracle, data, rows, Retrieval(pools, shuffled=True))
        assert shuffled.scores.metrics["R@1"].value == 0


def test_no_rows_is_an_error_that_says_what_to_do(tmp_path):
    where = "playground:known?signal=table&train=64&validation=8&test=0"
    run = sm.train(
        "late-fusion", where, out=tmp_path, budget="2steps", settings=SMALL, options=OPTIONS
    )
    with pytest.raises(UserError, match="no test rows in .*--data"):
        diagnose(run)
    assert diagnose(run, "playground:known?signal=table&train=0&validation=0&test=40").content
