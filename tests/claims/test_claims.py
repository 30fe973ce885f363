"""Claims: verdicts by their rules, results that know when they are stale, experiments that run."""

import gc
import json
import time
from dataclasses import replace

import jaxtyping
import pytest
import torch

from sensorium.claims import registry
from sensorium.claims.base import Arm, Claim, Condition, above, judge, near
from sensorium.claims.catalogue.interbert import _relation
from sensorium.claims.experiment import record, run_claim, smoke
from sensorium.claims.page import _section, claims_page
from sensorium.claims.registry import Result, claims, find_claims, fingerprints, read_result
from sensorium.cli import main
from sensorium.playground.base import GeneratedView
from sensorium.systems.registry import catalogue
from sensorium.tasks.intervals import Metric
from sensorium.training import cells
from sensorium.training.files import read_tensors, write_json
from sensorium.types import UserError

CLAIM = Claim(
    name="tiny",
    system="late-fusion",
    statement="it works",
    source="nowhere",
    data="playground:attributes",
    arms={
        "ours": Arm("late-fusion", "system", {"width": 16, "depth": 1}),
        "theirs": Arm("late-fusion", "baseline", {"width": 8, "depth": 1}),
    },
    task="classification",
    metric="accuracy",
    holds_if=(above("ours", "theirs", by=0.1), above("ours", 0.2)),
    budget="3steps",
    options={"workers": 0},
    hours=0.01,
)


def scores(ours, theirs):
    return {"ours": {"accuracy": ours}, "theirs": {"accuracy": theirs}}


def test_a_verdict_follows_from_paired_intervals():
    theirs = [0.50, 0.60, 0.40, 0.55, 0.45]
    clearly = [value + 0.2 + 0.01 * (i % 2) for i, value in enumerate(theirs)]
    verdict, entries = judge(CLAIM, scores(clearly, theirs))
    assert verdict == "reproduced"
    # by hand: differences .20 .21 .20 .21 .20; mean .204, deviation .005477, t(4) = 2.7764
    assert entries[0]["value"] == pytest.approx(0.204)
    assert entries[0]["low"] == pytest.approx(0.204 - 2.7764 * 0.0054772 / 5**0.5, abs=1e-5)
    hardly = [value + 0.02 + 0.01 * (i % 2) for i, value in enumerate(theirs)]
    assert judge(CLAIM, scores(hardly, theirs))[0] == "not reproduced"
    perhaps = [value + (0.25 if i % 2 else 0.02) for i, value in enumerate(theirs)]
    verdict, entries = judge(CLAIM, scores(perhaps, theirs))
    assert verdict == "inconclusive"
    assert [entry["outcome"] for entry in entries] == ["unclear", "holds"]


def test_one_condition_that_fails_is_enough():
    theirs = [0.01, 0.02, 0.01, 0.02, 0.01]
    ours = [value + 0.12 for value in theirs]  # the difference holds, but 0.13 is below 0.2
    verdict, entries = judge(CLAIM, scores(ours, theirs))
    assert [entry["outcome"] for entry in entries] == ["holds", "fails"]
    assert verdict == "not reproduced"


def test_fewer_than_five_seeds_give_no_verdict():
    assert judge(CLAIM, scores([0.9] * 4, [0.1, 0.2, 0.1, 0.2]))[0] is None


def test_near_holds_only_if_the_whole_interval_is_near():
    condition = near("control", 0.1, within=0.02)
    assert condition.outcome(Metric(0.1, 0.09, 0.11)) == "holds"
    assert condition.outcome(Metric(0.1, 0.07, 0.13)) == "unclear"
    assert condition.outcome(Metric(0.2, 0.19, 0.21)) == "fails"
    assert str(condition) == "control within 0.02 of 0.1"


def test_a_condition_on_an_arm_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="there is no arm 'other'"):
        replace(CLAIM, holds_if=(Condition("ours", "other"),))


def test_every_system_of_a_paper_has_a_claim_that_speaks_of_it():
    for name, (_, card) in catalogue().items():
        if card.family != "baselines":
            assert name in {claim.system for claim in find_claims(name)}


@pytest.mark.parametrize("claim", claims().values(), ids=list(claims()))
def test_a_full_experiment_can_give_a_verdict(claim):
    assert claim.seeds >= 5
    assert claim.hours <= 3
    parts = [arm.part for arm in claim.arms.values()]
    assert parts[0] == "system"
    assert len(parts) > 1 or claim.measure  # which compares within a run


RECORDED = {path.stem for path in registry.RESULTS.glob("*.json")}


def test_results_are_of_claims_that_exist():
    assert set(claims()) >= RECORDED


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded_results_are_those_of_full_experiments(name):
    claim = claims()[name]
    result = read_result(claim)
    assert len(result.content["seeds"]) >= 5
    judged, entries = judge(
        claim, {name: arm["seeds"] for name, arm in result.content["arms"].items()}
    )
    assert (judged, entries) == (result.content["verdict"], result.content["conditions"])


FEWER = {
    "sensorium.claims.catalogue.interactions.STEPS": 5,
    "sensorium.claims.catalogue.interactions.TABLES": 50,
}
"""Of what measures do without asking how many rows there are."""


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs without processes of their own, which take longer to start than so short runs to end."""
    row_of, rows = GeneratedView.__getitem__, {}

    def remembered(view, index):  # all arms read the same rows, each several times
        key = repr(view), int(index)
        if key not in rows:
            rows[key] = row_of(view, index)
        return dict(rows[key])

    def run_here(cell, report, threads):
        cell.folder.mkdir(parents=True)
        write_json(cell.spec_file, cell.spec)
        cells._run_in_this_process(cell.spec_file)

    # shapes are checked where systems are tested; here it would take a third of the time
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(GeneratedView, "__getitem__", remembered)
    monkeypatch.setattr("sensorium.claims.experiment.run_cell", run_here)
    for name, number in FEWER.items():
        monkeypatch.setattr(name, number)
    gc.freeze()  # garbage is collected after each stage, among all that tests have imported
    yield
    gc.unfreeze()


@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
@pytest.mark.parametrize("claim", claims().values(), ids=list(claims()))
def test_the_experiment_can_be_carried_out(claim, tmp_path, in_this_process):
    result = run_claim(smoke(claim), tmp_path)
    assert result["verdict"] is None
    assert list(result["arms"]) == list(claim.arms)
    for arm in result["arms"].values():
        assert set(arm["seeds"]) == {claim.metric, *claim.shown}
    assert len(result["conditions"]) == len(claim.holds_if)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("claim")
    return out, run_claim(smoke(CLAIM), out, seeds=2)


def test_what_is_finished_is_not_run_again(tiny):
    out, before = tiny
    weights = sorted(out.glob("runs/*/model.safetensors"))
    assert len(weights) == 4
    times = [path.stat().st_mtime_ns for path in weights]
    again = run_claim(smoke(CLAIM), out, seeds=2)
    assert [path.stat().st_mtime_ns for path in weights] == times
    assert again["arms"] == before["arms"]
    assert json.loads((out / "result.json").read_text())["arms"] == before["arms"]


def test_another_configuration_is_not_mixed_into_the_same_folder(tiny):
    other = replace(smoke(CLAIM), budget="5steps")
    with pytest.raises(UserError, match="its budget was '4steps', and now it is '5steps'"):
        run_claim(other, tiny[0], seeds=2)


def test_what_is_hidden_from_an_arm_is_hidden_in_its_runs(tmp_path):
    hidden = "image:0.5:by=label=plus"
    claim = replace(
        CLAIM,
        data="playground:majority?pictures=30",
        arms={
            "ours": Arm("late-fusion", "system", {"width": 8, "depth": 1}),
            "complete": Arm("late-fusion", "control", {"width": 8, "depth": 1}, missing=()),
        },
        holds_if=(above("ours", 0.1),),
        missing=(hidden,),
        missing_test=(),
    )
    assert claim.configuration["arms"]["ours"]["missing"] == [hidden]
    assert "missing" not in claim.configuration["arms"]["complete"]
    assert "missing" not in CLAIM.configuration["arms"]["ours"]
    run_claim(smoke(claim), tmp_path)
    for name, missing in (("ours", [hidden]), ("complete", [])):
        data = json.loads((tmp_path / "runs" / f"{name}-seed0" / "run.json").read_text())["data"]
        assert (data["missing"], data["missing_test"]) == (missing, [])
    with pytest.raises(UserError, match="its data was"):
        run_claim(replace(smoke(claim), missing_test=None), tmp_path)


STILL = {"learning_rate": 1e-12, "weight_decay": 0.0}
SMALL = {"width": 8, "depth": 1}
BEGUN = replace(
    CLAIM,
    starts={
        "first": Arm("late-fusion", "start", SMALL, budget="5steps"),
        "second": Arm("late-fusion", "start", SMALL, STILL, start="first"),
    },
    arms={
        "ours": Arm("late-fusion", "system", SMALL, STILL, start="second"),
        "theirs": Arm("late-fusion", "baseline", SMALL, STILL),
    },
)


def weights(out, name, seed):
    return read_tensors(out / "runs" / f"{name}-seed{seed}" / "model.safetensors")


def test_arms_begin_with_the_weights_of_the_start_of_their_seed(tmp_path, in_this_process):
    result = run_claim(smoke(BEGUN), tmp_path, seeds=2)
    for seed in range(2):
        first, ours = weights(tmp_path, "first", seed), weights(tmp_path, "ours", seed)
        theirs = weights(tmp_path, "theirs", seed)
        assert all(torch.allclose(first[name], ours[name], atol=1e-6) for name in first)
        assert not all(torch.allclose(first[name], theirs[name], atol=1e-6) for name in first)
    assert list(result["arms"]) == ["ours", "theirs"]
    assert result["starts"]["first"]["metric"] == "accuracy"
    assert result["training_hours"] > 0
    text = "\n".join(_section(BEGUN, Result(result, "current")))
    assert "*first*: `late-fusion` on `playground:attributes`, classification, 5steps" in text
    assert "With its weights begin: second." in text


def test_what_arms_begin_with_is_part_of_the_configuration():
    longer = replace(BEGUN.starts["first"], budget="6steps")
    other = replace(BEGUN, starts={**BEGUN.starts, "first": longer})
    assert other.configuration != BEGUN.configuration
    assert "starts" not in CLAIM.configuration
    assert list(smoke(BEGUN).starts) == ["first", "second"]
    assert smoke(BEGUN).starts["first"].budget == ""


def test_a_start_is_made_before_what_begins_with_it():
    backwards = dict(reversed(BEGUN.starts.items()))
    with pytest.raises(ValueError, match="'second' begins with 'first', which is not made before"):
        replace(BEGUN, starts=backwards)
    with pytest.raises(ValueError, match="'ours' begins with 'theirs', which is not made before"):
        replace(CLAIM, arms={**CLAIM.arms, "ours": replace(CLAIM.arms["ours"], start="theirs")})


def test_with_more_jobs_an_arm_waits_for_its_start(tmp_path, monkeypatch):
    events = []

    def run(cell, report, threads):
        events.append(("begun", cell.name, cell.seed))
        time.sleep(0.0 if cell.name == "theirs" else 0.2)
        events.append(("ended", cell.name, cell.seed))
        return None if cell.name == "first" else "enough"

    monkeypatch.setattr("sensorium.claims.experiment.run_cell", run)
    ours = replace(BEGUN.arms["ours"], start="first")
    claim = replace(
        smoke(BEGUN),
        starts={"first": BEGUN.starts["first"]},
        arms={"ours": ours, "theirs": BEGUN.arms["theirs"]},
    )
    with pytest.raises(UserError, match="ours, seed 0: enough"):
        run_claim(claim, tmp_path, seeds=3, jobs=3)
    for seed in range(3):
        ended, begun = ("ended", "first", seed), ("begun", "ours", seed)
        assert events.index(ended) < events.index(begun)
    assert events[:3] == [("begun", "first", seed) for seed in range(3)]


def test_nothing_begins_with_what_failed(tmp_path):
    broken = replace(BEGUN.starts["first"], data="playground:scenes?train=20&validation=5&test=5")
    claim = replace(smoke(BEGUN), starts={**BEGUN.starts, "first": broken})
    with pytest.raises(UserError, match="first, seed 0: .*label"):
        run_claim(claim, tmp_path)
    assert not (tmp_path / "runs" / "second-seed0").exists()
    assert not (tmp_path / "runs" / "ours-seed0").exists()


def test_a_failed_run_names_arm_and_reason(tmp_path):
    broken = replace(smoke(CLAIM), data="playground:scenes?train=20&validation=5&test=5")
    with pytest.raises(UserError, match="ours, seed 0: .*label"):
        run_claim(broken, tmp_path)


def test_a_result_is_stale_when_what_it_depends_on_changes(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "RESULTS", tmp_path)
    monkeypatch.setattr("sensorium.claims.experiment.RESULTS", tmp_path)
    claim = smoke(CLAIM)
    assert read_result(claim) is None
    path = record(tiny[1])
    assert path == tmp_path / "tiny.json"
    assert read_result(claim).status == "current"
    changed = read_result(replace(claim, budget="9steps"))
    assert (changed.status, changed.changed) == ("stale", "configuration")
    content = json.loads(path.read_text())
    for name, status in (
        ("core", "older core"),
        ("system late-fusion", "stale"),
        (f"data {claim.data}", "stale"),
    ):
        other = {**content["fingerprints"], name: "0"}
        path.write_text(json.dumps({**content, "fingerprints": other}))
        assert read_result(claim).status == status


def test_words_change_no_fingerprint_but_code_does(tmp_path, monkeypatch):
    code = '"""One."""\nCLAIM = "a"\n\ndef f(x):\n    """Two."""\n    return x + 1  # three\n'
    words = '"""Other."""\nCLAIM = "b"\ndef f(x):\n    return x + 1\n'
    file = tmp_path / "module.py"
    digests = []
    for text in (code, words, words.replace("+ 1", "+ 2")):
        file.write_text(text)
        digests.append(registry._code([file]))
    assert digests[0] == digests[1] != digests[2]


def test_a_system_is_more_than_its_own_file():
    modules = registry._composed_of("sensorium.systems.fusion.interbert")
    assert "sensorium.systems.fusion.inputs" in modules
    assert "sensorium.systems.base" not in modules
    assert "core" in fingerprints(CLAIM)


def test_the_page_tells_all_claims_and_draws_those_with_results():
    files = claims_page()
    for name, claim in claims().items():
        assert f"## {name}" in files["claims.md"]
        assert claim.statement in files["claims.md"]
        assert (f"claims/{name}.svg" in files) == (name in RECORDED)


def test_commands(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        main(["claims"])
    assert ended.value.code == 0
    assert "interbert" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["claims", "interbrt"])
    assert ended.value.code == 2
    assert "Did you mean 'interbert'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["claims", "interbert", "--smoke", "--record"])
    assert ended.value.code == 2


def test_the_first_relation_of_a_caption_is_what_the_probe_reads():
    assert _relation("small dog above big cat, red background") == 2
    assert _relation("dog right of cat, cow left of hen") == 1
    assert _relation("dog") == -1
