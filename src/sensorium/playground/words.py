"""The words of the playground in four languages, and text that remembers what it names.

Names come without gender, so templates have no articles and no inflection: "katze links von rotes
herz" is not good German, but it is regular, true and different from the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from sensorium.playground.world import COLOURS, RELATIONS


@dataclass(frozen=True)
class Language:
    """The words and templates of one language.

    In templates {a} and {b} are things, {c} is a colour.
    """

    colours: dict[str, str]
    relations: dict[str, str]
    separator: str
    small: str
    big: str
    on_tile: str
    background: str
    questions: dict[str, str]
    answers: dict[str, str]
    junk: tuple[str, ...]

    def answer(self, key: str) -> str:
        """The word for "yes", "left", "red", ...; numbers stay as they are."""
        return self.answers.get(key) or self.colours.get(key) or key


def _colours(*words: str) -> dict[str, str]:
    return dict(zip(COLOURS, words, strict=True))


def _relations(*templates: str) -> dict[str, str]:
    return dict(zip(RELATIONS, templates, strict=True))


def _answers(*words: str) -> dict[str, str]:
    return dict(zip(("yes", "no", *RELATIONS), words, strict=True))


WORDS = {
    "en": Language(
        colours=_colours(*COLOURS),
        relations=_relations(
            "{a} left of {b}", "{a} right of {b}", "{a} above {b}", "{a} below {b}"
        ),
        separator=", ",
        small="small {a}",
        big="big {a}",
        on_tile="{a} on {c}",
        background="{c} background",
        questions={
            "exists": "is there any {a}?",
            "negation": "is there no {a}?",
            "count": "how many things?",
            "colour": "what colour is the background?",
            "tile": "what colour is under {a}?",
            "relation": "where is {a} seen from {b}?",
        },
        answers=_answers("yes", "no", "left", "right", "above", "below"),
        junk=(
            "photo",
            "free download",
            "HD",
            "best price",
            "new",
            "stock",
            "buy now",
            "lol",
            "2021",
            "cute",
            "wallpaper",
            "click here",
        ),
    ),
    "de": Language(
        colours=_colours("rot", "orange", "gelb", "grün", "blau", "lila", "weiß", "schwarz"),
        relations=_relations(
            "{a} links von {b}", "{a} rechts von {b}", "{a} über {b}", "{a} unter {b}"
        ),
        separator=", ",
        small="{a} (klein)",
        big="{a} (groß)",
        on_tile="{a} auf {c}",
        background="Hintergrund {c}",
        questions={
            "exists": "gibt es {a}?",
            "negation": "fehlt {a}?",
            "count": "wie viele Dinge?",
            "colour": "welche Farbe hat der Hintergrund?",
            "tile": "welche Farbe ist unter {a}?",
            "relation": "wo ist {a} von {b} aus?",
        },
        answers=_answers("ja", "nein", "links", "rechts", "oben", "unten"),
        junk=(
            "Foto",
            "gratis",
            "HD",
            "Bestpreis",
            "neu",
            "jetzt kaufen",
            "lol",
            "2021",
            "süß",
            "Hintergrundbild",
            "hier klicken",
        ),
    ),
    "id": Language(
        colours=_colours("merah", "oranye", "kuning", "hijau", "biru", "ungu", "putih", "hitam"),
        relations=_relations(
            "{a} di kiri {b}", "{a} di kanan {b}", "{a} di atas {b}", "{a} di bawah {b}"
        ),
        separator=", ",
        small="{a} kecil",
        big="{a} besar",
        on_tile="{a} beralas {c}",
        background="latar {c}",
        questions={
            "exists": "ada {a}?",
            "negation": "tidak ada {a}?",
            "count": "ada berapa benda?",
            "colour": "apa warna latar?",
            "tile": "apa warna alas {a}?",
            "relation": "di mana {a} dilihat dari {b}?",
        },
        answers=_answers("ya", "tidak", "kiri", "kanan", "atas", "bawah"),
        junk=(
            "foto",
            "gratis",
            "HD",
            "harga terbaik",
            "baru",
            "beli sekarang",
            "wkwk",
            "2021",
            "lucu",
            "klik di sini",
        ),
    ),
    "zh": Language(
        colours=_colours("红色", "橙色", "黄色", "绿色", "蓝色", "紫色", "白色", "黑色"),
        relations=_relations("{a}在{b}左边", "{a}在{b}右边", "{a}在{b}上方", "{a}在{b}下方"),
        separator="，",
        small="小的{a}",
        big="大的{a}",
        on_tile="{c}底上的{a}",
        background="{c}背景",
        questions={
            "exists": "有{a}吗？",
            "negation": "没有{a}吗？",
            "count": "有几样东西？",
            "colour": "背景是什么颜色？",
            "tile": "{a}下面是什么颜色？",
            "relation": "{a}在{b}的哪边？",
        },
        answers=_answers("是", "否", "左边", "右边", "上方", "下方"),
        junk=(
            "图片",
            "免费下载",
            "高清",
            "最低价",
            "新款",
            "点击购买",
            "哈哈",
            "2021",
            "可爱",
            "壁纸",
        ),
    ),
}


DIRECTIONS = ("left", "right", "up", "down")
_MOTIONS = {
    "en": ("{a} moves left", "{a} moves right", "{a} moves up", "{a} moves down"),
    "de": (
        "{a} bewegt sich nach links",
        "{a} bewegt sich nach rechts",
        "{a} bewegt sich nach oben",
        "{a} bewegt sich nach unten",
    ),
    "id": (
        "{a} bergerak ke kiri",
        "{a} bergerak ke kanan",
        "{a} bergerak ke atas",
        "{a} bergerak ke bawah",
    ),
    "zh": ("{a}向左移动", "{a}向右移动", "{a}向上移动", "{a}向下移动"),
}
MOTIONS = {
    language: dict(zip(DIRECTIONS, templates, strict=True))
    for language, templates in _MOTIONS.items()
}
STILL = {"en": "{a} stands still", "de": "{a} steht still", "id": "{a} diam", "zh": "{a}不动"}

DESCRIBE = {
    "en": "describe the picture.",
    "de": "beschreibe das Bild.",
    "id": "jelaskan gambar ini.",
    "zh": "描述这张图片。",
}
SHOWN_IN = {
    "en": "what is in picture {n}?",
    "de": "was ist auf Bild {n}?",
    "id": "apa yang ada di gambar {n}?",
    "zh": "第{n}张图片里有什么？",
}
TAKEN_BY = {
    "en": "who took picture {n}?",
    "de": "von wem ist Bild {n}?",
    "id": "siapa yang memotret gambar {n}?",
    "zh": "第{n}张图片是谁拍的？",
}

# How a thing is asked for: {x} is what is wanted, {y} what it has to do with the query.
ASKS = {
    "en": ("find {x} {y}", "wanted: {x} {y}"),
    "de": ("finde {x} {y}", "gesucht: {x} {y}"),
    "id": ("temukan {x} {y}", "dicari: {x} {y}"),
    "zh": ("找出{y}的{x}", "需要{y}的{x}"),
}
WANTED = {
    "en": {"text": "a text", "image": "a picture", "image+text": "a picture with a note"},
    "de": {"text": "einen Text", "image": "ein Bild", "image+text": "ein Bild mit Notiz"},
    "id": {"text": "teks", "image": "gambar", "image+text": "gambar dengan catatan"},
    "zh": {"text": "文字", "image": "图片", "image+text": "带备注的图片"},
}
REASONS = {
    "en": {
        "text": "for what is said",
        "text->text": "that answers",
        "image": "for this picture",
        "image->image": "of the same things in other places",
        "image+text": "for this picture after the change",
    },
    "de": {
        "text": "zu dem, was gesagt ist",
        "text->text": "mit der Antwort",
        "image": "zu diesem Bild",
        "image->image": "mit denselben Dingen an anderen Orten",
        "image+text": "zu diesem Bild nach der Änderung",
    },
    "id": {
        "text": "tentang yang dikatakan",
        "text->text": "yang menjawab",
        "image": "tentang gambar ini",
        "image->image": "benda yang sama di tempat lain",
        "image+text": "gambar ini setelah perubahan",
    },
    "zh": {
        "text": "符合描述",
        "text->text": "能回答问题",
        "image": "关于这张图片",
        "image->image": "同样东西换了位置",
        "image+text": "这张图片改变之后",
    },
}
REPLACED = {
    "en": "{c} in place of {a}",
    "de": "{c} statt {a}",
    "id": "{c} sebagai ganti {a}",
    "zh": "把{a}换成{c}",
}


class Phrase(NamedTuple):
    """Text and the places where it names things.

    Attributes:
        text: what is read.
        spans: (thing, start, end) for each name in it.
    """

    text: str
    spans: tuple[tuple[int, int, int], ...] = ()


def naming(thing: int, name: str) -> Phrase:
    """The name of a thing, as a phrase that knows whose name it is."""
    return Phrase(name, ((thing, 0, len(name)),))


@lru_cache(maxsize=1024)
def _pieces(template: str) -> tuple[str, ...]:
    return tuple(re.split(r"\{(\w)\}", template))


def fill(template: str, **slots: Phrase) -> Phrase:
    """Put phrases into the {letters} of a template; the spans move along."""
    pieces = _pieces(template)
    return join([Phrase(p) if i % 2 == 0 else slots[p] for i, p in enumerate(pieces)], "")


def join(phrases: Sequence[Phrase], separator: str) -> Phrase:
    """Phrases one after the other; the spans move along."""
    texts: list[str] = []
    spans: list[tuple[int, int, int]] = []
    length = 0
    for phrase in phrases:
        spans += [(thing, start + length, end + length) for thing, start, end in phrase.spans]
        texts.append(phrase.text)
        length += len(phrase.text) + len(separator)
    return Phrase(separator.join(texts), tuple(spans))
