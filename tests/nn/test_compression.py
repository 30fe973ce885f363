"""Small caches in language models: what is kept of a prompt, and what is said from it."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sensorium.nn.language.base import Hooks
from sensorium.nn.language.cache import Cache
from sensorium.nn.language.compression import POLICIES, Eviction, cache_policy, is_media
from sensorium.nn.language.decoder import Decoder, DecoderConfig
from sensorium.nn.language.eviction import choose, shrink
from sensorium.nn.language.generation import Generation, generate
from sensorium.nn.language.hub import PublishedModel, load_language_model
from sensorium.nn.masks import Rule, causal, sees
from sensorium.types import Tokens, UserError
from sensorium.types.names import number_of

TEXT, IMAGE = number_of("text"), number_of("image")
WORDS, END = 40, 39
LAYOUT = [(TEXT, 3), (IMAGE, 16), (TEXT, 2), (IMAGE, 16), (TEXT, 3)]
SHORT = [(IMAGE, 9), (TEXT, 3), (IMAGE, 6)]
ALL_TEXT = [(TEXT, 12)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Ours with grouped heads, one of Llama's kind that becomes ours, and one that stays what it is."""
    torch.manual_seed(0)
    ours = Decoder(DecoderConfig(WORDS, width=32, depth=3, heads=4, key_heads=2, max_tokens=128))
    llama = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(llama).save_pretrained(folder)
    gpt = GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=3, n_head=4, n_positions=128)
    found = {
        "ours": ours,
        "llama": load_language_model(str(folder)),
        "gpt2": PublishedModel(GPT2LMHeadModel(gpt)),
    }
    for model in found.values():
        model.eval().requires_grad_(False)
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "wpe" not in name:  # so that heads attend to different entries
                torch.nn.init.normal_(weight, std=0.2)
    return found


def prompt_of(layout, seed=0, width=32):
    """Random vectors; the same for the same layout and seed."""
    kinds = torch.tensor([kind for kind, number in layout for _ in range(number)])[None]
    vectors = torch.randn(1, kinds.shape[1], width, generator=torch.Generator().manual_seed(seed))
    position = torch.arange(kinds.shape[1])[None]
    part = torch.where(kinds == TEXT, number_of("question"), number_of("prompt"))
    mask = torch.ones_like(kinds, dtype=torch.bool)
    return Tokens(vectors, mask, {"modality": kinds, "position": position, "part": part})


def padded(*prompts, side="left"):
    """One batch of prompts of different lengths."""
    length = max(map(len, prompts))
    rows = []
    for prompt in prompts:
        gap = length - len(prompt)
        by = (gap, 0) if side == "left" else (0, gap)
        pad = torch.nn.functional.pad
        ids = {name: pad(numbers, by) for name, numbers in prompt.ids.items()}
        rows.append((pad(prompt.values, (0, 0, *by), value=5.0), pad(prompt.mask, by), ids))
    values, mask = (torch.cat([row[i] for row in rows]) for i in (0, 1))
    return Tokens(values, mask, {n: torch.cat([r[2][n] for r in rows]) for n in rows[0][2]})


def read(model, prompt, policy, rule=causal, room=8):
    """The states of the prompt, the cache, and what was kept; a policy of None keeps all."""
    cache = model.new_cache(len(prompt) + room)
    if policy is None:
        return model(prompt, rule, cache), cache, None
    eviction = Eviction(policy)
    return eviction.read(model, prompt, rule, cache), cache, eviction.kept


def go_on(model, prompt, cache, words=(7, 3, 11)):
    """The scores after each of some words that follow the prompt."""
    scores = []
    start = prompt.id("position").masked_fill(~prompt.mask, 0).amax(1)
    for step, word in enumerate(words, 1):
        ids = torch.full((len(start), 1), word)
        tokens = model.words(ids)
        ids = {"position": (start + step)[:, None], "modality": torch.full_like(ids, TEXT)}
        states = model(tokens.replace(ids=ids), causal, cache).values
        scores.append(model.logits(states[:, 0]))
    return torch.stack(scores, 1)


def say(model, prompt, eviction=None, **settings):
    settings = Generation(**{"max_tokens": 6, **settings})
    decode = lambda ids: " ".join(map(str, ids))  # noqa: E731
    answers = generate(model, prompt, settings, end=END, decode=decode, eviction=eviction)
    return [[said.text for said in rows] for rows in answers]


NAMES = ("ours", "llama", "gpt2")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("policy", ["look-m", "h2o", "random"])
def test_a_full_budget_is_the_full_cache_to_the_bit(models, name, policy):
    model, prompt = models[name], prompt_of(LAYOUT)
    states, cache, kept = read(model, prompt, cache_policy(policy, 1.0))
    expected, full, _ = read(model, prompt, None)
    assert torch.equal(states.values, expected.values)
    assert torch.equal(go_on(model, prompt, cache), go_on(model, prompt, full))
    assert kept.kept.tolist() == kept.entries.tolist() == [40]
    assert kept.bytes == kept.bytes_before


@pytest.mark.parametrize("name", NAMES)
def test_reading_is_that_of_the_full_cache(models, name):
    """So the first word is: what is kept matters from the second word on."""
    model, prompt = models[name], prompt_of(LAYOUT)
    states, cache, _ = read(model, prompt, cache_policy("look-m", 0.2))
    expected, full, _ = read(model, prompt, None)
    assert torch.equal(states.values, expected.values)
    differs = (go_on(model, prompt, cache) - go_on(model, prompt, full)).abs().max()
    assert differs > 1e-2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("policy", ["look-m", "merge-only", "h2o", "roco"])
@pytest.mark.parametrize("rule", [causal, causal | sees("image", part="question")])
def test_every_layer_holds_what_its_own_attention_says(models, name, policy, rule):
    """From a plain softmax over what each layer attends with, as the full cache gives it."""
    model, prompt = models[name], prompt_of(LAYOUT)
    policy = cache_policy(policy, 0.4)
    seen = []

    class Watch(Hooks):
        def attend(self, layer, queries, keys, mask, scale):
            groups = queries.shape[1] // keys.shape[1]
            products = queries @ keys.repeat_interleave(groups, 1).transpose(2, 3) * scale
            weights = products.masked_fill(~mask, -torch.inf).softmax(3).unflatten(1, (-1, groups))
            sums = weights.sum((2, 3))
            seen.append(sums / mask.sum((1, 2)) if policy.importance == "mean" else sums)

    full = model.new_cache(48)
    model(prompt, rule, full, Watch())
    _, cache, kept = read(model, prompt, policy, rule)
    assert len(seen) == 3
    for layer, scores in enumerate(seen):
        whole, part = full.layers[layer], cache.layers[layer]
        chosen = choose(scores, is_media(prompt), prompt.mask, policy)
        keys, values = shrink(whole.keys, whole.values, chosen, policy.merge)
        torch.testing.assert_close(part.keys, keys, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(part.values, values, rtol=1e-4, atol=1e-5)
        assert part.keys.shape[2] == int(kept.kept) == 16
        if policy.text_first:
            assert set(range(3)) <= set(chosen.kept[0, 0].tolist())
        else:  # heads differ, or there would be little to test
            assert not torch.equal(chosen.kept[0, 0], chosen.kept[0, 1])


@pytest.mark.parametrize("name", NAMES)
def test_new_words_stand_where_they_would_in_the_full_cache(models, name):
    """A window is the full model under a rule that hides from new words what is no longer there."""
    model, prompt = models[name], prompt_of(LAYOUT)
    words = (7, 3, 11)
    _, cache, kept = read(model, prompt, cache_policy("recent", 0.25))
    given = go_on(model, prompt, cache, words)
    first = 40 - int(kept.kept)
    assert first == 30
    rule = causal & Rule(
        lambda q, k: (q["position"] < 40) | (k["position"] >= first), frozenset({"position"})
    )
    values = torch.cat([prompt.values, model.embed(torch.tensor([words]))], 1)
    position = torch.arange(43)[None]
    both = Tokens(values, torch.ones(1, 43, dtype=torch.bool), {"position": position})
    expected = model.logits(model(both, rule).values[:, 40:])
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("policy", ["look-m", "merge-only", "roco", "random"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_is_alone_in_its_batch(models, name, policy, side):
    """Prompts of 40, 18 and 12 tokens, the last without media: each keeps what it keeps alone."""
    model, policy = models[name], cache_policy(policy, 0.3)
    prompts = [prompt_of(each, seed) for seed, each in enumerate((LAYOUT, SHORT, ALL_TEXT))]
    batch = padded(*prompts, side=side)
    _, cache, kept = read(model, batch, policy)
    scores = go_on(model, batch, cache)
    assert kept.entries.tolist() == [40, 18, 12]
    for row, prompt in enumerate(prompts):
        _, alone, of_row = read(model, prompt, policy)
        assert of_row.kept.tolist() == kept.kept[row : row + 1].tolist()
        torch.testing.assert_close(
            scores[row : row + 1], go_on(model, prompt, alone), rtol=1e-3, atol=1e-4
        )
    assert kept.kept.tolist() == [12, 4 if policy.strict else 2 + 3, 12]  # a window, and all text


def test_text_alone_keeps_its_cache_to_the_bit(models):
    model, prompt = models["ours"], prompt_of(ALL_TEXT)
    _, cache, kept = read(model, prompt, cache_policy("h2o", 0.2))
    _, full, _ = read(model, prompt, None)
    assert kept.kept.tolist() == [12]
    assert torch.equal(go_on(model, prompt, cache), go_on(model, prompt, full))
    # Tokens of which nobody said what they are count as text too.
    unnamed = prompt.replace(ids={"position": prompt.id("position")})
    assert not is_media(unnamed).any()


@pytest.mark.parametrize("budget", [0.2, 0.5])
def test_bytes_are_those_of_the_entries_that_are_counted(models, budget):
    model, prompt = models["ours"], prompt_of(LAYOUT)
    _, cache, kept = read(model, prompt, cache_policy("look-m", budget))
    for_each = 2 * 3 * 2 * 8 * 4  # keys and values, layers, key heads, width, bytes of a number
    assert kept.bytes == cache.bytes == int(kept.kept) * for_each
    assert kept.bytes_before == 40 * for_each
    held = sum(part.untyped_storage().nbytes() for at in cache.layers for part in at.buffers)
    assert held == (int(kept.kept) + 8) * for_each  # with room for eight more
    go_on(model, prompt, cache)
    assert cache.bytes == (int(kept.kept) + 3) * for_each
    assert cache.read == 43


@pytest.mark.parametrize("name", NAMES)
def test_no_more_than_two_layers_are_ever_whole(models, name):
    model, prompt = models[name], prompt_of(LAYOUT)
    cache, lengths = model.new_cache(48), []

    class Watch(Hooks):
        def enter(self, layer, tokens):
            lengths.append([each.length for each in cache.layers])
            return tokens

    eviction = Eviction(cache_policy("look-m", 0.2))
    eviction.read(model, prompt, causal, cache, Watch())
    short = int(eviction.kept.kept)
    assert lengths == [[0, 0, 0], [40, 0, 0], [short, 40, 0]]
    assert [each.length for each in cache.layers] == [short] * 3


def test_what_is_said_depends_on_no_earlier_prompt(models):
    model, eviction = models["ours"], Eviction(cache_policy("look-m", 0.2))
    first, second = prompt_of(LAYOUT, 1), prompt_of(SHORT, 2)
    said = [say(model, each, eviction) for each in (first, second, first)]
    assert said[0] == said[2]
    assert eviction.kept.entries.tolist() == [40]
    assert said[1] == say(model, second, Eviction(eviction.policy))
    with pytest.raises(ValueError, match="empty cache"):
        cache = model.new_cache(99)
        model(first, causal, cache)
        eviction.read(model, first, causal, cache)


@pytest.mark.parametrize("name", NAMES)
def test_words_are_said_from_the_small_cache(models, name):
    model, prompt = models[name], padded(prompt_of(LAYOUT), prompt_of(SHORT, 1))
    full = say(model, prompt)
    assert say(model, prompt, Eviction(cache_policy("h2o", 1.0))) == full
    small = say(model, prompt, Eviction(cache_policy("recent", 0.1)))
    assert small[0] == full[0]
    assert small[-1] != full[-1]
    eviction = Eviction(cache_policy("look-m", 0.3))
    greedy = say(model, prompt, eviction)[-1]
    assert eviction.kept.kept.tolist() == [12, 5]
    for row, each in enumerate((prompt_of(LAYOUT), prompt_of(SHORT, 1))):
        assert say(model, each, eviction)[-1] == [greedy[row]]
    assert len(say(model, prompt, eviction, beams=3)[-1]) == 2


def test_half_precision_is_kept(models):
    model = Decoder(models["ours"].config).eval().to(torch.bfloat16)
    prompt = prompt_of(LAYOUT)
    prompt = prompt.with_values(prompt.values.bfloat16())
    with torch.no_grad():
        _, cache, kept = read(model, prompt, cache_policy("look-m", 0.2))
        assert cache.layers[0].keys.dtype == torch.bfloat16
        assert kept.bytes == int(kept.kept) * 2 * 3 * 2 * 8 * 2
        assert go_on(model, prompt, cache).isfinite().all()


def test_chance_differs_by_seed_layer_and_head_and_looks_at_nothing(models, monkeypatch):
    model, prompt = models["ours"], prompt_of(LAYOUT)

    def never(*_, **__):
        raise AssertionError("attention is of no interest here")

    monkeypatch.setattr("sensorium.nn.language.compression.attention_received", never)
    kept = {}
    for seed in (0, 1):
        _, cache, _ = read(model, prompt, cache_policy("random", 0.4, seed=seed))
        _, full, _ = read(model, prompt, None)
        for layer in range(3):
            for head in range(2):
                part, whole = (each.layers[layer].keys[0, head] for each in (cache, full))
                distances = torch.cdist(part, whole)
                assert distances.amin(1).max() < 1e-2
                kept[seed, layer, head] = tuple(distances.argmin(1).tolist())
    assert all(places[-8:] == tuple(range(32, 40)) for places in kept.values())
    assert len(set(kept.values())) == len(kept) == 12


def test_policies_by_name():
    assert cache_policy("look-m").merge == "pivotal" and cache_policy("look-m").text_first
    assert cache_policy("h2o", 0.5).important == 0.25
    assert cache_policy("h2o", 0.5, strict=False, recent=0.1).recent == 0.1
    with pytest.raises(UserError, match="no cache policy 'lookm'. Did you mean 'look-m'"):
        cache_policy("lookm")
    for budget in (0.0, 1.5):
        with pytest.raises(UserError, match=f"cache budget {budget:g}: expected the share"):
            cache_policy("look-m", budget)


def test_equal_room_for_every_policy(models):
    """With much text, policies can be compared at what LOOK-M really keeps, or all at the budget."""
    prompt = prompt_of([(TEXT, 20), (IMAGE, 16), (TEXT, 4)])
    for strict, expected in ((True, 8), (False, 24)):
        for name in POLICIES:
            policy = cache_policy(name, 0.2, strict=strict)
            _, cache, kept = read(models["ours"], prompt, policy)
            assert kept.kept.tolist() == [expected]
            assert isinstance(cache, Cache) and cache.layers[2].length == expected
