"""What goes wrong because of what a user gave, as opposed to a fault of the library."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's: shown as a message without a traceback.

    The message names the file, row, field or option, says what was expected, and how to mend it.
    """

    exit_code = 2


class BadValue(UserError):
    """One value of one row cannot be used; the row is set aside and the reason counted.

    Args:
        message: what is wrong, with the value.
        kind: the same without anything of the row, for records that must not hold rows.
    """

    def __init__(self, message: str, kind: str = "cannot be used") -> None:
        super().__init__(message)
        self.kind = kind


class MissingExtra(UserError):
    """A feature needs packages of an extra that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the '{extra}' extra: pip install 'sensorium[{extra}]'")
