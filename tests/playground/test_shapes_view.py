"""The view `shapes`: the same bytes everywhere, solids that are what they say, kinds held out."""

import numpy as np
import pytest
from test_playground_views import digest

from sensorium.playground import PlaygroundError, view
from sensorium.playground.pictures import LANGUAGES
from sensorium.playground.shapes import WORDS, Shape, held_out, posed, sampled
from sensorium.playground.solids import KINDS, box, join, lathe, placed, prism, star, sweep
from sensorium.types.draws import uniform


def area(solid):
    return (
        np.linalg.norm(np.cross(solid[:, 1] - solid[:, 0], solid[:, 2] - solid[:, 0]), axis=1) / 2
    )


# bytes


# These may change only together with `VERSION` in playground/base.py.
DIGESTS = {
    "playground:shapes": "6525fe0e7194609cf4ba9a2244a6e39d2558f09952d6fd88c48022d5675083e8",
    "playground:shapes?seed=3&size=32&language=mixed&classes=30&unseen=10&points=64&depth=50"
    "&renders=3": "a52911d0662500b453a43f1bce3eb5572c4c10dc65084735a1d2624605c2cbdc",
}


@pytest.mark.parametrize("reference", DIGESTS)
def test_rows_have_the_same_bytes_everywhere(reference):
    _, _, text = reference.partition("?")
    rows = view("shapes", **dict(part.split("=") for part in text.split("&") if part))
    assert repr(rows) == reference
    chosen = [rows[index] for index in (0, 1, 17, 35, 40, 20_003, 21_000, 21_007)]
    found = digest([row | {"image": np.stack([row["image"]])} for row in chosen])
    assert found == DIGESTS[reference]


def test_coordinates_lie_on_a_grid():
    """Which makes them the same where the last bits of a sine differ."""
    points = view("shapes")[4]["points"]
    assert points.dtype == np.float32 and points.shape == (1024, 3)
    assert (points * 4096 == np.round(points * 4096)).all()


# solids


def test_surfaces_have_the_area_of_their_solid():
    assert area(box(1, 2, 3)).sum() == pytest.approx(2 * (2 + 3 + 6))
    cylinder = lathe([(0, 0), (1, 0), (1, 2), (0, 2)], 400)
    assert area(cylinder).sum() == pytest.approx(2 * np.pi + 4 * np.pi, rel=1e-3)
    path = np.stack([np.linspace(0, 3, 9), np.zeros(9), np.zeros(9)], 1)
    assert area(sweep(path, 0.5, 400)).sum() == pytest.approx(3 * np.pi, rel=1e-3)
    square = prism([(-1, -1), (1, -1), (1, 1), (-1, 1)], 0.0)
    assert area(square).sum() == pytest.approx(8)
    moved = placed(box(1, 2, 3), 5, 6, 7, axis=2, degrees=90)
    assert area(moved).sum() == pytest.approx(22)
    np.testing.assert_allclose(moved.reshape(-1, 3).mean(0), [5, 6, 7])
    assert np.ptp(moved[..., 0]) == pytest.approx(2)
    assert len(join(box(1, 1, 1), box(1, 1, 1))) == 2 * len(box(1, 1, 1))
    assert len(star(5, 0.4)) == 10


def test_points_are_spread_evenly():
    draw = uniform("test", np.arange(20_000)[:, None], np.arange(3))
    places, normals = sampled(box(1, 1, 4), draw)
    ends = np.abs(np.abs(places[:, 2]) - 2) < 1e-9
    assert ends.mean() == pytest.approx(2 / 18, abs=0.01)
    np.testing.assert_allclose(np.abs(normals[ends][:, 2]), 1)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    top = np.abs(places[:, 1] - 0.5) < 1e-9
    assert np.corrcoef(places[top, 0], places[top, 2])[0, 1] == pytest.approx(0, abs=0.05)
    assert places[top, 2].var() == pytest.approx(16 / 12, rel=0.05)


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[k.names["en"] for k in KINDS])
def test_each_kind_is_solid_and_has_proportions(kind):
    corners = [(0.0, 0.0), (0.99, 0.0), (0.0, 0.99), (0.99, 0.99)]
    solids = [KINDS[kind].build(*corner) for corner in corners]
    for solid in solids:
        assert np.isfinite(solid).all() and solid.shape[1:] == (3, 3)
        assert area(solid).sum() > 0.5 and np.ptp(solid.reshape(-1, 3), axis=0).max() < 5
    if KINDS[kind].names["en"] != "sphere":
        assert any(s.shape != solids[0].shape or not np.allclose(s, solids[0]) for s in solids[1:])


def test_there_are_many_kinds_and_each_has_a_name_of_its_own():
    assert len(KINDS) >= 30
    for language in LANGUAGES:
        assert len({kind.names[language] for kind in KINDS}) == len(KINDS)
        assert {len(words) for part, words in WORDS[language].items() if part != "forms"} == {3}


def test_height_and_taper_are_what_they_say():
    plain = Shape(1, (0, 0), 0, 0, 0, (0, 0))

    def sides(shape):
        solid = posed(shape).reshape(-1, 3)
        top, bottom = (
            solid[np.isclose(solid[:, 1], edge)] for edge in (solid[:, 1].max(), solid[:, 1].min())
        )
        return np.ptp(solid[:, 1]), np.ptp(top[:, 0]), np.ptp(bottom[:, 0])

    height, top, bottom = sides(plain)
    assert top == pytest.approx(bottom)
    assert sides(plain._replace(height=1))[0] == pytest.approx(1.7 * height)
    assert sides(plain._replace(height=2))[0] == pytest.approx(0.55 * height)
    tapered, heavy = sides(plain._replace(taper=1)), sides(plain._replace(taper=2))
    assert tapered[1] < 0.5 * tapered[2] and heavy[1] > 2 * heavy[2]


# rows


def test_rows_hold_together():
    rows = view("shapes", train=72, validation=5, test=5, points=256, size=48)
    labels = [rows[index]["label"] for index in range(36)]
    assert len(set(labels)) == 36
    for index in (0, 9, 41, 73, 80):
        row, shape = rows[index], rows.shape(index)
        assert row["label"] == KINDS[shape.kind].names["en"]
        assert row["label"] in row["caption"]
        assert ("tall" in row["caption"]) == (shape.height == 1)
        assert ("top-heavy" in row["caption"]) == (shape.taper == 2)
        assert np.linalg.norm(row["points"], axis=1).max() <= 1.001
        assert row["points"].shape == (256, 3) and row["image"].shape == (48, 48, 3)
        assert len(np.unique(row["image"].reshape(-1, 3), axis=0)) > 3


def test_the_picture_shows_the_points():
    """What is covered in the picture is as wide and high as the cloud is from some side."""
    rows = view("shapes", size=64, train=36)
    covered, spread = [], []
    for index in range(36):
        row = rows[index]
        ground = row["image"][0, 0]
        covered.append((row["image"] != ground).any(2).mean())
        spread.append(np.sqrt(np.square(row["points"]).sum(1)).mean())
    assert min(covered) > 0.02 and max(covered) < 0.75
    tall = [
        (row["image"] != row["image"][0, 0]).any(2).any(1).mean()
        for row in (rows[index] for index in range(36))
    ]
    heights = [np.ptp(rows[index]["points"][:, 1]) for index in range(36)]
    assert np.corrcoef(tall, heights)[0, 1] > 0.8


def test_several_pictures_are_seen_from_several_sides():
    images = view("shapes", renders=4)[4]["image"]
    assert isinstance(images, list) and len(images) == 4
    assert len({image.tobytes() for image in images}) == 4


def test_depth_maps_are_grey_and_have_their_share():
    rows = view("shapes", depth=50, size=32, train=200)
    grey = [
        bool((image[..., 0] == image[..., 1]).all() and (image[0, 0] == 255).all())
        for image in (rows[index]["image"] for index in range(200))
    ]
    assert 70 < sum(grey) < 130


def test_held_out_kinds_have_pictures_but_no_points_in_training():
    rows = view("shapes", classes=12, unseen=4, train=48, validation=24, test=24)
    assert len(rows.unseen) == 4 == len(held_out(12, 4))
    for index in range(len(rows)):
        row = rows[index]
        hidden = rows.is_unseen(index) and row["split"] != "test"
        assert (row["points"] is None) == hidden
        assert row["image"] is not None and row["caption"]
    labels = {s: {rows[int(i)]["label"] for i in rows.split_indices(s)} for s in ("train", "test")}
    assert labels["train"] == labels["test"] and len(labels["test"]) == 12


def test_a_row_of_one_split_is_in_no_other():
    rows = view("shapes", train=50, validation=50, test=50)
    surfaces = [rows[index]["points"].tobytes() for index in range(150)]
    assert len(set(surfaces)) == 150


def test_all_languages_show_the_same():
    english = view("shapes")
    for language in LANGUAGES:
        row = view("shapes", language=language)[7]
        assert np.array_equal(row["points"], english[7]["points"])
        assert np.array_equal(row["image"], english[7]["image"])
        assert row["label"] == KINDS[7].names[language]
        assert row["label"] in row["caption"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"unseen": 12, "classes": 12}, "leaves none to learn from"),
        ({"classes": 37}, "is not from 2 to 36"),
        ({"points": 3}, "is not from 16"),
        ({"renders": 0}, "is not from 1"),
        ({"objects": 2}, "no parameter 'objects'"),
    ],
)
def test_errors_say_what_was_expected(parameters, message):
    with pytest.raises(PlaygroundError) as error:
        view("shapes", **parameters)
    assert message in str(error.value)
