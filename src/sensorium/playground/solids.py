"""Solids for the view `shapes`: what things are made of, as triangles, with y upwards.

Each solid has some proportions that differ from thing to thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensorium.modalities.points import turning

Triangles = NDArray[np.float64]
"""(triangles, 3, 3): corners of triangles, and their x, y, z."""

Profile = list[tuple[float, float]]
SIDES = 20


def lathe(profile: Profile, sides: int = SIDES) -> Triangles:
    """A line of (radius, height) turned around the vertical; with few sides, a spire."""
    line = np.array(profile)
    angle = 2 * np.pi * np.arange(sides + 1) / sides
    ring = np.stack([np.cos(angle), np.ones(sides + 1), np.sin(angle)], 1)
    grid = ring[None] * line[:, None][..., [0, 1, 0]]
    return _from_grid(grid)


def sweep(path: NDArray[np.float64], radius: float, sides: int = 8) -> Triangles:
    """A round rod along a path of points."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    # the least of the axes is far from the direction, so the products below are not near zero
    helper = np.eye(3)[np.abs(along).argmin(1)]
    first = np.cross(along, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    angle = 2 * np.pi * np.arange(sides + 1) / sides
    ring = np.cos(angle)[:, None] * first[:, None] + np.sin(angle)[:, None] * second[:, None]
    return _from_grid(path[:, None] + radius * ring)


def prism(outline: list[tuple[float, float]], depth: float) -> Triangles:
    """An upright outline (x, y), all of which can be seen from its middle, made `depth` thick."""
    front = np.array([(x, y, depth / 2) for x, y in outline])
    back = front * (1, 1, -1)
    grid = np.stack([front, back])
    walls = _from_grid(np.concatenate([grid, grid[:, :1]], 1))
    caps = []
    for face in (front, back):
        middle = np.broadcast_to(face.mean(0), face.shape)
        caps.append(np.stack([middle, face, np.roll(face, -1, 0)], 1))
    return np.concatenate([walls, *caps])


def box(width: float, height: float, depth: float) -> Triangles:
    """A block around the origin."""
    x, y = width / 2, height / 2
    return prism([(-x, -y), (x, -y), (x, y), (-x, y)], depth)


def placed(
    solid: Triangles,
    x: float = 0.0,
    y: float = 0.0,
    z: float = 0.0,
    *,
    axis: int = 0,
    degrees: float = 0.0,
) -> Triangles:
    """A solid turned about an axis, and then moved."""
    turned = solid @ turning(axis, np.deg2rad(degrees)).T if degrees else solid
    return np.asarray(turned + np.array([x, y, z]))


def join(*parts: Triangles) -> Triangles:
    """Several solids as one."""
    return np.concatenate(parts)


def arc(radius: float, height: float, start: float, end: float, steps: int = 10) -> Profile:
    """Points (radius, height) on a circle around a point of the vertical; 0 degrees is down."""
    angle = np.deg2rad(np.linspace(start, end, steps + 1))
    return [(radius * float(np.sin(a)), height - radius * float(np.cos(a))) for a in angle]


def star(points: int, inner: float) -> list[tuple[float, float]]:
    """An outline whose corners lie on two circles in turn."""
    radius = np.where(np.arange(2 * points) % 2, inner, 1.0)
    angle = np.pi * (np.arange(2 * points) / points + 0.5)
    return list(
        zip((radius * np.cos(angle)).tolist(), (radius * np.sin(angle)).tolist(), strict=True)
    )


def _from_grid(grid: NDArray[np.float64]) -> Triangles:
    """Two triangles between any four neighbours of a grid of points."""
    a, b, c, d = grid[:-1, :-1], grid[1:, :-1], grid[:-1, 1:], grid[1:, 1:]
    pairs = np.stack([np.stack([a, b, c], 2), np.stack([b, d, c], 2)], 2)
    return pairs.reshape(-1, 3, 3)


def _circle(radius: float, start: float = 0.0, end: float = 360.0, steps: int = 24) -> Triangles:
    """A path on a circle that stands upright."""
    angle = np.deg2rad(np.linspace(start, end, steps + 1))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), 0 * angle], 1)


def _ring(radius: float, width: float) -> Profile:
    """The profile of a ring that lies flat."""
    return [(radius + r, y) for r, y in arc(width, 0.0, 0, 360, 12)]


def _heart() -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return list(zip((x / 16).tolist(), (y / 16).tolist(), strict=True))


def _legs(number: int, spread: float, height: float, thick: float) -> list[Triangles]:
    angle = 2 * np.pi * (np.arange(number) + 0.5) / number
    leg = lathe([(0, 0), (thick, 0), (thick, height), (0, height)], 8)
    return [placed(leg, spread * float(np.cos(a)), 0, spread * float(np.sin(a))) for a in angle]


def _spring(a: float, b: float) -> Triangles:
    t = np.linspace(0, 1, 80)
    turns = 2 * np.pi * (3 + round(2 * a)) * t
    path = np.stack([0.6 * np.cos(turns), 2 * t, 0.6 * np.sin(turns)], 1)
    return sweep(path, 0.09 + 0.06 * b)


def _knot(a: float, b: float) -> Triangles:
    t = np.linspace(0, 2 * np.pi, 80)
    radius = 2 + np.cos(3 * t)
    path = np.stack([radius * np.cos(2 * t), radius * np.sin(2 * t), (1 + a) * np.sin(3 * t)], 1)
    return sweep(path / 3, 0.1 + 0.06 * b)


def _wave(a: float, b: float) -> Triangles:
    t = np.linspace(-1, 1, 60)
    path = np.stack([1.3 * t, (0.3 + 0.3 * a) * np.sin(2 * np.pi * t), 0 * t], 1)
    return sweep(path, 0.12 + 0.08 * b)


def _chair(a: float, b: float) -> Triangles:
    return join(
        placed(box(1, 0.12, 1), y=0.7),
        placed(box(1, 0.8 + 0.5 * a, 0.12), y=1.15 + 0.25 * a, z=-0.44),
        *_legs(4, 0.58, 0.7, 0.06 + 0.04 * b),
    )


def _stairs(a: float, b: float) -> Triangles:
    number = 3 + round(2 * a)
    step = 2 / number
    steps = [
        placed(box(step, step * (n + 1), 0.8 + 0.5 * b), step * n, step * (n + 1) / 2)
        for n in range(number)
    ]
    return join(*steps)


def _ladder(a: float, b: float) -> Triangles:
    rails = [placed(box(0.1, 2.4, 0.1), side * (0.4 + 0.15 * b)) for side in (-1, 1)]
    number = 4 + round(2 * a)
    rungs = [
        placed(box(0.8 + 0.3 * b, 0.08, 0.08), y=2.2 * (n + 0.5) / number - 1.1)
        for n in range(number)
    ]
    return join(*rails, *rungs)


class Kind(NamedTuple):
    """A kind of thing.

    Attributes:
        names: by language.
        build: from two proportions in [0, 1) to the solid.
    """

    names: dict[str, str]
    build: Callable[[float, float], Triangles]


def _kind(names: str, build: Callable[[float, float], Triangles]) -> Kind:
    return Kind(dict(zip(("en", "de", "id", "zh"), names.split("|"), strict=True)), build)


# From unlike to alike, so that the first N are N things that can be told apart.
KINDS: tuple[Kind, ...] = (
    _kind("sphere|kugel|bola|球", lambda a, b: lathe(arc(1, 0, 0, 180, 16))),
    _kind("cube|würfel|kubus|立方体", lambda a, b: box(1, 1, 0.8 + 0.4 * a)),
    _kind("ring|ring|cincin|圆环", lambda a, b: placed(
        lathe(_ring(1, 0.15 + 0.25 * a)), axis=0, degrees=90)),
    _kind("cone|kegel|kerucut|圆锥", lambda a, b: lathe([(0, 0), (0.6 + 0.3 * a, 0), (0, 1.6)])),
    _kind("table|tisch|meja|桌子", lambda a, b: join(
        placed(box(1.6, 0.12, 1 + 0.5 * a), y=1), *_legs(4, 0.62, 1, 0.06 + 0.04 * b))),
    _kind("star|stern|bintang|星星", lambda a, b: prism(
        star(5, 0.38 + 0.12 * a), 0.25 + 0.3 * b)),
    _kind("spring|feder|pegas|弹簧", _spring),
    _kind("cup|tasse|cangkir|杯子", lambda a, b: join(
        lathe([(0, 0), (0.55, 0), (0.6 + 0.1 * a, 1.2), (0.5 + 0.1 * a, 1.2), (0.45, 0.1),
               (0, 0.1)]),
        placed(sweep(_circle(0.35 + 0.1 * b, -90, 90, 12), 0.07), 0.58, 0.6))),
    _kind("cross|kreuz|salib|十字", lambda a, b: join(
        box(0.4 + 0.2 * a, 2, 0.4), placed(box(1.4, 0.4 + 0.2 * a, 0.4), y=0.3 * b))),
    _kind("bottle|flasche|botol|瓶子", lambda a, b: lathe(
        [(0, 0), (0.5, 0), (0.5, 1 + 0.3 * a), (0.17, 1.5 + 0.2 * b), (0.17, 2.1), (0, 2.1)])),
    _kind("snowman|schneemann|manusia salju|雪人", lambda a, b: join(
        lathe(arc(0.7, 0.7, 0, 180)), lathe(arc(0.5, 1.7 + 0.1 * a, 0, 180)),
        lathe(arc(0.33 + 0.05 * b, 2.4 + 0.1 * a, 0, 180)))),
    _kind("hammer|hammer|palu|锤子", lambda a, b: join(
        lathe([(0, 0), (0.1, 0), (0.1, 1.8), (0, 1.8)], 10),
        placed(box(1 + 0.3 * a, 0.4, 0.35 + 0.1 * b), y=1.8))),
    _kind("bowl|schale|mangkuk|碗", lambda a, b: lathe(
        [*arc(1, 1, 0, 70 + 20 * a), *reversed(arc(0.9, 1, 0, 70 + 20 * a))])),
    _kind("pyramid|pyramide|piramida|金字塔", lambda a, b: lathe(
        [(0, 0), (1, 0), (0, 1.1 + 0.5 * a)], 4)),
    _kind("knot|knoten|simpul|绳结", _knot),
    _kind("mushroom|pilz|jamur|蘑菇", lambda a, b: lathe(
        [(0, 0), (0.22 + 0.1 * a, 0), (0.2, 0.8), *arc(0.8, 0.9, 75, 180, 8)])),
    _kind("chair|stuhl|kursi|椅子", _chair),
    _kind("heart|herz|hati|心形", lambda a, b: prism(_heart(), 0.3 + 0.4 * a)),
    _kind("hourglass|sanduhr|jam pasir|沙漏", lambda a, b: lathe(
        [(0, -1), (0.7, -1), (0.1 + 0.1 * a, 0), (0.7, 1), (0, 1)])),
    _kind("stairs|treppe|anak tangga|楼梯", _stairs),
    _kind("lamp|lampe|lampu|台灯", lambda a, b: join(
        lathe([(0, 0), (0.5, 0), (0.5, 0.1), (0.06, 0.15), (0.06, 1.3), (0, 1.3)]),
        lathe([(0.65 + 0.15 * a, 1.0), (0.3 + 0.1 * b, 1.8)]))),
    _kind("cylinder|zylinder|tabung|圆柱", lambda a, b: lathe(
        [(0, 0), (0.6, 0), (0.6, 1.2 + 0.6 * a), (0, 1.2 + 0.6 * a)])),
    _kind("wave|welle|gelombang|波浪", _wave),
    _kind("house|haus|rumah|房子", lambda a, b: prism(
        [(-0.8, -0.7), (0.8, -0.7), (0.8, 0.4), (1, 0.4), (0, 1.2), (-1, 0.4), (-0.8, 0.4)],
        1 + 0.6 * a)),
    _kind("dumbbell|hantel|barbel|哑铃", lambda a, b: placed(join(
        lathe(arc(0.45 + 0.1 * a, -0.9, 0, 180)), lathe(arc(0.45 + 0.1 * a, 0.9, 0, 180)),
        lathe([(0.12, -0.9), (0.12, 0.9)], 10)), axis=2, degrees=90)),
    _kind("ladder|leiter|tangga|梯子", _ladder),
    _kind("goblet|kelch|piala|高脚杯", lambda a, b: lathe(
        [(0, 0), (0.5, 0), (0.5, 0.08), (0.08, 0.15), (0.08, 0.8),
         *arc(0.45 + 0.2 * b, 1.3 + 0.2 * b, 20, 80 + 30 * a, 6)])),
    _kind("arrow|pfeil|panah|箭头", lambda a, b: join(
        placed(box(1.2, 0.35, 0.3), x=-0.5),
        prism([(0.1, -0.5 - 0.2 * a), (0.9, 0), (0.1, 0.5 + 0.2 * a)], 0.3))),
    _kind("plate|teller|piring|盘子", lambda a, b: lathe(
        [(0, 0), (0.6, 0), (1, 0.15 + 0.15 * a), (0.95, 0.2 + 0.15 * a), (0.55, 0.08), (0, 0.08)])),
    _kind("arch|torbogen|gapura|拱门", lambda a, b: join(
        sweep(_circle(0.7, 0, 180, 16), 0.18 + 0.08 * a),
        *(placed(box(0.36 + 0.16 * a, 0.8, 0.36), side * 0.7, -0.4) for side in (-1, 1)))),
    _kind("gear|zahnrad|roda gigi|齿轮", lambda a, b: prism(
        star(10, 0.75 + 0.05 * a), 0.3 + 0.2 * b)),
    _kind("vase|vase|vas|花瓶", lambda a, b: lathe(
        [(0, 0), (0.35, 0), (0.7 + 0.1 * a, 0.7), (0.3, 1.4), (0.5 + 0.1 * b, 1.7)])),
    _kind("wedge|keil|baji|楔子", lambda a, b: prism(
        [(-0.8, -0.4), (0.8, -0.4), (-0.8, 0.4 + 0.4 * a)], 0.8 + 0.4 * b)),
    _kind("bell|glocke|lonceng|铃铛", lambda a, b: join(
        lathe([(0.8, 0), (0.5, 0.3), (0.4, 0.9 + 0.2 * a), (0, 1.2 + 0.2 * a)]),
        lathe(arc(0.14, 0, 0, 180, 6)))),
    _kind("octahedron|oktaeder|oktahedron|八面体", lambda a, b: lathe(
        [(0, -1), (0.8 + 0.2 * a, 0), (0, 1)], 4)),
    _kind("spinning top|kreisel|gasing|陀螺", lambda a, b: lathe(
        [(0, -1), (0.8, 0.1 * a), (0.7, 0.3), (0.1, 0.4), (0.1, 0.9), (0, 0.9)])),
)  # fmt: skip
