"""Turns to tokens: a chat template writes them as one text, of which it is known who says what.

    turns ─ marks around what they say ─ chat template ─ text ─ cut at placeholders ─ tokens
                                             │
                              growing prefixes: where turns and answers begin

The template is rendered with the conversation as it grows, so an answer is what the template adds
to its own generation prompt, up to the special token that ends it. What turns say stands between
marks (characters that are in no text) while it is rendered; so a question is found even if its
words are also the template's, and a special token that someone writes into a turn stays plain text.
What a template writes around the turns is looked into once; conversations of the same layout follow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from sensorium.modalities.text import Tokenizer
from sensorium.modalities.turns import Turn
from sensorium.types import BadValue, UserError
from sensorium.types.names import number_of

PARTS = PROMPT, QUESTION, ANSWER = tuple(map(number_of, ("prompt", "question", "answer")))

DEFAULT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n"
    "{% elif message.role == 'user' %}User: {{ message.content }}\n"
    "{% else %}Assistant: {{ message.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

# Unicode promises that these characters are in no text. From the fourth on, one for each medium.
_CUT, _START, _END, _FIRST = "\ufdd0", "\ufdd1", "\ufdd2", 0xFDD3
_LAST = 0xFDEF
_TAKEN = dict.fromkeys(range(ord(_CUT), _LAST + 1), "\ufffd")
_UNMARKED = dict.fromkeys(map(ord, (_START, _END)))
_PIECES = re.compile(f"([{_CUT}{chr(_FIRST)}-{chr(_LAST)}])")
_MARKS = re.compile(f"[{_START}{_END}]")
_MOST_LAYOUTS = 1000
_PART_OF = {"system": PROMPT, "user": QUESTION, "assistant": ANSWER}
_Numbers = NDArray[np.int64]

# Templates that ask what day it is would give other tokens tomorrow; most let themselves be told.
_DATE = "26 Jul 2024"


@lru_cache(maxsize=16)
def chat_of(tokenizer: Tokenizer, template: str | None, media: tuple[str, ...]) -> Chat:
    """The one that belongs to a view; see `Chat`."""
    return Chat(tokenizer, template, media)


class Chat:
    """Conversations as tokens, by a tokenizer and a template.

    Args:
        tokenizer: its own template serves if none is given, and `DEFAULT_TEMPLATE` if it has none.
        template: the chat template.
        media: the fields whose placeholders `<name>` are read as such.

    Raises:
        UserError: the template is no Jinja.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None, media: tuple[str, ...]) -> None:
        if len(media) > _LAST - _FIRST:
            raise UserError(f"a conversation about {len(media)} fields; {_LAST - _FIRST} at most")
        self._tokenizer = tokenizer
        self._template = template or tokenizer.chat_template or DEFAULT_TEMPLATE
        self._marks = {f"<{name}>": chr(_FIRST + place) for place, name in enumerate(media)}
        self._placeholders = _any_of(self._marks)
        # A token of one character cannot be cut in two.
        self._specials = _any_of(token for token in tokenizer.special_tokens if len(token) > 1)
        self._is_special = np.zeros(tokenizer.size, dtype=bool)
        self._is_special[list(tokenizer.special_ids)] = True
        self._layouts: dict[tuple[str, ...], list[tuple[_Numbers, _Numbers]]] = {}

    def encode(self, turns: Sequence[Turn]) -> Int[np.ndarray, "length 3"]:
        """For each token its id, its part and its turn.

        A placeholder of the k-th medium is one token with the id -1-k. The part is that of the last
        character of a token; so a space at the end of a generation prompt, which most tokenizers
        join with the first word of the answer, counts as the answer's, and is left out where an
        answer is to be written. A special token has the part of its first character, since some
        take the blanks behind them along.

        Raises:
            BadValue: the template refuses the turns, or changes what they say.
            UserError: the template changes what it wrote before as turns are added.
        """
        marked = [self._marked(turn) for turn in turns]
        asks = turns[-1]["role"] == "user"
        [whole] = self._render([marked], asks)
        written, said = _apart(whole.rstrip(" ") if asks else whole, len(turns))
        # Where the template wrote the same, its parts are the same: growing it is slow.
        key = (turns[0]["role"], *written)
        if key not in self._layouts:
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = self._layout(marked, written, said)
        (part, turn), *after = self._layouts[key]
        parts, numbers = [part], [turn]
        for number, (text, (part, turn)) in enumerate(zip(said, after, strict=True)):
            parts += [np.full(len(text), _PART_OF[turns[number]["role"]]), part]
            numbers += [np.full(len(text), number), turn]
        text = "".join(chain.from_iterable(zip(written, [*said, ""], strict=True)))
        return self._tokens(text, np.concatenate(parts), np.concatenate(numbers))

    def _layout(
        self, marked: Sequence[Turn], written: Sequence[str], said: Sequence[str]
    ) -> list[tuple[_Numbers, _Numbers]]:
        """For each piece that the template wrote, the part and the turn of its characters."""
        ends, prompts = self._rendered(marked)
        text = "".join(chain.from_iterable(zip(written, [*said, ""], strict=True)))
        part, turn = np.full(len(text), PROMPT), np.full(len(text), len(marked) - 1)
        begin = end = before = 0
        for number, one in enumerate(marked):
            begin = end + len(written[number])
            end = begin + len(said[number])
            # What follows a system turn counts as the user's: the two may be one to the template.
            is_system = one["role"] == "system"
            after = end if is_system else _grown(text, ends[number], number)
            if one["role"] == "user":
                _grown(text, prompts[number], number)
            if one["role"] == "assistant":
                closed = self._specials.search(text, end, after)
                part[len(prompts[number - 1]) : closed.end() if closed else after] = ANSWER
            turn[before:after] = number
            before = after
        pieces, end = [], 0
        for number, piece in enumerate(written):
            begin, end = end, end + len(piece)
            pieces.append((part[begin:end], turn[begin:end]))
            end += len(said[number]) if number < len(said) else 0
        return pieces

    def _marked(self, turn: Turn) -> Turn:
        """A turn with what is said between marks, within which nothing is special but media."""
        content = turn["content"].translate(_TAKEN)
        content = self._placeholders.sub(lambda found: self._marks[found[0]], content)
        content = self._specials.sub(lambda found: found[0][0] + _CUT + found[0][1:], content)
        # Templates trim; a mark before a blank would keep it.
        core = content.strip()
        left = len(content) - len(content.lstrip())
        content = content[:left] + _START + core + _END + content[left + len(core) :]
        return {"role": turn["role"], "content": content}

    def _rendered(self, marked: Sequence[Turn]) -> tuple[list[str], dict[int, str]]:
        """The text after each turn, and with the generation prompt after each user's; unmarked."""
        grown = [marked[: number + 1] for number in range(len(marked))]
        users = [number for number, turn in enumerate(marked) if turn["role"] == "user"]
        # Templates may refuse a system turn without a user's.
        first = users[0]
        ends = [""] * first + self._render(grown[first:], False)
        prompts = self._render([grown[number] for number in users], True)
        prompts = [prompt.rstrip(" ").translate(_UNMARKED) for prompt in prompts]
        return [end.translate(_UNMARKED) for end in ends], dict(zip(users, prompts, strict=True))

    def _render(self, conversations: Sequence[Sequence[Turn]], asks: bool) -> list[str]:
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        settings: Mapping[str, Any] = {**self._tokenizer.named_tokens, "date_string": _DATE}
        try:
            texts, _ = render_jinja_template(
                [list(turns) for turns in conversations],
                chat_template=self._template,
                add_generation_prompt=asks,
                **settings,
            )
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"the chat template is no Jinja, line {error.lineno}: {error}"
            ) from None
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            reason = str(error).translate(_UNMARKED)
            raise BadValue(
                f"the chat template refuses it: {reason}", "is refused by the chat template"
            ) from None
        return list(texts)

    def _tokens(
        self, text: str, part: Int[np.ndarray, "characters"], turn: Int[np.ndarray, "characters"]
    ) -> Int[np.ndarray, "length 3"]:
        """The text cut at its marks, which are placeholders or nothing, and what each token is."""
        pieces = _PIECES.split(text)
        encoded = iter(self._tokenizer.encode_pieces(pieces[::2]))
        ids, last = [], []
        offset = 0
        for number, piece in enumerate(pieces):
            if number % 2 == 0:
                numbers, offsets = next(encoded)
                ids.append(numbers)
                decides = np.where(
                    self._is_special[numbers], offsets[:, 0], np.maximum(offsets[:, 1] - 1, 0)
                )
                last.append(offset + decides)
            elif piece != _CUT:
                ids.append(np.array([_FIRST - 1 - ord(piece)]))
                last.append(np.array([offset]))
            offset += len(piece)
        at = np.concatenate(last)
        return np.stack([np.concatenate(ids), part[at], turn[at]], 1)


def _apart(whole: str, num_turns: int) -> tuple[list[str], list[str]]:
    """What the template wrote, and between it what the turns say.

    Raises:
        BadValue: the marks are not all there, in order.
    """
    if "".join(_MARKS.findall(whole)) != (_START + _END) * num_turns:
        raise BadValue(
            "the chat template leaves out, cuts or repeats what a turn says, so that questions and "
            "answers cannot be told apart. Expected a template that writes each turn once, as it is",
            "is changed by the chat template",
        )
    pieces = _MARKS.split(whole)
    return pieces[::2], pieces[1::2]


def _grown(text: str, earlier: str, turn: int) -> int:
    """Where in a text an earlier rendering of it ends.

    Raises:
        UserError: it does not begin with it.
    """
    if not text.startswith(earlier):
        raise UserError(
            f"the chat template changes the text of turn {turn + 1} when more follows, so that "
            "answers would be learned that are not asked for in that way. Expected one that only "
            "adds text; give another with the view's `template`"
        )
    return len(earlier)


def _any_of(words: Any) -> re.Pattern[str]:
    """Any of the words, the longest first; nothing at all if there are none."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
