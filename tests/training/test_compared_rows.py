"""Losses that compare rows: micro-batches and processes see the negatives of the whole batch."""

import subprocess
import sys

import pytest
import torch

from sensorium.data import open_data
from sensorium.training.run import load, train

DATA = "playground:scenes?train=64&validation=8&test=8&pictures=12"
SMALL = {"width": 16, "depth": 1, "text_depth": 1, "heads": 2, "embed_dim": 8, "image_size": 32}
MISSING = ("caption:0.2",)  # so that micro-batches hold other numbers of pairs


def run(out, settings=None, **options):
    return train(
        "dual-encoder",
        open_data(DATA, missing=MISSING),
        out=out,
        budget="10steps",
        settings={**SMALL, **(settings or {})},
        options={"batch_size": 24, "workers": 0, "log_every": 1, "validation_rows": 0, **options},
        device="cpu",
    )


def assert_close(a, b):
    lines = [
        [line["losses"] for line in r.folder.read_metrics() if line["split"] == "train"]
        for r in (a, b)
    ]
    assert len(lines[0]) == 10
    for left, right in zip(*lines, strict=True):
        assert left == pytest.approx(right, abs=2e-5)
    for name, value in a.system.state_dict().items():
        torch.testing.assert_close(value, b.system.state_dict()[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_micro_batches_have_the_negatives_of_the_whole_batch(tmp_path, loss):
    whole = run(tmp_path / "a", {"loss": loss})
    assert_close(whole, run(tmp_path / "b", {"loss": loss}, accumulate=3))


def test_draws_by_row_make_parts_equal_the_whole_for_other_losses_too(tmp_path):
    """Late fusion hides fields at random: the same ones, whatever micro-batch a row is in."""
    runs = [
        train(
            "late-fusion",
            "playground:attributes?train=64&validation=8&test=8",
            out=tmp_path / str(accumulate),
            budget="10steps",
            settings={"width": 16, "depth": 1, "heads": 2, "dropout": 0.0, "modality_dropout": 0.3},
            options={
                "batch_size": 24,
                "workers": 0,
                "log_every": 1,
                "validation_rows": 0,
                "accumulate": accumulate,
            },
            device="cpu",
        )
        for accumulate in (1, 2)
    ]
    assert_close(*runs)


def test_dropout_is_the_same_in_both_passes(tmp_path, monkeypatch):
    """Else the cached gradients belong to other embeddings than those they are applied to."""
    from sensorium.systems.baselines.dual_encoder import DualEncoder

    seen = []
    plain = DualEncoder.embeddings

    def noisy(self, batch):
        found = plain(self, batch)
        found["query"] = torch.nn.functional.dropout(found["query"], 0.5, self.training)
        seen.append(found["query"].detach())
        return found

    monkeypatch.setattr(DualEncoder, "embeddings", noisy)
    monkeypatch.setattr("sensorium.training.trainer.MOST_PROBE_STEPS", 0)
    run(tmp_path / "a", accumulate=2)
    last = seen[-4:]  # two micro-batches, twice
    assert torch.equal(last[0], last[2])
    assert torch.equal(last[1], last[3])
    assert not torch.equal(last[0] == 0, last[1] == 0)


def test_two_processes_with_micro_batches_give_the_run_of_one(tmp_path):
    whole = run(tmp_path / "one")
    script = tmp_path / "go.py"
    script.write_text(
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "from sensorium.data import open_data\n"
        "from sensorium.training.run import train\n"
        f"train('dual-encoder', open_data({DATA!r}, missing={MISSING!r}),"
        f" out={str(tmp_path / 'two')!r}, budget='10steps', settings={SMALL!r}, device='cpu',"
        " options={'batch_size': 24, 'workers': 0, 'log_every': 1, 'validation_rows': 0,"
        " 'accumulate': 2})\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run([*launch, str(script)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_close(whole, load(tmp_path / "two", "cpu"))
