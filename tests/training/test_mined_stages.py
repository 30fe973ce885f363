"""Stages that begin anew, with rows that have partners: chosen once, kept, and the same after a kill."""

import csv

import numpy as np
import pytest
import torch
from toy import Toy

from sensorium.data import open_data
from sensorium.data.partners import of_partner
from sensorium.training import checkpoints
from sensorium.training.run import train
from sensorium.training.trainer import Trainer
from sensorium.types import Stage

ROWS = 40


class Miner(Toy):
    """Each row's partner is the one that is as far from the end."""

    asked: list[dict] = []  # noqa: RUF012
    seen: list[tuple] = []  # noqa: RUF012

    name = "miner"
    partnered = ("table",)

    def stages(self):
        """One before, the one that mines, and one after."""
        common = {"batch_size": 8, "learning_rate": 0.05}
        return [
            Stage(name="first", **common),
            Stage(name="second", mines=True, restarts=True, **common),
            Stage(name="third", **common),
        ]

    def mine(self, data, seed, cache):
        """Notes with which weights, and in which mode, it was asked."""
        weights = {name: value.clone() for name, value in self.state_dict().items()}
        type(self).asked.append({"weights": weights, "training": self.training, "seed": seed})
        return np.arange(len(data))[::-1].copy()

    def losses(self, batch):
        """Notes what the rows are seen with."""
        name = of_partner("table")
        partner = batch[name].first(batch.size)[0].clone() if name in batch else None
        type(self).seen.append((self.stage, batch.index.clone(), partner, self.training))
        return super().losses(batch)


@pytest.fixture
def rows(tmp_path):
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "label", "split"])
        for number in range(ROWS):
            split = "validation" if number % 8 == 0 else "train"
            writer.writerow([number, number % 7, "xy"[number % 3 > 1], split])
    Miner.asked, Miner.seen = [], []
    return tmp_path / "rows.csv"


def run(rows, out, monkeypatch=None):
    began = {}
    if monkeypatch is not None:
        stage = Trainer._run_stage

        def noted(self, each, checkpoint):
            if checkpoint is None:
                began[each.name] = {n: v.clone() for n, v in self.system.state_dict().items()}
            stage(self, each, checkpoint)

        monkeypatch.setattr(Trainer, "_run_stage", noted)
    options = {"workers": 0, "checkpoint_every": 1e-6, "validate_every": 2}
    found = train(
        Miner, rows, out=out, target="label", budget="12steps", device="cpu", options=options
    )
    return found, began


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_stage_begins_anew_with_partners_that_the_one_before_has_chosen(
    rows, tmp_path, monkeypatch
):
    _, began = run(rows, tmp_path / "run", monkeypatch)
    (asked,) = Miner.asked  # once
    assert not asked["training"]
    assert not same(asked["weights"], began["first"])  # by what the first stage has learned
    assert same(began["second"], began["first"])  # which is then forgotten
    assert not same(began["third"], began["first"])  # as the second is not
    for stage, _, partner, _ in Miner.seen:
        assert (partner is not None) == (stage in ("second", "third")), stage
    assert {True, False} == {training for *_, training in Miner.seen}
    a = np.asarray(open_data(rows).columns(["a"], np.arange(ROWS))["a"])
    for _, index, partner, _ in Miner.seen:
        if partner is not None:
            seen = partner.reshape(len(index), -1)[:, 0]
            expected = a[ROWS - 1 - index.numpy()]  # which is scaled
            assert np.corrcoef(seen, expected)[0, 1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("deaths", [2, 5, 9])
def test_a_killed_run_goes_on_with_the_partners_it_had(rows, tmp_path, monkeypatch, deaths):
    whole, _ = run(rows, tmp_path / "whole")

    class Killed(Exception):
        pass

    saved, save = [], checkpoints.save_checkpoint

    def save_and_die(*args):
        save(*args)
        saved.append(args)
        if len(saved) == deaths:
            raise Killed

    monkeypatch.setattr(checkpoints, "save_checkpoint", save_and_die)
    with pytest.raises(Killed):
        run(rows, tmp_path / "killed")
    monkeypatch.setattr(checkpoints, "save_checkpoint", save)
    asked = len(Miner.asked)
    resumed, _ = run(rows, tmp_path / "killed")
    assert len(Miner.asked) - asked == (deaths <= 4)  # within a later stage, not again
    assert same(whole.system.state_dict(), resumed.system.state_dict())
