"""Who reads rows and answers from them: an assistant of ours, or one behind an OpenAI-shaped address."""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sensorium.modalities.image import check_size
from sensorium.nn.language import Generation
from sensorium.search.answering import Question, Scores
from sensorium.search.index import Hit
from sensorium.training.run import Run
from sensorium.training.talking import answer, assistant_of, media_field, read_conversations
from sensorium.types import UserError

MOST_CHARACTERS = 500
"""Of a row's text that are read."""

SECONDS = 120

_TAG = re.compile(r"</?([\w-]+)>")

_AT_ONCE = 16
_MOST_PIXELS = 25_000_000

Piece = str | bytes
"""A text, or a picture as a file."""


def pieces_to_answer(question: Question, hits: Sequence[Hit]) -> Iterator[Piece]:
    """What is put to whoever answers, piece by piece."""
    for number, hit in enumerate(hits, start=1):
        yield f"[{number}]"
        yield from _row(hit)
    yield from _asked(question)
    yield (
        "Answer from what is above, and name what the answer rests on by its number, such as [1]. If it "
        "does not answer the question, say so."
    )


def pieces_to_judge(question: Question, hit: Hit) -> Iterator[Piece]:
    """What is put to whoever judges whether a row is relevant."""
    yield from _row(hit)
    yield from _asked(question)
    yield "Is what is above relevant to the question? Answer Yes or No."


def _row(hit: Hit) -> Iterator[Piece]:
    if hit.picture is not None:
        yield hit.picture
    text = " ".join(hit.text.split())
    if text:
        yield text[:MOST_CHARACTERS]
    # texts of columns are among the words already
    numbers = {name: value for name, value in hit.values.items() if not isinstance(value, str)}
    if numbers:
        yield ", ".join(f"{name}: {value}" for name, value in numbers.items())


def _asked(question: Question) -> Iterator[Piece]:
    if question.get("image") is not None:
        yield _file(question["image"])
    yield f"Question: {question['text']}"


def _file(raw: Any) -> bytes:
    if isinstance(raw, bytes):
        return raw
    try:
        file = Path(raw).read_bytes()
    except OSError as error:
        raise UserError(f"{raw} cannot be read: {error.strerror}") from None
    check_size(file, _MOST_PIXELS)
    return file


class AssistantReader:
    """An assistant of ours, which also says what is relevant: by how likely its Yes is against its No.

    Rows are shown as pictures only if it reads pictures.

    Args:
        run: of an assistant.
        settings: how words are chosen.

    Raises:
        UserError: it is none.
    """

    def __init__(self, run: Run, settings: Generation) -> None:
        self.name = run.folder.path.name
        self._run, self._settings = run, settings
        self._system = assistant_of(run)
        try:
            self._pictures = media_field(self._system, "image").name
        except UserError:
            self._pictures = ""

    def answer(self, question: Question, hits: Sequence[Hit]) -> str:
        """What it says."""
        turns, media = self._conversation(pieces_to_answer(question, hits))
        *_, said = answer(self._run, turns, media, self._settings)
        return said.strip()

    def scores(self, question: Question, hits: Sequence[Hit]) -> Scores:
        """The probability of Yes, of a row, against that of No."""
        found: list[np.ndarray] = []
        for start in range(0, len(hits), _AT_ONCE):
            some = hits[start : start + _AT_ONCE]
            asked = [self._conversation(pieces_to_judge(question, hit)) for hit in some]
            batch, wrong = read_conversations(self._system, asked)
            for error in wrong.values():
                raise error
            with torch.inference_mode():
                likely = self._system.choose(batch, ("Yes", "No"))
            found.append(likely.float().softmax(1)[:, 0].cpu().numpy())
        return np.concatenate(found)

    def _conversation(
        self, pieces: Iterator[Piece]
    ) -> tuple[list[dict[str, str]], dict[str, list[bytes]]]:
        lines: list[str] = []
        pictures: list[bytes] = []
        for piece in pieces:
            if isinstance(piece, str):
                # what stands in rows is text, though it may look like a placeholder
                lines.append(_TAG.sub(r"\1", piece))
            elif self._pictures:
                lines.append(f"<{self._pictures}>")
                pictures.append(piece)
        turns = [{"role": "user", "content": "\n".join(lines)}]
        return turns, {self._pictures: pictures} if pictures else {}


class EndpointReader:
    """An assistant behind an address that is asked as OpenAI's are.

    The key, if it needs one, is that in OPENAI_API_KEY. It is sent to no other address: redirections are
    not followed.

    Args:
        address: with the version, such as `http://127.0.0.1:8000/v1`.
        settings: how words are chosen: the longest answer, and the temperature.
        model: its name there; the one that there is, or can chat, if None.

    Raises:
        UserError: it does not answer, or the model must be named.
    """

    def __init__(self, address: str, settings: Generation, model: str | None = None) -> None:
        self._address, self._settings = address.rstrip("/"), settings
        self._model = model or self._only_model()
        self.name = f"{self._model} at {self._address}"

    def answer(self, question: Question, hits: Sequence[Hit]) -> str:
        """What it says."""
        content = [
            {"type": "text", "text": piece}
            if isinstance(piece, str)
            else {"type": "image_url", "image_url": {"url": _address_of(piece)}}
            for piece in pieces_to_answer(question, hits)
        ]
        answered = self._ask(
            "chat/completions",
            {
                "model": self._model,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": self._settings.max_tokens,
                "temperature": self._settings.temperature,
            },
        )
        try:
            said = answered["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            said = None
        if not isinstance(said, str):
            raise UserError(f"{self._address} answered something else than OpenAI's API does")
        return said.strip()

    def _only_model(self) -> str:
        listed = self._ask("models", None)
        models = listed.get("data", []) if isinstance(listed, dict) else []
        names = [
            m["id"] for m in models if isinstance(m, dict) and "chat" in m.get("can", ["chat"])
        ]
        if len(names) != 1:
            known = ", ".join(map(str, names[:12])) or "none"
            raise UserError(f"say with --model which model of {self._address} answers: {known}")
        return str(names[0])

    def _ask(self, path: str, content: Any) -> Any:
        where = f"{self._address}/{path}"
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(where, body, headers)
        try:
            with urllib.request.build_opener(_NoRedirection).open(
                request, timeout=SECONDS
            ) as found:
                return json.loads(found.read())
        except urllib.error.HTTPError as error:
            raise UserError(f"{where} answered {error.code}: {_reason(error)}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(f"{where} does not answer as OpenAI's API does: {reason}") from None


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return str(error.reason)


def _address_of(picture: bytes) -> str:
    kind = "webp" if picture[8:12] == b"WEBP" else "jpeg" if picture[:2] == b"\xff\xd8" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
