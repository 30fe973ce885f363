"""Words one after another: the likeliest, drawn, or by beams; and which of some answers is likeliest.

Rows of a batch may have prompts of any lengths, padded on either side: positions, and what may be
seen, come from the ids of the tokens. What is drawn depends on the seed, the row's number and the step
alone, so a row says the same in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Setting
from torch import Tensor, nn

from sensorium.nn.language.base import Hooks, LanguageModel, LayerRule, restricted
from sensorium.nn.language.cache import Cache
from sensorium.nn.language.compression import Eviction
from sensorium.nn.masks import Rule, causal, own
from sensorium.types import Tokens, UserError, draws
from sensorium.types.names import number_of
from sensorium.types.tokens import cat

OVER = -1
"""In the place of the next word of a row that has said all."""


class Generation(BaseModel):
    """How words are chosen.

    Attributes:
        max_tokens: after so many, a row is over.
        temperature: 0 takes the likeliest word; above, words are drawn, the flatter the higher.
        top_k: draw among so many of the likeliest; 0 for all.
        top_p: draw among the fewest whose probabilities reach this sum.
        beams: sequences that are followed side by side; with 1, only one.
        stop: texts that end an answer, and are no part of it.
        seed: of what is drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Setting(default=64, ge=1)
    temperature: float = Setting(default=0.0, ge=0.0)
    top_k: int = Setting(default=0, ge=0)
    top_p: float = Setting(default=1.0, gt=0.0, le=1.0)
    beams: int = Setting(default=1, ge=1)
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Said:
    """What a row has said so far.

    Attributes:
        text: all of it.
        tokens: how many words of the model that took, the end included.
        is_over: whether it has come to an end; without one, it was cut where its words ran out.
    """

    text: str = ""
    tokens: int = 0
    is_over: bool = False


def generate(
    model: LanguageModel,
    prompt: Tokens,
    settings: Generation,
    *,
    end: int,
    decode: Callable[[Sequence[int]], str],
    rows: Int[Tensor, "batch"] | None = None,
    rule: LayerRule = causal,
    hooks: Hooks | None = None,
    eviction: Eviction | None = None,
) -> Iterator[list[Said]]:
    """What each row has said so far, after each word; with beams, once at the end.

    Args:
        model: which speaks.
        prompt: what it goes on from.
        settings: how words are chosen.
        end: the id that ends an answer.
        decode: ids to text.
        rows: the numbers of the rows, on which draws depend; their places if None.
        rule: who sees whom.
        hooks: called for the prompt and for every word.
        eviction: shrinks the cache once the prompt has been read.

    Raises:
        UserError: a prompt leaves no room for an answer.
    """
    # a row has the room that it has alone, whatever the others' prompts are
    lengths = prompt.mask.sum(1).cpu()
    limits = (model.max_tokens - lengths).clamp(max=settings.max_tokens)
    if int(limits.min()) < 1:
        raise UserError(
            f"the prompt has {int(lengths.max())} tokens and the language model reads "
            f"{model.max_tokens} at most, which leaves none for an answer. Give it a shorter text, or "
            "fewer or smaller media"
        )
    limit = int(limits.max())
    if len(prompt.mask) == 1:
        store_by_columns(model)
    speaker = _Speaker(model, prompt, limit, rule, hooks, eviction)
    if settings.beams > 1:
        found = _beams(speaker, settings.beams, limit, end)
        texts = [_until_stop(decode(ids), settings.stop)[0] for ids in found]
        yield [Said(t, len(ids), True) for t, ids in zip(texts, found, strict=True)]
        return
    numbers = torch.arange(len(prompt.mask)) if rows is None else rows.cpu()
    words: list[list[int]] = [[] for _ in numbers]
    said = [Said() for _ in words]
    is_done = torch.zeros(len(words), dtype=torch.bool)
    for step in range(limit):
        chosen = _choose(speaker.scores, settings, numbers, step).cpu()
        for place, word in enumerate(chosen.masked_fill(is_done, OVER).tolist()):
            if word == OVER:
                continue
            if word == end:
                said[place] = Said(said[place].text, step + 1, True)
                continue
            words[place].append(word)
            text, stopped = _until_stop(decode(words[place]), settings.stop)
            said[place] = Said(text, step + 1, stopped)
        yield list(said)
        is_done = torch.tensor([each.is_over for each in said]) | (limits <= step + 1)
        if bool(is_done.all()):
            return
        speaker.say(chosen.to(prompt.mask.device))


def store_by_columns(model: nn.Module) -> None:
    """Lay weights out as a processor reads them fastest for one vector: 1.6 times as fast as by rows.

    Nothing else changes: not their values, nor how they are trained or kept.
    """
    with torch.inference_mode(False), torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                weight = module.weight
                is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
                if is_plain and weight.is_contiguous():
                    weight.data = weight.data.t().contiguous().t()


class _Speaker:
    """A model that has read a prompt, and what it may say next.

    Attributes:
        scores: of the next word of each row.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: Tokens,
        limit: int,
        rule: LayerRule,
        hooks: Hooks | None,
        eviction: Eviction | None,
    ) -> None:
        self._model, self._rule, self._hooks = model, rule, hooks
        self.cache: Cache = model.new_cache(len(prompt) + limit)
        if eviction is None:
            states = model(prompt, rule, self.cache, hooks).values
        else:
            states = eviction.read(model, prompt, rule, self.cache, hooks).values
        last = len(prompt) - 1 - prompt.mask.flip(1).int().argmax(1)
        at = torch.arange(len(last), device=last.device)
        self.scores: Float[Tensor, "batch vocabulary"] = model.logits(states[at, last])
        self._ids = {name: numbers[at, last] for name, numbers in prompt.ids.items()}
        self._ids |= {
            "modality": torch.full_like(last, number_of("text")),
            "part": torch.full_like(last, number_of("answer")),
        }

    def say(self, words: Int[Tensor, "batch"]) -> None:
        """Go on with these words."""
        self._ids["position"] = self._ids["position"] + 1
        ids = {name: numbers[:, None] for name, numbers in self._ids.items()}
        mask = torch.ones_like(words, dtype=torch.bool)[:, None]
        tokens = Tokens(self._model.embed(words)[:, None], mask, ids)
        states = self._model(tokens, self._rule, self.cache, self._hooks).values
        self.scores = self._model.logits(states[:, 0])

    def take(self, rows: Int[Tensor, "taken"]) -> None:
        """Keep these rows."""
        self.cache.take(rows)
        self._ids = {name: numbers[rows] for name, numbers in self._ids.items()}
        self.scores = self.scores[rows]


def _until_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    places = [at for at in (text.find(word) for word in stop) if at >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _choose(
    scores: Float[Tensor, "batch vocabulary"],
    settings: Generation,
    rows: Int[Tensor, "batch"],
    step: int,
) -> Int[Tensor, "batch"]:
    drawn = draws.uniform("word", settings.seed, rows.numpy(), np.full(len(rows), step))
    return choose_words(
        scores,
        torch.from_numpy(drawn).to(scores.device),
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
    )


def choose_words(
    scores: Float[Tensor, "words vocabulary"],
    drawn: Float[Tensor, "words"],
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Int[Tensor, "words"]:
    """The likeliest words, or drawn ones.

    Args:
        scores: of all words.
        drawn: uniform numbers in [0, 1), which decide.
        temperature: and `top_k`, `top_p`, as in `Generation`.
    """
    if temperature == 0:
        return scores.argmax(1)
    ranked, words = (scores.float() / temperature).sort(dim=1, descending=True, stable=True)
    if top_k:
        ranked = ranked[:, :top_k]
    sums = ranked.softmax(1).cumsum(1)
    before = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], 1)
    # the first is always among them, however likely it is
    reach = torch.where(before < top_p, sums, 0.0).amax(1)
    aim = drawn.to(sums) * reach
    place = (sums <= aim[:, None]).sum(1).clamp(max=sums.shape[1] - 1)
    return words.gather(1, place[:, None]).squeeze(1)


def _beams(speaker: _Speaker, beams: int, limit: int, end: int) -> list[list[int]]:
    """The best sequence of each row by its mean log-probability a word, its end included."""
    batch, device = len(speaker.scores), speaker.scores.device
    first = torch.arange(batch, device=device).repeat_interleave(beams)
    speaker.take(first)
    totals = torch.full((batch, beams), -torch.inf, device=device)
    totals[:, 0] = 0.0  # all beams of a row are equal at first
    said = torch.zeros(batch * beams, 0, dtype=torch.long, device=device)
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(batch)]
    for step in range(1, limit + 1):
        each = speaker.scores.float().log_softmax(1).reshape(batch, beams, -1)
        size = each.shape[2]
        # the end can take one place of each beam, so twice as many hold `beams` that go on
        best, at = (totals[:, :, None] + each).flatten(1).topk(2 * beams)
        beam, word = at // size, at % size
        is_end = word == end
        for row in range(batch):
            if len(finished[row]) < beams:
                for place in is_end[row, :beams].nonzero().squeeze(1).tolist():
                    ids = said[row * beams + int(beam[row, place])].tolist()
                    finished[row].append((float(best[row, place]) / step, ids))
        order = is_end.long().sort(dim=1, stable=True).indices[:, :beams]
        totals, beam, word = (part.gather(1, order) for part in (best, beam, word))
        source = (torch.arange(batch, device=device)[:, None] * beams + beam).flatten()
        said = torch.cat([said[source], word.flatten()[:, None]], 1)
        if step == limit or all(len(found) >= beams for found in finished):
            break
        speaker.take(source)
        speaker.say(word.flatten())
    for row in range(batch):
        if len(finished[row]) < beams:
            ids = said[row * beams].tolist()
            finished[row].append((float(totals[row, 0]) / len(ids), ids))
    return [max(found, key=lambda entry: entry[0])[1] for found in finished]


def likelihoods(
    model: LanguageModel,
    prompt: Tokens,
    answers: Int[Tensor, "answers length"],
    mask: Bool[Tensor, "answers length"],
    *,
    rule: LayerRule = causal,
    hooks: Hooks | None = None,
) -> Float[Tensor, "batch answers"]:
    """The log-probability of each of some answers after each row's prompt, in one pass.

    All answers stand behind the prompt at once, at the same positions, and do not see each other.

    Args:
        model: which judges.
        prompt: of each row.
        answers: ids, the end included.
        mask: which are no padding.
        rule: who sees whom; answers see what it lets them see, but not other answers.
        hooks: as in `generate`.
    """
    batch, (number, length) = len(prompt.mask), answers.shape
    device = prompt.mask.device
    place = torch.arange(length, device=device).repeat(number)
    start = prompt.id("position").masked_fill(~prompt.mask, 0).amax(1) + 1
    ids = {
        "modality": torch.full((batch, number * length), number_of("text"), device=device),
        "part": torch.full((batch, number * length), number_of("answer"), device=device),
        "position": start[:, None] + place,
        "sample": (1 + torch.arange(number, device=device).repeat_interleave(length)).expand(
            batch, -1
        ),
    }
    behind = Tokens(
        model.embed(answers.flatten()).expand(batch, -1, -1), mask.flatten().expand(batch, -1), ids
    )
    alone = own("sample") | Rule(lambda _, k: k["sample"] == 0, frozenset({"sample"}))
    states = model(cat(prompt, behind), restricted(rule, alone), None, hooks).values
    last = len(prompt) - 1 - prompt.mask.flip(1).int().argmax(1)
    before = states[torch.arange(batch, device=device), last]
    spoken = states[:, len(prompt) :].reshape(batch, number, length, -1)[:, :, :-1]
    asked = torch.cat([before[:, None, None].expand(-1, number, 1, -1), spoken], 2)
    each = model.logits(asked).float().log_softmax(-1)
    said = each.gather(3, answers.expand(batch, -1, -1)[..., None]).squeeze(3)
    return said.masked_fill(~mask, 0.0).sum(2)
