"""Conditions on the columns of rows: a small grammar, read into a tree and written again.

    condition := both { "or" both }
    both      := one { "and" one }
    one       := "not" one | "(" condition ")" | column test
    test      := ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
               | "in" "(" value { "," value } ")"
               | "is" [ "not" ] "missing"
    column    := a name such as price, or any name in double quotes, of which one within is doubled
    value     := a number, true, false, or a text in single quotes, of which one within is doubled

What a person types is never passed on: only the tree is, and it is written anew for whoever reads it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from sensorium.types import UserError

Operator = Literal["=", "!=", "<", "<=", ">", ">="]
Value: TypeAlias = float | str | bool

MOST_TESTS = 200
MOST_NESTED = 40
"""So that whoever reads the tree, step by step into itself, has room to do so."""

_KEYWORDS = ("and", "or", "not", "in", "is", "missing", "true", "false")
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<name>[^\W\d][\w.-]*)
    | (?P<sign><=|>=|!=|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_NAME = re.compile(r"[^\W\d][\w.-]*")


@dataclass(frozen=True)
class Compare:
    """A column beside a value."""

    column: str
    operator: Operator
    value: Value


@dataclass(frozen=True)
class OneOf:
    """A column whose value is among some."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class IsMissing:
    """A column without a value."""

    column: str


@dataclass(frozen=True)
class Not:
    """The contrary."""

    part: Condition


@dataclass(frozen=True)
class All:
    """Each of two or more parts."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Some:
    """At least one of two or more parts."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = Compare | OneOf | IsMissing | Not | All | Some


def read_condition(text: str) -> Condition:
    """The tree of a condition.

    Raises:
        UserError: it is none; the message says where, and what could stand there.
    """
    return _Parser(text).read()


def write_condition(condition: Condition) -> str:
    """A text that `read_condition` reads as the same tree."""
    match condition:
        case Compare(column, operator, value):
            return f"{_write_name(column)} {operator} {_write_value(value)}"
        case OneOf(column, values):
            return f"{_write_name(column)} in ({', '.join(map(_write_value, values))})"
        case IsMissing(column):
            return f"{_write_name(column)} is missing"
        case Not(part):
            return f"not {_write_part(part)}"
        case All(parts):
            return " and ".join(map(_write_part, parts))
        case Some(parts):
            return " or ".join(map(_write_part, parts))


def _write_part(part: Condition) -> str:
    text = write_condition(part)
    return f"({text})" if isinstance(part, All | Some) else text


def _write_name(name: str) -> str:
    if _NAME.fullmatch(name) and name.lower() not in _KEYWORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def _write_value(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int

    def says(self, word: str) -> bool:
        """Whether it is a keyword or a sign."""
        return self.kind in ("name", "sign") and self.text.lower() == word


class _Parser:
    """Reads from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._divided()
        self._now = next(self._tokens)
        self._tests, self._depth = 0, 0

    def read(self) -> Condition:
        condition = self._either()
        if self._now.kind != "end":
            raise self._wrong("'and', 'or', or the end")
        return condition

    def _divided(self) -> Iterator[_Token]:
        place = 0
        end = len(self._text.rstrip())
        while place < end:
            found = _TOKEN.match(self._text, place)
            if found is None:
                start = place + len(self._text[place:]) - len(self._text[place:].lstrip())
                raise self._unreadable(start)
            kind = cast(str, found.lastgroup)
            yield _Token(kind, found[kind], found.start(kind))
            place = found.end()
        yield _Token("end", "", end)

    def _either(self) -> Condition:
        parts = [self._both()]
        while self._skip("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def _both(self) -> Condition:
        parts = [self._one()]
        while self._skip("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > MOST_NESTED:
            raise self._error(f"at most {MOST_NESTED} conditions within each other")
        if self._skip("not"):
            condition: Condition = Not(self._one())
        elif self._skip("("):
            condition = self._either()
            self._expect(")", "'and', 'or', or a closing ')'")
        else:
            condition = self._test()
        self._depth -= 1
        return condition

    def _test(self) -> Condition:
        self._tests += 1
        if self._tests > MOST_TESTS:
            raise self._error(
                f"at most {MOST_TESTS} comparisons; a list can be: kind in ('a', 'b')"
            )
        column = self._column()
        if self._skip("is"):
            contrary = self._skip("not")
            self._expect("missing", "'missing'")
            return Not(IsMissing(column)) if contrary else IsMissing(column)
        if self._skip("in"):
            self._expect("(", "a list in parentheses, such as ('a', 'b')")
            values = [self._value()]
            while self._skip(","):
                values.append(self._value())
            self._expect(")", "',' or a closing ')'")
            return OneOf(column, tuple(values))
        if self._now.text not in get_args(Operator) or self._now.kind != "sign":
            raise self._wrong("=, !=, <, <=, >, >=, 'in' or 'is missing'")
        return Compare(column, cast(Operator, self._take().text), self._value())

    def _column(self) -> str:
        if self._now.kind == "quoted":
            return self._take().text[1:-1].replace('""', '"')
        if self._now.kind != "name" or self._now.text.lower() in _KEYWORDS:
            raise self._wrong(
                'the name of a column; one of other signs in double quotes: "my column"'
            )
        return self._take().text

    def _value(self) -> Value:
        if self._now.kind == "text":
            return self._take().text[1:-1].replace("''", "'")
        if self._now.kind == "number":
            number = float(self._now.text)
            if not math.isfinite(number):
                raise self._wrong("a number that is not that large")
            self._take()
            return number
        if self._now.says("true") or self._now.says("false"):
            return self._take().text.lower() == "true"
        raise self._wrong("a number, true, false, or a text in single quotes: 'cat'")

    def _skip(self, word: str) -> bool:
        found = self._now.says(word)
        if found:
            self._take()
        return found

    def _expect(self, word: str, expected: str) -> None:
        if not self._skip(word):
            raise self._wrong(expected)

    def _take(self) -> _Token:
        token = self._now
        self._now = next(self._tokens, token)
        return token

    def _wrong(self, expected: str) -> UserError:
        found = f"found {self._now.text}" if self._now.text else "it ends there"
        return self._error(f"expected {expected}; {found}")

    def _unreadable(self, place: int) -> UserError:
        sign = self._text[place]
        if sign in "'\"":
            said = f"a {sign} that is not closed; one within the text is written twice"
        else:
            said = f"{sign!r} means nothing here; texts stand in single quotes: 'cat'"
        return UserError(f"condition, character {place + 1}: {said}: {self._text[place:]:.40}")

    def _error(self, what: str) -> UserError:
        place = self._now.place
        before = self._text[max(0, place - 30) : place]
        return UserError(f"condition, character {place + 1}, after '{before.strip()}': {what}")
