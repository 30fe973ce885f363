"""Rows into training, validation and test: as the data say, by share, group, time, or folds.

Each way is a function of the rows' names and the seed alone, so the same data give the same split
whatever their order, and a row more moves no other row far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensorium.data.sources import SPLIT_NAMES, Rows, Source
from sensorium.modalities.base import is_missing
from sensorium.types import Schema, UserError, draws
from sensorium.types.names import did_you_mean

SPLITS = ("train", "validation", "test")
DEFAULT_SHARES = (0.8, 0.1, 0.1)

Splits = dict[str, Rows]


def name_number(name: object) -> int:
    """A 63-bit integer that stands for a name (or bytes), the same on every machine."""
    text = name if isinstance(name, bytes) else str(name).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def group_numbers(cells: Sequence[Any], rows: Rows) -> NDArray[np.int64]:
    """An integer for each row that is equal where the cells are; an empty cell is a group alone."""
    numbers = [
        name_number(f"row {row}") if is_missing(cell) else name_number(f"group {cell}")
        for cell, row in zip(cells, rows.tolist(), strict=True)
    ]
    return np.asarray(numbers, dtype=np.int64)


def by_column(cells: Sequence[Any], names: Sequence[str], column: str) -> Splits:
    """The split each row names; a row whose cell is empty is in none.

    Raises:
        UserError: a cell names no split.
    """
    found: dict[str, list[int]] = {split: [] for split in SPLITS}
    for row, cell in enumerate(cells):
        if is_missing(cell):
            continue
        split = SPLIT_NAMES.get(str(cell).strip().lower())
        if split is None:
            raise UserError(
                f"row '{names[row]}', column '{column}': unknown split '{cell}'. "
                f"{did_you_mean(str(cell), SPLITS)}"
            )
        found[split].append(row)
    return {split: np.asarray(rows, dtype=np.int64) for split, rows in found.items()}


def by_share(
    groups: NDArray[np.int64], seed: int, shares: Sequence[float] = DEFAULT_SHARES
) -> Splits:
    """Random shares; the rows of a group stay together.

    Each split with a share gets a group at least, if there are enough groups.

    Args:
        groups: for each row, an integer that stands for its group.
        seed: another seed, another split.
        shares: of training, validation and test; they sum to 1.
    """
    distinct, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(draws.integers("split", seed, distinct), kind="stable")
    middle = np.cumsum(counts[order]) - counts[order] / 2
    cuts = np.cumsum(shares)[:-1] * len(groups)
    side_in_order = np.searchsorted(cuts, middle, side="right")
    # Too few groups for the shares: one each from the end, so that none is empty.
    wanted = [number for number, share in enumerate(shares) if share > 0]
    if len(distinct) >= len(wanted):
        for place, number in enumerate(reversed(wanted), 1):
            if not (side_in_order == number).any():
                side_in_order[-place] = number
        side_in_order.sort()
    side = np.empty(len(distinct), dtype=np.int64)
    side[order] = side_in_order
    return _from_sides(side[inverse])


def by_folds(groups: NDArray[np.int64], seed: int, num_folds: int, fold: int) -> Splits:
    """Fold number `fold` (from 1) tests, the next one validates, the others train."""
    distinct, inverse = np.unique(groups, return_inverse=True)
    if len(distinct) < num_folds:
        raise UserError(f"{len(distinct)} rows or groups cannot be put into {num_folds} folds")
    order = np.argsort(draws.integers("folds", seed, distinct), kind="stable")
    fold_of = np.empty(len(distinct), dtype=np.int64)
    fold_of[order] = np.arange(len(distinct)) % num_folds
    away = (fold_of[inverse] - (fold - 1)) % num_folds
    return _from_sides(np.where(away == 0, 2, np.where(away == 1, 1, 0)))


def by_time(
    cells: Sequence[Any],
    names: Sequence[str],
    column: str,
    shares: Sequence[float] = DEFAULT_SHARES,
) -> Splits:
    """The past trains, the future tests; rows of one time stay together.

    Raises:
        UserError: a cell is no time.
    """
    times = np.asarray([_time(cell, name, column) for cell, name in zip(cells, names, strict=True)])
    distinct, inverse, counts = np.unique(times, return_inverse=True, return_counts=True)
    if len(distinct) < len(SPLITS):
        raise UserError(
            f"column '{column}' holds {len(distinct)} different time(s); a split by time needs "
            f"{len(SPLITS)} at least"
        )
    middle = np.cumsum(counts) - counts / 2
    side = np.searchsorted(np.cumsum(shares)[:-1] * len(times), middle, side="right")
    side[-1], side[0] = len(SPLITS) - 1, 0
    if not (side == 1).any():  # a few large times: take the last before the test
        side[np.flatnonzero(side < 2)[-1]] = 1
        side[0] = 0
    return _from_sides(side[inverse])


def _time(cell: Any, name: str, column: str) -> float:
    if isinstance(cell, datetime):
        return _seconds(cell)
    if isinstance(cell, date):
        return _seconds(datetime(cell.year, cell.month, cell.day))
    if isinstance(cell, (int, float)) and not is_missing(cell):
        return float(cell)
    if isinstance(cell, str):
        try:
            return _seconds(datetime.fromisoformat(cell.strip()))
        except ValueError:
            pass
    shown = "nothing" if is_missing(cell) else f"'{cell}'"
    raise UserError(
        f"row '{name}', column '{column}': expected a time such as 2024-05-31, found {shown}"
    )


def _seconds(when: datetime) -> float:
    # A time without a zone is read as UTC: the split must not depend on the machine's zone.
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def completed(splits: Splits, groups: NDArray[np.int64], seed: int) -> Splits:
    """The splits, with what is missing of validation and test taken from the training rows.

    A tenth of the training rows each, by group; nothing if there are no training rows.
    """
    train = splits["train"]
    missing = [split for split in ("validation", "test") if not len(splits[split])]
    if not missing or not len(train):
        return splits
    shares = [1 - 0.1 * len(missing), *(0.1 if split in missing else 0.0 for split in SPLITS[1:])]
    parts = by_share(groups[train], seed, shares)
    taken = {split: train[parts[split]] for split in missing}
    return {**splits, **taken, "train": train[parts["train"]]}


def parse_shares(text: str) -> tuple[float, float, float]:
    """`0.8,0.1,0.1` as shares of training, validation and test.

    Raises:
        UserError: they are not three numbers from 0 to 1 that sum to 1.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            f"split 'share:{text}': expected three shares that sum to 1, such as share:0.8,0.1,0.1"
        )
    return shares[0], shares[1], shares[2]


def parse_folds(text: str) -> tuple[int, int]:
    """`5:1` as five folds of which the first tests.

    Raises:
        UserError: they are not two integers, at least 3 folds, the fold among them.
    """
    parts = text.split(":")
    if len(parts) == 2 and all(part.isdecimal() for part in parts):
        num_folds, fold = int(parts[0]), int(parts[1])
        if num_folds >= 3 and 1 <= fold <= num_folds:
            return num_folds, fold
    raise UserError(
        f"split 'folds:{text}': expected folds:K:I with K of 3 or more and I from 1 to K, such as "
        "folds:5:1"
    )


def _from_sides(sides: NDArray[np.int64]) -> Splits:
    return {split: np.flatnonzero(sides == number) for number, split in enumerate(SPLITS)}


def make(table: Source, schema: Schema, how: str | None, seed: int) -> Splits:
    """The splits of a table.

    Args:
        table: the rows.
        schema: says which columns hold splits, groups, times and names.
        how: `column:NAME`, `share:0.8,0.1,0.1`, `group:COLUMN`, `time:COLUMN` or `folds:K:I`. If
            None: the splits the source has built in, else those of the schema's split column, else
            shares. Shares and folds keep the schema's groups together.
        seed: of random shares and folds.

    Raises:
        UserError: it is none of these, a column isn't there or doesn't hold what is expected.
    """
    given = table.split_rows()
    if how is None and given is not None:
        return given
    kind, _, rest = (how or "").partition(":")
    if how is None:
        kind, rest = ("column", schema.split) if schema.split else ("share", "")
    if kind not in ("column", "share", "group", "time", "folds"):
        raise UserError(
            f"split '{how}': expected column:NAME, share:0.8,0.1,0.1, group:COLUMN, time:COLUMN or "
            "folds:K:I"
        )
    if kind in ("column", "group", "time"):
        if rest not in table.column_names:
            raise UserError(
                f"split '{how or schema.split}': {table.name} has no column '{rest}'. "
                + did_you_mean(rest, table.column_names)
            )
        group = rest if kind == "group" else schema.group
    else:
        group = schema.group
    rows = np.arange(len(table))
    needed = [
        name for name in (group, schema.key, rest if kind in ("column", "time") else None) if name
    ]
    cells = table.columns(list(dict.fromkeys(needed)), rows)
    names = [str(cell) for cell in cells[schema.key]] if schema.key else None
    if group:
        groups = group_numbers(cells[group], rows)
    elif names:
        groups = np.asarray([name_number(name) for name in names], dtype=np.int64)
    else:
        groups = rows
    if kind == "column":
        found = by_column(cells[rest], names or [str(row) for row in rows], rest)
        return completed(found, groups, seed)
    if kind == "time":
        return by_time(cells[rest], names or [str(row) for row in rows], rest)
    if kind == "folds":
        return by_folds(groups, seed, *parse_folds(rest))
    return by_share(
        groups, seed, parse_shares(rest) if kind == "share" and rest else DEFAULT_SHARES
    )
