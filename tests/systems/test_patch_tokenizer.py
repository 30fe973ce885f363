"""Patch tokenizers: codes say all that is restored, a codebook follows the run, one field at a time."""

import dataclasses

import pytest
import torch

from sensorium.data import open_data, read_batches
from sensorium.nn.patches import from_patches
from sensorium.nn.quantizers import usage
from sensorium.systems.baselines.patch_tokenizer import PatchTokenizer
from sensorium.training.run import load, train
from sensorium.types import UserError

WHERE = "playground:layers?train=64&validation=8&test=16&pictures=20&size=32"
SMALL = {"image_size": 32, "width": 32, "depth": 1, "heads": 2}
BOOK = {"quantizer": "codebook", "num_codes": 32, "code_width": 8}


def make(field, **settings):
    data = open_data(WHERE).fit()
    torch.manual_seed(0)
    config = PatchTokenizer.Config(**{**SMALL, "field": field, **settings})
    system = PatchTokenizer(config, data.schema).eval()
    (batch,) = read_batches(data, data.rows("train")[:8], system.views(), batch_size=8)
    return system, batch


@pytest.mark.parametrize("settings", [{}, BOOK], ids=["finite", "codebook"])
@pytest.mark.parametrize("field", ["image", "depth", "segments"])
@torch.no_grad()
def test_what_is_restored_is_what_codes_say(field, settings):
    system, batch = make(field, **settings)
    codes = system.encode(batch[field].values)
    assert codes.shape == (8, 16)
    assert codes.min() >= 0 and codes.max() < system.quantizer.num_codes
    restored = system.decode(codes)
    assert restored.shape == batch[field].values.shape
    assert restored.dtype == batch[field].values.dtype
    told = system.reconstruct(batch, [field])[field].values
    assert torch.equal(told, restored)
    other = codes.clone()
    other[:, 5] = (other[:, 5] + 1) % system.quantizer.num_codes
    assert not torch.equal(system.decode(other), restored)


@torch.no_grad()
def test_the_loss_is_that_of_all_pixels():
    system, batch = make("depth")
    values = batch["depth"].values
    told = from_patches(system.predicted(system.quantize(values).values), 8)
    (loss,) = system.losses(dataclasses.replace(batch, seed=3)).values()
    away = (told[..., 0] - (2 * values[..., 0] - 1)).abs() * values[..., 1]
    torch.testing.assert_close(loss.per_item, away.sum((1, 2)) / values[..., 1].sum((1, 2)))


def test_a_codebook_moves_with_the_run_and_is_kept(tmp_path):
    settings = {**SMALL, **BOOK, "field": "segments"}
    run = train(
        "patch-tokenizer",
        WHERE,
        out=tmp_path / "a",
        task="reconstruction",
        settings=settings,
        options={"workers": 0, "batch_size": 16},
        budget="3steps",
    )
    torch.manual_seed(0)
    before = PatchTokenizer(PatchTokenizer.Config(**settings), run.schema).quantizer.codes
    assert not torch.allclose(run.system.quantizer.codes, before)
    assert torch.equal(
        load(tmp_path / "a", "cpu").system.quantizer.codes, run.system.quantizer.codes
    )
    in_parts = train(
        "patch-tokenizer",
        WHERE,
        out=tmp_path / "b",
        task="reconstruction",
        settings=settings,
        options={"workers": 0, "batch_size": 16, "accumulate": 4},
        budget="3steps",
    )
    torch.testing.assert_close(
        in_parts.system.quantizer.codes, run.system.quantizer.codes, rtol=1e-3, atol=1e-4
    )
    metrics = run.evaluate().scores.metrics
    assert set(metrics) == {
        "skill",
        *(f"segments->segments/{n}" for n in ("mIoU", "accuracy", "skill")),
    }


def test_one_field_is_chosen():
    data = open_data(WHERE)
    with pytest.raises(UserError, match="image, depth, segments; choose one with --set field=NAME"):
        PatchTokenizer(PatchTokenizer.Config(), data.schema)
    with pytest.raises(UserError, match="needs a field of modality image or maps"):
        PatchTokenizer.check(data.schema.with_roles(dict.fromkeys(data.schema.names, "ignore")))


def test_usage_of_an_untrained_one_can_be_told():
    system, batch = make("image")
    with torch.no_grad():
        found = usage(system.encode(batch["image"].values), system.quantizer.num_codes)
    assert 0 < found.share <= 1
