"""What a row holds: fields with a modality and a role, and how they hang together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as Setting

from sensorium.types.errors import UserError
from sensorium.types.names import did_you_mean
from sensorium.types.plain_yaml import read_yaml, write_yaml

ROLES = (
    "input",  # may be read
    "query",  # one side of retrieval
    "target",  # the other side
    "question",  # read, and answered
    "answer",  # to be found for a question
    "label",  # to be predicted
    "group",  # divides rows for scores: the kind of a question, say
    "ignore",  # in the rows, of no use here
)


class Field(BaseModel):
    """One field of a row.

    Attributes:
        name: how systems, tasks and options speak of it.
        modality: the plug-in that decodes, validates, collates and shows it.
        role: what it is for, one of `ROLES`.
        of: the field it belongs to: boxes *of* an image, classes *of* boxes.
        column: the column it is read from, when that is not `name`.
        columns: for a table field, the kind of each column it gathers.
        options: settings of the modality.
        fitted: what the modality learned from the training rows (classes, means, ...).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    modality: str
    role: str = "input"
    of: str | None = None
    column: str | None = None
    columns: dict[str, str] = Setting(default_factory=dict)
    options: dict[str, Any] = Setting(default_factory=dict)
    fitted: dict[str, Any] = Setting(default_factory=dict)

    def model_post_init(self, _: object) -> None:
        """Refuse a role nobody speaks of."""
        if self.role not in ROLES:
            raise ValueError(
                f"field '{self.name}': unknown role '{self.role}'. {did_you_mean(self.role, ROLES)}"
            )

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The columns this field reads."""
        return tuple(self.columns) if self.columns else (self.column or self.name,)

    def replace(self, **changes: Any) -> Field:
        """A validated copy with changes."""
        return Field(**{**self.model_dump(), **changes})


class Schema(BaseModel):
    """The fields of a data set and the columns that organise its rows.

    Attributes:
        fields: the fields, in order.
        key: the column that names a row (its number if there is none).
        group: the column whose equal values must stay on one side of a split and count as one in
            intervals, for example a patient or an image with several captions.
        split: the column that says `train`, `validation` or `test`.
        time: the column by which a split by time orders rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fields: tuple[Field, ...]
    key: str | None = None
    group: str | None = None
    split: str | None = None
    time: str | None = None

    def model_post_init(self, _: object) -> None:
        """Refuse two fields of one name, and a field of a field that is not there."""
        names = [field.name for field in self.fields]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two fields are called '{name}'; give one of them another name")
        for field in self.fields:
            if field.of is not None and field.of not in names:
                raise ValueError(
                    f"field '{field.name}' is said to be of '{field.of}', which is not a field. "
                    + did_you_mean(field.of, names)
                )

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise UserError(
            f"there is no field '{name}'. {did_you_mean(name, [f.name for f in self.fields])}"
        )

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in self.fields)

    def __iter__(self) -> Iterator[Field]:  # type: ignore[override]
        return iter(self.fields)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields, in order."""
        return tuple(field.name for field in self.fields)

    def find(
        self,
        *,
        role: str | Iterable[str] | None = None,
        modality: str | Iterable[str] | None = None,
        of: str | None = None,
    ) -> list[Field]:
        """The fields that have one of the roles, one of the modalities, and hang on `of`."""
        roles = {role} if isinstance(role, str) else role and set(role)
        modalities = {modality} if isinstance(modality, str) else modality and set(modality)
        return [
            field
            for field in self.fields
            if (roles is None or field.role in roles)
            and (modalities is None or field.modality in modalities)
            and (of is None or field.of == of)
        ]

    def family(self, name: str) -> tuple[str, ...]:
        """A field and all that hangs on it: an image, its boxes, the classes of its boxes."""
        names = [self[name].name]
        for parent in names:
            names += [field.name for field in self.fields if field.of == parent]
        return tuple(names)

    def replace(self, *fields: Field, **changes: Any) -> Schema:
        """A copy in which fields of the same names are exchanged (new ones are added)."""
        new = {field.name: field for field in fields}
        kept = [new.pop(field.name, field) for field in self.fields]
        settings = {name: getattr(self, name) for name in ("key", "group", "split", "time")}
        return Schema(fields=(*kept, *new.values()), **{**settings, **changes})

    def with_roles(self, roles: dict[str, str]) -> Schema:
        """A copy with other roles: `{field name: role}`."""
        return self.replace(*(self[name].replace(role=role) for name, role in roles.items()))

    def save(self, path: Path) -> None:
        """Write a YAML file that a person can edit.

        Raises:
            UserError: it cannot be written.
        """
        lines = self.model_dump(exclude_defaults=True, mode="json")
        lines["fields"] = {field.pop("name"): field for field in lines["fields"]}
        try:
            path.write_text(write_yaml(lines), encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror or error}. Free some space or choose "
                "another place"
            ) from None

    @classmethod
    def load(cls, path: Path) -> Schema:
        """Read a schema file.

        Raises:
            UserError: the file is missing, not YAML, or says something a schema cannot.
        """
        try:
            content = read_yaml(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise UserError(f"schema {path}: no such file") from None
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no YAML
            raise UserError(f"schema {path}: not readable as YAML: {error}") from None
        if not isinstance(content, dict) or not isinstance(content.get("fields"), dict):
            raise UserError(
                f"schema {path}: expected 'fields:' with one entry for each field; "
                "`sensorium inspect PATH --schema FILE` writes one to start from"
            )
        fields = []
        for name, body in content["fields"].items():
            if not isinstance(body, dict | None):
                raise UserError(
                    f"schema {path}: field '{name}': expected settings such as 'modality: image', "
                    f"found {body!r:.60}"
                )
            fields.append({**(body or {}), "name": str(name)})
        try:
            return cls(**{**content, "fields": fields})
        except (ValidationError, ValueError, TypeError) as error:
            raise UserError(f"schema {path}: {explain(error)}") from None


def explain(error: Exception) -> str:
    """A validation error in one line a person can act on."""
    if not isinstance(error, ValidationError):
        return str(error)
    parts = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{place}: {message}" if place else message)
    return "; ".join(parts)
