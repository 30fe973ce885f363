"""Words a second of a language model of Llama's shape against `transformers` with the same weights,
and a training step of an assistant with rows packed and padded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from harness import Figure, Result, Settings, Target, take_turns
from sensorium.nn.language import Decoder, DecoderConfig, Generation, generate, load_language_model
from sensorium.nn.masks import causal, packed
from sensorium.types.tokens import packed_rows

PROMPT, WORDS = 256, 64
NEVER = -1  # no word ends an answer
VOCABULARY, WIDTH, DEPTH, HEADS, KEY_HEADS = 8000, 512, 8, 8, 4
ROWS, PICTURES, PATCHES = 16, 4, 64


def measure(settings: Settings) -> Result:
    """Decoding, reading a prompt, and a training step."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=1536,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=None,
        pad_token_id=0,
    )
    theirs = LlamaForCausalLM(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_language_model(folder).eval()
    assert isinstance(ours, Decoder)
    ids = torch.randint(1, VOCABULARY, (1, PROMPT))
    with torch.inference_mode():
        speed = _speed(ours, theirs, ids, settings)
    padded, laid, share = _step(settings)
    size = f"{sum(p.numel() for p in ours.parameters()) / 1e6:.0f}M weights"
    peer = "transformers generate, DynamicCache"
    return Result(
        [
            Figure(
                f"words a second after a prompt of {PROMPT}, {size}",
                "words/s",
                [WORDS / s for s in speed["ours"]],
                peer,
                [WORDS / s for s in speed["theirs"]],
                Target("at least", 1.3),
            ),
            Figure(
                f"time to read a prompt of {PROMPT}",
                "s",
                speed["read ours"],
                "transformers forward",
                speed["read theirs"],
                Target("at most", 1.0),
            ),
            Figure(
                f"tokens a second of a training step, {ROWS} rows with 0 to {PICTURES} pictures, "
                f"{share:.0%} padding",
                "steps/s",
                [1 / s for s in laid],
                "padded rows",
                [1 / s for s in padded],
                Target("at least", 1.5),
            ),
        ]
    )


def _speed(
    ours: Decoder, theirs: LlamaForCausalLM, ids: torch.Tensor, settings: Settings
) -> dict[str, list[float]]:
    said = {}

    def hear(words: Sequence[int]) -> str:
        said["ours"] = list(words)
        return ""

    def our_words() -> None:
        settings = Generation(max_tokens=WORDS)
        for _ in generate(ours, ours.words(ids), settings, end=NEVER, decode=hear):
            pass

    def their_words() -> None:
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=WORDS,
            do_sample=False,
            past_key_values=DynamicCache(config=theirs.config),
        )
        said["theirs"] = out[0, PROMPT:].tolist()

    tasks = {
        "ours": our_words,
        "theirs": their_words,
        "read ours": lambda: ours(ours.words(ids), cache=ours.new_cache(PROMPT)),
        "read theirs": lambda: theirs.model(
            ids, past_key_values=DynamicCache(config=theirs.config)
        ),
    }
    seconds = take_turns(tasks, settings.repeats)
    if said["ours"] != said["theirs"]:
        raise SystemExit("the two say different words")
    return seconds


def _step(settings: Settings) -> tuple[list[float], list[float], float]:
    """Seconds of a step with padded and with packed rows, and the share of padding."""
    shape = DecoderConfig(
        VOCABULARY, width=WIDTH, depth=DEPTH, heads=HEADS, key_heads=KEY_HEADS, hidden=1536
    )
    model = Decoder(shape)
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, PICTURES + 1, (ROWS,), generator=random)
    lengths = pictures * PATCHES + torch.randint(20, 60, (ROWS,), generator=random)
    longest = int(lengths.max())
    mask = torch.arange(longest) < lengths[:, None]
    ids = torch.randint(1, VOCABULARY, (ROWS, longest), generator=random)
    losses = {}

    def step(name: str, is_packed: bool) -> None:
        tokens = model.words(ids, mask)
        rule = causal
        words = ids
        if is_packed:
            tokens = tokens.replace(ids={**tokens.ids, "word": ids})
            tokens, _ = packed_rows(tokens, longest)
            rule, words = causal & packed, tokens.id("word")
        states = model(tokens, rule).values[:, :-1]
        sample = tokens.id("sample")
        next_there = tokens.mask[:, 1:] & (sample[:, 1:] == sample[:, :-1])
        loss = torch.nn.functional.cross_entropy(
            model.logits(states[next_there]), words[:, 1:][next_there]
        )
        model.zero_grad()
        loss.backward()
        losses[name] = loss.item()

    seconds = take_turns(
        {"padded": lambda: step("padded", False), "packed": lambda: step("packed", True)},
        settings.repeats,
    )
    if abs(losses["padded"] - losses["packed"]) > 1e-4:
        raise SystemExit(f"the two have different losses: {losses}")
    return seconds["padded"], seconds["packed"], 1 - float(mask.float().mean())
