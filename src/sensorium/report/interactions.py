"""The interactions that a diagnosis found between inputs, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium.report import numbers
from sensorium.report.plots import Bar, part_plot
from sensorium.report.views import Grid, Line, Plot

LEGEND = (
    " Interactions: bits of the label that two inputs both tell (redundancy), that only one of them "
    "tells (uniqueness), and that neither tells without the other (synergy, for which inputs must be "
    "joined before they are added up). Inputs are clusters here, so that more can be in them; a row "
    "without an input is a cluster of its own. Without labelled pairs: what would be known of the "
    "synergy, and of the accuracy of the best model, if labels were known for each input alone; a lower "
    "end of 0 may say nothing."
)
CAPTION = (
    "Interactions: what two inputs tell of the label. Line beneath: where the end of the bar would be "
    "known to lie without labelled pairs; upright line: all there is to know"
)

Content = Mapping[str, Any]


def grids(content: Content) -> list[tuple[str, Grid]]:
    """What each pair of inputs tells, and what would be known without labelled pairs."""
    found = content.get("interactions")  # diagnoses of earlier versions have none
    if not found or not found["pairs"]:
        return []
    told = [
        Line(
            " + ".join(entry["inputs"]),
            [
                *(_bits(entry[part]) for part in ("redundancy", "unique_first", "unique_second")),
                _bits(entry["synergy"]),
                f"{entry['label']:.2f}",
            ],
        )
        for entry in found["pairs"]
    ]
    headings = [
        ("inputs", ""),
        ("both", "bits"),
        ("only first", "bits"),
        ("only second", "bits"),
        ("only together", "bits"),
        ("label", "bits"),
    ]
    known = [
        Line(
            " + ".join(entry["inputs"]),
            [
                _between(entry["interval"]),
                entry["active"],
                _between(entry["accuracy"]),
                " × ".join(str(number) for number in entry["clusters"]),
            ],
        )
        for entry in found["pairs"]
    ]
    bounds = [
        ("inputs", ""),
        ("only together", "no labelled pairs"),
        ("lower end", "from"),
        ("best accuracy", "no labelled pairs"),
        ("clusters", ""),
    ]
    return [
        ("Interactions", Grid(headings, told)),
        ("Interactions without labelled pairs", Grid(bounds, known)),
    ]


def plot(content: Content) -> Plot | None:
    """A bar for each pair of inputs."""
    found = content.get("interactions")
    if not found or not found["pairs"]:
        return None
    bars = []
    for entry in found["pairs"]:
        first, second = entry["inputs"]
        names = ("both", f"only {first}", f"only {second}", "only together")
        parts = ("redundancy", "unique_first", "unique_second", "synergy")
        lengths = [entry[part]["value"] for part in parts]
        known = sum(lengths[:3])
        low, high = (min(known + end, entry["label"]) for end in entry["interval"])
        bars.append(
            Bar(
                f"{first} + {second}",
                list(zip(names, lengths, strict=True)),
                low,
                high,
                entry["label"],
            )
        )
    return Plot(part_plot(bars, "bits"), CAPTION)


def warnings(content: Content) -> list[str]:
    """Why not to trust some of it, and what was left out."""
    found = content.get("interactions")
    if not found:
        return []
    of_pairs = [
        f"{' + '.join(entry['inputs'])}: {warning}."
        for entry in found["pairs"]
        for warning in entry["warnings"]
    ]
    return of_pairs + [
        f"No interactions of {name}: {reason}." for name, reason in found["skipped"].items()
    ]


def _bits(entry: Content) -> str:
    value, low, high = (entry[key] for key in ("value", "low", "high"))
    if value is None:
        return numbers.NOTHING
    return f"{value:.2f}" + ("" if low is None else f"\n[{low:.2f}, {high:.2f}]")


def _between(ends: list[float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"
