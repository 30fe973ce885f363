"""The view `attributes`: a label whose evidence is spread over picture, table and sound."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from sensorium.playground.base import CAPTIONED, PlaygroundView, Row
from sensorium.playground.compose import Wish
from sensorium.playground.sounds import left_to_right
from sensorium.playground.stream import Stream
from sensorium.playground.synthesis import RATE, glide
from sensorium.playground.world import COLOURS, Scene

WARM = tuple(COLOURS.index(colour) for colour in ("red", "orange", "yellow"))
COLD = tuple(COLOURS.index(colour) for colour in ("green", "blue", "purple"))
MATERIALS = {True: ("wood", "wool", "paper"), False: ("metal", "glass", "stone")}
PLACES = ("north", "east", "south", "west")
FIRST_DAY = date(2020, 1, 1)
DAYS = 1461
LOUD, SOFT = 100, 25


def label_of(warm: bool, heavy: bool, rising: bool) -> str:
    """The name of one of the eight classes."""
    temper, load = "warm" if warm else "cold", "heavy" if heavy else "light"
    return f"{temper} {load} {'rising' if rising else 'falling'}"


class Attributes(PlaygroundView):
    """Rows with a label of eight classes: three yes-or-no facts, each at home in one modality.

    Columns: image, weight, area, price, material, place, day (the table), sound, caption, label,
    value, objects, language.

    | fact | told surely by | hinted at (right in `agreement` = 75 of 100 rows) by |
    |---|---|---|
    | warm or cold | image: the ground is red, orange, yellow or green, blue, purple | sound: loud |
    | heavy or light | table: weight above 20, area above 200 | image: the things are big |
    | rising or falling | sound: the pitch | table: material is wood, wool, paper |

    So the best possible accuracy is 0.375 from one modality (1 x 0.75 x 0.5), 0.75 from two and 1
    from all three; 0.125 is chance. Labels take turns, so they are balanced. The short caption
    names the things and has no evidence. price, place and day have none either.

    `missing` percent of the table's cells are empty; of weight and area one is always there.
    `noise` percent of labels are drawn at random. `value` is a number to regress:
    weight + 10 if warm + 5 if rising + up to 1 at random.
    """

    name = "attributes"
    defaults = CAPTIONED | {"missing": 10, "noise": 0, "agreement": 75}

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The schema."""
        columns = {
            "weight": "number",
            "area": "number",
            "price": "number",
            "material": "category",
            "place": "category",
            "day": "date",
        }
        return [
            {"name": "image", "modality": "image", "role": "input"},
            {"name": "table", "modality": "table", "role": "input", "columns": columns},
            {"name": "sound", "modality": "audio", "role": "input"},
            {"name": "caption", "modality": "text", "role": "input"},
            {"name": "label", "modality": "category", "role": "label"},
            {"name": "value", "modality": "number", "role": "ignore"},
        ]

    def scene(self, index: int) -> Scene:
        """The scene of a row as data."""
        return self._shown(*self._place(index))

    def _facts(self, number: int) -> tuple[bool, bool, bool]:
        return number & 4 > 0, number & 2 > 0, number & 1 > 0

    def _label(self, warm: bool, heavy: bool, rising: bool) -> str:
        return label_of(warm, heavy, rising)

    def _hint(self, purpose: str, split: str, number: int, fact: bool) -> bool:
        """The fact, or its contrary where the hint is wrong."""
        stream = self._stream(f"hint {purpose}", split, number)
        return fact if stream.chance(self._number("agreement")) else not fact

    def _shown(self, split: str, number: int) -> Scene:
        warm, heavy, _ = self._facts(number)
        stream = self._stream("attributes", split, number)
        big = self._hint("heavy", split, number, heavy)
        things = stream.between(self._fewest, self._most)
        wish = Wish(things, backgrounds=WARM if warm else COLD, big=big)
        return self._compose(stream, split, wish)

    def _table(
        self, stream: Stream, heavy: bool, looks_rising: bool
    ) -> tuple[dict[str, float | str | None], int]:
        """The cells of a row, and the weight in tenths (the cell may be empty)."""
        weight = stream.between(202, 300) if heavy else stream.between(100, 198)
        area = stream.between(2020, 3000) if heavy else stream.between(1000, 1980)
        material = MATERIALS[looks_rising]
        day = FIRST_DAY + timedelta(days=stream.below(DAYS))
        cells: dict[str, float | str | None] = {
            "weight": weight / 10,
            "area": area / 10,
            "price": stream.between(100, 9999) / 100,
            "material": material[stream.below(len(material))],
            "place": PLACES[stream.below(len(PLACES))],
            "day": day.isoformat(),
        }
        for column in cells:
            if stream.chance(self._number("missing")) and (
                column != "area" or cells["weight"] is not None
            ):
                cells[column] = None
        return cells, weight

    def _row(self, split: str, number: int) -> Row:
        warm, heavy, rising = self._facts(number)
        scene = self._shown(split, number)
        looks_rising = self._hint("rising", split, number, rising)
        loud = self._hint("warm", split, number, warm)
        stream = self._stream("table", split, number)
        cells, weight = self._table(stream, heavy, looks_rising)
        value = (weight + 100 * warm + 50 * rising + stream.below(11)) / 10
        noise = self._stream("noise", split, number)
        facts = self._facts(noise.below(8) if noise.chance(self._number("noise")) else number)
        sound = glide(left_to_right(scene)[0], rising, LOUD if loud else SOFT)
        columns = self._caption(split, number, scene, self._mention(split, number, scene))
        del columns["phrases"]
        return {
            "image": scene.image(),
            **cells,
            "sound": {"array": sound, "sampling_rate": RATE},
            **columns,
            "label": self._label(*facts),
            "value": value,
        }
