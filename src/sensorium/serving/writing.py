"""Answers of an assistant to several conversations at once, word by word, while somebody listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sensorium.modalities.turns import Turn
from sensorium.nn.language import Generation, Said
from sensorium.serving.requests import ChatRequest
from sensorium.serving.uploads import Limits, read_part
from sensorium.systems.baselines.assistant import Assistant
from sensorium.training.talking import media_field, read_conversations
from sensorium.types import UserError

MOST_TOKENS = 256
"""Of an answer, if the request does not say."""


@dataclass
class Conversation:
    """A conversation that is to be answered.

    Attributes:
        turns: what was said, with placeholders of media.
        media: by field, the files that these stand for.
        settings: how words are chosen.
        hear: is called with what is said so far, after each word, from another thread.
        is_wanted: whether anybody still listens.
    """

    turns: list[Turn]
    media: Mapping[str, list[bytes]]
    settings: Generation
    hear: Callable[[Said], object] = field(default=lambda said: None)
    is_wanted: bool = True


@dataclass(frozen=True)
class Written:
    """An answer, and how many tokens stood before it."""

    said: Said
    prompt_tokens: int


def write(system: Assistant, conversations: Sequence[Conversation]) -> list[Written | UserError]:
    """Answer conversations, all by the same settings; it ends early once nobody listens.

    Raises:
        UserError: one of them leaves no room for an answer.
    """
    batch, wrong = read_conversations(system, [(each.turns, each.media) for each in conversations])
    fitting = [each for place, each in enumerate(conversations) if place not in wrong]
    written = {}
    if fitting:
        with torch.inference_mode():
            prompt = system.prompt(batch)
            lengths = prompt.mask.sum(1).tolist()
            said = [Said()] * len(fitting)
            for answers in system.model.say(
                batch, prompt, fitting[0].settings, system.hooks(batch)
            ):
                for each, before, now in zip(fitting, said, answers, strict=True):
                    if now is not before:
                        each.hear(now)
                said = answers
                if not any(each.is_wanted for each in fitting):
                    break
        places = [place for place in range(len(conversations)) if place not in wrong]
        done = map(Written, said, lengths)
        written = dict(zip(places, done, strict=True))
    return [wrong.get(place) or written[place] for place in range(len(conversations))]


def read_chat(asked: ChatRequest, system: Assistant, limits: Limits) -> Conversation:
    """The conversation in a request.

    Raises:
        UserError: it does not end with the user, or shows what the assistant does not read.
    """
    turns: list[Turn] = []
    media: dict[str, list[bytes]] = {}
    for message in asked.messages:
        parts = []
        for part in [message.content] if isinstance(message.content, str) else message.content:
            kind, raw = ("text", part) if isinstance(part, str) else read_part(part, limits)
            if isinstance(raw, bytes):
                name = media_field(system, kind).name
                media.setdefault(name, []).append(raw)
                raw = f"<{name}>"
            parts.append(raw)
        role = "system" if message.role == "developer" else message.role
        turns.append({"role": role, "content": "\n".join(parts)})
    if turns[-1]["role"] != "user":
        raise UserError("messages: the last one must be the user's")
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    settings = Generation(
        max_tokens=asked.max_completion_tokens or asked.max_tokens or MOST_TOKENS,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=stop,
    )
    return Conversation(turns, media, settings)


def settled(said: Said, stop: Sequence[str]) -> str:
    """What of an unfinished answer cannot change any more.

    Half a character may become a whole one, and the beginning of a stop text is none of the answer if
    the rest of it follows.
    """
    if said.is_over:
        return said.text
    text = said.text.rstrip("\ufffd")
    held = max(
        (size for word in stop for size in range(1, len(word)) if text.endswith(word[:size])),
        default=0,
    )
    return text[: len(text) - held]
