"""Graphs: things with features, and edges between them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor

from sensorium.modalities.base import Modality, View, is_missing, side_by_side
from sensorium.modalities.cells import LARGEST, is_number, to_class, to_number
from sensorium.modalities.graph_cells import CATEGORIES, read_graph
from sensorium.modalities.scalars import most_frequent, spread
from sensorium.types import BadValue, Field, UserError
from sensorium.types.names import did_you_mean

KINDS = ("nodes", "edges")
MAX_CLASSES = 1000

KIND, FIRST, SECOND, CODE, NUMBERS = range(5)
"""Columns of the rows of a decoded graph: what it is, both of its nodes, its class or type, numbers."""

NODE, EDGE = 0, 1


class GraphView(View):
    """What a system wants from a graph; larger ones are refused, since a part says something else.

    Attributes:
        max_nodes: the most nodes.
        max_edges: the most edges.
    """

    max_nodes: int = Setting(default=256, gt=0, le=100_000)
    max_edges: int = Setting(default=1024, gt=0, le=1_000_000)


class Graph(Modality):
    """JSON files (one for each row), or cells with the graph itself.

    A graph is a mapping of `nodes` and `edges` (or `links`). A node is a mapping of attributes with
    an `id`, or a plain value, which is its class; nodes without an `id` are called by their place,
    from 0 on. An edge is a mapping of `source`, `target` and perhaps a `type`, or a list of two or
    three of these. A field with `columns` gathers two columns of the row, of the kinds `nodes` and
    `edges`.

    Attributes that are numbers in all training rows are features, standardised; one is the class of
    the node. Options: `numbers` (which attributes are features), `category` (which one is the class;
    `type`, `category`, `class`, `label` or `name` if not given), `type` (the attribute of edges that
    is their type), `directed` (whether an edge has a beginning and an end; true unless said), and
    `path: true` if the column names files.

    Decoded, a graph is one table: a row for each node, then one for each edge, both in the order
    they come in. So it is a sequence like any other, which a batch pads and a mask bounds.
    """

    name = "graph"
    View = GraphView
    options = MappingProxyType(
        {"numbers": list, "category": str, "type": str, "directed": bool, "path": bool}
    )

    def check(self, field: Field) -> None:
        """Refuse columns of unknown kinds, too."""
        super().check(field)
        for column, kind in field.columns.items():
            if kind not in KINDS:
                raise UserError(
                    f"field '{field.name}', column '{column}': unknown kind '{kind}'. "
                    + did_you_mean(kind, KINDS)
                )
        if field.columns and sorted(field.columns.values()) != sorted(KINDS):
            raise UserError(
                f"field '{field.name}': expected one column of nodes and one of edges, found "
                f"{dict(field.columns)}"
            )

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Mappings, or JSON text of such, with nodes."""
        graphs = sum(
            (isinstance(v, Mapping) and "nodes" in v)
            or (isinstance(v, str) and v.lstrip().startswith("{") and '"nodes"' in v)
            for v in values
        )
        return 0.95 if values and graphs == len(values) else 0.0

    def entries(self, raw: Any, field: Field) -> list[Any]:
        """The graphs of a cell: one, or a list of files or mappings."""
        if isinstance(raw, Mapping) and all(is_missing(value) for value in raw.values()):
            return []
        return super().entries(raw, field)

    def fit(self, field: Field, values: Iterable[Any]) -> dict[str, Any]:
        """The attributes that are numbers, with mean and spread; classes of nodes; types of edges."""
        classes: Counter[str] = Counter()
        types: Counter[str] = Counter()
        found: dict[str, list[Any]] = {}
        graphs = []
        for cell in values:
            try:
                graphs += [read_graph(raw, field) for raw in self.entries(cell, field)]
            except BadValue:  # the row will be set aside when it is loaded
                continue
        for graph in graphs:
            types.update(name for name in graph.types if name is not None)
            for node in graph.nodes:
                for name, value in node.items():
                    if not is_missing(value):
                        found.setdefault(name, []).append(value)
        category = _category_of(field, found)
        if category is not None:
            classes.update(map(to_class, found.get(category, ())))
        numeric = [name for name in found if name != category and all(map(_is_number, found[name]))]
        numbers = [str(name) for name in field.options.get("numbers", numeric)]
        return {
            "category": category,
            "classes": most_frequent(classes.elements(), MAX_CLASSES),
            "types": most_frequent(types.elements(), MAX_CLASSES),
            "numbers": {name: spread(_read_all(found.get(name, ()), name)) for name in numbers},
        }

    def decode(self, raw: Any, field: Field, view: GraphView) -> Float[np.ndarray, "rows features"]:
        """A row for each node and each edge: kind, both nodes, code, numbers, which are there.

        A node has its own place for both nodes. Codes count from 1 on; 0 stands for none, or for one
        that no training row has.

        Raises:
            BadValue: it cannot be read, has no node or too many, or an edge without its node.
        """
        fitted = _fitted(field)
        graph = read_graph(raw, field)
        for what, count, most in (
            ("nodes", len(graph.nodes), view.max_nodes),
            ("edges", len(graph.edges), view.max_edges),
        ):
            if count > most:
                raise BadValue(
                    f"field '{field.name}': {count} {what}, more than {most}",
                    f"has more than {most} {what}",
                )
        num_nodes, names = len(graph.nodes), list(fitted["numbers"])
        rows = np.zeros((num_nodes + len(graph.edges), NUMBERS + 2 * len(names)), np.float32)
        rows[:num_nodes, FIRST] = rows[:num_nodes, SECOND] = np.arange(num_nodes)
        rows[num_nodes:, KIND] = EDGE
        rows[num_nodes:, [FIRST, SECOND]] = np.asarray(graph.edges).reshape(-1, 2)
        codes = {name: code for code, name in enumerate(fitted["classes"], start=1)}
        rows[:num_nodes, CODE] = [_code(node, fitted["category"], codes) for node in graph.nodes]
        codes = {name: code for code, name in enumerate(fitted["types"], start=1)}
        rows[num_nodes:, CODE] = [0 if t is None else codes.get(t, 0) for t in graph.types]
        for place, name in enumerate(names, start=NUMBERS):
            cells = [_number(node.get(name), name, field) for node in graph.nodes]
            moments = fitted["numbers"][name]
            column = (np.array(cells) - moments["mean"]) / moments["std"]
            there = ~np.isnan(column)
            if not (np.abs(column[there]) <= LARGEST).all():
                reason = "is far outside of the training rows"
                raise BadValue(
                    f"field '{field.name}', attribute '{name}': a value {reason}", reason
                )
            rows[:num_nodes, place] = np.where(there, column, 0.0)
            rows[:num_nodes, place + len(names)] = there
        return rows

    def collate(
        self, values: Sequence[Float[np.ndarray, "_ features"]], field: Field, view: Any
    ) -> tuple[Float[Tensor, "entries rows features"], Bool[Tensor, "entries rows"]]:
        """The tables, filled up to the longest, and which rows are no filling."""
        return side_by_side(values)

    def show(self, value: Any, field: Field) -> PIL.Image.Image:
        """Nodes on a circle, in a colour for each class, with lines between them."""
        if isinstance(value, np.ndarray):
            is_edge = value[:, KIND] == EDGE
            return _draw(value[~is_edge, CODE], value[is_edge][:, [FIRST, SECOND]].astype(int))
        graph = read_graph(value, field)
        category = _category_of(field, {name: [] for node in graph.nodes for name in node})
        classes = [to_class(node.get(category or "", "")) for node in graph.nodes]
        codes = np.unique(classes, return_inverse=True)[1]
        return _draw(codes, np.asarray(graph.edges, dtype=int).reshape(-1, 2))


def is_directed(field: Field) -> bool:
    """Whether edges have a beginning and an end."""
    return bool(field.options.get("directed", True))


def cardinalities(field: Field) -> tuple[int, int, int]:
    """The number of codes of nodes and of edges, 0 included, and of the numbers of a node."""
    fitted = _fitted(field)
    return len(fitted["classes"]) + 1, len(fitted["types"]) + 1, len(fitted["numbers"])


def _fitted(field: Field) -> dict[str, Any]:
    if "classes" not in field.fitted:
        raise ValueError(f"field '{field.name}' was not fitted to training rows")
    return field.fitted


def _category_of(field: Field, found: Mapping[str, Sequence[Any]]) -> str | None:
    if "category" in field.options:
        return str(field.options["category"])
    return next((name for name in CATEGORIES if name in found), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or is_number(value)


def _read_all(values: Iterable[Any], name: str) -> list[float]:
    """The numbers among some values; the rows of others will be set aside when they are loaded."""
    return [to_number(value, name) for value in values if _is_number(value)]


def _code(node: Mapping[str, Any], category: str | None, codes: Mapping[str, int]) -> int:
    value = None if category is None else node.get(category)
    return 0 if is_missing(value) else codes.get(to_class(value), 0)


def _number(value: Any, name: str, field: Field) -> float:
    if is_missing(value):
        return math.nan
    try:
        return to_number(value, name)
    except BadValue as error:
        reason = str(error).removeprefix(f"column '{name}': ")
        raise BadValue(
            f"field '{field.name}', attribute '{name}' of a node: {reason}", error.kind
        ) from None


def _draw(codes: NDArray[Any], edges: NDArray[np.int64]) -> PIL.Image.Image:
    import colorsys

    from PIL import ImageDraw

    side, middle = 256, 128
    picture = PIL.Image.new("RGB", (side, side), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    radius = max(2, min(14, 280 // len(codes)))
    angle = 2 * np.pi * np.arange(len(codes)) / len(codes) - np.pi / 2
    far = (middle - 6 - radius) * (len(codes) > 1)
    x, y = middle + far * np.cos(angle), middle + far * np.sin(angle)
    for first, second in edges.tolist():
        ends = (x[first], y[first], x[second], y[second])
        pen.line(ends, fill=(150, 150, 150), width=2)
        # a dot near its end says which way an edge goes
        at, over = (0.25 * ends[0] + 0.75 * ends[2], 0.25 * ends[1] + 0.75 * ends[3])
        pen.ellipse((at - 3, over - 3, at + 3, over + 3), fill=(90, 90, 90))
    for place, code in enumerate(codes.tolist()):
        shade = colorsys.hsv_to_rgb(int(code) * 0.381966 % 1, 0.6, 0.8)
        box = (x[place] - radius, y[place] - radius, x[place] + radius, y[place] + radius)
        pen.ellipse(box, fill=tuple(int(255 * part) for part in shade))
    return picture
