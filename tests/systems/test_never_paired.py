"""LanguageBind: modalities that never stood in one row find each other, through language alone."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sensorium.modalities.base import get_modality
from sensorium.modalities.text import Tokenizer
from sensorium.systems.alignment.languagebind import LanguageBind
from sensorium.training.optimizer import build_optimizer, select_trained
from sensorium.types import Batch, Entries, Field, Schema

NAMES = ("oak", "fern", "moss", "reed", "lily", "rose", "pine", "palm")
SIZE, BATCH = 32, 16
SCHEMA = Schema(
    fields=(
        Field(name="picture", modality="image"),
        Field(name="depth", modality="maps", options={"range": [0, 1]}),
        Field(name="heat", modality="maps", options={"range": [0, 1]}),
        Field(name="words", modality="text"),
    )
)
STEPS = {"picture": 80, "depth": 150, "heat": 150}


def pattern(name, kind, random):
    """What a field shows of a kind: squares of its own, which no two fields have in common."""
    squares = np.random.default_rng([kind, ord(name[0])]).random((4, 4))
    grid = np.kron(squares > 0.5, np.ones((SIZE // 4, SIZE // 4)))
    return np.clip(0.1 + 0.8 * grid + random.normal(0, 0.05, grid.shape), 0, 1)


def make():
    torch.manual_seed(0)
    config = LanguageBind.Config(
        width=32, depth=2, heads=2, text_depth=1, embed_dim=16, image_size=SIZE, patch_dropout=0.0
    )
    fields = [field.replace(fitted=get_modality(field.modality).fit(field, [])) for field in SCHEMA]
    tokenizer = Tokenizer.train([f"a {name}" for name in NAMES], 300)
    return LanguageBind(config, Schema(fields=tuple(fields)), tokenizer)


def rows(system, name, kinds, words, random):
    """Rows of one field beside language, and of nothing else.

    Args:
        name: of the field.
        kinds: what it shows in each row.
        words: the kind that the text of each row names.
        random: noise.
    """
    values = {"words": [f"a {NAMES[kind]}" for kind in words]}
    shown = [pattern(name, kind, random) for kind in kinds]
    if name == "picture":
        values[name] = [np.stack([(255 * x).astype(np.uint8)] * 3, 2) for x in shown]
    else:
        values[name] = [x.astype(np.float32) for x in shown]
    at, fields = torch.arange(len(kinds)), {}
    for field in (system.schema[name], system.schema["words"]):
        modality, view = get_modality(field.modality), system.views()[field.name]
        decoded = [modality.decode(value, field, view) for value in values[field.name]]
        tensor, mask = modality.collate(decoded, field, view)
        fields[field.name] = Entries(tensor, at, torch.zeros_like(at), mask)
    return Batch(fields, [str(row) for row in at.tolist()], at, seed=0)


def learn(system, stage, random, shuffled=False):
    """One stage; where it is shuffled, texts are those of other rows."""
    system.stage = stage.name
    optimizer = build_optimizer(select_trained(system, stage), stage)
    system.train()
    for _ in range(STEPS[stage.name]):
        kinds = random.integers(0, len(NAMES), BATCH)
        words = random.permutation(kinds) if shuffled else kinds
        loss = system(rows(system, stage.name, kinds, words, random))[stage.name]
        optimizer.zero_grad()
        loss.value.mean().backward()
        optimizer.step()
    system.eval()


def transfer(system, query, target):
    """How often the nearest of one entry of each kind is that of the same kind."""
    random, found = np.random.default_rng(1), {}
    kinds = np.arange(len(NAMES)).repeat(4)
    with torch.no_grad():
        for name in (query, target):
            vectors = system.embed(rows(system, name, kinds, kinds, random), name)
            found[name] = vectors
        pool = F.normalize(found[target].unflatten(0, (len(NAMES), 4)).mean(1), dim=1)
        nearest = (found[query] @ pool.T).argmax(1)
    return float((nearest == torch.from_numpy(kinds)).float().mean())


@pytest.fixture(scope="module")
def systems():
    """One in which depth and heat were bound to their texts, and one in which to those of others."""
    bound, random = make(), np.random.default_rng(0)
    first, *others = bound.stages()
    learn(bound, first, random)
    control = copy.deepcopy(bound)
    for system in (bound, control):
        for stage in others:
            learn(system, stage, random, shuffled=system is control)
    return bound, control


@pytest.mark.parametrize(("query", "target"), [("depth", "heat"), ("heat", "depth")])
def test_what_never_met_finds_each_other_and_not_where_texts_were_shuffled(systems, query, target):
    bound, control = (transfer(system, query, target) for system in systems)
    assert bound > 0.7 and control < 0.4, (bound, control)


def test_each_modality_is_told_by_names_that_it_was_trained_with(systems):
    """Classes by their names, of which no label was seen; not so where texts were shuffled."""
    found = []
    for system in systems:
        kinds, random = np.arange(len(NAMES)).repeat(4), np.random.default_rng(2)
        with torch.no_grad():
            batch = rows(system, "depth", kinds, kinds, random)
            names = system.embed(batch, "words")[::4]
            nearest = (system.embed(batch, "depth") @ names.T).argmax(1)
        found.append(float((nearest == torch.from_numpy(kinds)).float().mean()))
    assert found[0] > 0.9 and found[1] < 0.5, found


def test_the_space_of_pictures_and_language_stays_as_stage_1_left_it(systems):
    """Bitwise, whatever was bound to it: right texts or wrong ones."""
    ours, control = (system.state_dict() for system in systems)
    shared = [name for name in ours if name.startswith("space.")]
    assert shared
    for name in shared:
        assert torch.equal(ours[name], control[name]), name
    assert any(not torch.equal(ours[name], control[name]) for name in ours)
