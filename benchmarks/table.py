"""Write the table in README.md from the records in results/.

python benchmarks/table.py          # part of `make bench`
python benchmarks/table.py --check  # fails if the table is not current
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
HEAD = (
    "| benchmark | figure | ours | peer | value | target | reached |\n|---|---|---|---|---|---|---|"
)
FIRST = ("infonce", "clip_step", "data", "video", "late_fusion", "startup", "ranking", "rows")


def number(value: float) -> str:
    """Three digits that count, without an exponent where it can be read without."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = max(0, 2 - len(str(int(abs(value)))) + 1) if abs(value) >= 1 else 3
        return f"{value:,.{digits}f}"
    return f"{value:.1e}"


def middle(values: list[float]) -> float:
    """The median."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def spread(figure: dict[str, Any]) -> str:
    """The median of a figure with its lowest and highest value, in its unit if it has no peer."""
    unit = "x" if figure["peer"] else f" {figure['unit']}"
    value = f"{number(figure['median'])}{unit}"
    if len(figure["values"]) == 1:
        return value
    return f"{value} [{number(figure['lowest'])}, {number(figure['highest'])}]"


def target(figure: dict[str, Any]) -> str:
    """What it should be, in words."""
    wanted = figure["target"]
    return "" if wanted is None else f"{wanted['bound']} {number(wanted['value'])}"


def verdict(figure: dict[str, Any]) -> str:
    """Whether it is so."""
    return {True: "yes", False: "no", None: ""}[figure["reached"]]


def format_figure(figure: dict[str, Any]) -> str:
    """A figure as one line."""
    parts = [f"{figure['name']}: {spread(figure)}"]
    if figure["peer"]:
        ours, theirs = (number(middle(figure[side])) for side in ("ours", "theirs"))
        parts.append(f"(ours {ours}, {figure['peer']} {theirs} {figure['unit']})")
    if figure["target"] is not None:
        parts.append(f"target {target(figure)}: {verdict(figure)}")
    return "  ".join(parts)


def table(records: list[dict[str, Any]]) -> str:
    """All figures, and under them the machine and date of each record, and its notes."""
    lines = [HEAD]
    for record in records:
        name = f"[`{record['benchmark']}`](results/{record['benchmark']}.json)"
        for figure in record["figures"]:
            ours = f"{number(middle(figure['ours']))} {figure['unit']}" if figure["peer"] else ""
            theirs = (
                f"{number(middle(figure['theirs']))} ({figure['peer']})" if figure["peer"] else ""
            )
            cells = [figure["name"], ours, theirs, spread(figure), target(figure), verdict(figure)]
            lines.append("| " + " | ".join([name, *cells]) + " |")
    for record in records:
        place = record["machine"]
        lines += [
            "",
            f"**{record['benchmark']}**, {record['date']}, {place['processor']}, "
            f"{record['threads']} of {place['cores']} cores, load {place['load_before']} before, "
            + ", ".join(f"{name} {number}" for name, number in record["versions"].items())
            + ". "
            + " ".join(record["notes"])
            + "".join(f" Skipped: {reason}." for reason in record["skipped"]),
        ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def records() -> list[dict[str, Any]]:
    """Those of the benchmarks in results/, in the order of the table."""
    paths = {path.stem: path for path in (HERE / "results").glob("*.json")}
    names = [*(name for name in FIRST if name in paths), *sorted(set(paths) - set(FIRST))]
    found = [json.loads(paths[name].read_text("utf-8")) for name in names]
    return [record for record in found if "benchmark" in record]


def with_table(page: str) -> str:
    """The page with the present table in its place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + table(records()) + "\n" + END + after


def main() -> int:
    """Write, or check."""
    page = README.read_text("utf-8")
    wanted = with_table(page)
    if "--check" in sys.argv:
        return int(page != wanted)
    README.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
