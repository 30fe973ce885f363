"""What the cell of a graph says: nodes with attributes, and edges between their places."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sensorium.modalities.base import is_missing
from sensorium.modalities.cells import to_class, to_list
from sensorium.modalities.media import checked, label
from sensorium.types import BadValue, Field

MAX_FILE_BYTES = 2**26

CATEGORIES = ("type", "category", "class", "label", "name")
"""Attributes that are the class of a node, if none is named; the first that occurs."""


@dataclass(frozen=True)
class Parts:
    """A graph as it is written: nodes by their places.

    Attributes:
        nodes: the attributes of each.
        edges: pairs of places.
        types: of the edges; None for one without.
    """

    nodes: Sequence[Mapping[str, Any]]
    edges: list[tuple[int, int]]
    types: list[str | None]


def read_graph(raw: Any, field: Field) -> Parts:
    """A graph from a file, JSON text or a mapping.

    Raises:
        BadValue: it is no graph; the message says why.
    """
    content = _content(raw, field)
    nodes = _list(content.get("nodes"), "nodes", field)
    if not nodes:
        raise BadValue(f"field '{field.name}': a graph without nodes", "has no nodes")
    edges = content.get("edges", content.get("links"))
    attributes = [_node(node, field) for node in nodes]
    names: list[Hashable] = []
    for place, node in enumerate(attributes):
        given = node.pop("id", None)
        names.append(_name(place if is_missing(given) else given, field))
    places = {name: place for place, name in enumerate(names)}
    if len(places) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise BadValue(f"field '{field.name}': two nodes have the id {twice!r}", "has equal ids")
    read = [_edge(edge, field) for edge in _list(edges, "edges", field)]
    for *ends, _ in read:
        for end in ends:
            if end not in places:
                raise BadValue(
                    f"field '{field.name}': an edge from {ends[0]!r} to {ends[1]!r}, and there is "
                    f"no node {end!r}",
                    "has an edge to a missing node",
                )
    pairs = [(places[first], places[second]) for first, second, _ in read]
    return Parts(attributes, pairs, [kind for _, _, kind in read])


def _content(raw: Any, field: Field) -> Mapping[str, Any]:
    if isinstance(raw, Mapping) and field.columns:
        return {kind: raw.get(column) for column, kind in field.columns.items()}
    is_media = isinstance(raw, Mapping) and bool(raw) and raw.keys() <= {"bytes", "path"}
    where = "the value"
    if isinstance(raw, (Path, bytes, bytearray, memoryview)) or is_media:
        source = checked(raw, field, "a file of a graph")
        where = label(source)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > MAX_FILE_BYTES:
            reason = f"has more than {MAX_FILE_BYTES} bytes"
            raise BadValue(f"field '{field.name}': {where} {reason}", reason)
        raw = source if isinstance(source, bytes) else source.read_bytes()
    if isinstance(raw, (str, bytes)):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError) as error:
            hint = "; set the option path: true if it names a file" if isinstance(raw, str) else ""
            raise BadValue(
                f"field '{field.name}': {where} is no JSON object: {error}{hint}", "is no JSON"
            ) from None
    if not isinstance(raw, Mapping) or "nodes" not in raw:
        raise BadValue(
            f"field '{field.name}': expected a mapping of nodes and edges, found {str(raw)!r:.60}",
            "is no graph",
        )
    return raw


def _list(value: Any, what: str, field: Field) -> list[Any]:
    if is_missing(value):
        return []
    try:
        return to_list(value, field.name)
    except BadValue as error:
        reason = str(error).removeprefix(f"field '{field.name}': ")
        raise BadValue(f"field '{field.name}', {what}: {reason}", "is no graph") from None


def _node(node: Any, field: Field) -> dict[str, Any]:
    if isinstance(node, Mapping):
        return {str(name): value for name, value in node.items()}
    if isinstance(node, (list, tuple)):
        return {str(place): value for place, value in enumerate(node)}
    return {str(field.options.get("category", CATEGORIES[0])): node}


def _edge(edge: Any, field: Field) -> tuple[Hashable, Hashable, str | None]:
    kind = None
    if isinstance(edge, Mapping):
        first, second = edge.get("source"), edge.get("target")
        kind = edge.get(field.options.get("type", "type"))
    elif isinstance(edge, (list, tuple)) and len(edge) in (2, 3):
        first, second, kind = (*edge, None)[:3]
    else:
        first = second = None
    if is_missing(first) or is_missing(second):
        raise BadValue(
            f"field '{field.name}': expected an edge as source and target, or a list of two nodes "
            f"and perhaps a type, found {str(edge)!r:.60}",
            "has an edge that cannot be read",
        )
    return _name(first, field), _name(second, field), None if is_missing(kind) else to_class(kind)


def _name(value: Any, field: Field) -> Hashable:
    """A node's name: 1 and 1.0 are the same, as JSON and Parquet write them, but not "1"."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float, np.integer, np.floating)) and math.isfinite(value):
        return float(value)
    raise BadValue(
        f"field '{field.name}': expected text or a number for a node, found {str(value)!r:.60}",
        "has a node without a name",
    )
