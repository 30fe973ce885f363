"""Saying words from a cache that keeps a fifth of a long prompt of pictures, against the full cache.

A decoder of ours with random weights, a prompt of six pictures with text before, between and after them.
Both sides read the same prompt and say as many words, the likeliest each time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from harness import Figure, Result, Settings, Target, rates
from sensorium.nn.language import (
    Decoder,
    DecoderConfig,
    Eviction,
    Generation,
    cache_policy,
    generate,
)
from sensorium.types import Tokens
from sensorium.types.names import number_of

PICTURES, PER_PICTURE, TEXT = 6, 600, 400
BUDGET, WORDS, VOCABULARY = 0.2, 64, 8000
WIDTH, DEPTH, HEADS = 512, 8, 8
KEY_HEADS = {"a key head for each query head": 8, "a key head for two query heads": 4}


def measure(settings: Settings) -> Result:
    """Bytes of the cache and words a second; what the choice costs while the prompt is read."""
    torch.set_num_threads(settings.threads)
    figures: list[Figure] = []
    notes = []
    for name, key_heads in KEY_HEADS.items():
        model = build(key_heads)
        prompt = build_prompt(model)
        seconds: dict[str, list[Sequence[float]]] = {"ours": [], "full": []}
        eviction = Eviction(cache_policy("look-m", BUDGET))
        for repeat in range(settings.repeats + 1):
            for side, policy in (("ours", eviction), ("full", None)):
                took = read_and_say(model, prompt, policy)
                if repeat:
                    seconds[side].append(took)
        kept = eviction.kept
        assert kept is not None
        (to_read, to_say), (full_read, full_say) = (
            zip(*seconds[side], strict=True) for side in ("ours", "full")
        )
        figures += [
            Figure(
                f"{name}: bytes of the cache that are saved, as a share",
                "",
                [1 - kept.bytes / kept.bytes_before],
                target=Target("at least", 0.75),
            ),
            Figure(
                f"{name}: words after the first",
                "words/s",
                rates(WORDS - 1, to_say),
                "full cache",
                rates(WORDS - 1, full_say),
                Target("at least", 1.3),
            ),
            Figure(
                f"{name}: reading the prompt", "s", list(to_read), "full cache", list(full_read)
            ),
        ]
        notes.append(
            f"{name}: {int(kept.kept):,} of {int(kept.entries):,} entries are kept, {kept.bytes:,} of "
            f"{kept.bytes_before:,} bytes; {sum(p.numel() for p in model.parameters()):,} parameters."
        )
    notes.append(
        f"LOOK-M with pivotal merge at a nominal {BUDGET:.0%}; text is {TEXT / len(prompt):.0%} of the "
        f"prompt. {DEPTH} layers of width {WIDTH}, {VOCABULARY:,} words, float32, one prompt at a time; "
        f"{WORDS} words are said."
    )
    return Result(figures, notes)


def build(key_heads: int) -> Decoder:
    """Random weights, the same each time."""
    torch.manual_seed(0)
    shape = DecoderConfig(VOCABULARY, WIDTH, DEPTH, HEADS, key_heads, max_tokens=8192)
    return Decoder(shape).eval().requires_grad_(False)


def build_prompt(model: Decoder) -> Tokens:
    """Text in equal parts around the pictures; their vectors are random, and as long as words'."""
    generator = torch.Generator().manual_seed(0)
    text, picture = number_of("text"), number_of("image")
    each = TEXT // (PICTURES + 1)
    kinds = ([text] * each + [picture] * PER_PICTURE) * PICTURES
    kinds += [text] * (PICTURES * PER_PICTURE + TEXT - len(kinds))
    modality = torch.tensor(kinds)[None]
    words = torch.randint(VOCABULARY, modality.shape, generator=generator)
    vectors = model.embed(words)
    drawn = torch.randn(vectors.shape, generator=generator) * vectors.std()
    vectors = torch.where((modality == picture)[..., None], drawn, vectors)
    position = torch.arange(len(kinds))[None]
    mask = torch.ones_like(modality, dtype=torch.bool)
    return Tokens(vectors, mask, {"modality": modality, "position": position})


def read_and_say(model: Decoder, prompt: Tokens, eviction: Eviction | None) -> tuple[float, float]:
    """Seconds until the first word, and for those that follow."""
    said = generate(
        model,
        prompt,
        Generation(max_tokens=WORDS),
        end=-1,
        decode=lambda ids: "",
        eviction=eviction,
    )
    with torch.inference_mode():
        begin = time.perf_counter()
        next(said)
        first = time.perf_counter()
        for _ in said:
            pass
        return first - begin, time.perf_counter() - first
