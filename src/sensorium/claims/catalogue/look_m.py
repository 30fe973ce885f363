"""LOOK-M: text first, and what is evicted is merged, so that a small cache says what the whole one says."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sensorium.claims.base import Arm, Claim, above
from sensorium.claims.eyes import ASSISTANT, EYE, SEES, TOWERS
from sensorium.data import read_batches
from sensorium.modalities.chat import ANSWER
from sensorium.nn.language import Eviction, Generation, cache_policy
from sensorium.nn.language.eviction import CachePolicy
from sensorium.systems.baselines.llava import TUNE, LLaVA
from sensorium.tasks.texts import normalise_answer
from sensorium.training.run import Run
from sensorium.types import Batch, Tokens
from sensorium.types.names import number_of

BUDGETS = (0.5, 0.2, 0.1, 0.05)
POLICIES = ("look-m", "look-m-averaged", "text-first", "merge-only", "h2o", "recent", "random")
ROWS, BATCH = 200, 20
PEERS = ("h2o", "text-first")
SAVED = {peer: f"nats of {peer} above look-m at 20 %" for peer in PEERS}

TWO = "two pictures"
VIEW = "size=32&pictures=60"
PATCHES = {"image_size": 32, "patch": 8}
SIZE = {**ASSISTANT, **PATCHES, "encoder_depth": 1, "connector": "linear"}
LEARNS = {**SEES, "stages": [TUNE]}

CLAIM = Claim(
    name="look-m",
    system="llava",
    statement=(
        "With a fifth of the prompt's cache, what an assistant says next is nearer to what it says with "
        "the whole cache if text is kept first and the rest is merged into what stays, than if "
        "what received most attention is kept, and than if the rest is dropped"
    ),
    source=(
        "Wan et al., 2024, arXiv 2406.18139: the cache cut by 80 % with comparable or better scores "
        "(abstract); text first and pivotal merging above H2O (tables, figures not recalled)"
    ),
    data=f"playground:albums?images=6&turns=4&{VIEW}",
    starts={
        EYE: Arm(
            "dual-encoder",
            "start",
            {**TOWERS, **PATCHES, "depth": 1},
            {"batch_size": 128, "workers": 0, "learning_rate": 2e-3},
            data=f"playground:scenes?objects=1&caption=dense&{VIEW}",
            task="retrieval",
            budget="800steps",
        ),
        TWO: Arm(
            "llava",
            "start",
            SIZE,
            LEARNS,
            data=f"playground:albums?images=2&turns=4&{VIEW}",
            budget="1000steps",
            start=EYE,
        ),
    },
    arms={"assistant": Arm("llava", "system", SIZE, {**LEARNS, "batch_size": 32}, start=TWO)},
    task="vqa",
    metric="accuracy",
    shown=tuple(SAVED.values()),
    holds_if=tuple(above("assistant", 0.0, metric=metric) for metric in SAVED.values()),
    differs=(
        "A language model of four layers from scratch, six pictures of 16 tokens with who took each, "
        "and a question about one of them, in place of LLaVA-1.5 and MileBench; the encoder has learned "
        "from captions and stays, and the rest has learned from two pictures first, with four questions "
        "to each prompt",
        "Nearness is the divergence of the next word's probabilities, from the second word of the right "
        "answer on, since the first is said before anything is evicted; all policies keep as many "
        "entries (`strict`)",
    ),
    budget="1500steps",
    options={"validation_rows": 0},
    measure="sensorium.claims.catalogue.look_m:measure",
    hours=1.0,
)


def measure(run: Run) -> dict[str, float]:
    """For each policy and budget, nats from the full cache; and at 20 %, how often the answer is right."""
    system = run.system
    assert isinstance(system, LLaVA)
    most = min(ROWS, len(run.data().rows("test")))
    data = run.rows_of(f"playground:albums?images=6&{VIEW}&test={most}")
    rows = data.rows("test")
    policies: dict[str, CachePolicy | None] = {"full": None}
    for name in POLICIES:
        for budget in BUDGETS:
            policies[f"{name} at {budget:.0%}"] = cache_policy(name, budget, strict=True)
    nats: dict[str, list[Tensor]] = {name: [] for name in policies}
    right: dict[str, list[bool]] = {n: [] for n in policies if n == "full" or "at 20%" in n}
    with torch.inference_mode():
        for batch in read_batches(data, rows, system.views(), batch_size=BATCH):
            prompt, (words, mask) = system.prompt(batch), answer_words(system, batch)
            truth = [normalise_answer(text) for text in decoded(system, words, mask)]
            full = following(system, prompt, words, None)
            for name, policy in policies.items():
                found = following(system, prompt, words, policy)
                each = (full.exp() * (full - found)).sum(2)[mask[:, 1:]]
                nats[name].append(each)
                if name not in right:
                    continue
                eviction = None if policy is None else Eviction(policy)
                *_, said = system.stream(batch, Generation(max_tokens=8), eviction)
                right[name] += [normalise_answer(a) == b for a, b in zip(said, truth, strict=True)]
    means = {name: float(torch.cat(parts).mean()) for name, parts in nats.items()}
    found_right = {f"right, {name}": sum(r) / len(r) for name, r in right.items()}
    saved = {SAVED[peer]: means[f"{peer} at 20%"] - means["look-m at 20%"] for peer in PEERS}
    return {f"nats, {name}": value for name, value in means.items()} | found_right | saved


def answer_words(
    system: LLaVA, batch: Batch
) -> tuple[Int[Tensor, "batch words"], Bool[Tensor, "batch words"]]:
    """The words of the right answers."""
    said = batch[system.model.field.name]
    assert said.mask is not None
    is_answer = (said.values[..., 1] == ANSWER) & said.mask
    words = [row[where] for row, where in zip(said.values[..., 0], is_answer, strict=True)]
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in words], True).bool()
    return nn.utils.rnn.pad_sequence(words, True), mask


def decoded(system: LLaVA, words: Tensor, mask: Tensor) -> list[str]:
    """Words as texts."""
    return [system.model.tokenizer.decode(row[real]) for row, real in zip(words, mask, strict=True)]


def following(
    system: LLaVA,
    prompt: Tokens,
    words: Int[Tensor, "batch words"],
    policy: CachePolicy | None,
) -> Float[Tensor, "batch later vocabulary"]:
    """Log-probabilities of each word of an answer but the first, after those before it."""
    model, rule = system.model.language, system.model.rule
    cache = model.new_cache(len(prompt) + words.shape[1])
    if policy is None:
        model(prompt, rule, cache)
    else:
        Eviction(policy).read(model, prompt, rule, cache)
    place = prompt.id("position").masked_fill(~prompt.mask, 0).amax(1)
    found = []
    for number in range(words.shape[1] - 1):
        ids = {
            "position": (place + 1 + number)[:, None],
            "modality": torch.full_like(place, number_of("text"))[:, None],
            "part": torch.full_like(place, ANSWER)[:, None],
        }
        mask = torch.ones_like(place, dtype=torch.bool)[:, None]
        tokens = Tokens(model.embed(words[:, number])[:, None], mask, ids)
        states = model(tokens, rule, cache).values[:, 0]
        found.append(model.logits(states).float().log_softmax(-1))
    return torch.stack(found, 1)
