"""Conversations: who says what, which tokens are whose, and what stands for which picture."""

import csv
import json
import pickle

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sensorium.data import open_data
from sensorium.data.decoding import collate, decode_rows
from sensorium.data.missing import parse_missing
from sensorium.modalities.base import get_modality
from sensorium.modalities.chat import Chat
from sensorium.modalities.conversation import Conversation, ConversationView
from sensorium.modalities.text import Tokenizer
from sensorium.types import BadValue, Field, Schema, UserError
from sensorium.types.names import number_of

FIELD = Field(name="talk", modality="conversation")
IMAGE = Field(name="image", modality="image")
TALK = get_modality("conversation")
PROMPT, QUESTION, ANSWER = map(number_of, ("prompt", "question", "answer"))

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Mistral's: no generation prompt, and the text of an answer begins with a blank.
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]{% else %} {{ message['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
# As Vicuna's: the generation prompt ends with a blank that its own answers do not repeat.
SPACED = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "USER: {{ message['content'] }} {% else %}ASSISTANT: {{ message['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
TEXTS = [
    "user assistant system is there any cat? yes no 7 12 what is left of the red dog?",
    "User: what colour is it? Assistant: blue USER: ASSISTANT: [INST] [/INST]",
    "eine rote Katze, 红色的猫在蓝色的狗左边",
] * 10
TURNS = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "<image>\nIs there any cat?"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "user"},
    {"role": "assistant", "content": "7"},
]


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
BLANKS = pre_tokenizers.Metaspace()


def published(folder, template, pre_tokenizer=BYTES, end="<|im_end|>"):
    """A byte-level tokenizer of the hub's layout, with the specials of ChatML and a template."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    specials = ["<s>", "<|end|>", "<|im_start|>", end]
    alphabet = [*pre_tokenizers.ByteLevel.alphabet(), "\n", "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="<|end|>",
        additional_special_tokens=specials[2:],
    )
    found.chat_template = template
    found.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder), Tokenizer.from_hub(folder)


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    return published(tmp_path_factory.mktemp("chatml"), CHATML)


@pytest.fixture(scope="module")
def own():
    return Tokenizer.train(TEXTS, 420)


def test_parts_have_the_same_numbers_in_every_process():
    assert (PROMPT, QUESTION, ANSWER) == (0, 1, 2)


def read(turns, view, field=FIELD, **media):
    """Decoded and collated as one row; media are lists of anything."""
    [raw] = TALK.entries(turns, field)
    values = [TALK.decode(raw, field, view)]
    values = TALK.check_sample(values, field, view, {**media, field.name: values})
    return values[0], *TALK.collate(values, field, view)


def words(tokenizer, tokens, part):
    """What a part says."""
    return tokenizer._backend.decode(
        [i for i, p, _ in tokens.tolist() if p == part and i >= 0], skip_special_tokens=False
    )


# --- against transformers -------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, BRACKETS, SPACED])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_ids_are_those_of_transformers(tmp_path, template, number):
    theirs, ours = published(tmp_path, template)
    turns = [t | {"content": t["content"].replace("<image>\n", "")} for t in TURNS[1:]][:number]
    asks = turns[-1]["role"] == "user"
    expected = theirs.apply_chat_template(turns, add_generation_prompt=asks, return_dict=False)
    _, values, mask = read(turns, ConversationView(tokenizer=ours))
    if asks and template == SPACED:  # the blank is the answer's
        assert expected[-1] == theirs.convert_tokens_to_ids("Ġ")
        expected = expected[:-1]
    assert values[0, :, 0].tolist() == expected
    assert mask.all()


def test_a_system_turn_and_blanks_around_it_agree_with_transformers(chatml):
    theirs, ours = chatml
    turns = [
        {"role": "system", "content": " Be brief.\n"},
        {"role": "user", "content": "  is there any cat? "},
        {"role": "assistant", "content": "\nyes"},
    ]
    expected = theirs.apply_chat_template(turns, return_dict=False)
    _, values, _ = read(turns, ConversationView(tokenizer=ours))
    assert values[0, :, 0].tolist() == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5))
def test_any_texts_agree_with_transformers(chatml, contents):
    theirs, ours = chatml
    roles = ("user", "assistant") * 3
    turns = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    view = ConversationView(tokenizer=ours)
    try:
        conversation, values, _ = read(turns, view)
    except BadValue as error:
        assert "says nothing" in str(error) or "1 to" in str(error)
        return
    asks = conversation.turns[-1]["role"] == "user"
    expected = theirs.apply_chat_template(
        list(conversation.turns), add_generation_prompt=asks, return_dict=False
    )
    assert values[0, :, 0].tolist() == expected
    part, turn = values[0, :, 1], values[0, :, 2]
    assert (turn.diff() >= 0).all()
    assert (turn[part == QUESTION] % 2 == 0).all()
    assert (turn[part == ANSWER] % 2 == 1).all()


def test_the_parts_of_chatml(chatml):
    _, ours = chatml
    view = ConversationView(tokenizer=ours, media=("image",))
    _, values, _ = read(TURNS, view, image=[0])
    tokens = values[0]
    assert words(ours, tokens, ANSWER) == "yes<|im_end|>7<|im_end|>"
    assert words(ours, tokens, QUESTION) == "\nIs there any cat?user"
    assert words(ours, tokens, PROMPT) == (
        "<|im_start|>system\nAnswer in one word.<|im_end|>\n<|im_start|>user\n<|im_end|>\n"
        "<|im_start|>assistant\n\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n\n"
    )
    assert tokens[tokens[:, 0] < 0].tolist() == [[-1, QUESTION, 1]]
    for turn, said in ((2, "yes<|im_end|>"), (4, "7<|im_end|>")):
        assert words(ours, tokens[tokens[:, 2] == turn], ANSWER) == said


@pytest.mark.parametrize("answer", ["yes", "7", "红色", "a b", "?!"])
@pytest.mark.parametrize("template", [None, BRACKETS, SPACED])
def test_what_is_asked_is_what_is_learned(tmp_path, template, answer):
    """The prompt of a conversation without its answer is that of the one with it."""
    _, ours = published(tmp_path, template)
    view = ConversationView(tokenizer=ours)
    turns = [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": answer}]
    _, values, _ = read(turns, view)
    _, asked, _ = read(turns[:1], view)
    is_answer = values[0, :, 1] == ANSWER
    first = int(is_answer.nonzero()[0])
    assert is_answer[first:].all()
    assert asked[0, :, 0].tolist() == values[0, :first, 0].tolist()
    assert words(ours, values[0], ANSWER).strip() == answer + "<|end|>"


def test_our_own_template_ends_answers_with_the_end_token(own):
    _, values, _ = read(TURNS[1:], ConversationView(tokenizer=own))
    tokens = values[0]
    assert own.end_id == own.sep_id
    assert words(own, tokens, ANSWER) == " yes[SEP] 7[SEP]"
    assert tokens[-1].tolist() == [own.end_id, ANSWER, 3]
    _, asked, _ = read(TURNS[1:2], ConversationView(tokenizer=own))
    assert own.decode(asked[0, :, 0]) == "User: <image>\nIs there any cat?\nAssistant:"


def test_an_end_that_takes_the_blanks_behind_it_along(tmp_path):
    """As Phi's: the token that ends an answer covers the line's end, too."""
    end = AddedToken("<|im_end|>", rstrip=True, special=True)
    theirs, ours = published(tmp_path, CHATML, end=end)
    expected = theirs.apply_chat_template(TURNS[1:], return_dict=False)
    _, values, _ = read(TURNS[1:], ConversationView(tokenizer=ours))
    assert values[0, :, 0].tolist() == expected
    assert expected[-1] == theirs.convert_tokens_to_ids("<|im_end|>")
    assert words(ours, values[0], ANSWER) == "yes<|im_end|>7<|im_end|>"


@pytest.mark.parametrize("template", [None, CHATML, BRACKETS, SPACED])
def test_pieces_of_words_with_a_mark_for_blanks(tmp_path, template):
    """As Llama's: a blank is put before a text, and belongs to the word that follows it."""
    theirs, ours = published(tmp_path, template, pre_tokenizer=BLANKS)
    _, values, _ = read(TURNS[3:], ConversationView(tokenizer=ours))
    if template is not None:
        expected = theirs.apply_chat_template(TURNS[3:], return_dict=False)
        assert values[0, :, 0].tolist() == expected
    said = words(ours, values[0], ANSWER).replace("▁", " ").strip()
    assert said == ("7<|im_end|>" if template == CHATML else "7<|end|>")
    view = ConversationView(tokenizer=ours, media=("image",))
    _, with_picture, _ = read(TURNS[1:], view, image=[0])
    assert (with_picture[0, :, 0] == -1).sum() == 1
    _, asked, _ = read(TURNS[3:4], view)
    length = asked.shape[1]
    assert asked[0, :, 0].tolist() == values[0, :length, 0].tolist()


def test_what_was_learned_of_a_layout_holds_for_the_next(tmp_path):
    """The second conversation of a layout takes another way than the first, to the same tokens."""
    _, ours = published(tmp_path, CHATML)
    chat = Chat(ours, None, ())
    said = ("a", "is there any cat?", "a", "   b  ", "<|im_end|>", "红色", "user")
    for words in zip(said, said[1:], said[2:], said[3:], strict=False):
        turns = [t | {"content": w} for t, w in zip(TURNS, words, strict=False)]
        assert np.array_equal(chat.encode(turns), Chat(ours, None, ()).encode(turns))
    assert len(chat._layouts) == 1  # CHATML trims


def test_special_tokens_that_someone_writes_are_plain_text(chatml):
    _, ours = chatml
    turns = [
        {"role": "user", "content": "say <|im_end|> and <|im_start|>assistant"},
        {"role": "assistant", "content": "<|im_end|> yes"},
    ]
    _, values, _ = read(turns, ConversationView(tokenizer=ours))
    tokens = values[0]
    special = ours._backend.token_to_id("<|im_end|>")
    assert (tokens[:, 0] == special).sum() == 2  # the template's own
    assert words(ours, tokens, QUESTION) == turns[0]["content"]
    assert words(ours, tokens, ANSWER) == "<|im_end|> yes<|im_end|>"
    assert int(tokens[tokens[:, 1] == ANSWER][-1, 0]) == special


def test_the_words_of_the_template_are_no_question(chatml):
    """Where a turn says `user`, the one that the template wrote is not the question."""
    _, ours = chatml
    for said in ("user", "assistant", "im_end", "\n user \n"):
        turns = [{"role": "user", "content": said}, {"role": "assistant", "content": said}]
        _, values, _ = read(turns, ConversationView(tokenizer=ours))
        assert words(ours, values[0], QUESTION) == said.strip()
        assert words(ours, values[0], ANSWER) == said.strip() + "<|im_end|>"


def test_a_template_that_changes_what_it_wrote_is_refused(own):
    template = (
        "{% for message in messages %}{{ message.content }}"
        "{% if loop.last %} (that is all){% endif %}{% endfor %}"
    )
    with pytest.raises(UserError, match="changes the text of turn 1") as caught:
        read(TURNS[1:3], ConversationView(tokenizer=own, template=template))
    assert not isinstance(caught.value, BadValue)


@pytest.mark.parametrize(
    "template",
    ["{{ messages[-1].content }}", "{% for m in messages %}{{ m.content[3:] }}{% endfor %}"],
)
def test_a_template_that_does_not_write_what_turns_say_sets_the_row_aside(own, template):
    with pytest.raises(BadValue, match="leaves out, cuts or repeats"):
        read(TURNS[1:3], ConversationView(tokenizer=own, template=template))


def test_a_template_that_refuses_sets_the_row_aside(own):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(BadValue, match="no system"):
        read(TURNS, ConversationView(tokenizer=own, template=template))
    with pytest.raises(BadValue, match="division"):
        read(TURNS, ConversationView(tokenizer=own, template="{{ 1 // 0 }}"))
    with pytest.raises(UserError, match="no Jinja"):
        read(TURNS, ConversationView(tokenizer=own, template="{% if %}"))


def test_a_template_cannot_reach_out_of_its_box(own):
    template = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(BadValue, match="refuses"):
        read(TURNS, ConversationView(tokenizer=own, template=template))


def test_a_template_that_asks_for_the_date_gives_the_same_every_day(own):
    template = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }} {% for m in messages %}{{ m.content }}{% endfor %}"
    )
    _, values, _ = read(TURNS[1:2], ConversationView(tokenizer=own, template=template))
    assert own.decode(values[0, :, 0]).startswith("26 Jul 2024")


# --- the tokenizer ---------------------------------------------------------------------------


def test_the_tokenizer_keeps_its_template_and_its_end(chatml, tmp_path):
    theirs, ours = chatml
    ours.save(tmp_path)
    for other in (Tokenizer.load(tmp_path), pickle.loads(pickle.dumps(ours))):
        assert other == ours
        assert other.chat_template == CHATML
        assert other.end_id == theirs.eos_token_id
        assert other.pad_id == theirs.eos_token_id  # it has no pad token
        assert other.named_tokens["bos_token"] == "<s>"
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.chat_template == CHATML
    assert again.eos_token == theirs.eos_token
    without = Tokenizer.load(tmp_path)
    without.chat_template = None
    assert without != ours


# --- media -----------------------------------------------------------------------------------


def test_several_pictures_of_two_fields_in_their_order(own):
    view = ConversationView(tokenizer=own, media=("image", "sound"))
    turns = [
        {"role": "user", "content": "<image> cat <sound> dog <image><image>"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "<sound>?"},
    ]
    _, values, _ = read(turns, view, image=[1, 2, 3], sound=[1, 2])
    ids = values[0, :, 0]
    assert ids[ids < 0].tolist() == [-1, -2, -1, -1, -2]
    assert (values[0, ids < 0, 1] == QUESTION).all()
    assert values[0, ids < 0, 2].tolist() == [0, 0, 0, 0, 2]
    assert own.decode(ids[ids >= 0]) == "User:  cat  dog \nAssistant: yesUser: ?\nAssistant:"


@pytest.mark.parametrize(("placeholders", "entries"), [(1, 2), (3, 2), (2, 1)])
def test_as_many_placeholders_as_entries(own, placeholders, entries):
    view = ConversationView(tokenizer=own, media=("image",))
    turns = [{"role": "user", "content": "<image>" * placeholders + " what?"}]
    with pytest.raises(BadValue, match=f"{placeholders} placeholders .* has {entries}"):
        read(turns, view, image=[0] * entries)


def test_an_absent_picture_takes_its_placeholders_along(own):
    view = ConversationView(tokenizer=own, media=("image",))
    conversation, values, _ = read(TURNS, view)
    assert conversation.turns[1]["content"] == "Is there any cat?"
    assert (values[..., 0] >= 0).all()
    only = [{"role": "user", "content": "<image>"}, TURNS[2]]
    conversation, _, _ = read(only, view)
    assert conversation.turns[0]["content"] == ""


def test_pictures_nobody_speaks_of_stand_before_the_first_question(own):
    view = ConversationView(tokenizer=own, media=("image",))
    conversation, values, _ = read([TURNS[0], *TURNS[3:]], view, image=[0, 1])
    assert conversation.turns[1]["content"] == "<image>\n<image>\nuser"
    assert (values[..., 0] == -1).sum() == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<images> what?", "Did you mean 'image'"),
        ("<picture> what?", "Did you mean 'image'"),
        ("<Photo>", "Did you mean 'image'"),
        ("<scam>", "Did you mean 'scan'"),
        ("<audio>", "Known: image, scan"),
        ("<video> what?", "Known: image, scan"),
    ],
)
def test_an_unknown_placeholder(content, message):
    view = ConversationView(media=("image", "scan"))
    with pytest.raises(BadValue, match=message) as caught:
        TALK.decode([{"role": "user", "content": content}], FIELD, view)
    assert "turn 1" in str(caught.value)


def test_other_words_between_brackets_are_text(own):
    view = ConversationView(tokenizer=own, media=("image",))
    said = "<b>bold</b> 1 < 2 > 0 <div> <audio></audio> <img src='x'> <table><tr></table>"
    conversation, values, _ = read([{"role": "user", "content": said}], view)
    assert conversation.turns[0]["content"] == said
    assert own.decode(values[0, :, 0]) == f"User: {said}\nAssistant:"


def test_an_assistant_shows_no_pictures():
    turns = [TURNS[1], {"role": "assistant", "content": "<image>"}]
    with pytest.raises(BadValue, match="turn 2.*text"):
        TALK.decode(turns, FIELD, ConversationView(media=("image",)))


def test_a_view_without_media_reads_placeholders_as_text(own):
    _, values, _ = read([TURNS[1]], ConversationView(tokenizer=own))
    assert (values >= 0).all()


def test_rows_with_and_without_pictures_in_a_batch(own):
    """Through the reading of rows: order, padding, what is set aside, and why."""
    schema = Schema(fields=(FIELD, IMAGE))
    views = {"talk": ConversationView(tokenizer=own, media=("image",), max_tokens=60)}
    views["image"] = get_modality("image").View(size=8)
    picture = np.zeros((8, 8, 3), np.uint8)
    raws = {
        "talk": [TURNS, TURNS, None, TURNS[1:2], [TURNS[0] | {"content": "yes " * 80}, *TURNS[1:]]],
        "image": [picture, [picture, picture], picture, None, picture],
    }
    samples, faults = decode_rows(
        np.arange(5), list("abcde"), raws, schema=schema, views=views, cache=None, augment=None
    )
    assert [sample.key for sample in samples] == ["a", "c", "d"]
    assert [fault.key for fault in faults] == ["b", "e"]
    assert {fault.field for fault in faults} == {"talk"}
    assert "1 placeholders" in faults[0].reason
    assert "60 are allowed" in faults[1].reason
    assert "yes" not in faults[1].kind
    batch = collate(samples, schema, views, 0, faults)
    talk = batch["talk"]
    assert talk.row.tolist() == [0, 2]
    assert talk.values.shape[2] == 3
    padding = talk.values[~talk.mask]
    assert len(padding) > 0
    assert (padding == torch.tensor([own.pad_id, PROMPT, 0])).all()
    assert (talk.values[..., 0] < 0).sum(1).tolist() == [1, 0]


def test_batched_equals_single(own):
    view = ConversationView(tokenizer=own)
    rows = [TURNS, TURNS[1:2], TURNS[1:4]]
    values = [TALK.decode(row, FIELD, view) for row in rows]
    together, mask = TALK.collate(values, FIELD, view)
    for value, tokens, real in zip(values, together, mask, strict=True):
        alone, _ = TALK.collate([value], FIELD, view)
        assert torch.equal(tokens[real], alone[0])
    empty, no_mask = TALK.collate([], FIELD, view)
    assert empty.shape == (0, 0, 3)
    assert no_mask.shape == (0, 0)


def test_only_text_counts_as_tokens(own):
    turns = [{"role": "user", "content": "<image>" * 30 + "cat"}]
    view = ConversationView(tokenizer=own, media=("image",))
    _, values, _ = read(turns, view, image=[0] * 30)
    length = values.shape[1] - 30
    view = view.model_copy(update={"max_tokens": length})
    assert torch.equal(read(turns, view, image=[0] * 30)[1], values)
    with pytest.raises(BadValue, match=f"{length} tokens of text, where {length - 1}"):
        read(turns, view.model_copy(update={"max_tokens": length - 1}), image=[0] * 30)


# --- how people write them down ----------------------------------------------------------------

LLAVA = [
    {"from": "human", "value": "<image>\nIs there any cat?"},
    {"from": "gpt", "value": "yes"},
]


@pytest.mark.parametrize(
    "raw",
    [
        TURNS[1:3],
        tuple(TURNS[1:3]),
        np.array(TURNS[1:3], dtype=object),
        json.dumps(TURNS[1:3]),
        LLAVA,
        json.dumps(LLAVA),
        {"from": ["human", "gpt"], "value": [turn["value"] for turn in LLAVA]},
        [turn | {"from": None, "weight": 1} for turn in TURNS[1:3]],
        [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": "Is there any cat?"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        ],
        [
            {
                "role": "user",
                "content": np.array(
                    [{"type": "image_url"}, {"type": "text", "text": "Is there any cat?"}], object
                ),
            },
            {"role": "assistant", "content": "yes"},
        ],
    ],
)
def test_layouts(raw):
    [entry] = TALK.entries(raw, FIELD)
    turns = TALK.decode(entry, FIELD, ConversationView(media=("image",))).turns
    assert turns == tuple(TURNS[1:3])
    assert TALK.guess("messages", [raw]) > 0.9


def test_an_empty_answer_at_the_end_is_asked_for():
    for nothing in ("", "  ", None):
        turns = [TURNS[1], {"role": "assistant", "content": nothing}]
        assert TALK.decode(turns, FIELD, ConversationView()).turns == (TURNS[1],)


@pytest.mark.parametrize("raw", [None, [], "", float("nan")])
def test_nothing_is_no_conversation(raw):
    assert TALK.entries(raw, FIELD) == []


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("hello", "expected a list"),
        ("[{'role': 1}]", "no JSON"),
        (7, "expected a list"),
        ({"messages": []}, "expected a list"),
        ([["a"]], "turn 1: expected a mapping"),
        ([{"content": "a"}], "turn 1: no 'role'"),
        ([{"role": "usr", "content": "a"}], "turn 1: unknown role 'usr'. Did you mean 'user'"),
        ([{"role": "user", "content": 3}], "turn 1: expected a text"),
        ([{"role": "user", "content": [3]}], "turn 1: expected parts"),
        ([{"role": "user", "content": [{"type": "text"}]}], "turn 1: expected parts"),
        ([{"role": "user", "content": " "}], "turn 1: the user says nothing"),
        ([TURNS[1], {"role": "assistant"}, TURNS[1]], "turn 2: the assistant says nothing"),
        ([TURNS[1], TURNS[1]], "turn 2: expected assistant, found user; join"),
        ([TURNS[2]], "turn 1: expected user, found assistant"),
        ([TURNS[1], TURNS[0]], "turn 2: expected assistant, found system; put it first"),
        ([TURNS[0]], "no turn of the user"),
        ([TURNS[2] | {"content": ""}], "1 to 1000 turns, found 0"),
        (TURNS[1:3] * 501, "1 to 1000 turns, found 1002"),
        ([{"role": "user", "content": "a" * 100_001}], "more than 100000 characters"),
    ],
)
def test_bad_turns(raw, message):
    with pytest.raises(BadValue, match=message) as caught:
        TALK.decode(raw, FIELD, ConversationView())
    assert "hello" not in caught.value.kind


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "from"]), inner)
    ),
    max_leaves=10,
)
turn_like = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "human", 3]), "content": json_values}
)


@settings(max_examples=150, deadline=None)
@given(json_values | st.lists(turn_like, max_size=4) | st.text().map(lambda t: f"[{t}"))
def test_whatever_is_given_is_read_or_refused(own, raw):
    view = ConversationView(tokenizer=own, media=("image",))
    for entry in TALK.entries(raw, FIELD):
        try:
            value = TALK.decode(entry, FIELD, view)
        except BadValue as error:
            assert len(str(error)) < 300
            continue
        [value] = TALK.check_sample([value], FIELD, view, {})
        assert value.tokens.shape[1] == 3
        assert TALK.show(value, FIELD)


def test_characters_that_are_in_no_text_do_no_harm(own):
    turns = [{"role": "user", "content": "a\ufdd0b\ufdd1\ufdd2\ufdd3c \0 \ud800"}]
    _, values, _ = read(turns, ConversationView(tokenizer=own, media=("image",)))
    assert (values[..., 0] >= 0).all()
    assert own.decode(values[0, :, 0]).startswith("User: a\ufffdb\ufffd\ufffd\ufffdc   ?")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text in csv"])
def test_from_a_file(own, tmp_path, kind):
    """Guessed, read, and with the pictures that the rows name."""
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [
        {"file_name": "a.png", "messages": TURNS[1:3]},
        {"file_name": None, "messages": TURNS[1:4]},
        {"file_name": "a.png", "messages": TURNS[:1] * 2},
    ] * 4
    if kind == "jsonl":
        lines = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / "metadata.jsonl").write_text(lines)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    else:
        with (tmp_path / "metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "messages"])
            writer.writerows([row["file_name"], json.dumps(row["messages"])] for row in rows)
    data = open_data(str(tmp_path))
    assert data.schema["messages"].modality == "conversation"
    assert data.schema["image"].modality == "image"
    views = {
        "image": get_modality("image").View(size=8),
        "messages": ConversationView(tokenizer=own, media=("image",)),
    }
    samples, faults = data.read(data.rows("all"), views)
    assert len(samples) == 8 and len(faults) == 4
    assert {fault.field for fault in faults} == {"messages"}
    assert "turn 2: expected user, found system" in faults[0].reason
    entries = data.collate(samples, views)["messages"]
    assert (entries.values[..., 0] < 0).sum(1).tolist() == [1, 0] * 4


# --- columns -----------------------------------------------------------------------------------

COLUMNS = Field(
    name="talk",
    modality="conversation",
    columns={"question": "text", "answer": "category"},
    options={"user": "<image>\n{question}", "assistant": "{answer}"},
)


def composed(**cells):
    entries = TALK.entries({"question": None, "answer": None} | cells, COLUMNS)
    return [TALK.decode(entry, COLUMNS, ConversationView()).turns for entry in entries]


def test_columns_are_put_into_turns():
    asked = {"role": "user", "content": "<image>\nhow many {answer}?"}
    assert composed(question="how many {answer}?", answer=2.0) == [
        (asked, {"role": "assistant", "content": "2"})
    ]
    assert composed(question="how many {answer}?") == [(asked,)]
    assert composed(question="how many {answer}?", answer=float("nan")) == [(asked,)]
    assert composed(answer="2") == []
    user = {"user": "<image> {question} What is it?"}
    field = COLUMNS.replace(options=COLUMNS.options | user)
    [entry] = TALK.entries({"question": None, "answer": None}, field)
    assert TALK.decode(entry, field, ConversationView()).turns[0]["content"].endswith("What is it?")


def test_a_question_without_columns_is_always_asked():
    field = COLUMNS.replace(
        columns={"answer": "text"}, options={"user": "What is it?", "assistant": "It is {answer}."}
    )
    TALK.check(field)
    [entry] = TALK.entries({"answer": None}, field)
    assert TALK.decode(entry, field, ConversationView()).turns == (
        {"role": "user", "content": "What is it?"},
    )


@pytest.mark.parametrize("condition", ["", ":by=kind=count"])
def test_what_is_hidden_is_not_read_in_a_conversation(condition):
    """A text that a row is to lack does not come back as a part of what the user says."""
    data = open_data("playground:questions?train=40&validation=5&test=5")
    made = COLUMNS.replace(name="conversation", options={"user": "{question} So?"})
    made = made.replace(columns={"question": "text"})
    data = data.with_schema(data.schema.replace(made))
    hidden = data.with_missing(parse_missing(f"question:1.0{condition}"))
    cells = hidden.raw(["conversation"], hidden.rows("train"))["conversation"]
    kinds = data.columns(["kind"], data.rows("train"))["kind"]
    for cell, kind in zip(cells, kinds, strict=True):
        assert (cell["question"] is None) == (kind == "count" or not condition)
    untouched = data.with_missing(parse_missing("image:1.0"))
    cells = untouched.raw(["conversation"], data.rows("train"))["conversation"]
    assert all(cell["question"] for cell in cells)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"assistant": "{answer}"}}, "need the option 'user'"),
        ({"options": {"user": "{questio}"}}, "no column 'questio'. Did you mean 'question'"),
        ({"options": {"user": "{question} {}"}}, "no column ''"),
        ({"options": {"user": "{question}"}}, "column 'answer' is in neither"),
        ({"options": {"user": "{question}", "asistant": "{answer}"}}, "no option 'asistant'"),
        ({"options": {"user": 3}}, "expected str"),
        ({"columns": {"question": "txt", "answer": "category"}}, "unknown kind 'txt'"),
        ({"columns": {}}, "there are none"),
    ],
)
def test_templates_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        TALK.check(COLUMNS.replace(**changes))


def test_a_cell_that_is_no_text():
    with pytest.raises(BadValue, match="column 'answer': expected a category, found list"):
        composed(question="a", answer=["b"])
    with pytest.raises(BadValue, match="column 'question'"):
        composed(question={"a": 1}, answer="b")


# --- the rest ------------------------------------------------------------------------------------


def test_a_transcript(own):
    assert TALK.show(TURNS[1:3], FIELD) == "User: <image>\nIs there any cat?\nAssistant: yes"
    assert str(Conversation(tuple(TURNS[1:3]))) == TALK.show(TURNS[1:3], FIELD)


def test_only_turns_are_guessed():
    for values in (
        [[{"role": "user", "text": "a"}]],
        [[["a", "b"]]],
        ["[{"],
        ["hello"],
        [TURNS, [1, 2]],
        [],
    ):
        assert TALK.guess("messages", values) == 0
    scores = {n: get_modality(n).guess("messages", [TURNS]) for n in ("graph", "series", "boxes")}
    assert max(scores.values()) < TALK.guess("messages", [TURNS])


def test_no_other_system_reads_it():
    with pytest.raises(UserError, match="language model"):
        TALK.encoder(FIELD, 8)
