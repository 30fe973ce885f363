"""Assistants: who sees whom, what is learned, what stays as it is, and that no answer is read before it is given."""

import io
import json

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import tokenizers
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTModel,
)

from commands import FAST
from commands import run as command
from sensorium.data import open_data, read_batches
from sensorium.modalities.text import Tokenizer
from sensorium.nn.joined import ANSWER
from sensorium.nn.language import Eviction, Generation, cache_policy
from sensorium.nn.masks import causal
from sensorium.systems.registry import get_system
from sensorium.tasks import get_task
from sensorium.training.optimizer import select_trained
from sensorium.training.run import load, train
from sensorium.training.talking import answer
from sensorium.types import Entries, Schema, Tokens, UserError, cat
from sensorium.types.names import number_of

QUESTIONS = "playground:questions?objects=2&pictures=30&train=64&validation=16&test=16&size=32"
DIALOGUES = "playground:dialogues?pictures=30&train=64&validation=16&test=16&size=32"
SMALL = {"width": 32, "encoder_width": 32, "image_size": 32, "depth": 4, "heads": 4}
NAMES = ("llava", "aki", "epalm")
MEDIA, QUESTION = number_of("media"), number_of("question")


def build(name, where=QUESTIONS, tokenizer=None, **settings):
    torch.manual_seed(0)
    system_class = get_system(name)
    sizes = {**SMALL, "first": 1, "last": 4} if name == "epalm" else SMALL
    config = system_class.Config.nano().override({**sizes, **settings})
    data = open_data(where)
    if data.schema.find(role="answer"):
        data = data.with_schema(get_task("vqa").assign(data.schema))
    data = data.with_schema(system_class.fields(config, data.schema)).fit()
    tokenizer = tokenizer or Tokenizer.train(data.texts(100), 500)
    system = system_class(config, data.schema, tokenizer).eval()
    # weights large enough that attention is no mere mean
    for parameter in system.model.language.parameters():
        parameter.data.mul_(2.0)
    (batch,) = read_batches(data, data.rows("train")[:6], system.views(), batch_size=6)
    return system, batch


def with_values(batch, name, change):
    """The batch with the values of a field changed in place."""
    entries = batch[name]
    values = entries.values.clone()
    change(values)
    return batch.with_fields(
        **{name: Entries(values, entries.row, entries.item, entries.mask, entries.embedded)}
    )


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_answer_is_not_read_before_it_is_given(name):
    system, batch = build(name)
    field = system.model.field.name

    def other_answer(values):
        is_answer = values[..., 1] == ANSWER
        values[..., 0] = torch.where(is_answer, (values[..., 0] + 5) % 400 + 10, values[..., 0])

    changed = with_values(batch, field, other_answer)
    asked = Generation(max_tokens=5)
    assert system.generate(batch, asked) == system.generate(changed, asked)
    assert torch.equal(system.predict(batch), system.predict(changed))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_is_seen_changes_what_is_said_and_its_absence_is_a_state(name):
    system, batch = build(name)
    seen = system.predict(batch)
    other = with_values(batch, "image", lambda values: values.copy_(255 - values))
    assert not torch.allclose(seen, system.predict(other), atol=1e-6)
    blind = system.predict(batch.without("image"))
    assert torch.isfinite(blind).all()
    # in a batch in which some see, the others answer as if alone
    some = batch.with_fields(image=batch["image"].keep(torch.arange(6) < 3))
    mixed = system.predict(some)
    assert torch.allclose(mixed[:3], seen[:3], atol=1e-5)
    assert torch.allclose(mixed[3:], blind[3:], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_words_of_the_answer_are_learned_and_none_of_the_padding(name):
    settings = {"answer_only": True} if name == "epalm" else {}
    system, batch = build(name, **settings)
    system.stage = system.stages()[-1].name
    (loss,) = system.losses(batch).values()
    said = batch[system.model.field.name]
    is_answer = (said.values[..., 1] == ANSWER) & said.mask
    assert len(loss.per_item) == int(is_answer.sum())
    assert loss.count == (6 if name == "epalm" else len(loss.per_item))
    # a question of other words is not what is learned, so its own likelihood does not count
    hand = []
    with torch.no_grad():
        choices = system.model.tokenizer.decode
        for row in range(6):
            ids = said.values[row, is_answer[row], 0]
            text = choices(ids).strip()
            one = batch.take(torch.tensor([row]))
            hand.append(-system.choose(one, [text]).item())
    assert loss.per_item.sum().item() == pytest.approx(sum(hand), rel=1e-4)


@pytest.mark.parametrize("calibration", ["none", "media"])
def test_packed_rows_have_the_same_loss_and_gradients(calibration):
    gradients = []
    for packed in (False, True):
        system, batch = build("llava", packed=packed, calibration=calibration)
        miscalibrate(system)
        system.stage = "tune"
        (loss,) = system.losses(batch).values()
        loss.value.backward()
        gradients.append([p.grad.clone() for p in system.parameters() if p.grad is not None])
        gradients[-1].append(loss.per_item.detach())
    for plain, packed in zip(*gradients, strict=True):
        assert torch.allclose(plain, packed, atol=1e-5)


def miscalibrate(system):
    """Scales and shifts that are not the identity, where there are any."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for vector in () if system.calibration is None else system.calibration.parameters():
            vector.add_(torch.randn(vector.shape, generator=generator))


@torch.no_grad()
def test_what_is_seen_is_calibrated_while_it_learns_and_while_it_answers():
    plain, batch = build("llava")
    system, _ = build("llava", calibration="media")
    system.stage = plain.stage = "tune"
    before = [each.losses(batch)["words"].per_item for each in (plain, system)]
    assert torch.equal(*before)  # it begins as the identity
    miscalibrate(system)
    assert not torch.allclose(system.losses(batch)["words"].per_item, before[0], atol=1e-3)
    assert not torch.allclose(system.predict(batch), plain.predict(batch), atol=1e-4)
    blind = batch.without("image")
    assert torch.equal(system.predict(blind), plain.predict(blind))  # text is left as it is
    everything, _ = build("llava", calibration="all")
    miscalibrate(everything)
    assert not torch.allclose(everything.predict(blind), plain.predict(blind), atol=1e-4)


def test_it_begins_with_the_eye_of_another_system(tmp_path):
    scenes = "playground:scenes?objects=2&pictures=30&train=64&validation=16&test=16&size=32"
    sizes = {"width": 32, "image_size": 32, "text_depth": 1}
    options = {"workers": 0, "batch_size": 16, "learning_rate": 1e-9}
    common = {"budget": "1steps", "options": options}
    start = train("dual-encoder", scenes, out=tmp_path / "dual", settings=sizes, **common)
    own = {"encoder_width": 32, "image_size": 32, "width": 32}
    found = train(
        "llava", QUESTIONS, out=tmp_path / "a", settings=own, init=tmp_path / "dual", **common
    )
    eye = start.system.query.encoder.state_dict()
    assert len(eye) > 10
    for name, value in found.system.media[0].state_dict().items():
        torch.testing.assert_close(value, eye[name], atol=1e-6, rtol=0)
    # words are its own: captions would have cut questions into letters
    assert len(found.system.tokenizer.encode_pieces(["where is"])[0][0]) == 2
    assert len(start.system.tokenizer.encode_pieces(["where is"])[0][0]) > 2
    again = train(
        "llava",
        scenes,
        out=tmp_path / "c",
        settings=own,
        init=tmp_path / "a",
        task="captioning",
        **common,
    )
    assert again.system.tokenizer.size == found.system.tokenizer.size
    # an eye of another depth is not taken in part
    own |= {"encoder_depth": 1}
    with pytest.raises(UserError, match="no encoder of the same field and size"):
        train(
            "llava", QUESTIONS, out=tmp_path / "b", settings=own, init=tmp_path / "dual", **common
        )


def test_calibration_is_trained_in_both_stages_that_see():
    system, _ = build("llava", calibration="media")
    own = {f"calibration.{name}" for name, _ in system.calibration.named_parameters()}
    language, align, tune = (set(select_trained(system, stage)) for stage in system.stages())
    assert not own & language and own <= align and own <= tune


@torch.no_grad()
def test_mutual_attention_opens_the_question_to_the_picture_and_nothing_else():
    system, batch = build("aki", where=DIALOGUES)
    tokens = system.model.read(batch)
    opened = system.model.rule.dense(tokens)[:, 0] & ~causal.dense(tokens)[:, 0]
    rows, queries, keys = opened.nonzero(as_tuple=True)
    part, turn = tokens.id("part"), tokens.id("turn")
    assert len(rows) > 0
    assert (part[rows, queries] == MEDIA).all()
    assert (part[rows, keys] == QUESTION).all()
    assert torch.equal(turn[rows, queries], turn[rows, keys])
    # every word of that question is open to every latent that stands before it
    for row in range(6):
        media = (part[row] == MEDIA).nonzero().flatten()
        asked = ((part[row] == QUESTION) & (turn[row] == turn[row, media[0]])).nonzero().flatten()
        later = asked[asked > media[-1]]
        assert opened[row][media][:, later].all()
    # no answer reaches a picture: a change of the answer leaves the states before it as they were
    is_answer = part == ANSWER
    moved = tokens.with_values(torch.where(is_answer[..., None], 9.0, tokens.values))
    first = is_answer.int().argmax(1)
    states = [system.model.language(t, system.model.rule).values for t in (tokens, moved)]
    for row in range(6):
        assert torch.equal(states[0][row, : first[row]], states[1][row, : first[row]])


@torch.no_grad()
def test_where_all_text_is_learned_the_mask_is_causal_since_words_would_know_their_future():
    system, batch = build("aki")
    model = system.model
    tokens = model.read(batch)
    is_question = (tokens.id("part") == QUESTION) & tokens.mask
    last = tokens.mask.shape[1] - 1 - is_question.flip(1).int().argmax(1)
    rows = torch.arange(6)
    moved = tokens.with_values(tokens.values.index_put((rows, last), torch.tensor(9.0)))
    is_question[rows, last] = False
    for rule, leaks in ((model.rule, True), (causal, False)):
        states = [model.language(t, rule).values[is_question] for t in (tokens, moved)]
        assert bool((states[0] - states[1]).abs().max() > 1e-4) == leaks
    found = {}
    for stage in ("align", "tune"):
        system.stage = stage
        (loss,) = system.losses(batch).values()
        found[stage] = loss.per_item
    is_text = tokens.mask & (tokens.id("modality") == number_of("text"))
    assert torch.equal(found["align"], model.next_word_losses(tokens, is_text, rule=causal))
    assert torch.equal(found["tune"], model.next_word_losses(tokens, model.answers(tokens)))


@torch.no_grad()
def test_perception_is_written_into_its_layers_only():
    system, batch = build("epalm", last=3, levels=2)
    tokens = system.prompt(batch)
    hooks = system.hooks(batch)
    places = len(system.media)
    garbage = tokens.with_values(torch.full_like(tokens.values, 3.0))
    for layer in range(4):
        entered = hooks.enter(layer, garbage).values
        written = not torch.equal(entered[:, :places], garbage.values[:, :places])
        assert written == (1 <= layer < 3)
        assert torch.equal(entered[:, places:], garbage.values[:, places:])
    # deeper layers get deeper levels, each in as many layers
    levels = [hooks.enter(layer, garbage).values[:, 0] for layer in (1, 2)]
    encoder, maps = system.media[0], system.maps[0]
    expected = encoder.each_level(batch["image"].values, None, 2)
    for found, level, linear in zip(levels, expected, maps, strict=True):
        assert torch.allclose(found, linear(level), atol=1e-6)
    # what the language model had made of the place makes no difference
    model = system.model
    before = model.language(tokens, model.rule, None, hooks).values[:, 1:]
    moved = tokens.with_values(torch.cat([tokens.values[:, :1] + 7, tokens.values[:, 1:]], 1))
    assert torch.allclose(before, model.language(moved, model.rule, None, hooks).values[:, 1:])


@torch.no_grad()
def test_perception_sees_itself_unless_the_release_is_followed():
    for sees, leaks in (("itself", False), ("all", True)):
        # one level in one layer, so that what it becomes there lives on
        system, batch = build("epalm", place_sees=sees, levels=1, first=1, last=2)
        tokens = system.augmented(batch, system.model.text_only(batch))
        last = tokens.mask.long().cumsum(1).argmax(1)
        rows = torch.arange(6)
        moved = tokens.with_values(tokens.values.index_put((rows, last), torch.tensor(9.0)))
        hooks = system.hooks(batch)
        states = [
            system.model.language(t, system.model.rule, None, hooks).values for t in (tokens, moved)
        ]
        changed = (states[0] - states[1]).abs().amax(2) > 1e-6
        changed[rows, last] = False
        assert bool((changed & tokens.mask).any()) == leaks
        # of the text, not even its first word, which stands at the same position
        first = (tokens.id("modality") == number_of("text")).int().argmax(1)
        moved = tokens.with_values(tokens.values.index_put((rows, first), torch.tensor(9.0)))
        after = system.model.language(moved, system.model.rule, None, hooks).values
        assert torch.equal(states[0][:, 0], after[:, 0]) != leaks


def test_two_models_stay_as_they_are_bit_for_bit_and_few_weights_are_trained():
    system, batch = build("epalm")
    stage = system.stages()[-1]
    trained = select_trained(system, stage)
    assert all(name.startswith(("maps.", "prompt")) for name in trained)
    before = {name: p.clone() for name, p in system.named_parameters() if name not in trained}
    system.stage = stage.name
    system.train()
    for name, parameter in system.named_parameters():
        parameter.requires_grad_(name in trained)
    optimizer = torch.optim.AdamW(trained.values(), 1e-2, weight_decay=0.1)
    (loss,) = system.losses(batch).values()
    loss.value.backward()
    assert all(parameter.grad is not None for parameter in trained.values())
    optimizer.step()
    for name, value in before.items():
        assert torch.equal(value, system.get_parameter(name)), name


@torch.no_grad()
def test_the_loss_of_epalm_is_a_sum_for_each_row_times_a_tenth():
    system, batch = build("epalm")
    system.stage = "connect"
    (whole,) = system.losses(batch).values()
    rows = [system.losses(batch.take(torch.tensor([row])))["words"] for row in range(6)]
    sums = torch.stack([row.per_item.sum() for row in rows])
    assert whole.weight == pytest.approx(0.1)
    assert whole.value.item() == pytest.approx(sums.mean().item(), rel=1e-4)


@pytest.mark.parametrize("name", [*NAMES, "calibrated"])
@torch.no_grad()
def test_with_a_cache_it_says_what_it_says_without(name):
    system, batch = build("llava", calibration="all") if name == "calibrated" else build(name)
    if name == "calibrated":
        miscalibrate(system)
    said = system.generate(batch, Generation(max_tokens=4))
    for row in range(3):
        one = batch.take(torch.tensor([row]))
        ids = []
        for _ in range(4):
            tokens = system.prompt(one)
            if ids:
                words = system.model.language.embed(torch.tensor([ids]))
                start = int(tokens.id("position").amax()) + 1
                extra = {
                    "position": torch.arange(start, start + len(ids))[None],
                    "part": torch.full((1, len(ids)), ANSWER),
                    "modality": torch.full((1, len(ids)), number_of("text")),
                    "turn": tokens.id("turn")[:, -1:].expand(1, len(ids)),
                }
                mask = torch.ones(1, len(ids), dtype=torch.bool)
                tokens = cat(tokens, Tokens(words, mask, extra)).replace(lengths=())
            states = system.model.language(
                tokens, system.model.rule, None, system.hooks(one)
            ).values
            word = int(system.model.language.logits(states[:, -1]).argmax())
            if word == system.model.tokenizer.end_id:
                break
            ids.append(word)
        assert system.model.tokenizer.decode(ids).lstrip() == said[row]


def test_lora_keeps_a_published_language_model(tmp_path):
    config = GPT2Config(vocab_size=600, n_embd=32, n_layer=4, n_head=4, n_positions=128)
    torch.manual_seed(1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for name in NAMES:
        system, batch = build(name, language=f"hf:{tmp_path}", lora=4)
        for stage in system.stages():
            trained = select_trained(system, stage)
            of_language = [key for key in trained if key.startswith("model.language.")]
            assert all(".lora_" in key for key in of_language), (name, stage.name)
        assert of_language
    system, batch = build("llava", language=f"hf:{tmp_path}", lora=4)
    trained = select_trained(system, system.stages()[-1])
    of_language = [name for name in trained if ".lora_" in name]
    system.stage = "tune"
    (loss,) = system.losses(batch).values()
    loss.value.backward()
    assert all(trained[name].grad is not None for name in of_language if ".lora_B." in name)


def test_a_small_cache_is_refused_where_layers_see_differently():
    system, batch = build("epalm")
    with pytest.raises(UserError, match="layers differ in who sees whom"):
        list(system.stream(batch, Generation(max_tokens=2), Eviction(cache_policy("look-m", 0.3))))


@torch.no_grad()
def test_candidates_that_change_are_not_those_of_the_batch_before():
    system, batch = build("llava")
    first, other = ["yes", "no"], ["left", "right", "above"]
    alone = [build("llava")[0].choose(batch, words) for words in (first, other)]
    assert torch.equal(system.choose(batch, first), alone[0])
    assert torch.equal(system.choose(batch, other), alone[1])
    assert torch.equal(system.choose(batch, first), alone[0])


def test_what_does_not_fit_is_said(tmp_path):
    with pytest.raises(UserError, match="first=5 and last=4"):
        build("epalm", first=5)
    with pytest.raises(UserError, match="lora"):
        build("llava", lora=4)
    with pytest.raises(UserError, match="no hf:NAME_OR_PATH|is not hf:NAME_OR_PATH"):
        build("llava", language="gpt2")
    only_image = Schema(fields=({"name": "image", "modality": "image"},))
    with pytest.raises(UserError, match="needs a conversation, or an answer"):
        get_system("llava").check(only_image)
    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=4, n_head=4, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="500 ids and the language model reads 40"):
        build("llava", language=f"hf:{tmp_path}")
    with pytest.raises(UserError, match="reads 16 at most"):
        system, batch = build("llava", max_tokens=16)
        system.generate(batch, Generation())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "llava"
    sizes = [f"--set={name}={value}" for name, value in SMALL.items()]
    done = command(
        "train", "llava", "--data", DIALOGUES, "--out", folder, "--budget", "6steps", *FAST, *sizes
    )
    assert done.code == 0, done.err
    assert "Trained: " in done.out and f"sensorium chat {folder}" in done.out
    picture = folder.parent / "a.png"
    PIL.Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(picture)
    return folder, picture


def test_a_trained_assistant_answers_on_the_command_line(trained):
    folder, picture = trained
    done = command("generate", folder, "--image", picture, "--text", "Is there a cat?")
    assert done.code == 0, done.err
    asked = [{"role": "user", "content": "<image>\nIs there a cat?"}]
    *_, said = answer(load(folder), asked, {"image": [picture]}, Generation())
    assert done.out.strip() == said.strip()
    small = ["--kv-cache", "look-m", "--kv-budget", "0.3"]
    done = command("generate", folder, "--image", picture, "--text", "Is there a cat?", *small)
    assert done.code == 0, done.err
    assert "look-m kept" in done.err
    done = command("generate", folder, "--text", "?", "--kv-cache", "lookm")
    assert done.code == 2
    assert "Did you mean 'look-m'?" in done.err


def test_rows_are_written_about_and_a_question_of_both_kinds_is_refused(trained, tmp_path):
    folder, picture = trained
    PIL.Image.open(picture).save(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "messages": [{"role": "user", "content": "<image> What?"}]},
        {"image": "a.png", "messages": [{"role": "user", "content": "And this?"}]},
        {"image": None, "messages": [{"role": "user", "content": "<image> And now?"}]},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "said.parquet"
    done = command("generate", folder, tmp_path / "rows.jsonl", "--out", out, "--max-tokens", "3")
    assert done.code == 0, done.err
    assert pq.read_table(out).num_rows == 3
    done = command("generate", folder, tmp_path / "rows.jsonl", "--text", "What?")
    assert done.code == 2
    assert "either rows to write about, or a question" in done.err


def test_captions_are_written_for_rows_with_much_else():
    system, _ = build(
        "llava", "playground:scenes?pictures=30&train=64&validation=16&test=16&size=32"
    )
    said = system.model.field
    assert said.options == {"user": "<image>\nDescribe it.", "assistant": "{caption}"}
    assert set(said.columns) == {"caption"}


def test_chat_goes_on_and_mistakes_do_not_end_it(trained, monkeypatch):
    folder, picture = trained
    lines = f"/image {picture}\nIs there a cat?\nAnd a dog?\n/image nowhere.png\n/wrong\n/new\nHello\n/quit\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    done = command("chat", folder, "--max-tokens", "4")
    assert done.code == 0, done.err
    assert "nowhere.png: no such file" in done.err
    assert "no command /wrong" in done.err
    assert done.out.count("\n") == 3


def test_questions_about_pictures_that_are_not_there_are_refused(trained):
    folder, picture = trained
    done = command("generate", folder, "--text", "<image> or <image>?", "--image", picture)
    assert done.code == 2
    assert "2 placeholders <image>, but the row has 1" in done.err
    done = command("generate", folder, "--text", "What does <picture> show?")
    assert done.code == 2
    assert "<picture>" in done.err
    assert "Did you mean 'image'?" in done.err
    done = command("generate", folder, "--audio", picture, "--text", "What?")
    assert done.code == 2
    assert "reads no fields of modality audio" in done.err
    assert json.loads((folder / "run.json").read_text())["system"] == "llava"


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def published(tmp_path):
    """A language model with a chat tokenizer and a vision tower, in the hub's layout."""
    questions = [f"Is there a {name}?" for name in ("cat", "dog", "heart", "star", "tree")]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(questions, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", chat_template=CHATML
    )
    language, eyes = tmp_path / "language", tmp_path / "eyes"
    tokenizer.save_pretrained(language)
    torch.manual_seed(2)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
        )
    ).save_pretrained(language)
    ViTModel(
        ViTConfig(
            hidden_size=24,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=48,
            image_size=32,
            patch_size=16,
        ),
        add_pooling_layer=False,
    ).save_pretrained(eyes)
    settings = {
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "image_processor_type": "ViTImageProcessor",
    }
    (eyes / "preprocessor_config.json").write_text(json.dumps(settings))
    return {"language": f"hf:{language}", "encoder.image": f"hf:{eyes}"}


@pytest.mark.parametrize("name", NAMES)
def test_published_models_are_joined_trained_and_read_back(name, published, tmp_path):
    settings = published | ({"first": 1, "last": 4} if name == "epalm" else {})
    run = train(
        name,
        QUESTIONS,
        out=tmp_path / "run",
        settings=settings,
        options={"batch_size": 8, "workers": 0, "validation_rows": 8},
        budget="4steps",
    )
    assert [stage.name for stage in run.system.stages()][-1] in ("tune", "connect")
    # the encoder is kept bit for bit; so is the language model of eP-ALM
    fresh = get_system(name)(run.system.config, run.system.schema, run.system.tokenizer)
    kept = dict(fresh.media.named_parameters())
    if name == "epalm":
        kept |= dict(fresh.model.named_parameters())
    mine = dict(run.system.media.named_parameters()) | dict(run.system.model.named_parameters())
    for key, value in kept.items():
        if "pooler" in key:  # not in the files, nor used
            continue
        assert torch.equal(value, mine[key]), key
    asked = [{"role": "user", "content": "Is there a cat?"}]
    picture = np.full((40, 40, 3), 9, np.uint8)
    one, other = (
        list(answer(found, asked, {"image": [picture]}, Generation(max_tokens=4)))
        for found in (run, load(tmp_path / "run"))
    )
    assert one == other


def test_the_chat_template_of_a_published_model_is_followed(published):
    tokenizer = Tokenizer.from_hub(published["language"][3:])
    system, batch = build("llava", tokenizer=tokenizer, **published)
    field = system.model.field.name
    words = batch[field].values[0]
    text = system.model.tokenizer
    is_answer = (words[:, 1] == ANSWER) & batch[field].mask[0]
    assert words[is_answer, 0][-1] == text.end_id
    theirs = PreTrainedTokenizerFast.from_pretrained(published["language"][3:])
    row = open_data(QUESTIONS).raw(["question", "answer"], np.asarray([0]))
    turns = [
        {"role": "user", "content": f"\n{row['question'][0]}"},
        {"role": "assistant", "content": row["answer"][0]},
    ]
    expected = theirs.apply_chat_template(turns, return_dict=False)
    real = words[batch[field].mask[0], 0]
    start = (real < 0).nonzero().flatten()
    assert len(start) == 1
    assert theirs.decode(real[real >= 0]) == theirs.decode(expected)
