"""How the streams of an assistant meet inside it, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sensorium.report import numbers
from sensorium.report.plots import layer_plot
from sensorium.report.views import Grid, Line, Plot

LEGEND_INTEGRATION = (
    " Integration rate: the logarithm of how far, in all layers together, states of the {modality} are from "
    "those of long texts that have nothing to do with it; lower is better, and only models of as many "
    "layers are comparable."
)
LEGEND_FLOW = (
    " Information flow: what the probability of an answer's first word changes when the tokens of one group "
    "no longer read those of another in {window}, on average over rows that are answered "
    "rightly. Peak: the mean layer, weighted by what is lost. Random: as many connections are cut "
    "anywhere. Attention: the share that the reader gives, which need not be what the answer depends on."
)
CAPTION_INTEGRATION = "Distance between {modality} and text after each layer"
CAPTION_CUT = "Information flow into {target}: change of the answer's probability"
TARGETS = {"last": "the last token", "question": "the question", "other": "other text"}
CAPTION_LENS = "What the last token would say after each layer ({kind})"

Content = Mapping[str, Any]
Curves = dict[str, list[tuple[float, float | None, float | None]]]


def legend(content: Content) -> str:
    """What the columns mean."""
    found = content.get("streams", {})
    text = ""
    if rate := found.get("integration"):
        text += LEGEND_INTEGRATION.format(modality=rate["modality"])
    if flow := found.get("flow"):
        size = flow["window"]
        around = "one layer" if size == 1 else f"{size} layers around one (fewer at the ends)"
        text += LEGEND_FLOW.format(window=around)
    return text


def grids(content: Content) -> list[tuple[str, Grid]]:
    """The rate, and a line for each way."""
    found = content.get("streams", {})
    tables = []
    if rate := found.get("integration"):
        headings = [
            ("integration rate", ""),
            ("value", ""),
            ("of the mean layer", ""),
            ("rows", ""),
        ]
        cells = [
            _with_interval(rate["value"]),
            _with_interval(rate["mean_of_layers"]),
            f"{rate['sets']} x {rate['rows']}",
        ]
        tables.append(("Integration", Grid(headings, [Line(f"{rate['modality']}, text", cells)])))
    if flow := found.get("flow"):
        headings = [
            ("from → to", ""),
            ("rows", ""),
            ("cut", "in all layers"),
            ("most", "in a window"),
            ("peak", "layer"),
            ("random", "in all layers"),
            ("attention", "mean"),
        ]
        tables.append(("Information flow", Grid(headings, [_line(each) for each in flow["flows"]])))
    return tables


def _line(flow: Content) -> Line:
    name, cut = f"{flow['source']} → {flow['target']}", flow["cut"]
    if not cut["rows"]:
        return Line(name, ["0", *[numbers.NOTHING] * 5])
    attention = [layer["value"] for layer in flow["attention"] if layer["value"] is not None]
    peak = cut["peak"]["value"]
    return Line(
        name,
        [
            f"{cut['rows']:,}",
            _percent_with_interval(cut["everywhere"]),
            _percent(-cut["drop"]["value"]),
            numbers.NOTHING if peak is None else f"{peak:.1f}",
            _percent(flow["random"]["everywhere"]["value"]),
            f"{sum(attention) / len(attention):.2f}" if attention else numbers.NOTHING,
        ],
    )


def plots(content: Content) -> list[Plot]:
    """Distances, ways and the lens, layer by layer."""
    found = content.get("streams", {})
    drawn = []
    if rate := found.get("integration"):
        curves = {"": _points(rate["layers"])}
        caption = CAPTION_INTEGRATION.format(modality=rate["modality"])
        drawn.append(Plot(layer_plot(curves, "distance", first=1), caption))
    if flow := found.get("flow"):
        for target in dict.fromkeys(each["target"] for each in flow["flows"]):
            curves = {
                each["source"]: _points(each["cut"]["layers"])
                for each in flow["flows"]
                if each["target"] == target and each["cut"]["rows"]
            }
            if curves:
                caption = CAPTION_CUT.format(target=TARGETS[target])
                drawn.append(Plot(layer_plot(curves, "change in %", first=1), caption))
        for kind, label in (("plain", "no norm before"), ("normed", "final norm at every layer")):
            curves = {name: _points(layers) for name, layers in flow["lens"][kind].items()}
            drawn.append(Plot(layer_plot(curves, "probability"), CAPTION_LENS.format(kind=label)))
    return drawn


def warnings(content: Content) -> list[str]:
    """Why not to trust some of it, and what could not be measured."""
    found = content.get("streams", {})
    named = (("integration", "Integration rate"), ("flow", "Information flow"))
    return [
        f"{name}: {text}." for key, name in named for text in found.get(key, {}).get("warnings", [])
    ] + [f"Not measured ({name}): {reason}." for name, reason in found.get("skipped", {}).items()]


def summary(content: Content) -> str:
    """The result in a sentence or two; empty if there is none."""
    found = content.get("streams", {})
    text = ""
    if rate := found.get("integration"):
        text += f" Its integration rate is {_with_interval(rate['value'])}."
    if flow := found.get("flow"):
        known = [each for each in flow["flows"] if each["cut"]["rows"]]
        drops = {f"{each['source']} → {each['target']}": each["cut"] for each in known}
        most = max(drops, key=lambda name: drops[name]["drop"]["value"])
        text += (
            f" Of {numbers.plural(flow['rows'], 'row')} that it answers rightly (of {flow['asked']:,}), the "
            f"answer depends most on {most}: {_percent_with_interval(drops[most]['everywhere'])}."
        )
    return text.strip()


def _points(layers: Sequence[Content]) -> list[tuple[float, float | None, float | None]]:
    return [(layer["value"], layer["low"], layer["high"]) for layer in layers]


def _with_interval(metric: Content) -> str:
    value, low, high = (metric[name] for name in ("value", "low", "high"))
    return f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _percent(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f} %"  # never -0.0


def _percent_with_interval(metric: Content) -> str:
    low, high = metric["low"], metric["high"]
    ends = "" if low is None else f" [{_percent(low)[:-2]}, {_percent(high)[:-2]}]"
    return _percent(metric["value"]) + ends
