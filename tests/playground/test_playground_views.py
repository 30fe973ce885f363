import hashlib
import json
from typing import Any

import numpy as np
import pytest

from sensorium.playground import VIEWS, PlaygroundError, PlaygroundView, view
from sensorium.playground.compose import Wish, compose
from sensorium.playground.holdout import Holdout
from sensorium.playground.pictures import LANGUAGES
from sensorium.playground.stream import Stream
from sensorium.types import Field, Schema
from sensorium.types.draws import integers

SPLITS = ("train", "validation", "test")
SCENE_VIEWS = tuple(  # a row of albums is many scenes
    name for name in VIEWS if isinstance(view(name), PlaygroundView) and name != "albums"
)


def digest(rows: list[dict[str, Any]]) -> str:
    total = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            total.update(f"{value.dtype.str}{value.shape}".encode())
            total.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, dict):
            for key in sorted(value):
                total.update(key.encode())
                add(value[key])
        elif isinstance(value, list) and any(isinstance(part, np.ndarray) for part in value):
            for part in value:
                add(part)
        else:
            total.update(json.dumps(value, ensure_ascii=False).encode())

    for row in rows:
        add(row)
    return total.hexdigest()


# These may change only together with `VERSION` in base.py: results elsewhere rest on these bytes.
DIGESTS = {
    "playground:scenes": ("40cf4fccfb07f772e557eefe04919d10db2c8ec84c9ef01cec341baa2a503c73"),
    "playground:scenes?seed=7&objects=3-5&language=mixed&caption=dense&masks=1": (
        "f9e5cec9126d21d5c639a958266308c9eac8e924e8adabbcebc5c8c4262cdd9a"
    ),
    "playground:scenes?language=mixed&holdout=objects&tiles=1&caption=noisy": (
        "c91b18afce51d67ee22db3c68ecef55a4475ffebd6a952b9e47d73d4f10f02c0"
    ),
    "playground:scenes?size=128&objects=9-16&pictures=1500&named=2-3": (
        "dc74831505d2ef008cdeb2ccd2cf5f50b6eb873ef69db4834f9bde00a63045f5"
    ),
    "playground:regions": ("9c5926cb6c72aea87901398f85da2764654ba2c36e7ab8710053b276917e3764"),
    "playground:questions?language=mixed": (
        "60621bee69c23bce07267577af0029f00400da688909a67e48dd9dedd038335a"
    ),
    "playground:questions?seed=3&holdout=combinations&tiles=1": (
        "56434215f6cef5818e56fe68a53a17f4c2fbe7d0fd215d407f022b79eabb91a3"
    ),
    "playground:attributes": ("23d0528a90af64004ff6918879f08f78266db276dfb2d1d8afb72194f4204186"),
    "playground:majority": ("74dc9af113dab651e59c91720567705b3f7e95480934049db325b731fac67ace"),
    "playground:dialogues?language=mixed": (
        "edc5039d85c16f66ff8df7241b0cdbf59d28627aad60f9c95b072e095080ebf7"
    ),
    "playground:dialogues?seed=3&objects=3&tiles=1&turns=3-5": (
        "5ec107ce05f84c4faa08928225f5567660ef4b21578a7642a0c78f14fa42b709"
    ),
    "playground:albums": ("e52f334323b2689e0238fb181a77911112eea8325ad9515768d7864fd791a92b"),
    "playground:albums?language=mixed&holdout=objects&images=12": (
        "3bd1c39d7dd5ba0eb231d4cb847c47d89b885c25ebe3293ff62ccec542165f06"
    ),
    "playground:presence?language=mixed": (
        "cadb194724532c9234789d18fadcbc6a0c0d7270a24c16b48f9e0f8ef89c795c"
    ),
    "playground:sounds?objects=1-4": (
        "cf08feec8995bce13efa1b93140639d73da5ab077b07a9e3f9a573c764b39b3c"
    ),
    "playground:statements?language=mixed": (
        "0654151219da30755ad8ceba756d1cf22a62222480b80da2cf238cc49f3a10ec"
    ),
    "playground:universal?language=mixed": (
        "f354259803919f84d0829285c62050a5fa014ea2fbb590a9406bab4a1676398b"
    ),
    "playground:universal?objects=2-4&pictures=20&tiles=1&pairs=text->image": (
        "4ee97c367528fb446ea309bbddd6ee2808fa9356844bf076ff5521c24c69ed4f"
    ),
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("scenes", {}),
    ("scenes", {"seed": 7, "objects": "3-5", "caption": "dense", "language": "mixed", "masks": 1}),
    ("scenes", {"caption": "noisy", "language": "mixed", "holdout": "objects", "tiles": 1}),
    ("scenes", {"size": 128, "objects": "9-16", "pictures": 1500, "named": "2-3"}),
    ("regions", {}),
    ("questions", {"language": "mixed"}),
    ("questions", {"tiles": 1, "holdout": "combinations", "seed": 3}),
    ("attributes", {}),
    ("majority", {}),
    ("dialogues", {"language": "mixed"}),
    ("dialogues", {"tiles": 1, "turns": "3-5", "objects": 3, "seed": 3}),
    ("albums", {}),
    ("albums", {"images": 12, "language": "mixed", "holdout": "objects"}),
    ("presence", {"language": "mixed"}),
    ("sounds", {"objects": "1-4"}),
    ("statements", {"language": "mixed"}),
    ("universal", {"language": "mixed"}),
    ("universal", {"objects": "2-4", "tiles": 1, "pictures": 20, "pairs": "text->image"}),
]


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_rows_have_the_same_bytes_everywhere(name, parameters):
    rows = view(name, train=50, validation=10, test=20, **parameters)
    found = digest([rows[index] for index in [*range(12), *range(50, 54), *range(60, 72)]])
    assert found == DIGESTS[repr(view(name, **parameters))]


@pytest.mark.parametrize("name", VIEWS)
def test_the_order_of_asking_changes_nothing(name):
    rows, again = view(name), view(name)
    forward = [digest([rows[index]]) for index in (5, 20500, 21000)]
    backward = [digest([again[index]]) for index in (21000, 20500, 5)]
    assert forward == backward[::-1]
    assert len(set(forward)) == 3
    assert digest([view(name, seed=1)[5]]) != forward[0]


@pytest.mark.parametrize("name", VIEWS)
def test_fields_fit_the_rows(name):
    rows = view(name, train=10, validation=10, test=10)
    schema = Schema(fields=tuple(Field(**field) for field in rows.fields))
    row = rows[25]
    assert {column for field in schema for column in field.source_columns} <= set(row)
    if name in SCENE_VIEWS and name not in ("videos", "universal"):
        assert row["image"].dtype == np.uint8 and row["image"].ndim == 3
        assert row["image"].flags.writeable
    assert row["split"] == "test"
    assert json.loads(json.dumps(rows.parameters)) == rows.parameters
    assert view(name, **{k: str(v) for k, v in rows.parameters.items()}).parameters == (
        rows.parameters
    )


def test_splits_are_known_without_making_rows():
    rows = view("scenes", train=10**12, validation=5, test=7)
    assert len(rows) == 10**12 + 12
    assert rows.split(10**12 - 1) == "train" and rows.split(10**12) == "validation"
    assert rows.split_indices("test").tolist() == list(range(10**12 + 5, 10**12 + 12))
    assert rows[10**12 - 1]["split"] == "train"
    assert rows[-1]["split"] == rows.split(len(rows) - 1) == "test"
    with pytest.raises(IndexError):
        rows[len(rows)]
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        rows.split_indices("dev")


def test_more_training_rows_leave_the_test_rows_as_they_are():
    few, many = view("scenes", train=10), view("scenes", train=1000, validation=3)
    assert digest([few[1010 + 4]]) == digest([many[1003 + 4]])


def contents(rows, split, key, limit=400):
    return {key(rows.scene(int(index))) for index in rows.split_indices(split)[:limit]}


@pytest.mark.parametrize("name", SCENE_VIEWS)
@pytest.mark.parametrize("pictures", [12, 200])
def test_splits_share_no_scene(name, pictures):
    options = {"objects": 2} if name != "regions" else {"distractors": 1, "objects": 3}
    rows = view(name, pictures=pictures, train=400, validation=400, test=400, **options)

    def key(scene):
        shown = tuple(sorted(thing.picture for thing in scene.things))
        return shown, scene.background

    train, validation, test = (contents(rows, split, key) for split in SPLITS)
    assert min(len(train), len(validation), len(test)) > 20
    assert not train & test and not train & validation and not validation & test
    other = view(name, seed=99, pictures=pictures, train=400, **options)
    assert not contents(other, "train", key) & test


@pytest.mark.parametrize("name", SCENE_VIEWS)
def test_held_out_objects_are_never_seen_in_training(name):
    each = {"pairs": "text->image"} if name == "universal" else {}  # else eight rows to a scene
    rows = view(name, holdout="objects", train=400, validation=100, test=100, **each)

    def key(scene):
        return frozenset(thing.picture for thing in scene.things)

    train, validation, test = (frozenset().union(*contents(rows, split, key)) for split in SPLITS)
    assert not train & test and not train & validation and not validation & test
    assert len(train) > 100 and len(validation) > 15 and len(test) > 30


@pytest.mark.parametrize("name", ["scenes", "questions", "attributes", "sounds"])
@pytest.mark.parametrize("tiles", [0, 1])
def test_held_out_combinations_have_parts_that_training_shows(name, tiles):
    rows = view(name, holdout="combinations", tiles=tiles, pictures=40, train=1500, test=300)

    def key(scene):
        return frozenset(
            (thing.picture, scene.background if thing.tile is None else thing.tile)
            for thing in scene.things
        )

    train, test = (frozenset().union(*contents(rows, s, key, 1500)) for s in ("train", "test"))
    assert test and not train & test
    assert {picture for picture, _ in test} <= {picture for picture, _ in train}
    assert {colour for _, colour in test} <= {colour for _, colour in train}


def test_scenes_keep_things_apart_and_inside():
    for parameters in ({}, {"objects": "1-16", "tiles": 1}, {"objects": "5-9", "size": 96}):
        rows = view("scenes", **parameters)
        for index in range(300):
            scene = rows.scene(index)
            assert scene.tidy()
            assert len({thing.picture for thing in scene.things}) == len(scene.things)
            assert all(thing.tile != scene.background for thing in scene.things)


def test_seeds_do_not_change_which_scenes_are_for_testing():
    holdout = Holdout("scenes", 200)
    scene = compose(Stream("here", 5), "test", holdout, Wish(3), size=64, tiles=False)
    shown = [thing.picture for thing in scene.things]
    assert holdout.may_be("test", shown, scene.background)
    assert not holdout.may_be("train", shown[::-1], scene.background)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("scene", {}, "unknown playground view 'scene'. Did you mean 'scenes'?"),
        ("scenes", {"object": 2}, "no parameter 'object'. Did you mean 'objects'?"),
        ("scenes", {"caption": "dens"}, "unknown 'dens'. Did you mean 'dense'?"),
        ("scenes", {"language": "fr"}, "unknown 'fr'"),
        ("scenes", {"objects": "4-2"}, "not within 1-16"),
        ("scenes", {"objects": "many"}, "expected 3 or 2-4"),
        ("scenes", {"train": "lots"}, "expected a whole number"),
        ("scenes", {"pictures": 99999}, "is not from 1 to"),
        ("scenes", {"pictures": 3, "objects": 4}, "larger number of pictures"),
        ("scenes", {"pictures": 9, "holdout": "objects"}, "larger number of pictures"),
        ("regions", {"caption": "noisy"}, "give distractors=1"),
        ("questions", {"caption": "short"}, "no parameter 'caption'"),
    ],
)
def test_errors_say_what_was_expected(name, parameters, message):
    with pytest.raises(PlaygroundError) as error:
        view(name, **parameters)
    assert message in str(error.value)
    assert isinstance(error.value, ValueError)


def test_a_split_that_cannot_be_filled_is_an_error_not_a_hang():
    holdout = Holdout("scenes", 2)
    splits = [split for split in SPLITS if holdout.may_be(split, [0, 1], 3)]
    assert len(splits) == 1
    wish = Wish(2, background=3)
    compose(Stream("here"), splits[0], holdout, wish, size=64, tiles=False)
    for other in set(SPLITS) - set(splits):
        with pytest.raises(PlaygroundError, match="larger number of pictures"):
            compose(Stream("here"), other, holdout, wish, size=64, tiles=False)


@pytest.mark.parametrize("keys", [(), (0,), (-3, 7), (2**40, 1, 5)])
def test_a_stream_gives_the_numbers_of_the_array_function(keys):
    stream = Stream("purpose", *keys)
    expected = integers("purpose", *keys, np.arange(40)).tolist()
    assert [stream.next() for _ in range(40)] == expected


def test_a_stream_is_fair():
    stream = Stream("fair")
    counts = np.bincount([stream.below(7) for _ in range(7000)], minlength=7)
    assert counts.min() > 850 and counts.max() < 1150
    assert sorted(stream.shuffled(9)) == list(range(9))
    assert {stream.between(2, 4) for _ in range(100)} == {2, 3, 4}


def test_the_same_scenes_in_all_languages():
    rows = [view("scenes", language=language, caption="dense") for language in LANGUAGES]
    for index in range(50):
        english, *others = [each[index] for each in rows]
        for other in others:
            assert np.array_equal(english["image"], other["image"])
            assert (
                np.array_equal(
                    np.argsort(english["phrases"][:, 0]), np.argsort(other["phrases"][:, 0])
                )
                or other["language"] == "zh"
            )
    mixed = {view("scenes", language="mixed")[index]["language"] for index in range(50)}
    assert mixed == set(LANGUAGES)
