"""The turns of a conversation, as people write them down, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sensorium.modalities.base import get_modality, is_missing
from sensorium.modalities.cells import to_class, to_list
from sensorium.types import BadValue, Field
from sensorium.types.names import did_you_mean

Turn = dict[str, str]
"""What one says: `role` (`system`, `user` or `assistant`) and `content`."""

MAX_TURNS = 1000
MAX_CHARACTERS = 100_000

SLOT = re.compile(r"\{([^{}]*)\}")
"""`{column}` in a template of a turn."""

_LAYOUTS = (("role", "content"), ("from", "value"))
_ROLES = {name: name for name in ("system", "user", "assistant")} | {
    "human": "user",
    "gpt": "assistant",
}


def read_turns(raw: Any, field: Field) -> list[Turn]:
    """The turns in a list, in JSON text of one, or in columns by the templates of the field.

    An empty answer at the end is none.

    Raises:
        BadValue: they cannot be read, are too many or too long, or do not follow upon one another;
            the message names the turn.
    """
    where = f"field '{field.name}'"
    turns = _composed(raw, field) if field.columns else _listed(raw, field)
    if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        turns = turns[:-1]
    if not 0 < len(turns) <= MAX_TURNS:
        reason = f"a conversation has 1 to {MAX_TURNS} turns"
        raise BadValue(f"{where}: {reason}, found {len(turns)}", reason)
    length = sum(len(turn["content"]) for turn in turns)
    if length > MAX_CHARACTERS:
        reason = f"has more than {MAX_CHARACTERS} characters"
        raise BadValue(f"{where}: the conversation {reason}: {length}", reason)
    _check_order(turns, where)
    return turns


def is_filled(raw: Mapping[str, Any], columns: Iterable[str]) -> bool:
    """Whether any of the columns holds something."""
    return any(not is_missing(raw.get(column)) for column in columns)


def looks_like_turns(value: Any) -> bool:
    """Whether a cell is a list of turns, by its keys."""
    if isinstance(value, str):
        if not value.lstrip().startswith("[{"):
            return False
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    if isinstance(value, Mapping):
        value = _rows_of(value)
    if not isinstance(value, (list, tuple, np.ndarray)) or not len(value):
        return False
    return all(
        isinstance(turn, Mapping)
        and any(role in turn and content in turn for role, content in _LAYOUTS)
        for turn in value
    )


def _composed(raw: Mapping[str, Any], field: Field) -> list[Turn]:
    """One question, and an answer if none of its cells is empty."""

    def fill(template: str) -> str:
        return SLOT.sub(lambda slot: _cell(raw.get(slot[1]), slot[1], field), template)

    turns = [{"role": "user", "content": fill(field.options["user"])}]
    answer = field.options.get("assistant")
    if answer and not any(is_missing(raw.get(slot)) for slot in SLOT.findall(answer)):
        turns.append({"role": "assistant", "content": fill(answer)})
    return turns


def _cell(value: Any, column: str, field: Field) -> str:
    if is_missing(value):
        return ""
    if field.columns[column] == "text":
        text = get_modality("text")
        try:
            return str(text.decode(value, field, text.View()))
        except BadValue as error:
            raise BadValue(f"column '{column}': {error}", error.kind) from None
    if isinstance(value, (list, tuple, dict, np.ndarray, bytes)):
        kind = type(value).__name__
        raise BadValue(f"column '{column}': expected a {field.columns[column]}, found {kind}")
    return to_class(value)


def _listed(raw: Any, field: Field) -> list[Turn]:
    if isinstance(raw, Mapping):
        raw = _rows_of(raw)
    return [
        _read_turn(turn, f"field '{field.name}', turn {number}")
        for number, turn in enumerate(to_list(raw, field.name), start=1)
    ]


def _rows_of(raw: Mapping[str, Any]) -> Any:
    """What `datasets` makes of a list of turns: a mapping of lists."""
    for role, content in _LAYOUTS:
        roles, contents = raw.get(role), raw.get(content)
        if isinstance(roles, (list, np.ndarray)) and isinstance(contents, (list, np.ndarray)):
            return [
                {role: one, content: other} for one, other in zip(roles, contents, strict=False)
            ]
    return raw


def _read_turn(turn: Any, where: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise BadValue(
            f"{where}: expected a mapping with 'role' and 'content', found {type(turn).__name__}",
            "holds a turn that is no mapping",
        )
    layouts = [keys for keys in _LAYOUTS if not is_missing(turn.get(keys[0]))]
    if not layouts:
        reason = "holds a turn without a role"
        raise BadValue(f"{where}: no 'role' (or 'from'), found {sorted(map(str, turn))}", reason)
    role_key, content_key = layouts[0]
    role = str(turn[role_key]).strip().lower()
    if role not in _ROLES:
        raise BadValue(
            f"{where}: unknown role '{role:.40}'. {did_you_mean(role, _ROLES)}", "has unknown roles"
        )
    content = turn.get(content_key)
    if isinstance(content, np.ndarray):
        content = content.tolist()
    if isinstance(content, (list, tuple)):
        content = "\n".join(_part(part, where) for part in content)
    if content is None:
        content = ""
    if not isinstance(content, str):
        raise BadValue(
            f"{where}: expected a text as '{content_key}', found {type(content).__name__}",
            "holds a turn whose content is no text",
        )
    text = get_modality("text")
    # What is too long is refused as a whole, not cut.
    if len(content) <= MAX_CHARACTERS:
        content = text.decode(content, Field(name="content", modality="text"), text.View())
    return {"role": _ROLES[role], "content": content}


def _part(part: Any, where: str) -> str:
    """A part of a content as text; for one of media its placeholder."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if not isinstance(kind, str) or kind == "text":
        raise BadValue(
            f"{where}: expected parts such as {{type: text, text: ...}} and {{type: image}}",
            "holds a turn with unknown parts",
        )
    return f"<{kind.removeprefix('input_').removesuffix('_url')}>"


def _check_order(turns: Sequence[Turn], where: str) -> None:
    """System first or nowhere; then user, assistant, user, ..., none of them silent."""
    expected = "user"
    for number, turn in enumerate(turns, start=1):
        role = turn["role"]
        if role == "system" and number == 1:
            continue
        if role != expected:
            mend = "join turns of the same role to one" if role != "system" else "put it first"
            reason = "has turns in an order that cannot be"
            raise BadValue(
                f"{where}, turn {number}: expected {expected}, found {role}; {mend}", reason
            )
        if not turn["content"].strip():
            reason = "has an empty turn"
            raise BadValue(f"{where}, turn {number}: the {role} says nothing", reason)
        expected = "assistant" if role == "user" else "user"
    if turns[-1]["role"] == "system":
        reason = "has no turn of the user"
        raise BadValue(f"{where}: the conversation {reason}", reason)
