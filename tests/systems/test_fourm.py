"""4M: what is asked for is not seen, budgets, losses by hand, codes by mark."""

import dataclasses

import pytest
import torch
from fourm_rows import FIELDS, GRIDS, TOKENIZER, make, rows, texts_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sensorium.nn.token_streams import side_by_side
from sensorium.systems.masked.fourm import MASKED, TOKENIZE
from sensorium.systems.masked.fourm_sequences import BoxTokens
from sensorium.training.run import load, train
from sensorium.types import Field, Schema, UserError


def watched(system, batch):
    """Losses, what was read and asked for, and what the decoder said of it."""
    seen = {}
    encode, decode = system.model.encode, system.model.decode
    system.model.encode = lambda read, numbers: (
        seen.update(read=read, numbers=numbers) or encode(read, numbers)
    )

    def watch(asked, context, there):
        seen.update(asked=asked, context=context, states=decode(asked, context, there))
        return seen["states"]

    system.model.decode = watch
    try:
        with torch.no_grad():
            seen["losses"] = system.losses(batch)
            seen["chosen"] = system.choice.draw(batch)
    finally:
        system.model.encode, system.model.decode = encode, decode
    return seen


# ---------------------------------------------------------------------- fields as tokens


def test_tokens_say_all_that_fields_say():
    system, batch = make(), rows()
    for tokens in system.tokens:
        words = tokens.read(batch)
        assert words.real.any(1).all()
        assert int(words.ids[words.real].max()) < tokens.vocabulary
        again = tokens.restore(words.ids, words.real)
        name = tokens.field.name
        if name in GRIDS:
            expected = tokens.tokenizer.decode(tokens.tokenizer.encode(batch[name].values))
            assert torch.equal(again[name].values, expected)
        elif name == "caption":
            assert texts_of(again[name]) == texts_of(batch[name])
            assert torch.equal(
                again[name].values[:, : batch[name].mask.shape[1]][batch[name].mask],
                batch[name].values[batch[name].mask],
            )
        elif name == "boxes":
            assert (again[name].values - batch[name].values).abs().max() <= 0.5 / 8 + 1e-6
            for part in ("row", "item"):
                assert torch.equal(getattr(again[name], part), getattr(batch[name], part))
            assert torch.equal(again["things"].values, batch["things"].values)
        elif name == "visit":
            assert torch.equal(again[name].mask, batch[name].mask)
            away = (again[name].values - batch[name].values.clamp(-3, 3)).abs()
            assert away[:, 1].max() == 0 and away.max() <= 3 / 6 + 1e-6
        elif name == "price":
            assert (again[name].values - batch[name].values).abs().max() <= 3 * 0.5 / 6 + 1e-6
        else:
            assert torch.equal(again[name].values, batch[name].values)


def test_a_text_or_a_row_of_boxes_that_is_too_long_is_cut():
    system, batch = make(max_tokens=5, max_boxes=2), rows()
    of = {tokens.field.name: tokens for tokens in system.tokens}
    words = of["caption"].read(batch)
    assert words.ids.shape[1] == 5
    long = batch["caption"].mask.sum(1) - 2 >= 4
    assert long.any() and words.real[long].all()
    assert (words.ids[long, -1] == TOKENIZER.sep_id).all()
    boxes = of["boxes"].restore(*of["boxes"].read(batch)[:2])["boxes"]
    assert boxes.counts(6).tolist() == batch["boxes"].counts(6).clamp(max=2).tolist()


def test_a_class_that_is_not_known_is_no_token_and_one_of_a_box_is_its_own():
    system, batch = make(), rows()
    unseen = dataclasses.replace(batch["place"], values=torch.tensor([0, 3, 1, 3, 2, 0]))
    of = {tokens.field.name: tokens for tokens in system.tokens}
    real = of["place"].read(batch.with_fields(place=unseen)).real
    assert real[:, 0].tolist() == [True, False, True, False, True, True]
    without = batch.without("things")
    again = of["boxes"].restore(*of["boxes"].read(without)[:2])
    assert (again["things"].values == 3).all()


# ---------------------------------------------------------------------- what is read and asked for


def changed_where_not_read(system, batch, read):
    """The words of each field, others in all places of grids that are not read."""
    generator = torch.Generator().manual_seed(9)
    words = []
    for stream, tokens in enumerate(system.tokens):
        found = tokens.read(batch)
        if not tokens.is_sequence:
            shown = torch.zeros_like(found.real)
            at = (read.stream == stream) & read.real
            for row in range(batch.size):
                shown[row, read.place[row][at[row]]] = True
            other = torch.randint(0, tokens.vocabulary, found.ids.shape, generator=generator)
            found = found._replace(ids=torch.where(shown, found.ids, other))
        words.append(found)
    return words


def test_no_asked_token_reaches_the_decoder_but_by_what_stands_before_it(monkeypatch):
    system, batch = make(), rows(16)
    seen = watched(system, batch)
    words = changed_where_not_read(system, batch, seen["read"])
    for tokens, found in zip(system.tokens, words, strict=True):
        monkeypatch.setattr(tokens, "read", lambda _, found=found: found)
    again = watched(system, batch)
    torch.testing.assert_close(again["states"], seen["states"], rtol=0, atol=0)
    targets, others = seen["chosen"][2], again["chosen"][2]
    is_grid = torch.tensor([not t.is_sequence for t in system.tokens])
    hidden = seen["asked"].real & is_grid[seen["asked"].stream]
    assert (targets[hidden] != others[hidden]).float().mean() > 0.5


def test_words_that_are_cut_out_are_not_read():
    system = make(gives=("caption",), pictures_alone=0.0)
    batch = rows(64)
    read, asked, targets = system.choice.draw(batch)
    stream = FIELDS.index("caption")
    sentinel = system.tokens[stream].sentinel
    both = 0
    for row in range(64):
        kept = read.word[row][(read.stream[row] == stream) & read.real[row]]
        said = targets[row][asked.real[row]]
        whole = system.tokens[stream].read(batch)
        words = whole.ids[row][whole.real[row]].tolist()
        kept, said = [[w for w in part.tolist() if w < sentinel] for part in (kept, said)]
        both += bool(kept) and bool(said)
        for word in set(words):  # no more often together than in the text
            assert kept.count(word) + said.count(word) <= words.count(word)
    assert both > 4


def test_grids_are_read_and_asked_for_in_different_places():
    system = make(inputs=60, targets=60, pictures_alone=0.0)
    read, asked, _ = system.choice.draw(rows(40))
    together = 0
    for row in range(40):
        for stream in range(3):
            one, other = (
                p.place[row][(p.stream[row] == stream) & p.real[row]].tolist()
                for p in (read, asked)
            )
            assert len({*one, *other}) == len(one) + len(other)
            together += bool(one) and bool(other)
    assert together > 20


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 999))
def test_budgets_are_met_exactly_where_rows_have_enough(inputs, targets, alone, seed):
    system = make(inputs=inputs, targets=targets, pictures_alone=alone, alpha=0.5)
    batch = dataclasses.replace(rows(12, seed), seed=seed)
    words = [tokens.read(batch) for tokens in system.tokens]
    given_, wanted = system.choice.counts(batch, words)
    have = torch.stack([found.real.sum(1) for found in words], 1)
    sums = have.sum(1) + 16
    alone_ = (given_[:, :-1] == 0).all(1)
    met = given_.sum(1) == sums.clamp(max=inputs)
    assert (met | (alone_ & (given_[:, -1] == min(16, inputs)))).all()
    is_sequence = torch.tensor([tokens.is_sequence for tokens in system.tokens])
    left = torch.where(is_sequence, have + 2, have - given_[:, :-1])
    assert (wanted <= left).all()
    assert torch.equal(wanted.sum(1), left.sum(1).clamp(max=targets))
    read, asked, answers = system.choice.draw(batch)
    assert read.real.shape[1] <= inputs and asked.real.shape[1] <= targets
    for stream, tokens in enumerate(system.tokens):
        shown = ((read.stream == stream) & read.real).sum(1)
        hidden = ((asked.stream == stream) & asked.real).sum(1)
        if tokens.is_sequence:  # the first word is given, not asked for
            assert (shown <= given_[:, stream]).all()
            assert (hidden <= (wanted[:, stream] - 1).clamp(min=0)).all()
        else:
            assert torch.equal(shown, given_[:, stream])
            assert torch.equal(hidden, wanted[:, stream])
    assert answers.shape == asked.word.shape


def test_in_a_share_of_the_rows_pictures_are_read_alone():
    batch = rows(600)
    for share in (0.0, 0.5, 1.0):
        system = make(pictures_alone=share)
        read, _, _ = system.choice.draw(batch)
        alone = ((read.stream == len(FIELDS)) | ~read.real).all(1)
        assert alone.float().mean() == pytest.approx(share, abs=0.12)
    there = torch.arange(600) % 2 == 0
    partly = batch.with_fields(image=batch["image"].keep(there))
    read, _, _ = make(pictures_alone=1.0).choice.draw(partly)
    assert (read.stream[there][read.real[there]] == len(FIELDS)).all()
    assert (read.stream[~there][read.real[~there]] != len(FIELDS)).all()
    assert read.real[~there].any(1).all()


def test_positions_of_sequences_count_what_is_there():
    read, asked, _ = make(pictures_alone=0.0).choice.draw(rows(30))
    for picked in (read, asked):
        for stream in (FIELDS.index("caption"), FIELDS.index("boxes")):
            for row in range(30):
                here = picked.place[row][(picked.stream[row] == stream) & picked.real[row]]
                assert here.tolist() == list(range(len(here)))


def test_boxes_are_cut_out_whole():
    system = make(pictures_alone=0.0, gives=("boxes",), inputs=40, targets=40)
    stream = FIELDS.index("boxes")
    tokens = system.tokens[stream]
    assert isinstance(tokens, BoxTokens)
    read, _, _ = system.choice.draw(rows(60))
    seen = set()
    for row in range(60):
        words = read.word[row][(read.stream[row] == stream) & read.real[row]].tolist()
        words = [word for word in words if word < tokens.sentinel and word != tokens.end]
        assert len(words) % 5 == 0
        for place, word in enumerate(words):
            assert tokens.allowed[place % 5, word]
        seen.add(len(words) // 5)
    assert len(seen) > 2


def test_fields_may_be_read_or_given_only():
    system = make(reads=("depth", "caption"), gives=("image", "boxes"))
    read, asked, _ = system.choice.draw(rows(20))
    assert {system.words.names[s] for s in read.stream[read.real].tolist()} <= {"depth", "caption"}
    assert {system.words.names[s] for s in asked.stream[asked.real].tolist()} == {"image", "boxes"}
    assert set(watched(system, rows())["losses"]) == {"image", "boxes"}
    with pytest.raises(UserError, match="no field 'captoin' to be read. Did you mean 'caption'"):
        make(reads=("captoin",))
    only = Schema(fields=(Field(name="sound", modality="audio"),))
    with pytest.raises(UserError, match=r"fourm needs a field .* sound \(audio, input\)"):
        make(only)


# ---------------------------------------------------------------------- losses


def test_losses_are_means_over_the_asked_tokens_of_the_batch_divided_by_all_fields():
    system, batch = make(), rows(8).without("price")
    seen = watched(system, batch)
    _, asked, targets = seen["chosen"]
    assert set(seen["losses"]) == set(FIELDS)
    total = 0.0
    for stream, name in enumerate(FIELDS):
        each = []
        for row in range(8):
            for slot in range(asked.real.shape[1]):
                if asked.real[row, slot] and asked.stream[row, slot] == stream:
                    vectors = system.words[stream].said.weight
                    scores = vectors @ seen["states"][row, slot]
                    each.append(F.cross_entropy(scores, targets[row, slot]).item())
        loss = seen["losses"][name]
        assert float(loss.count) == len(each)
        assert loss.per_item.tolist() == pytest.approx(each, rel=1e-4)
        total += sum(each) / max(1, len(each)) / 8  # a field that is absent counts in the divisor
    found = sum(loss.weight * float(loss.value) for loss in seen["losses"].values())
    assert found == pytest.approx(total, rel=1e-5)
    assert len(seen["losses"]["price"].per_item) == 0


def test_each_word_is_asked_for_by_the_one_before_it():
    system = make(gives=("caption",), reads=("image",), targets=30)
    _, asked, targets = system.choice.draw(rows(10))
    tokens = system.tokens[1]
    words = tokens.read(rows(10))
    for row in range(10):  # nothing of it is read, so it is said as a whole between two sentinels
        real = asked.real[row]
        said = [*asked.word[row][real].tolist(), targets[row][real][-1].item()]
        whole = words.ids[row][words.real[row]].tolist()
        assert said == [tokens.sentinel, *whole, tokens.sentinel + 1]
        assert targets[row][real].tolist() == said[1:]


def test_a_row_alone_is_as_it_is_in_a_batch():
    system, batch = make(), rows(7)
    together = watched(system, batch)
    parts = [watched(system, batch.take(torch.tensor([row]))) for row in range(7)]
    for name in FIELDS:
        each = torch.cat([part["losses"][name].per_item for part in parts])
        torch.testing.assert_close(together["losses"][name].per_item, each, rtol=1e-4, atol=1e-5)


def test_tokenizers_learn_in_the_first_stage_and_never_again():
    system, batch = make(), rows()
    assert [stage.name for stage in system.stages()] == [TOKENIZE, MASKED]
    system.stage = TOKENIZE
    losses = system.train().losses(batch)
    assert set(losses) == {f"tokens of {name}" for name in GRIDS}
    sum(loss.value for loss in losses.values()).backward()
    assert all(p.grad is None for p in (*system.model.parameters(), *system.words.parameters()))
    system.zero_grad()
    system.stage = MASKED
    sum(loss.value for loss in system.losses(batch).values()).backward()
    assert all(p.grad is None for p in system.tokens.parameters())
    assert all(p.grad is not None for p in system.model.parameters())


# ---------------------------------------------------------------------- runs


WHERE = "playground:layers?train=48&validation=8&test=8&pictures=20&size=32"
RUN = {"task": "reconstruction", "device": "cpu"}
OPTIONS = {"batch_size": 16, "workers": 0, "validation_rows": 0}
OF_RUN = {"width": 24, "depth": 1, "heads": 2, "coding.image_size": 32, "coding.width": 16}
OF_RUN |= {"coding.depth": 1, "coding.heads": 2}


def tokenizer_run(out, field="depth", **changes):
    return train(
        "patch-tokenizer",
        WHERE,
        out=out,
        settings={"field": field, "image_size": 32, "width": 20, "depth": 1, "heads": 2, **changes},
        options=OPTIONS,
        budget="2steps",
        **RUN,
    )


def test_codes_of_another_run_are_taken_as_they_are(tmp_path):
    made = tokenizer_run(tmp_path / "depth", levels=(5, 5, 4))
    options = {"settings": OF_RUN | {"codes.depth": str(tmp_path / "depth")}, "options": OPTIONS}
    run = train("fourm", WHERE, out=tmp_path / "run", budget="4steps", **options, **RUN)
    place = run.system.tokens.names.index("depth")
    tokens = run.system.tokens[place]
    assert tokens.vocabulary == 100
    for name, value in made.system.state_dict().items():
        assert torch.equal(tokens.tokenizer.state_dict()[name], value)
    first = {line["stage"]: line["losses"] for line in run.folder.read_metrics()}[TOKENIZE]
    assert set(first) == {"tokens of image", "tokens of segments"}
    # the other run is no longer needed
    (tmp_path / "depth").rename(tmp_path / "elsewhere")
    again = load(tmp_path / "run", "cpu")
    for name, value in run.system.state_dict().items():
        assert torch.equal(again.system.state_dict()[name], value)


def test_a_model_and_tokenizers_of_different_runs_are_refused(tmp_path):
    common = {"options": OPTIONS, **RUN}
    first = train("fourm", WHERE, out=tmp_path / "one", settings=OF_RUN, budget="4steps", **common)
    # trained further, its tokenizers stay
    more = train(
        "fourm",
        WHERE,
        out=tmp_path / "more",
        settings=OF_RUN,
        budget="2steps",
        init=tmp_path / "one",
        **common,
    )
    assert {line["stage"] for line in more.folder.read_metrics()} == {MASKED}
    tokens = [n for n in first.system.state_dict() if n.startswith("tokens")]
    assert all(
        torch.equal(more.system.state_dict()[n], first.system.state_dict()[n]) for n in tokens
    )
    # codes of another tokenizer
    tokenizer_run(tmp_path / "depth", width=16)
    with pytest.raises(UserError, match="codes of 'depth' .* are those of another tokenizer"):
        train(
            "fourm",
            WHERE,
            out=tmp_path / "other",
            settings=OF_RUN | {"codes.depth": str(tmp_path / "depth")},
            budget="2steps",
            init=tmp_path / "one",
            **common,
        )
    # weights of a tokenizer that were put in by hand
    weights = first.system.state_dict() | {"tokens.1.tokenizer.from_code.bias": torch.ones(16)}
    with pytest.raises(UserError, match="another tokenizer"):
        make_like(first).load_state_dict(weights)


def make_like(run):
    return type(run.system)(run.system.config, run.system.schema, run.system.tokenizer)


def test_a_tokenizer_that_does_not_fit_is_named(tmp_path):
    def asked(path, out):
        train(
            "fourm",
            WHERE,
            out=tmp_path / out,
            settings=OF_RUN | {"codes.depth": str(path)},
            options=OPTIONS,
            budget="2steps",
            **RUN,
        )

    with pytest.raises(UserError, match="is not the folder of a finished run of patch-tokenizer"):
        asked(tmp_path / "nowhere", "a")
    tokenizer_run(tmp_path / "image", "image")
    with pytest.raises(UserError, match=r"codes\.depth: .* reads modality 'image', .* 'maps'"):
        asked(tmp_path / "image", "b")
    with pytest.raises(UserError, match="no field 'caption' to be read"):
        train(
            "fourm",
            WHERE,
            out=tmp_path / "c",
            settings={"codes.caption": str(tmp_path / "image")},
            budget="1steps",
            **RUN,
        )


def test_side_by_side_keeps_the_order_of_streams():
    read, _, _ = make(pictures_alone=0.0).choice.draw(rows(20))
    for row in range(20):
        streams = read.stream[row][read.real[row]].tolist()
        assert streams == sorted(streams)
    assert side_by_side([read], 3).real.shape[1] == 3
