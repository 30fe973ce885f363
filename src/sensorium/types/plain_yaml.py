"""YAML as plain data: no objects are made, no part refers to another, no exception escapes."""

from __future__ import annotations

from typing import Any

import yaml


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases: a few lines of them can stand for more than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases such as *name are not read; write the value out", mark
            )
        return super().compose_node(parent, index)


class _PlainDumper(yaml.SafeDumper):
    """Writes a value that occurs twice twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_yaml(text: str) -> Any:
    """What a text in YAML says.

    Raises:
        ValueError: it is no YAML, or says something other than plain data.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # 2024-13-45, for one, is a date that cannot be made
        raise ValueError(str(error)) from None


def write_yaml(content: Any) -> str:
    """Plain data as YAML."""
    return str(yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True))
