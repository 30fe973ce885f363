"""Whether a table has the columns a schema speaks of."""

from __future__ import annotations

from sensorium.data.sources import Source
from sensorium.modalities.base import get_modality
from sensorium.types import Schema, UserError
from sensorium.types.names import did_you_mean


def without_missing_columns(schema: Schema, table: Source) -> Schema:
    """The schema without the organising columns that new rows lack."""
    settings = ("key", "group", "split", "time")
    lacking = [name for name in settings if getattr(schema, name) not in table.column_names]
    return schema.replace(**dict.fromkeys(lacking))


def check_columns(schema: Schema, table: Source, new: bool = False) -> None:
    """Raise a `UserError` for a column the schema names and the table has not.

    So too for a setting of a field that its modality does not know. New rows may lack columns, but
    not all of them.
    """
    used = [entry for entry in schema if entry.role != "ignore"]
    for entry in used:
        get_modality(entry.modality).check(entry)
    if new and any(set(entry.source_columns) & set(table.column_names) for entry in used):
        return
    for entry in used:
        for column in entry.source_columns:
            if column not in table.column_names:
                raise UserError(
                    f"{table.name}: the schema's field '{entry.name}' reads the column '{column}', "
                    f"which is not there. {did_you_mean(column, table.column_names)}"
                )
    for setting in ("key", "group", "split", "time"):
        column = getattr(schema, setting)
        if column is not None and column not in table.column_names:
            raise UserError(
                f"{table.name}: the schema's '{setting}' names the column '{column}', which is not "
                f"there. {did_you_mean(column, table.column_names)}"
            )
