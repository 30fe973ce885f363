"""Conversations: turns of a user and an assistant, in which placeholders stand for media."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from sensorium.modalities.base import Modality, View, is_missing, modality_names
from sensorium.modalities.chat import PROMPT, chat_of
from sensorium.modalities.text import Tokenizer
from sensorium.modalities.turns import SLOT, Turn, is_filled, looks_like_turns, read_turns
from sensorium.types import BadValue, Field, UserError
from sensorium.types.names import did_you_mean

KINDS = ("text", "category", "number")

# What people call media, beside the names of modalities.
_MEANT = {
    word: name
    for name, words in {
        "image": "picture photo img pic",
        "audio": "sound speech voice",
        "video": "clip movie film",
    }.items()
    for word in words.split()
}
_TAG = re.compile(r"<([A-Za-z_][\w-]{0,63})>")
_NEAR = 0.75


class ConversationView(View):
    """What a system wants of a conversation.

    Attributes:
        tokenizer: of its language model.
        max_tokens: a conversation with more tokens of text is set aside.
        media: the fields whose placeholders `<name>` are read; others are plain text.
        template: the Jinja chat template by which turns become one text; None for the tokenizer's
            own, or, if it has none, a plain one (`User: ...`, `Assistant: ...`).
    """

    tokenizer: Tokenizer | None = None
    max_tokens: int = 1024
    media: tuple[str, ...] = ()
    template: str | None = None


@dataclass(frozen=True)
class Conversation:
    """A decoded conversation.

    Attributes:
        turns: who says what. There may be a system turn first; then user and assistant take turns.
            If the last is the user's, an answer is asked for.
        tokens: for each token its id (a placeholder of the k-th medium is -1-k), its part
            (`number_of("prompt")`, `"question"` or `"answer"`) and its turn; None if there was no
            tokenizer.
    """

    turns: tuple[Turn, ...]
    tokens: Int[np.ndarray, "length 3"] | None = None

    def __str__(self) -> str:
        return "\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in self.turns)


class Conversations(Modality):
    """Lists of turns, or columns that are put into one question and one answer.

    A turn is a mapping with `role` (system, user, assistant) and `content`, or `from` (human, gpt)
    and `value`; the content may be a list of parts, `{"type": "text", "text": ...}` and
    `{"type": "image"}`. A cell holds a list of them, or JSON text of it. With `columns` (each
    `text`, `category` or `number`), the options `user` and `assistant` are templates in which
    `{column}` is filled in. If a cell of the answer is empty, or the column is not there, the
    conversation ends with the user's turn. If all cells of the question are empty and the template
    has no words of its own, the row lacks the field.

    `<name>` in a user's or system turn stands for an entry of the media field `name`, the j-th for
    the j-th. A row that lacks the field loses the placeholders, each with one blank after it. Entries
    of which no placeholder speaks stand in front of the first user's turn, each on a line.

    In a batch: ids, parts and turns of the tokens as integers (entries, length, 3), and a mask. What
    the template writes and the system turn are `prompt`, what the user says is `question`, what the
    assistant says is `answer`, up to the token that ends it. Turns are numbered from 0.
    """

    name = "conversation"
    View = ConversationView
    written = True
    options = MappingProxyType({"user": str, "assistant": str})

    def check(self, field: Field) -> None:
        """Refuse templates and columns that do not belong together, too."""
        super().check(field)
        where = f"field '{field.name}'"
        if not field.columns:
            if field.options:
                raise UserError(
                    f"{where}: the options 'user' and 'assistant' put columns into turns, and there "
                    "are none; give columns such as {question: text, answer: text}"
                )
            return
        if "user" not in field.options:
            raise UserError(
                f"{where}: columns need the option 'user', for example "
                f"'<image> {{{next(iter(field.columns))}}}'"
            )
        for column, kind in field.columns.items():
            if kind not in KINDS:
                raise UserError(
                    f"{where}, column '{column}': unknown kind '{kind}'. {did_you_mean(kind, KINDS)}"
                )
        used = {slot: side for side, text in field.options.items() for slot in SLOT.findall(text)}
        for slot, side in used.items():
            if slot not in field.columns:
                raise UserError(
                    f"{where}, option '{side}': there is no column '{slot}'. "
                    + did_you_mean(slot, field.columns)
                )
        if unused := [column for column in field.columns if column not in used]:
            raise UserError(
                f"{where}: the column '{unused[0]}' is in neither of the options 'user' and "
                f"'assistant'; write {{{unused[0]}}} where it is to stand, or leave it out"
            )

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Lists of turns, or JSON text of them."""
        return 0.99 * all(map(looks_like_turns, values)) if len(values) else 0.0

    def entries(self, raw: Any, field: Field) -> list[Any]:
        """The conversation, if there is one."""
        if field.columns:
            user = field.options["user"]
            wording = _TAG.sub("", SLOT.sub("", user))
            return [raw] if wording.strip() or is_filled(raw, SLOT.findall(user)) else []
        if isinstance(raw, np.ndarray):
            raw = raw.tolist()
        return [] if is_missing(raw) or (isinstance(raw, (list, tuple)) and not raw) else [raw]

    def decode(self, raw: Any, field: Field, view: ConversationView) -> Conversation:
        """The turns, as they should be.

        Raises:
            BadValue: they are not; the message names the turn.
        """
        turns = read_turns(raw, field)
        if view.media:
            _check_placeholders(turns, f"field '{field.name}'", view.media)
        return Conversation(tuple(turns))

    def check_sample(
        self,
        values: list[Any],
        field: Field,
        view: ConversationView,
        sample: Mapping[str, Sequence[Any]],
    ) -> list[Any]:
        """The conversation with as many placeholders as there are media, and with its tokens.

        Raises:
            BadValue: there are too many or too few; there are too many tokens.
        """
        checked = []
        for conversation in values:
            turns = conversation.turns
            for name in view.media:
                turns = _placed(turns, name, len(sample.get(name, ())), field)
            tokens = None if view.tokenizer is None else _tokens_of(turns, field, view)
            checked.append(Conversation(turns, tokens))
        return checked

    def collate(
        self, values: Sequence[Conversation], field: Field, view: ConversationView
    ) -> tuple[Int[Tensor, "entries length 3"], Bool[Tensor, "entries length"]]:
        """Ids, parts and turns, and which tokens are no padding."""
        if view.tokenizer is None:
            raise ValueError(f"the view of conversation field '{field.name}' has no tokenizer")
        rows = [
            value.tokens if value.tokens is not None else _tokens_of(value.turns, field, view)
            for value in values
        ]
        lengths = np.array([len(row) for row in rows])
        real = np.arange(lengths.max(initial=0)) < lengths[:, None]
        out = np.zeros((*real.shape, 3), dtype=np.int64)
        out[:] = (view.tokenizer.pad_id, PROMPT, 0)
        if rows:
            out[real] = np.concatenate(rows)
        return torch.from_numpy(out), torch.from_numpy(real)

    def show(self, value: Any, field: Field) -> str:
        """A transcript, a line for each turn."""
        if not isinstance(value, Conversation):
            value = self.decode(value, field, ConversationView())
        return str(value)

    def encoder(self, field: Field, width: int) -> nn.Module | None:
        """There is none: a vector of a conversation would be one of its answers, too."""
        raise UserError(
            f"field '{field.name}': conversations are read by systems with a language model; choose "
            "one of them, or give the field the role 'ignore'"
        )

    def last_answer(self, raw: Any, field: Field) -> list[str]:
        """What the assistant says last; nothing if the user has the last word."""
        *_, last = self.decode(raw, field, ConversationView()).turns
        return [last["content"]] if last["role"] == "assistant" else []


def _check_placeholders(turns: Sequence[Turn], where: str, media: tuple[str, ...]) -> None:
    """Refuse placeholders of what is no medium here, and those in the assistant's turns."""
    everything = "".join(turn["content"] for turn in turns)
    for number, turn in enumerate(turns, start=1):
        for tag in set(_TAG.findall(turn["content"])):
            at = f"{where}, turn {number}: <{tag}>"
            if tag in media:
                if turn["role"] == "assistant":
                    reason = "has a placeholder in a turn of the assistant"
                    raise BadValue(f"{at}: an assistant's turn is text; expected none", reason)
            elif f"</{tag}>" not in everything and (meant := _meant(tag, media)):
                reason = "has an unknown placeholder"
                near = did_you_mean(meant, media)
                raise BadValue(f"{at} is the placeholder of no field here. {near}", reason)


def _meant(tag: str, media: tuple[str, ...]) -> str:
    """The medium that somebody may have meant; empty if it is just a word between brackets."""
    word = tag.lower()
    for one in (word, word.removesuffix("s")):
        meant = _MEANT.get(one, one)
        if meant in modality_names() or meant in media:
            return meant
    near = get_close_matches(word, media, n=1, cutoff=_NEAR)
    return near[0] if near else ""


def _placed(turns: tuple[Turn, ...], name: str, number: int, field: Field) -> tuple[Turn, ...]:
    """The turns with as many placeholders of a medium as the row has entries."""
    placeholder = f"<{name}>"
    found = sum(turn["content"].count(placeholder) for turn in turns)
    if found == number:
        return turns
    if number == 0:
        dropped = re.compile(re.escape(placeholder) + r"\s?")
        return tuple({**turn, "content": dropped.sub("", turn["content"])} for turn in turns)
    if found:
        raise BadValue(
            f"field '{field.name}': {found} placeholders {placeholder}, but the row has {number} of "
            f"'{name}'; expected one for each, or none at all",
            f"has not as many placeholders as '{name}' has entries",
        )
    first = next(place for place, turn in enumerate(turns) if turn["role"] == "user")
    content = f"{placeholder}\n" * number + turns[first]["content"]
    return (*turns[:first], {"role": "user", "content": content}, *turns[first + 1 :])


def _tokens_of(
    turns: Sequence[Turn], field: Field, view: ConversationView
) -> Int[np.ndarray, "length 3"]:
    assert view.tokenizer is not None
    tokens = chat_of(view.tokenizer, view.template, view.media).encode(turns)
    length = int((tokens[:, 0] >= 0).sum())
    if length > view.max_tokens:
        raise BadValue(
            f"field '{field.name}': {length} tokens of text, where {view.max_tokens} are allowed; "
            "shorten it, or allow more (max_tokens)",
            f"has more than {view.max_tokens} tokens",
        )
    return tokens
