"""Language models: published ones give their own numbers, a cache changes none, words are chosen as told."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from sensorium.nn.language import (
    Decoder,
    DecoderConfig,
    Generation,
    Hooks,
    Recorder,
    Said,
    generate,
    likelihoods,
    load_language_model,
)
from sensorium.nn.language.hub import PublishedModel
from sensorium.nn.masks import between, causal
from sensorium.types import Tokens, UserError
from sensorium.types.names import number_of

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**COMMON, "num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "llama, untied": LlamaConfig(**GROUPED, tie_word_embeddings=False),
    "llama 3": LlamaConfig(
        **GROUPED,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=16),
    "mistral": MistralConfig(**GROUPED, sliding_window=5),
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "opt": OPTConfig(
        vocab_size=97,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    ),
}
IDS = torch.tensor([[5, 9, 33, 71, 2, 8, 64, 90, 12, 7], [11, 3, 3, 60, 41, 22, 9, 1, 80, 4]])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Each model of `transformers` beside ours, loaded from its folder."""
    found = {}
    for name, config in CONFIGS.items():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            parameter.data.mul_(3.0)  # so that attention is no mere mean
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        found[name] = (model, load_language_model(str(folder)))
    return found


def own(**settings):
    torch.manual_seed(0)
    shape = {"vocabulary_size": 50, "width": 32, "depth": 3, "heads": 4, "max_tokens": 64}
    model = Decoder(DecoderConfig(**{**shape, **settings})).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    return model


def left_padded(ids, mask, length):
    lead = torch.full((len(ids), length), 1)
    return torch.cat([lead, ids], 1), torch.cat([lead == 0, mask], 1)


each = pytest.mark.parametrize("name", list(CONFIGS))


@each
def test_a_published_model_gives_its_own_numbers(published, name):
    theirs, ours = published[name]
    with torch.no_grad():
        expected = theirs(input_ids=IDS, output_hidden_states=True)
        recorder = Recorder()
        tokens = ours.words(IDS)
        states = ours(tokens, hooks=recorder).values
        assert torch.allclose(ours.logits(states), expected.logits, atol=1e-4, rtol=1e-4)
        for mine, other in zip(recorder.states, expected.hidden_states, strict=False):
            assert torch.allclose(mine, other, atol=1e-4, rtol=1e-4)
    assert len(recorder.states) == ours.num_layers == 3


def test_those_of_llamas_shape_become_ours_and_others_keep_their_layers(published):
    kinds = {name: type(ours) for name, (_, ours) in published.items()}
    assert kinds["llama"] is kinds["llama 3"] is kinds["qwen2"] is kinds["qwen3"] is Decoder
    assert kinds["gpt2"] is kinds["opt"] is kinds["mistral"] is PublishedModel


@each
def test_with_a_cache_and_padding_on_either_side_it_says_the_same(published, name):
    _, model = published[name]
    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[1, 6:] = False
    with torch.no_grad():
        whole = model(model.words(IDS, mask)).values
        padded = model(model.words(*left_padded(IDS, mask, 3))).values[:, 3:]
        cache = model.new_cache(4)  # too small: it grows
        tokens = model.words(IDS, mask)
        parts = [
            model(tokens.narrow(a, n), cache=cache).values for a, n in ((0, 4), (4, 1), (5, 5))
        ]
        assert torch.allclose(whole[mask], padded[mask], atol=1e-4)
        assert torch.allclose(whole[mask], torch.cat(parts, 1)[mask], atol=1e-4)
    assert cache.read == 10
    per_token = 2 * 2 * model.num_key_heads * model.head_width * 4 * 3
    assert cache.bytes == 10 * per_token


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_rule_may_forbid_more_and_differ_by_layer(published, name):
    _, model = published[name]
    tokens = model.words(IDS)
    ids = {**tokens.ids, "part": torch.zeros_like(IDS)}
    ids["part"][:, 3] = number_of("secret")
    ids["part"][:, 9] = number_of("last")
    tokens = Tokens(tokens.values, tokens.mask, ids)
    hidden = causal & ~between({"part": "last"}, {"part": "secret"})
    with torch.no_grad():
        free = model(tokens).values[:, 9]
        in_one = model(tokens, lambda layer: hidden if layer == 1 else causal).values[:, 9]
        nobody = causal & ~between({"part": 0}, {"part": "secret"}) & hidden
        none = model(tokens, nobody).values
        moved = tokens.with_values(tokens.values.index_fill(1, torch.tensor([3]), 5.0))
        still = model(moved, nobody).values
    assert (free - in_one).abs().max() > 1e-3
    others = [i for i in range(10) if i != 3]
    assert torch.equal(none[:, others], still[:, others])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_hooks_change_what_enters_and_see_what_attention_is_made_of(published, name):
    _, model = published[name]

    class Change(Hooks):
        def enter(self, layer, tokens):
            return tokens.with_values(tokens.values * 0) if layer == 1 else tokens

    class Look(Hooks):
        def __init__(self):
            self.weights = []

        def attend(self, layer, queries, keys, mask, scale):
            keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1)
            scores = (queries @ keys.transpose(2, 3) * scale).masked_fill(~mask, -torch.inf)
            self.weights.append(scores.softmax(-1))

    look = Look()
    theirs = published[name][0]
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        changed = model(model.words(IDS), hooks=Change()).values
        assert not torch.allclose(changed, model(model.words(IDS)).values)
        model(model.words(IDS), hooks=look)
        expected = theirs(input_ids=IDS, output_attentions=True).attentions
    for mine, other in zip(look.weights, expected, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


def said(model, prompt, **settings):
    asked = Generation(**{"max_tokens": 8, **settings})
    decode = lambda ids: " ".join(map(str, ids))  # noqa: E731
    *_, answers = generate(model, prompt, asked, end=0, decode=decode)
    return [answer.text for answer in answers]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_greedy_words_are_those_of_transformers(published, name):
    theirs, model = published[name]
    with torch.no_grad():
        found = said(model, model.words(IDS))
        expected = theirs.generate(
            IDS,
            attention_mask=torch.ones_like(IDS),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=0,
            pad_token_id=0,
        )
    for mine, other in zip(found, expected[:, IDS.shape[1] :].tolist(), strict=True):
        cut = other[: other.index(0)] if 0 in other else other
        assert mine == " ".join(map(str, cut))


@pytest.mark.parametrize(
    "settings", [{}, {"beams": 3}, {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "seed": 4}]
)
@torch.no_grad()
def test_rows_say_in_a_batch_what_they_say_alone(settings):
    model = own()
    ids = IDS % 50
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 4:] = False
    together = said(model, model.words(ids, mask), **settings)
    asked = Generation(max_tokens=8, **settings)
    decode = lambda ids: " ".join(map(str, ids))  # noqa: E731
    for row, length in ((0, 10), (1, 4)):
        prompt = model.words(ids[row : row + 1, :length])
        rows = torch.tensor([row])
        *_, alone = generate(model, prompt, asked, end=0, decode=decode, rows=rows)
        assert [answer.text for answer in alone] == [together[row]]


def test_having_spoken_changes_nothing_but_where_numbers_lie():
    torch.manual_seed(0)
    spoken = Decoder(DecoderConfig(vocabulary_size=97, width=32, depth=2))
    silent = copy.deepcopy(spoken)
    ids = torch.randint(97, (1, 5))
    with torch.inference_mode():
        *_, _ = generate(spoken, spoken.words(ids), Generation(), end=0, decode=str)
    gate = spoken.layers[0].gate_up.weight
    assert gate.stride() == (1, gate.shape[0])
    assert spoken.head.weight is spoken.embedding.weight
    losses = []
    for model in (spoken, silent):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            loss = model.logits(model(model.words(ids)).values).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(spoken.parameters(), silent.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_beams_find_what_all_sequences_tell():
    model = own(vocabulary_size=6)
    prompt = model.words(torch.tensor([[3, 1, 4]]))

    def total(ids):
        ids = torch.tensor([[3, 1, 4, *ids]])
        each = model.logits(model(model.words(ids)).values).log_softmax(-1)[0]
        return sum(each[i - 1, ids[0, i]].item() for i in range(3, ids.shape[1]))

    # three words at most: ended ones count their end, none is better than the best of all
    every = [(a, b, c) for a in range(6) for b in range(6) for c in range(6)]
    every = [ids for ids in every if 0 not in ids[:2]] + [(a, 0) for a in range(1, 6)] + [(0,)]
    best = max(every, key=lambda ids: total(ids) / len(ids))
    (found,) = said(model, prompt, beams=6, max_tokens=3)
    assert found == " ".join(str(word) for word in best if word)
    assert said(model, prompt, beams=1, max_tokens=3) == said(model, prompt, max_tokens=3)


@torch.no_grad()
def test_draws_follow_the_probabilities_and_the_limits():
    model = own(vocabulary_size=8)
    prompt = model.words(torch.tensor([[3, 1, 4]]).expand(4000, -1))
    scores = model.logits(model(model.words(torch.tensor([[3, 1, 4]]))).values)[0, -1]
    words = torch.tensor(
        [int(t or 0) for t in said(model, prompt, max_tokens=1, temperature=0.7, seed=1)]
    )
    share = torch.bincount(words, minlength=8) / 4000
    assert torch.allclose(share, (scores / 0.7).softmax(0), atol=0.03)
    two = scores.topk(2).indices.tolist()
    limited = said(model, prompt, max_tokens=1, temperature=1.0, top_k=2)
    assert {int(t or 0) for t in limited} == set(two)
    least = said(model, prompt, max_tokens=1, temperature=1.0, top_p=0.01)
    assert {int(t or 0) for t in least} == {two[0]}


@torch.no_grad()
def test_each_row_tells_how_long_it_was_and_has_the_room_that_it_has_alone():
    model = own()  # reads 64
    decode = lambda ids: " ".join(map(str, ids))  # noqa: E731
    ids = torch.randint(1, 50, (2, 60), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[0, 10:] = False
    asked = Generation(max_tokens=20, temperature=3.0)
    *_, together = generate(model, model.words(ids, mask), asked, end=-1, decode=decode)
    assert (together[1].tokens, together[1].is_over) == (4, False)  # 64 - 60
    for row, length in enumerate((10, 60)):
        prompt, rows = model.words(ids[row : row + 1, :length]), torch.tensor([row])
        *_, (alone,) = generate(model, prompt, asked, end=-1, decode=decode, rows=rows)
        assert alone == together[row]
    whole = together[0].text.split()
    assert len(whole) == together[0].tokens > 4 and not together[0].is_over
    *_, ended = generate(model, model.words(ids, mask), asked, end=int(whole[5]), decode=decode)
    first = whole.index(whole[5])
    assert ended[0] == Said(" ".join(whole[:first]), first + 1, True)


@torch.no_grad()
def test_it_ends_at_limits_and_at_stop_texts():
    model = own()
    prompt = model.words(IDS[:1] % 50)
    whole = said(model, prompt, max_tokens=30)[0].split()
    assert 0 < len(whole) <= 30
    assert said(model, prompt, max_tokens=3)[0].split() == whole[:3]
    stopped = said(model, prompt, max_tokens=30, stop=(f" {whole[2]}",))[0]
    assert stopped == " ".join(whole[: whole.index(whole[2])])
    long = model.words(torch.ones(1, 62, dtype=torch.long))
    assert len(said(model, long, max_tokens=30)[0].split()) <= 2  # 64 are all it reads
    with pytest.raises(UserError, match="64 tokens and the language model reads 64"):
        said(model, model.words(torch.ones(1, 64, dtype=torch.long)))


@torch.no_grad()
def test_likelihoods_of_answers_side_by_side_are_those_one_by_one():
    model = own()
    ids = IDS % 50
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 7:] = False
    answers = torch.tensor([[4, 9, 0], [7, 0, 0], [30, 31, 32]])
    real = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    found = likelihoods(model, model.words(ids, mask), answers, real)
    for row, length in ((0, 10), (1, 7)):
        for number, answer in enumerate(answers):
            said_words = answer[real[number]]
            joined = torch.cat([ids[row, :length], said_words])[None]
            each = model.logits(model(model.words(joined)).values).log_softmax(-1)[0]
            places = torch.arange(length - 1, joined.shape[1] - 1)
            expected = each[places, said_words].sum()
            assert found[row, number].item() == pytest.approx(expected.item(), abs=1e-4)


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(UserError, match="language model hf:.*nowhere.*cannot be loaded"):
        load_language_model(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("width", [32, 64, 512])
def test_attention_begins_with_scores_that_differ_whatever_the_width(width):
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(vocabulary_size=10, width=width, depth=1, heads=4))
    turn = (torch.ones(1, 1, 16, width // 8), torch.zeros(1, 1, 16, width // 8))
    queries, keys, _ = model.layers[0].heads_of(torch.randn(1, 16, width), turn)
    scores = queries[:, ::2] @ keys.transpose(2, 3) * model.head_width**-0.5
    assert 0.5 < scores.std() < 2.0
