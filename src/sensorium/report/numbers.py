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
    name = _parts(key)[1]
    if name.endswith("_rank"):
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
    places, name, part = _parts(key)
    where = [f"pool {place[4:]}" if _is_pool(place) else place for place in reversed(places)]
    where = [place.replace("->", "→") for place in where] + ([part] if part else [])
    return name.replace("_", " "), ", ".join(where)


def one_line(key: str) -> str:
    """The same in one piece: `R@1, text→image`."""
    return ", ".join(part for part in metric_label(key) if part)


def without_direction(key: str) -> tuple[str, str]:
    """A key without its direction, and the direction: `R@1`, `text→image`."""
    places, name, part = _parts(key)
    rest = [place for place in places if "->" not in place]
    direction = "".join(place for place in places if "->" in place)
    return "/".join([*rest, name, *([part] if part else [])]), direction.replace("->", "→")


def ordered(keys: Iterable[str], main: str) -> list[str]:
    """Keys in the order in which a table without room for all takes them.

    The main metric; the same one in another pool, and of each direction; other metrics; those of
    each part.
    """

    def place(key: str) -> int:
        if key == main:
            return 0
        if is_part(key, main):
            return 1 if _is_pool(key.split("/", maxsplit=1)[0]) else 2
        return 3 if "/" not in key else 4

    return sorted(keys, key=place)


def is_part(key: str, main: str) -> bool:
    """Whether a key is the main metric in one direction, one pool or for one kind of row."""
    return "/" in key and _parts(key)[1] == main and len(_parts(key)[0]) < 2


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


def data_name(where: str) -> str:
    """What data are called: the last part of a path, all of another address."""
    return where if ":" in where else where.rstrip("/").rsplit("/", 1)[-1]


def cost_cells(cost: Mapping[str, Any]) -> dict[str, str]:
    """The costs of a system, by the heading they go under."""
    return {
        "parameters": count(cost.get("parameters")),
        "training time": duration(cost.get("training_seconds")),
        "ms per row": milliseconds(cost.get("inference_ms_per_row")),
        "peak memory": size(cost.get("peak_memory_bytes")),
        "training FLOPs": count(cost.get("training_flops")),
    }


def _parts(key: str) -> tuple[list[str], str, str]:
    """Pool and direction, the name, and what follows it: the class in `recall/cat`."""
    places: list[str] = []
    rest = key
    while "/" in rest and (_is_pool(place := rest.split("/", 1)[0]) or "->" in place):
        places.append(place)
        rest = rest.split("/", 1)[1]
    name, _, part = rest.partition("/")
    return places, name, part


def _is_pool(part: str) -> bool:
    return part.startswith("pool") and part[4:].isdigit()
