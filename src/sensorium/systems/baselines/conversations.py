"""Rows without a conversation: which fields an assistant sees, is asked about, and answers with."""

from __future__ import annotations

from sensorium.types import Field, Schema, UserError

NAME = "conversation"
_SAID = ("text", "category", "number")
_NO_MEDIA = (*_SAID, "categories", "table", "boxes", "spans", "conversation")
_READ = ("input", "query", "target", "question")


def media_of(schema: Schema) -> list[Field]:
    """The fields that are no text, and may be read."""
    return [f for f in schema.find(role=_READ) if f.modality not in _NO_MEDIA]


def conversation_of(system: str, schema: Schema) -> Field:
    """The conversation.

    Raises:
        UserError: there is none, or there are several.
    """
    found = [f for f in schema.find(modality="conversation") if f.role != "ignore"]
    if len(found) != 1:
        names = ", ".join(field.name for field in found) or "none"
        raise UserError(
            f"{system} reads one conversation, and these fields are conversations: {names}. Give "
            "others the role 'ignore' in the schema"
        )
    return found[0]


def answer_of(schema: Schema) -> Field | None:
    """What is to be said: the answer or label, or else the text that goes with a medium."""
    found = [f for f in schema.find(role=("answer", "label")) if f.modality in _SAID]
    found += schema.find(role=("target", "query"), modality="text")
    return found[0] if found else None


def with_conversation(system: str, schema: Schema, user: str, assistant: str) -> Schema:
    """The schema with a conversation, made of its fields if it has none.

    Media come first, each on a line; then what is in tables, other texts, and the question. Without
    a question, it is asked for the label, or for a description.

    Args:
        system: for messages.
        schema: the fields.
        user: what the user says, instead.
        assistant: what is answered, instead.

    Raises:
        UserError: there is nothing to be answered.
    """
    if any(f.role != "ignore" for f in schema.find(modality="conversation")):
        return schema
    answer = answer_of(schema)
    if answer is None:
        names = ", ".join(f"{f.name} ({f.modality}, {f.role})" for f in schema)
        raise UserError(
            f"{system} needs a conversation, or an answer, label or caption to be said, and none is "
            f"a text, category or number. Fields: {names}"
        )
    read = {
        column: "number" for t in schema.find(role=_READ, modality="table") for column in t.columns
    }
    tables = [f"{column}: {{{column}}}" for column in read]
    texts = [
        f
        for f in schema.find(role=_READ, modality=_SAID)
        if f.name != answer.name and f.of is None  # what hangs on another field is part of it
    ]
    texts.sort(key=lambda field: field.role == "question")
    lines = [f"<{field.name}>" for field in media_of(schema)] + tables
    lines += [f"{{{field.source_columns[0]}}}" for field in texts]
    if not any(field.role == "question" for field in texts):
        is_text = answer.modality == "text"
        lines.append("Describe it." if is_text else f"What is the {answer.name}?")
    said = answer.source_columns[0]
    read |= {field.source_columns[0]: field.modality for field in texts} | {said: answer.modality}
    options = {"user": user or "\n".join(lines), "assistant": assistant or f"{{{said}}}"}
    columns = {
        c: k for c, k in read.items() if f"{{{c}}}" in options["user"] + options["assistant"]
    }
    made = Field(name=NAME, modality="conversation", columns=columns, options=options)
    return schema.replace(made)
