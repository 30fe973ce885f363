"""How numbers are written for people; the terminal and the pages agree on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_IN_UNITS_OF_THE_TARGET = ("MAE", "RMSE")
NOTHING = "–"


def metric_value(key: str, value: float | None) -> str:
    """A metric's value: three decimals for shares, one for ranks, four digits for errors."""
    if value is None:
        return NOTHING
    name = key.rsplit("/", 1)[-1]
    if name.endswith("rank"):
        return f"{value:.1f}"
    return f"{value:.4g}" if name in _IN_UNITS_OF_THE_TARGET else f"{value:.3f}"


def with_interval(key: str, metric: Mapping[str, float | None]) -> str:
    """A metric and its interval: `0.812 [0.774, 0.848]`."""
    value = metric_value(key, metric["value"])
    if metric["low"] is None or metric["high"] is None:
        return value
    return f"{value} [{metric_value(key, metric['low'])}, {metric_value(key, metric['high'])}]"


def difference(key: str, metric: Mapping[str, float | None]) -> str:
    """A difference and its interval, with its sign."""
    text = with_interval(key, metric)
    return "+" + text if (metric["value"] or 0) > 0 else text


def is_clear(metric: Mapping[str, float | None]) -> bool:
    """Whether a difference's interval leaves zero out."""
    low, high = metric["low"], metric["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def metric_label(key: str) -> tuple[str, str]:
    """A metric's name and what it is of: `pool50/R@1` is `R@1`, `pool 50`."""
    *parts, name = key.split("/")
    where = [f"pool {part[4:]}" if _is_pool(part) else part.replace("->", "→") for part in parts]
    return name.replace("_", " "), ", ".join(reversed(where))


def ordered(keys: Iterable[str], main: str) -> list[str]:
    """Keys in the order in which a table without room for all takes them.

    The main metric; the same one of each direction and pool; other metrics; those of each part.
    """
    last = main.rsplit("/", 1)[-1]

    def place(key: str) -> int:
        if key == main:
            return 0
        if key.rsplit("/", 1)[-1] == last:
            return 1
        return 2 if "/" not in key else 3 + key.count("/")

    return sorted(keys, key=place)


def count(number: float | None) -> str:
    """`1.7M` for 1,700,000."""
    if number is None:
        return NOTHING
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def size(number: float | None) -> str:
    """`1.2 GB` for a number of bytes."""
    if number is None:
        return NOTHING
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f} B"


def duration(seconds: float | None) -> str:
    """`1:40` for a hundred seconds, `2:05:00` for more than two hours."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def milliseconds(number: float | None) -> str:
    """`0.35` or `12`."""
    return NOTHING if number is None else f"{number:.2g}" if number < 10 else f"{number:.0f}"


def plural(number: int, noun: str) -> str:
    """`1 row`, `200 rows`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def cost_cells(cost: Mapping[str, Any]) -> dict[str, str]:
    """The costs of a system, by the heading they go under."""
    return {
        "parameters": count(cost.get("parameters")),
        "training": duration(cost.get("training_seconds")),
        "training FLOPs": count(cost.get("training_flops")),
        "peak memory": size(cost.get("peak_memory_bytes")),
        "ms per row": milliseconds(cost.get("inference_ms_per_row")),
    }


def _is_pool(part: str) -> bool:
    return part.startswith("pool") and part[4:].isdigit()
