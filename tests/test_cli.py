"""The command line as a user drives it: real files, small budgets."""

import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import typer

from commands import FAST, run
from sensorium.cli.app import app
from sensorium.cli.options import read_settings, short_name
from sensorium.cli.progress import TrainingProgress
from sensorium.types import UserError

OPTIONS = {
    "demo": {"--out", "--budget", "--no-samples"},
    "systems": {"--json"},
    "inspect": {"--out", "--schema", "--contact-sheet", "--split", "--no-samples", "--json"},
    "compare": {
        "--data", "--schema", "--task", "--target", "--budget", "--seeds", "--size", "--set",
        "--out", "--pool", "--device", "--cache", "--split", "--missing", "--missing-test",
        "--no-samples",
    },
    "train": {
        "--data", "--schema", "--task", "--target", "--budget", "--size", "--set", "--seed",
        "--out", "--init", "--device", "--cache", "--split", "--missing", "--missing-test",
        "--no-samples",
    },
    "evaluate": {
        "--data", "--split", "--pool", "--missing", "--device", "--no-samples", "--json",
    },
    "predict": {"--out", "--device"},
    "embed": {"--field", "--out", "--device"},
    "translate": {"--from", "--to", "--out", "--keep", "--set", "--device"},
    "tokenize": {"--device", "--cache"},
    "index": {
        "--into", "--key", "--delete", "--prune", "--graph-from", "--device", "--no-samples",
        "--json",
    },
    "search": {
        "--image", "--audio", "--video", "--where", "--mode", "--in", "--limit", "--run",
        "--device", "--html", "--json",
    },
    "ask": {
        "--with", "--model", "--image", "--where", "--mode", "--candidates", "--rows", "--least",
        "--max-tokens", "--rerank", "--run", "--device", "--steps", "--json",
    },
    "serve": {
        "--host", "--port", "--token", "--max-bytes", "--max-pixels", "--max-batch", "--max-wait",
        "--device",
    },
    "generate": {
        "--text", "--image", "--audio", "--video", "--max-tokens", "--temperature", "--beams",
        "--kv-cache", "--kv-budget", "--out", "--device",
    },
    "chat": {"--max-tokens", "--temperature", "--device"},
    "report": {"--no-samples"},
    "diagnose": {"--data", "--rows", "--missing", "--boxes", "--device", "--json"},
    "claims": {"--run", "--smoke", "--seeds", "--jobs", "--out", "--record", "--json"},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _own_folder(tmp_path_factory):
    """Commands run in a folder of their own, which default places are relative to."""
    with contextlib.chdir(tmp_path_factory.mktemp("cli")):
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Forty pictures with captions, a class and a number; one file is broken, two are equal."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    folder.mkdir()
    draw = np.random.default_rng(0)
    lines = ["file_name,caption,price,kind,split"]
    for number in range(40):
        dark = number % 2 == 0
        shade = draw.integers(0, 100, (24, 32, 3)) + (0 if dark else 150)
        PIL.Image.fromarray(shade.astype(np.uint8)).save(folder / f"{number}.png")
        split = "train" if number < 28 else "validation" if number < 34 else "test"
        caption = f"{'dark' if dark else 'light'} thing {number} [red]x[/]"
        lines.append(f"{number}.png,{caption},{number}.5,{'d' if dark else 'l'},{split}")
    (folder / "39.png").write_bytes((folder / "1.png").read_bytes())
    (folder / "38.png").write_bytes(b"")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def classifier(shop, tmp_path_factory):
    """A trained run that predicts `kind`."""
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    arguments = ["train", "late-fusion", "--data", shop, "--target", "kind", "--out", folder]
    outcome = run(*arguments, "--budget", "3steps", *FAST)
    return folder, outcome, arguments


@pytest.fixture(scope="module")
def embedder(shop):
    """A trained run of retrieval, in the default place."""
    arguments = ["train", "dual-encoder", "--data", shop, "--task", "retrieval"]
    return run(*arguments, "--budget", "3steps", *FAST)


# ---------------------------------------------------------------------- help and catalogue


def test_the_options_of_every_command_are_these_and_no_others():
    commands = typer.main.get_command(app).commands
    found = {
        name: {option for p in command.params for option in p.opts if option.startswith("--")}
        for name, command in commands.items()
    }
    assert {name: options - {"--help"} for name, options in found.items()} == OPTIONS


@pytest.mark.parametrize("command", [None, *OPTIONS])
def test_every_command_explains_itself(command):
    outcome = run(*filter(None, [command]), "--help")
    assert outcome.code == 0 and "Usage: sensorium" in outcome.out
    assert command is None or "Example: sensorium" in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [(["--help"], {"torch", "numpy", "pydantic"}), (["systems"], {"torch", "numpy"})],
)
def test_help_and_catalogue_import_nothing_heavy(arguments, heavy):
    code = (
        "import sys\nfrom sensorium.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert not end.code\n"
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_version_is_printed():
    from sensorium import __version__

    assert run("--version").out == f"sensorium {__version__}\n"


def test_systems_are_listed_by_pattern():
    assert "late-fusion" in run("systems").out
    found = run("systems", "*bert*").out
    assert "interbert" in found and "late-fusion" not in found
    cards = json.loads(run("systems", "--json").out)
    assert cards["interbert"]["paper"] == "arXiv:2003.13198"


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["systems", "interbret"], "Did you mean 'interbert'?"),
        (["train", "interbret", "--data", "{shop}"], "Did you mean 'interbert'?"),
        (["train", "late-fusion", "--dta", "{shop}"], "--data"),
        (["trian"], "train"),
        (["train", "late-fusion", "--data", "{shop}/metadta.csv"], "metadata.csv"),
        (["train", "late-fusion", "--data", "{shop}", "--target", "knid"], "Did you mean 'kind'?"),
        (["train", "late-fusion", "--data", "{shop}", "--task", "retreival"], "'retrieval'"),
        (["train", "late-fusion", "--data", "{shop}", "--budget", "2x"], "500steps, 3epochs"),
        (["train", "late-fusion", "--data", "{shop}", "--size", "huge"], "nano"),
        (["train", "late-fusion", "--data", "{shop}", "--set", "width"], "expected NAME=VALUE"),
        (["train", "late-fusion", "--data", "{shop}", "--set", "training.ema=2"], "ema"),
        (["train", "late-fusion", "--data", "{shop}", "--set", "training.bath_size=2"],
         "Did you mean 'batch_size'?"),
        (["train", "late-fusion", "--data", "{shop}", "--missing", "image"], "FIELD:RATE"),
        (["train", "late-fusion", "--data", "{shop}", "--missing", "imge:0.5"], "'image'"),
        (["train", "late-fusion", "--data", "{shop}", "--missing-test", "imge:0.5"], "'image'"),
        (["train", "late-fusion", "--data", "{shop}", "--split", "colum:x"], "column:NAME"),
        (["train", "late-fusion", "--data", "{shop}", "--schema", "none.yaml"], "none.yaml"),
        (["train", "./none.py:Mine", "--data", "{shop}"], "none.py"),
        (["train", "late-fusion", "--data", "{shop}", "--init", "{shop}"], "not a run folder"),
        (["compare", "--data", "{shop}", "--set", "nothing=1"], "unknown setting 'nothing'"),
        (["evaluate", "{shop}"], "not a run folder"),
        (["predict", "{shop}", "{shop}", "--out", "table.csv"], "ends in .parquet"),
        (["report", "{shop}"], "neither a run nor a comparison"),
        (["inspect", "playground:scene"], "scenes"),
    ],
)  # fmt: skip
def test_a_mistake_is_explained_without_a_traceback(shop, arguments, message):
    outcome = run(*(argument.format(shop=shop) for argument in arguments))
    assert outcome.code == 2
    assert message in " ".join(outcome.err.replace("│", " ").split())
    assert "Traceback" not in outcome.err


def test_a_folder_that_cannot_be_written_is_named(shop):
    # Not even root may make folders there, so the test means the same for everybody.
    outcome = run("inspect", shop, "--out", "/proc/sensorium")
    assert outcome.code == 2
    assert "cannot write the folder" in outcome.err


def test_a_file_where_a_folder_should_be_is_named(shop, tmp_path):
    (tmp_path / "file").touch()
    for command in (["inspect", shop], ["train", "late-fusion", "--data", shop]):
        outcome = run(*command, "--out", tmp_path / "file" / "new")
        assert outcome.code == 2 and "cannot write the folder" in outcome.err


def test_a_fault_of_the_library_keeps_its_traceback(monkeypatch):
    import sensorium.systems.registry

    def fail(pattern):
        raise RuntimeError("a fault")

    monkeypatch.setattr(sensorium.systems.registry, "list_systems", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        run("systems")


# ---------------------------------------------------------------------- inspect


def test_inspect_shows_rows_fields_duplicates_and_what_is_broken(shop, tmp_path):
    before = sorted(path.name for path in shop.iterdir())
    outcome = run("inspect", shop, "--out", tmp_path)
    assert outcome.code == 0
    assert "40 rows: train 28, validation 6, test 6" in outcome.out
    for word in ("image", "caption", "price", "kind", "[red]x[/]"):
        assert word in outcome.out
    assert "image: 1 row of test also in train, for example 1.png and 39.png" in outcome.out
    assert "38.png is empty" in outcome.out
    assert "sensorium compare --data" in outcome.out
    with PIL.Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.width > 100
    assert sorted(path.name for path in shop.iterdir()) == before


def test_an_edited_schema_is_read_and_never_overwritten(shop, tmp_path):
    schema = tmp_path / "mine.yaml"
    run("inspect", shop, "--out", tmp_path, "--schema", schema)
    edited = schema.read_text().replace("caption:", "words:\n    column: caption")
    assert edited != schema.read_text()
    schema.write_text(edited)
    outcome = run("inspect", shop, "--out", tmp_path, "--schema", schema)
    assert "words" in outcome.out and f"Read {schema}" in outcome.out
    assert schema.read_text() == edited


def test_inspect_prints_json(shop, tmp_path):
    found = json.loads(run("inspect", shop, "--out", tmp_path, "--json").out)
    assert found["num_rows"] == {"train": 28, "validation": 6, "test": 6, "all": 40}
    assert {field["name"]: field["modality"] for field in found["fields"]}["image"] == "image"
    assert found["duplicates"][0]["num_rows"] == 1


# ---------------------------------------------------------------------- one run


def test_training_ends_with_scores_a_report_and_what_to_do_next(classifier):
    folder, outcome, _ = classifier
    assert outcome.code == 0, outcome.err
    assert "classification on 5 rows" in outcome.out  # one of six cannot be read
    assert "1 row could not be read" in outcome.out
    assert f"Report: {folder / 'report.html'}" in outcome.out
    assert f"sensorium predict {folder} ROWS" in outcome.out
    assert "train: step 3/3" in outcome.err
    assert (folder / "report.html").stat().st_size > 10_000


def test_the_same_command_again_loads_the_run_and_another_is_refused(classifier):
    folder, first, arguments = classifier
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    again = run(*arguments, "--budget", "3steps", *FAST)
    assert again.code == 0 and (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert _scores(again.out) == _scores(first.out)
    other = run(*arguments, "--budget", "4steps", *FAST)
    assert other.code == 2 and "holds another run" in other.err


def _scores(text):
    return [line for line in text.splitlines() if "[" in line]


def test_predict_takes_rows_without_the_label_and_names_those_it_cannot(classifier, shop, tmp_path):
    folder, *_ = classifier
    out = tmp_path / "new" / "predictions.parquet"
    lines = (shop / "metadata.csv").read_text().splitlines()
    new = [",".join(line.split(",")[:3]) for line in (lines[0], lines[1], lines[39], lines[2])]
    for name in ("0.png", "1.png", "38.png"):
        (tmp_path / name).write_bytes((shop / name).read_bytes())
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(new) + "\n")
    shown = run("predict", folder, rows, "--out", out)
    assert shown.code == 0, shown.err
    assert f"Wrote {out}: 2 rows with key, prediction, probabilities" in shown.out
    assert "1 row could not be used. The first is row '38.png'" in shown.err
    table = pq.read_table(out)
    assert table["key"].to_pylist() == ["0.png", "1.png"]
    assert set(table["prediction"].to_pylist()) <= {"d", "l"}
    assert np.allclose([sum(row) for row in table["probabilities"].to_pylist()], 1, atol=1e-5)
    rows.write_text("\n".join([new[0], new[2]]) + "\n")
    out.unlink()
    none = run("predict", folder, rows, "--out", out)
    assert none.code == 2 and "1 row could not be used" in none.err and not out.exists()


def test_retrieval_goes_to_a_folder_named_after_system_and_data(embedder):
    assert embedder.code == 0, embedder.err
    assert "Run: runs/dual-encoder-shop-seed0" in embedder.out
    assert "sensorium embed" in embedder.out


def test_embeddings_are_unit_vectors(embedder, shop, tmp_path):
    out = tmp_path / "embeddings.parquet"
    done = run("embed", "runs/dual-encoder-shop-seed0", shop, "--field", "image", "--out", out)
    assert done.code == 0, done.err
    table = pq.read_table(out)
    assert table.column_names == ["key", "image"]
    vectors = np.asarray(table["image"].to_pylist())
    assert len(vectors) == 39  # all but the broken one
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    wrong = run("embed", "runs/dual-encoder-shop-seed0", shop, "--field", "imgae", "--out", out)
    assert wrong.code == 2 and "Did you mean 'image'?" in wrong.err


def test_a_run_that_cannot_is_told_so(embedder, shop, tmp_path):
    out = tmp_path / "predictions.parquet"
    done = run("predict", "runs/dual-encoder-shop-seed0", shop, "--out", out)
    assert done.code == 2 and "cannot predict" in done.err and not out.exists()


def test_evaluate_takes_pools_splits_and_other_data(embedder, shop):
    folder = "runs/dual-encoder-shop-seed0"
    pools = json.loads(run("evaluate", folder, "--pool", 3, "--pool", 5, "--json").out)
    assert pools["pool"] == 3 and "pool5/R@1" in pools["metrics"]
    assert "retrieval on 6 rows" in run("evaluate", folder, "--split", "validation").out
    assert "retrieval on 39 rows" in run("evaluate", folder, "--data", shop).out
    wrong = run("evaluate", folder, "--split", "tset")
    assert wrong.code == 2 and "Did you mean 'test'?" in wrong.err


def test_a_report_is_written_again(classifier):
    folder, *_ = classifier
    page = folder / "report.html"
    page.unlink()
    assert run("report", folder).out == f"Report: {page}\n"
    text = page.read_text()
    assert "data:image/webp" in text and "[red]x[/]" in text


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(shop, tmp_path, monkeypatch):
    import signal

    folder = tmp_path / "run"
    arguments = ["train", "late-fusion", "--data", shop, "--target", "kind", "--out", folder]
    arguments += ["--budget", "6steps", "--set=training.log_every=1", *FAST]
    show = TrainingProgress.__call__

    def press(self, line, run=""):
        show(self, line, run)
        if line["step"] == 2 and line["split"] == "train":
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "__call__", press)
        stopped = run(*arguments)
    assert stopped.code == 130
    assert "The same command goes on" in stopped.err and "Traceback" not in stopped.err
    resumed = run(*arguments)
    assert resumed.code == 0, resumed.err
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if line["split"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]


# ---------------------------------------------------------------------- comparisons


@pytest.fixture(scope="module")
def comparison(shop, tmp_path_factory):
    """Two systems, one of which fails."""
    folder = tmp_path_factory.mktemp("comparison")
    mine = folder / "mine.py"
    mine.write_text(
        "from sensorium.systems.base import System\n"
        "class MySystem(System):\n"
        "    def views(self):\n"
        "        raise RuntimeError('not <done> yet')\n"
    )
    arguments = ["compare", "late-fusion", f"{mine}:MySystem", "--data", shop, "--target", "kind"]
    arguments += ["--budget", "2steps", "--out", folder / "out", *FAST]
    return folder / "out", run(*arguments), arguments


def test_a_system_that_fails_is_a_row_and_not_the_end(comparison):
    folder, outcome, _ = comparison
    assert outcome.code == 0, outcome.err
    rows = {row["system"]: row for row in json.loads((folder / "compare.json").read_text())}
    assert rows["late-fusion"]["status"] == "finished"
    assert rows["MySystem"]["status"] == "failed" and rows["MySystem"]["error"]
    assert "MySystem, seed 0, failed" in outcome.out
    assert f"Report: {folder / 'report.html'}" in outcome.out
    assert (folder / "best" / "model.safetensors").exists()
    assert "late-fusion, seed 0, train: step 2/2" in outcome.err
    assert "accuracy" in (folder / "report.html").read_text()


def test_a_second_call_reuses_what_is_finished(comparison):
    folder, _, arguments = comparison
    weights = folder / "runs" / "late-fusion-seed0" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = run(*arguments)
    assert again.code == 0 and weights.stat().st_mtime_ns == written
    assert "late-fusion, seed 0, train" not in again.err


def test_if_all_fail_the_exit_code_is_one(comparison, shop, tmp_path):
    mine = comparison[0].parent / "mine.py"
    arguments = ["compare", f"{mine}:MySystem", "--data", shop, "--target", "kind"]
    outcome = run(*arguments, "--budget", "2steps", "--out", tmp_path)
    assert outcome.code == 1
    assert "MySystem, seed 0, failed" in outcome.out
    assert (tmp_path / "report.html").exists()


# ---------------------------------------------------------------------- small parts


def test_settings_are_read_as_yaml_and_divided():
    pairs = ["encoder.image=hf:a/b", "width=192", "training.learning_rate=1e-3", "flag=true"]
    assert read_settings([*pairs, "names=[a, b]", "text=a: b: c"]) == (
        {
            "encoder.image": "hf:a/b", "width": 192, "flag": True, "names": ["a", "b"],
            "text": "a: b: c",
        },
        {"learning_rate": 0.001},
    )  # fmt: skip
    with pytest.raises(UserError, match="expected NAME=VALUE"):
        read_settings(["=3"])


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("products/", "products"),
        ("/data/my visits.csv", "my-visits"),
        ("playground:scenes?objects=2", "scenes"),
        ("hub:user/set:small", "small"),
        ("shards/train-*.tar", "train"),
        ("..", "data"),
    ],
)
def test_a_folder_is_called_after_its_data(where, name):
    assert short_name(where) == name


def _line(step, split="train", seconds=0.0, losses=None):
    losses = losses or {"contrast": 2.5}
    return {
        "step": step, "stage": "train", "split": split, "stage_step": step, "stage_steps": 100,
        "seconds": seconds, "losses": losses,
    }  # fmt: skip


def test_progress_says_how_fast_and_how_long(monkeypatch):
    err = io.StringIO()
    clock = iter([0.0, 0.0, 20.0, 20.0, 21.0])
    monkeypatch.setattr("sensorium.cli.progress.time.monotonic", lambda: next(clock))
    with contextlib.redirect_stderr(err), TrainingProgress() as progress:
        progress(_line(1, seconds=1.0), "mine, seed 0")
        progress(_line(21, seconds=6.0), "mine, seed 0")
        progress(_line(22, seconds=6.25), "mine, seed 0")  # too soon after the last one
        progress(_line(22, "validation", 7.0), "mine, seed 0")
    assert err.getvalue().splitlines() == [
        "mine, seed 0, train: step 1/100, loss 2.5",
        "mine, seed 0, train: step 21/100, loss 2.5, 4 steps/s, 20 s left",
        "mine, seed 0, train: step 22/100, validation loss 2.5",
    ]


def test_in_a_terminal_there_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    err = Terminal()
    with contextlib.redirect_stderr(err), TrainingProgress() as progress:
        progress(_line(1, seconds=1.0))
        progress(_line(51, seconds=11.0, losses={"words": 3.0, "match": 0.5}))
    text = err.getvalue()
    assert "51/100" in text and "words 3, match 0.5, 5 steps/s, 10 s left" in text
