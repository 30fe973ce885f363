"""A condition for LanceDB: only names that are ours, and values that are quoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sensorium.search.conditions import All, Compare, Condition, IsMissing, Not, OneOf, Some, Value
from sensorium.search.layout import Column
from sensorium.types import UserError
from sensorium.types.names import did_you_mean

_KINDS = {float: "number", str: "text", bool: "truth"}
_WORDS = {"number": "numbers", "text": "texts", "truth": "true and false"}
_EXAMPLES = {"number": "10", "text": "'cat'", "truth": "true"}


_CONTRARY = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def to_sql(condition: Condition, columns: Sequence[Column]) -> str:
    """The condition in SQL; a row without a value fits no comparison of it, and no contrary of one.

    Contraries stand beside comparisons alone, and every comparison asks for a value: what SQL calls
    unknown is never combined, of which not all that LanceDB simplifies says the same.

    Raises:
        UserError: a column is not there, or holds values of another kind.
    """
    return _write(condition, {column.name: column for column in columns}, contrary=False)


def _write(condition: Condition, columns: Mapping[str, Column], contrary: bool) -> str:
    match condition:
        case Compare(name, operator, value):
            column = _column(name, columns)
            if column.kind == "truth" and operator not in ("=", "!="):
                raise UserError(
                    f"condition: column '{name}' holds true and false, which can only be compared "
                    f"with = and !=, not with {operator}"
                )
            sign = _CONTRARY[operator] if contrary else operator
            return _of_a_value(column, f"{sign} {_literal(value, column)}")
        case OneOf(name, values):
            column = _column(name, columns)
            listed = ", ".join(_literal(value, column) for value in values)
            return _of_a_value(column, f"{'NOT IN' if contrary else 'IN'} ({listed})")
        case IsMissing(name):
            there = "IS NOT NULL" if contrary else "IS NULL"
            return f"({_column(name, columns).stored} {there})"
        case Not(part):
            return _write(part, columns, not contrary)
        case All(parts) | Some(parts):
            joint = " OR " if isinstance(condition, Some) != contrary else " AND "
            return "(" + joint.join(_write(part, columns, contrary) for part in parts) + ")"


def _of_a_value(column: Column, test: str) -> str:
    return f"({column.stored} IS NOT NULL AND {column.stored} {test})"


def _column(name: str, columns: Mapping[str, Column]) -> Column:
    if name not in columns:
        raise UserError(f"condition: there is no column '{name}'. {did_you_mean(name, columns)}")
    return columns[name]


def _literal(value: Value, column: Column) -> str:
    if _KINDS[type(value)] != column.kind:
        raise UserError(
            f"condition: column '{column.name}' holds {_WORDS[column.kind]}, and {value!r} is none; "
            f"write for example {_EXAMPLES[column.kind]}"
        )
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)
