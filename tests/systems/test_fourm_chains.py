"""4M, asked: any field from any others, one after another, and how likely a field is."""

import dataclasses

import pytest
import torch
from fourm_rows import FIELDS, make, rows, texts_of

from sensorium.nn import token_generation
from sensorium.nn.token_generation import Filling
from sensorium.nn.token_streams import Picked, side_by_side
from sensorium.types import UserError

# ---------------------------------------------------------------------- fields from others


def test_what_is_said_depends_on_seed_and_row_alone():
    system, batch = make(), rows(5)
    shown = batch.only("depth", "place")
    how = Filling(temperature=1.0, steps=4, seed=7)
    one = system.chain(shown, ["caption", "image", "boxes"], how)
    assert texts_of(one["caption"]) == texts_of(system.chain(shown, ["caption"], how)["caption"])
    again = system.chain(shown, ["caption", "image", "boxes"], how)
    other = system.chain(shown, ["caption", "image", "boxes"], how.model_copy(update={"seed": 8}))
    for name, entries in one.items():
        assert torch.equal(entries.values, again[name].values)
    assert not torch.equal(one["image"].values, other["image"].values)
    row = system.chain(shown.take(torch.tensor([3])), ["caption", "image"], how)
    assert texts_of(row["caption"])[0] == texts_of(one["caption"])[3]
    assert torch.equal(row["image"].values[0], one["image"].values[3])


def test_tokens_that_are_kept_stay_and_nothing_else_of_the_field_is_read():
    system, batch = make(), rows(5)
    keep = torch.rand(5, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    codes = []
    tokens = system.tokens[0]
    tokens.restore, whole = lambda ids, real: codes.append(ids) or {}, tokens.restore
    how = Filling(steps=3)
    system.chain(batch, ["image"], how, {"image": keep})
    first = tokens.read(batch).ids
    assert torch.equal(codes[0][keep], first[keep])
    assert (codes[0][~keep] != first[~keep]).any()
    # what is not kept may be anything
    pixels = keep.view(5, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)[..., None]
    read = tokens.read
    tokens.read = lambda b: read(b)._replace(ids=torch.where(keep, first, 0))
    changed = torch.where(pixels, batch["image"].values, 0)
    edited = batch.with_fields(image=dataclasses.replace(batch["image"], values=changed))
    system.chain(edited, ["image"], how, {"image": keep})
    assert torch.equal(codes[1], codes[0])
    tokens.restore = whole


def test_a_field_that_rows_have_is_given_back():
    system, batch = make(), rows(6)
    there = torch.tensor([True, False, True, True, False, True])
    partly = batch.with_fields(caption=batch["caption"].keep(there))
    told = system.reconstruct(partly, ["caption", "depth"])
    texts, true = texts_of(told["caption"]), texts_of(batch["caption"])
    assert [texts[row] for row in (0, 2, 3, 5)] == [true[row] for row in (0, 2, 3, 5)]
    codes = system.tokens[1].read(batch).ids
    assert torch.equal(told["depth"].values, system.tokens[1].tokenizer.decode(codes))
    assert told["depth"].values.dtype == batch["depth"].values.dtype


def test_fields_that_are_reconstructed_together_are_not_read_for_each_other():
    system, shown = make(filling={"steps": 2}), rows(6).only("place")
    names = ["depth", "segments", "image"]
    together = system.reconstruct(shown, names)
    for name in names:
        assert torch.equal(together[name].values, system.reconstruct(shown, [name])[name].values)
    chained = system.chain(shown, names, system.config.filling)
    assert not torch.equal(chained["image"].values, together["image"].values)


def test_what_rows_have_is_read_once_for_all_fields_that_are_reconstructed():
    system, shown = make(filling={"steps": 1}), rows(3).only("image", "place")
    calls, read = [], system.tokens[0].read
    system.tokens[0].read = lambda batch: calls.append(1) or read(batch)
    system.reconstruct(shown, ["depth", "segments", "caption"])
    assert len(calls) == 1


def test_fields_of_a_chain_are_read_for_those_after_them():
    system, batch = make(), rows(4)
    shown = batch.only("place")
    how = Filling(steps=2)
    seen = []
    encode = system.model.encode
    system.model.encode = lambda read, numbers: seen.append(read) or encode(read, numbers)
    system.chain(shown, ["depth", "caption", "segments"], how)
    streams = [set(read.stream[read.real].tolist()) for read in seen]
    names = [{(*FIELDS, "patches")[s] for s in found} for found in streams]
    assert names == [
        {"place"},
        {"place", "depth"},  # the first half of it
        {"place", "depth"},
        {"place", "depth", "caption"},
        {"place", "depth", "caption", "segments"},
    ]
    assert int(((seen[1].stream == 1) & seen[1].real).sum()) == 4 * 8


def test_a_picture_is_read_as_patches_alone():
    system, batch = make(), rows(4)
    seen = []
    encode = system.model.encode
    system.model.encode = lambda read, numbers: seen.append(read) or encode(read, numbers)
    system.chain(batch.only("image"), ["caption"], Filling())
    assert set(seen[0].stream[seen[0].real].tolist()) == {len(FIELDS)}


def test_guidance_multiplies_what_a_field_changes(monkeypatch):
    system, batch = make(), rows(4)
    shown = batch.only("depth", "caption", "place")
    scores, found = {}, []
    choose = token_generation.choose_words
    monkeypatch.setattr(
        token_generation, "choose_words", lambda s, *a, **k: found.append(s) or choose(s, *a, **k)
    )

    def said(key, given, **how):
        found.clear()
        system.chain(given, ["segments"], Filling(steps=1, **how))
        scores[key] = found[0]

    said("all", shown)
    said("one", shown, guidance={"caption": 1.0})
    said("three", shown, guidance={"caption": 3.0})
    said("none", shown, guidance={"caption": 0.0})
    said("without", shown.without("caption"))
    torch.testing.assert_close(scores["one"], scores["all"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores["none"], scores["without"], rtol=1e-4, atol=1e-5)
    expected = scores["without"] + 3 * (scores["all"] - scores["without"])
    torch.testing.assert_close(scores["three"], expected, rtol=1e-3, atol=1e-4)
    said("both", shown, guidance={"caption": 2.0, "depth": -1.0})
    said("caption", shown.without("depth"))
    said("depth", shown.without("caption"))
    said("neither", shown.without("caption", "depth"))
    base = scores["neither"]
    expected = base + 2 * (scores["caption"] - base) - (scores["depth"] - base)
    torch.testing.assert_close(scores["both"], expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="guidance: 'captoin' is not read"):
        system.chain(shown, ["segments"], Filling(guidance={"captoin": 2.0}))
    with pytest.raises(UserError, match="does not predict 'segment'. Did you mean 'segments'"):
        system.chain(shown, ["segment"], Filling())


def test_rows_of_which_nothing_is_known_get_all():
    system, batch = make(), rows(3)
    told = system.chain(batch.only(), list(FIELDS), Filling(temperature=1.0, steps=3))
    assert set(told) == {*FIELDS, "things"}
    for name in ("image", "depth", "segments"):
        assert told[name].values.shape == batch[name].values.shape
    boxes = told["boxes"].values
    assert (boxes[:, :2] < boxes[:, 2:]).all() and boxes.min() >= 0 and boxes.max() <= 1
    assert len(told["things"]) == len(boxes)


# ---------------------------------------------------------------------- how likely a field is


@pytest.mark.parametrize("name", ["depth", "caption", "place"])
def test_a_field_is_as_likely_as_its_tokens_whatever_else_it_holds(name):
    system, batch = make(), rows()
    stream = FIELDS.index(name)
    found = system.chains.log_likelihood(batch, name)
    row = torch.tensor([2])
    one = batch.take(row)
    words = system.tokens[stream].read(one)
    true, real = words.ids[0], words.real[0]
    read, _ = system.chains._known(one.without(name), {})
    seen = side_by_side(read)
    context = system.model.encode(seen, system.streams.numbers(one))
    said = torch.cat([torch.tensor([getattr(system.tokens[stream], "sentinel", 0)]), true[:-1]])
    asked = Picked.of(stream, said[real][None], real[real][None])
    with torch.no_grad():
        scores = system.model.scores(stream, system.model.decode(asked, context, seen.real))
    each = [scores[0, k].log_softmax(0)[true[real][k]] for k in range(int(real.sum()))]
    assert found[2].item() == pytest.approx(torch.stack(each).mean().item(), abs=1e-4)
    assert system.chains.log_likelihood(batch.without(name), name).isnan().all()


def test_the_kept_half_of_a_picture_is_read_and_the_other_asked_for(monkeypatch):
    system, batch = make(gives=("image",), reads=("image",)), rows()
    half = (torch.arange(16) < 8).expand(6, -1)
    tokens, decode, states = system.streams.of("image"), system.model.decode, []
    words = tokens.read(batch)

    def watch(*given):
        states.append(decode(*given))
        return states[-1]

    monkeypatch.setattr(system.model, "decode", watch)
    found = []
    for upper, lower in ((0, 0), (0, 1), (1, 0)):  # the codes of which other row stand in each half
        ids = torch.where(half, words.ids.roll(upper, 0), words.ids.roll(lower, 0))
        monkeypatch.setattr(tokens, "read", lambda _, ids=ids: words._replace(ids=ids))
        found.append(system.chains.log_likelihood(batch, "image", {"image": half}))
    torch.testing.assert_close(states[0][:, 8:], states[1][:, 8:], rtol=0, atol=0)
    assert not torch.allclose(states[0][:, 8:], states[2][:, 8:])
    assert not torch.allclose(found[0], found[1])


# ---------------------------------------------------------------------- cells of tables


def test_cells_that_are_empty_are_filled_with_words_of_their_column_and_the_others_stay():
    system, batch = make(number_bins=5), rows(6)
    stream = FIELDS.index("visit")
    tokens = system.tokens[stream]
    # 5 bins, three classes with the unknown one, 5 bins
    assert (tokens.length, tokens.vocabulary) == (3, 13)
    with torch.no_grad():  # a model that would say a word of another column everywhere
        system.words[stream].said.weight.zero_()
        system.words[stream].said.weight[12] = 50 * torch.ones(24)
        system.model.decoder_norm.weight.fill_(1.0)
    said = system.chain(batch, ["visit"], Filling(steps=2))["visit"]
    assert said.mask.all()
    filled = batch["visit"].mask
    assert not filled.all()
    words = tokens.read(batch.with_fields(visit=said)).ids
    ranges = torch.tensor([[0, 5], [5, 8], [8, 13]])
    assert ((words >= ranges[:, 0]) & (words < ranges[:, 1])).all()
    assert torch.equal(words[filled], tokens.read(batch).ids[filled])
