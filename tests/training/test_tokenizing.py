"""Tokenizing: each content once, kept with the tokenizer that made the codes, and read in training."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import commands
from sensorium.systems.baselines.known_codes import FILE
from sensorium.systems.baselines.patch_tokenizer import PatchTokenizer
from sensorium.training.run import load, train
from sensorium.training.tokenizing import tokenize
from sensorium.types import UserError

CODING = {"image_size": 32, "width": 16, "depth": 1, "heads": 2}
ONCE = {"options": {"workers": 0, "batch_size": 8, "augment": False}, "task": "reconstruction"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures, of which two are one."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number in range(11):
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    Image.open(folder / "03.png").save(folder / "11.png")
    return folder


def tokenizer(pictures, out, seed=0, **settings):
    return train(
        "patch-tokenizer",
        pictures,
        out=out,
        settings=CODING | settings,
        budget="2steps",
        seed=seed,
        **ONCE,
    )


@pytest.fixture
def counted(monkeypatch):
    """How many pictures were tokenized."""
    numbers = []
    encode = PatchTokenizer.encode
    monkeypatch.setattr(
        PatchTokenizer, "encode", lambda self, v: (numbers.append(len(v)), encode(self, v))[1]
    )
    return numbers


def test_each_content_is_tokenized_once(pictures, tmp_path, counted):
    run = tokenizer(pictures, tmp_path / "run")
    field, contents, made = tokenize(run, pictures)
    assert (field, contents, made, sum(counted)) == ("image", 11, 11, 11)
    assert tokenize(run, pictures)[1:] == (11, 0)
    assert sum(counted) == 11
    random = np.random.default_rng(1)
    Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
        tmp_path / "other.png"
    )
    # an own copy of a picture that is known elsewhere is not tokenized again
    Image.open(pictures / "05.png").save(tmp_path / "copy.png")
    folder = tmp_path / "more"
    folder.mkdir()
    for name in ("other.png", "copy.png"):
        (tmp_path / name).rename(folder / name)
    assert tokenize(run, folder)[1:] == (2, 1)
    assert sum(counted) == 12
    kept = load_file(run.folder.path / FILE)
    assert kept["codes"].shape == (12, 16)


def test_codes_that_are_kept_are_those_that_would_be_made(pictures, tmp_path, counted):
    run = tokenizer(pictures, tmp_path / "run")
    settings = {"codes.image": str(run.folder.path), "width": 16, "depth": 1, "heads": 2}
    made = train(
        "fourm", pictures, out=tmp_path / "made", settings=settings, budget="3steps", **ONCE
    )
    assert sum(counted) > 0
    tokenize(run, pictures)
    counted.clear()
    read = train(
        "fourm", pictures, out=tmp_path / "read", settings=settings, budget="3steps", **ONCE
    )
    assert counted == []
    losses = [[line["losses"] for line in r.folder.read_metrics()] for r in (made, read)]
    assert losses[0] == losses[1]
    for name, value in made.system.state_dict().items():
        assert torch.equal(value, read.system.state_dict()[name])


def test_what_is_not_known_is_made(pictures, tmp_path, counted):
    run = tokenizer(pictures, tmp_path / "run")
    tokenize(run, pictures)
    settings = {"codes.image": str(run.folder.path), "width": 16, "depth": 1, "heads": 2}
    system = train(
        "fourm", pictures, out=tmp_path / "read", settings=settings, budget="1steps", **ONCE
    ).system
    counted.clear()
    (tokens,) = system.tokens
    values = torch.from_numpy(
        np.stack([np.asarray(Image.open(path)) for path in sorted(pictures.iterdir())[:4]])
    )
    values[1] = values[1].flip(1)  # as augmentation would
    codes = tokens._codes(values)
    assert counted == [1]
    assert torch.equal(codes, tokens.tokenizer.encode(values))


def test_codes_of_another_tokenizer_are_not_taken(pictures, tmp_path, counted):
    one, other = (tokenizer(pictures, tmp_path / f"run{k}", seed=k) for k in range(2))
    tokenize(one, pictures)
    (one.folder.path / FILE).rename(other.folder.path / FILE)
    counted.clear()
    assert tokenize(other, pictures)[1:] == (11, 11)
    assert sum(counted) == 11


def test_what_was_made_is_kept_if_it_is_stopped(pictures, tmp_path, monkeypatch):
    run = tokenizer(pictures, tmp_path / "run")
    monkeypatch.setattr("sensorium.training.tokenizing.ROWS_AT_ONCE", 4)
    encode, calls = PatchTokenizer.encode, []

    def stopped(self, values):
        calls.append(len(values))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, values)

    monkeypatch.setattr(PatchTokenizer, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        tokenize(run, pictures)
    assert tokenize(run, pictures)[1:] == (11, 3)


def test_mistakes_are_named(pictures, tmp_path):
    run = tokenizer(pictures, tmp_path / "run")
    settings = {"codes.image": str(run.folder.path), "width": 16, "depth": 1, "heads": 2}
    model = train(
        "fourm", pictures, out=tmp_path / "model", settings=settings, budget="1steps", **ONCE
    )
    with pytest.raises(UserError, match="'fourm' makes no codes of patches"):
        tokenize(model, pictures)
    (run.folder.path / FILE).write_bytes(b"{}")
    with pytest.raises(UserError, match="tokens.safetensors"):
        tokenize(run, pictures)
    with pytest.raises(UserError, match="tokens.safetensors cannot be read: .* tokenize anew"):
        train("fourm", pictures, out=tmp_path / "more", settings=settings, budget="1steps", **ONCE)
    # a file of something else has none of its codes
    save_file({"a": torch.zeros(1)}, run.folder.path / FILE)
    assert tokenize(load(run.folder.path), pictures)[1:] == (11, 11)


def test_as_a_command(pictures, tmp_path):
    run = tokenizer(pictures, tmp_path / "run")
    for made in (11, 0):
        outcome = commands.run("tokenize", run.folder.path, pictures, "--cache", tmp_path / "cache")
        assert outcome.code == 0
        said = outcome.out.replace("\n", " ")
        assert f"11 different values of 'image', of which codes were made of {made}" in said
        assert "--set codes.image=" in said
