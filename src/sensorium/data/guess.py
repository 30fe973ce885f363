"""A schema from rows: what each column is, and what it is for, with the reason for each guess."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sensorium.data.sources import SPLIT_NAMES, Broken, Source, spread
from sensorium.modalities.base import get_modality, is_missing, modality_names
from sensorium.modalities.cells import column_kind
from sensorium.types import Field, Schema

_ROWS = 500

# Names of columns by what they are for, the surest first; compared in lower case, words joined by
# underscores.
_NAMES: dict[str, tuple[str, ...]] = {
    role: tuple(names.split())
    for role, names in {
        "split": "split fold_name subset partition",
        "label": "label labels target class classes cls y diagnosis outcome category categories "
        "sentiment genre species price rating score",
        "question": "question questions query_text",
        "answer": "answer answers response",
        "text": "caption captions text texts report reports description descriptions sentence "
        "title transcript transcription note notes findings impression prompt review body txt",
        "group": "group group_id patient patient_id subject subject_id speaker speaker_id user "
        "user_id scene scene_id case case_id study study_id hospital session session_id",
        "kind": "question_type answer_type question_kind",
        "time": "time date datetime timestamp created created_at",
        "key": "id key uid uuid name index row_id sample_id image_id file_name filename __key__",
        "path": "file_name filename file path file_path filepath image_path audio_path img "
        "img_path image_file audio_file video_path jpg png jpeg webp wav flac mp3",
    }.items()
}


@dataclass
class Guess:
    """A guessed schema.

    Attributes:
        schema: what was guessed.
        reasons: why, by column.
    """

    schema: Schema
    reasons: dict[str, str] = field(default_factory=dict)


def guess_schema(source: Source, samples: bool = True) -> Guess:
    """Guess modality and role of every column from names and a sample of rows.

    The same rows give the same guess.

    Args:
        source: the rows.
        samples: whether the reasons may quote them.
    """
    columns = _look(source, samples)
    organising = _organising(columns, source.key)
    fields = _fields(columns, organising)
    fields = _with_roles(fields, columns)
    reasons = {column.name: column.reason for column in columns.values() if column.reason}
    return Guess(Schema(fields=tuple(fields), **organising), reasons)


@dataclass
class _Column:
    name: str
    values: list[Any]  # of a sample of rows, without the empty ones
    num_rows: int  # in the sample
    modality: str = ""
    kind: str | None = None  # if it fits into a table
    reason: str = ""
    samples: bool = True

    @property
    def example(self) -> str:
        """A value, if values may be shown."""
        return f" (e.g. {_described(self.values[0])})" if self.samples else ""

    def is_called(self, role: str) -> bool:
        return _plain(self.name) in _NAMES[role]

    @property
    def num_distinct(self) -> int:
        return len({str(value) for value in self.values})


def _plain(name: str) -> str:
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", parts.lower()).strip("_") or name


def _look(source: Source, samples: bool) -> dict[str, _Column]:
    """The columns of a sample of rows; those whose modality the source knows are not read."""
    rows = spread(np.arange(len(source)), _ROWS)
    unknown = [name for name in source.column_names if name not in source.hints]
    cells = source.columns(unknown, rows)
    columns = {}
    for name in source.column_names:
        if name in source.hints:
            columns[name] = _Column(name, [], len(rows), source.hints[name])
            columns[name].reason = "known from the files"
            continue
        values = [v for v in cells[name] if not is_missing(v) and not isinstance(v, Broken)]
        columns[name] = _judge(_Column(name, values, len(rows), samples=samples))
    return columns


def _judge(column: _Column) -> _Column:
    """Give a column its modality."""
    values = column.values
    if not values:
        column.reason = "empty in all rows looked at"
        return column
    column.kind = column_kind(values)
    scores = {name: get_modality(name).guess(column.name, values) for name in modality_names()}
    if column.is_called("text") and any(isinstance(_first(v), str) for v in values):
        scores["text"] = max(scores["text"], 0.9)
    column.modality = max(scores, key=lambda name: scores[name])
    if scores[column.modality] == 0.0:
        column.modality = ""
        column.reason = f"of no modality that is known{column.example}"
    else:
        if column.modality == "category" and column.kind == "number":
            column.kind = "category"  # few whole numbers that repeat: codes, more likely than not
        column.reason = f"its values look like {column.modality}{column.example}"
    return column


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) and value else value


def _described(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = str(value).replace("\n", " ")
    return text if len(text) <= 40 else text[:37] + "..."


def _organising(columns: Mapping[str, _Column], key: str | None) -> dict[str, str]:
    """The columns for key (if the source does not know it), group, split and time."""
    found: dict[str, str] = {} if key is None else {"key": key}

    def take(setting: str, column: _Column, reason: str) -> None:
        found[setting] = column.name
        column.reason = reason

    for column in columns.values():
        if not column.values or column.is_called("label"):
            continue
        names = {str(value).strip().lower() for value in column.values}
        if "split" not in found and column.is_called("split") and names <= set(SPLIT_NAMES):
            take("split", column, "its name and values: train, validation, test")
        elif (
            "group" not in found
            and column.is_called("group")
            and 1 < column.num_distinct < len(column.values)
        ):
            take("group", column, "its name, and values that repeat: rows of one stay together")
        elif "time" not in found and column.is_called("time") and column.kind == "date":
            take(
                "time", column, "its name and dates; --split time:" + column.name + " orders by it"
            )
    media = [
        c
        for c in columns.values()
        if _is_media(c) and all(isinstance(v, (str, Path)) for v in c.values)
    ]
    for column in [*columns.values(), *media]:
        distinct = column.values and column.num_distinct == len(column.values) == column.num_rows
        plain = all(isinstance(value, (str, int, Path)) for value in column.values)
        if (
            "key" not in found
            and distinct
            and plain
            and (column.is_called("key") or column in media)
        ):
            found["key"] = column.name
            if column not in media:
                column.reason = "its name, and a value of its own in each row: names the row"
    if "group" not in found:
        for column in media:
            if column.values and column.num_distinct < len(column.values):
                found["group"] = column.name
                break
    return found


def _is_media(column: _Column) -> bool:
    return column.modality not in ("", "text") and (
        bool(get_modality(column.modality).suffixes) or _names_series(column)
    )


def _names_series(column: _Column) -> bool:
    """Whether the cells name files that are series."""
    return column.modality == "series" and all(isinstance(v, str) for v in column.values)


def _fields(columns: Mapping[str, _Column], organising: Mapping[str, str]) -> list[Field]:
    """A field for each column, and one table field for numbers, categories and dates."""
    taken = {organising.get(setting) for setting in ("key", "group", "split")}
    fields: list[Field] = []
    cells: dict[str, str] = {}
    for column in columns.values():
        if column.name in taken and not _is_media(column):
            continue
        if not column.modality:
            fields.append(Field(name=column.name, modality="text", role="ignore"))
        elif _is_media(column):
            fields.append(_media_field(column, fields))
        elif any(column.is_called(role) for role in ("label", "answer", "question", "kind")):
            fields.append(Field(name=column.name, modality=_label_modality(column)))
        elif _is_constant(column):
            column.reason = f"the same in all rows looked at{column.example}"
            fields.append(Field(name=column.name, modality=column.modality, role="ignore"))
        elif _is_code(column):
            column.reason = "a value of its own in each row, and no text: says nothing of the row"
            fields.append(Field(name=column.name, modality="text", role="ignore"))
        elif column.kind is not None and column.modality in ("number", "category", "table", "text"):
            is_text = column.modality == "text" and column.kind == "category"
            if is_text and (column.is_called("text") or not _repeats(column)):
                fields.append(_text_field(column))
                continue
            cells[column.name] = column.kind
            column.reason = f"a {column.kind}: gathered in the table"
        elif column.modality == "text":
            fields.append(_text_field(column))
        else:
            options = _box_options(column) if column.modality == "boxes" else {}
            fields.append(Field(name=column.name, modality=column.modality, options=options))
    if cells:
        name = "table" if all(f.name != "table" for f in fields) else "table_cells"
        fields.append(Field(name=name, modality="table", columns=cells))
    return fields


def _media_field(column: _Column, fields: Iterable[Field]) -> Field:
    name = _field_name(column, column.modality)
    if name in {entry.name for entry in fields}:
        name = column.name
    return Field(
        name=name,
        modality=column.modality,
        column=None if name == column.name else column.name,
        options={"path": True} if _names_series(column) else {},
    )


def _field_name(column: _Column, modality: str) -> str:
    """`xray_path` as `xray`; a name that says only that it's a file as the modality."""
    ending = r"_?(file_?name|file_?path|path|file)$"
    name = re.sub(ending, "", column.name, flags=re.IGNORECASE)
    return name if name and not column.is_called("path") else modality


def _box_options(column: _Column) -> dict[str, str]:
    """Pixels if a number is far above 1; left, top, width, height if corners make no sense."""
    modality, field = get_modality("boxes"), Field(name=column.name, modality="boxes")
    cells = [modality.entries(cell, field) for cell in column.values]
    boxes = [np.asarray(box, dtype=float) for cell in cells for box in cell]
    options = {}
    if any(box.max() > 2 for box in boxes):
        options["unit"] = "pixel"
    if any(box[2] <= box[0] or box[3] <= box[1] for box in boxes):
        options["format"] = "xywh"
    column.reason += f"; in {options.get('unit', 'fraction')}s, {options.get('format', 'xyxy')}"
    return options


def _text_field(column: _Column) -> Field:
    options = {}
    strings = [value for value in column.values if isinstance(value, str)]
    suffixes = get_modality("text").suffixes
    if strings and all(Path(s).suffix.lower() in suffixes and "\n" not in s for s in strings):
        options = {"path": True}
        column.reason = "names text files"
    name = _field_name(column, "text") if options or column.name == "txt" else column.name
    return Field(
        name=name,
        modality="text",
        column=None if name == column.name else column.name,
        options=options,
    )


def _label_modality(column: _Column) -> str:
    if column.is_called("question"):
        return "text"
    if column.is_called("answer"):
        return "category" if column.modality != "text" or _repeats(column) else "text"
    if column.modality in ("categories", "number"):
        return column.modality
    if column.modality == "text" and not _repeats(column):
        return "text"
    return "category"


def _is_constant(column: _Column) -> bool:
    """Whether all rows hold the same number, name or text."""
    plain = column.kind is not None or column.modality == "text"
    full = len(column.values) == column.num_rows > 1
    return plain and full and column.num_distinct == 1


def _repeats(column: _Column) -> bool:
    return 2 * column.num_distinct <= len(column.values)


def _is_code(column: _Column) -> bool:
    """Whether each row has a value of its own that isn't language or a measurement."""
    if column.num_distinct < len(column.values) or len(column.values) < 3:
        return False
    if not all(isinstance(value, (str, int)) for value in column.values):
        return False
    if column.is_called("key") or _plain(column.name).endswith(("_id", "_key", "_uid")):
        return True
    words_with_digits = (re.fullmatch(r"\S*[^\W\d]\S*\d\S*", str(v)) for v in column.values)
    return not column.is_called("text") and column.kind is None and all(words_with_digits)


def _with_roles(fields: list[Field], columns: Mapping[str, _Column]) -> list[Field]:
    """The fields with roles, boxes tied to their image."""

    def called(entry: Field, role: str) -> bool:
        column = columns.get(entry.source_columns[0])
        return column is not None and not entry.columns and column.is_called(role)

    used = [entry for entry in fields if entry.role != "ignore"]
    roles: dict[str, str] = {}
    questions = [entry for entry in used if called(entry, "question")]
    answers = [entry for entry in used if called(entry, "answer")]
    if questions and answers:
        roles = {questions[0].name: "question", answers[0].name: "answer"}
        roles |= {entry.name: "group" for entry in used if called(entry, "kind")}
    labels = [entry for entry in used if called(entry, "label") and entry.modality != "text"]
    names = _NAMES["label"]
    labels.sort(key=lambda entry: names.index(_plain(entry.source_columns[0])))
    if labels and not roles:
        roles[labels[0].name] = "label"
    media = [e for e in used if get_modality(e.modality).suffixes and e.modality != "text"]
    texts = [entry for entry in used if entry.modality == "text" and entry.name not in roles]
    texts.sort(key=lambda entry: not called(entry, "text"))
    if not roles and len(media) + len(texts) >= 2:
        sides = [*media, *texts] if not texts or not media else [media[0], texts[0]]
        roles = {sides[0].name: "query", sides[1].name: "target"}
    anchors = _anchors(used, columns)
    result = []
    for entry in fields:
        role = roles.get(entry.name, entry.role)
        of = anchors.get(entry.name)
        modality = "category" if of is not None and entry.modality != "boxes" else entry.modality
        result.append(entry.replace(role=role, of=of, modality=modality))
        column = columns.get(entry.source_columns[0])
        if entry.name in roles and column is not None:
            column.reason += f"; {role} by " + _role_reason(role)
    return result


def _anchors(fields: list[Field], columns: Mapping[str, _Column]) -> dict[str, str]:
    """What hangs on what: boxes on the first image, a class for each box on the boxes."""
    images = [entry for entry in fields if entry.modality == "image"]
    boxes = [entry for entry in fields if entry.modality == "boxes"]
    if not images or not boxes:
        return {}
    found = {entry.name: images[0].name for entry in boxes}
    counts = [len(value) for value in columns[boxes[0].source_columns[0]].values]
    for entry in fields:
        column = columns.get(entry.source_columns[0])
        if entry.modality not in ("category", "categories", "text") or column is None:
            continue
        lists = [value for value in column.values if isinstance(value, (list, tuple))]
        if [len(value) for value in lists] == counts:
            found[entry.name] = boxes[0].name
            column.reason += f"; one for each of '{boxes[0].name}'"
    return found


def _role_reason(role: str) -> str:
    if role in ("query", "target"):
        return "being one side of a pair, with no label or question in the rows"
    return "its name"
