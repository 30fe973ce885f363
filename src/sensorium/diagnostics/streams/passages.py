"""What the integration rate is measured on: a picture, then a long text that has nothing to do with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sensorium.data import Data
from sensorium.modalities.chat import ANSWER, PROMPT, chat_of
from sensorium.nn.joined import Conversing
from sensorium.types import Batch, Entries, UserError, draws

TOKENS = 256
"""Of a text. Captions, which are short and speak of the picture, would give another, lower rate."""

_TEXTS = 20_000
_CHARACTERS = 12  # of a token at most, on average


def long_texts(data: Data, num_texts: int, num_tokens: int, given: Sequence[str]) -> list[str]:
    """Texts of so many tokens at least, each put together from others in an order of its own.

    Args:
        data: whose training texts are used if none are given: many that belong to other rows.
        num_texts: how many.
        num_tokens: of each.
        given: texts that have nothing to do with the pictures.

    Raises:
        UserError: there are none.
    """
    parts = [text for text in given or data.texts(_TEXTS) if text.strip()]
    if not parts:
        raise UserError(
            f"{data.name} has no training texts, and the integration rate is measured on long ones; "
            "give some that have nothing to do with the pictures"
        )
    made = []
    for number in range(num_texts):
        order = draws.permutation(len(parts), "texts", number)
        length = 0
        chosen: list[str] = []
        while length < num_tokens * _CHARACTERS:
            chosen.append(parts[order[len(chosen) % len(order)]])
            length += len(chosen[-1]) + 1
        made.append("\n".join(chosen))
    return made


def passages(
    model: Conversing, batch: Batch, medium: str, texts: Sequence[str], num_tokens: int = TOKENS
) -> Batch:
    """Conversations of all pictures of a row and, as the assistant's turn, a text.

    The text counts as part of the prompt, so that a system's `prompt` reads it.

    Args:
        model: whose tokenizer and template write them.
        batch: rows, all of which have the medium.
        medium: the field of the pictures; others are left out.
        texts: one for each row, at least as long as is asked for.
        num_tokens: of each text.
    """
    view = model.view
    chat = chat_of(model.tokenizer, view.template, view.media)
    rows = []
    for number, text in zip(batch[medium].counts(batch.size).tolist(), texts, strict=True):
        for name in view.media:  # whose placeholders a text of the data may hold
            text = text.replace(f"<{name}>", "")
        shown = f"<{medium}>" * number + "\n"
        tokens = chat.encode(
            [{"role": "user", "content": shown}, {"role": "assistant", "content": text}]
        )
        begin = int(np.argmax(tokens[:, 1] == ANSWER))
        tokens[begin:, 1] = PROMPT
        rows.append(torch.from_numpy(tokens[: begin + num_tokens]))
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], True).bool()
    every = torch.arange(batch.size)
    entries = Entries(
        torch.nn.utils.rnn.pad_sequence(rows, True), every, torch.zeros_like(every), mask
    )
    others = [name for name in view.media if name != medium]
    return batch.without(*others).with_fields(**{model.field.name: entries.to(batch.device)})
