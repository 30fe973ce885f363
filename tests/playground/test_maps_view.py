"""The view `maps`: the same bytes everywhere, and maps that show what they say and nothing else."""

from collections import Counter

import numpy as np
import pytest
from test_playground_views import digest

import sensorium as sm
from sensorium.data import read_batches
from sensorium.modalities.maps import MapView
from sensorium.playground import view
from sensorium.playground.maps import FAR, FARTHEST, NEAR, kinds, palette, temperature
from sensorium.playground.pictures import pictures

# These may change only together with `VERSION` in playground/base.py.
DIGESTS = {
    "playground:maps": "2246a9e34cda1a689c12644a2bb65f0d15c4d27fe1acc391a0e3ce0c3337114d",
    "playground:maps?seed=3&size=96&objects=1-9&language=mixed&holdout=objects&caption=dense": (
        "e9705814fbbf025399109ca74005a5798c18c7efa4f0dd7c153b73d64ae747ca"
    ),
}


@pytest.mark.parametrize("reference", DIGESTS)
def test_rows_have_the_same_bytes_everywhere(reference):
    _, _, text = reference.partition("?")
    rows = view("maps", **dict(part.split("=") for part in text.split("&") if part))
    assert repr(rows) == reference
    found = digest([rows[index] for index in (0, 1, 17, 35, 20_003, 21_000, 21_007)])
    assert found == DIGESTS[reference]


def test_maps_are_of_the_picture_and_its_caption():
    plain, rows = view("scenes", objects="1-5"), view("maps", objects="1-5")
    for index in (0, 7, 20_500, 21_500):
        scene, row = plain[index], rows[index]
        assert np.array_equal(scene["image"], row["image"])
        assert scene["caption"] == row["caption"] and scene["objects"] == row["objects"]
        for name, kind in (("depth", np.uint16), ("infrared", np.uint16), ("segments", np.uint8)):
            assert row[name].shape == (64, 64) and row[name].dtype == kind


def solid(rows, index):
    """Where each thing can be seen."""
    return rows.scene(index).masks().astype(bool)


def test_distance_is_by_size_and_not_measured_at_outlines():
    rows = view("maps", objects="2-6")
    gaps = []
    for index in range(60):
        row, scene, ground = rows[index], rows.scene(index), rows.ground(index)
        masks = solid(rows, index)
        found = []
        for mask in masks:
            values = np.unique(row["depth"][mask])
            (distance,) = values[values > 0]
            found.append(int(distance))
        assert max(found) <= FARTHEST < NEAR[0] <= ground.distance
        sides = [thing.side for thing in scene.things]
        for one in range(len(sides)):
            for other in range(len(sides)):
                if sides[one] > sides[other]:
                    assert found[one] <= found[other]
        behind = row["depth"][~masks.any(0)]
        assert set(np.unique(behind)) <= {0, ground.distance}
        gaps.append((row["depth"] == 0).mean())
    assert 0.005 < np.mean(gaps) < 0.1


def test_heat_is_by_picture_and_has_no_colours():
    rows = view("maps", objects="1-4", pictures=40)
    for index in range(60):
        row, scene, ground = rows[index], rows.scene(index), rows.ground(index)
        masks = solid(rows, index)
        for thing, mask in zip(scene.things, masks, strict=True):
            assert (row["infrared"][mask] == temperature(thing.picture)).all()
        assert (row["infrared"][~masks.any(0)] == ground.heat).all()
    assert len({temperature(picture) for picture in range(200)}) > 150
    assert min(map(temperature, range(200))) > 260


def test_segments_are_groups_of_pictures():
    rows = view("maps", objects=3, pictures=300)
    for index in range(30):
        row, scene = rows[index], rows.scene(index)
        masks = solid(rows, index)
        for thing, mask in zip(scene.things, masks, strict=True):
            (number,) = np.unique(row["segments"][mask])
            assert kinds()[number - 1] == pictures()[thing.picture].group
        assert (row["segments"][~masks.any(0)] == 0).all()


def test_the_label_is_told_by_infrared_and_depth_only():
    rows = view("maps")
    labels = Counter()
    by_background = Counter()
    for index in range(400):
        ground, row = rows.ground(index), rows[index]
        warm = np.bincount(row["infrared"].ravel()).argmax() >= 200
        far = np.bincount(row["depth"].ravel()).argmax() >= FAR[0]
        assert row["label"] == f"{'warm' if warm else 'cold'} {'far' if far else 'near'}"
        assert (ground.warm, ground.far) == (warm, far)
        labels[row["label"]] += 1
        by_background[rows.scene(index).background, ground.warm] += 1
    assert len(labels) == 4 and min(labels.values()) > 70
    assert len(by_background) == 16 and min(by_background.values()) > 8


def test_they_are_read_into_batches():
    data = sm.open("playground:maps?train=20&validation=2&test=2&pictures=30").fit()
    views = {name: MapView(size=32) for name in ("depth", "infrared")}
    (batch,) = read_batches(data, data.rows("train")[:6], views, batch_size=6)
    rows = view("maps", train=20, validation=2, test=2, pictures=30)
    for name, top in (("depth", 10_000), ("infrared", 1000)):
        values = batch[name].values
        assert values.shape == (6, 32, 32, 2)
        whole = np.stack([rows[index][name] for index in range(6)]).astype(float) / top
        said = values[..., 1].bool()
        assert values[..., 0].max() <= 1 and said.float().mean() > 0.9
        ground = values[..., 0].flatten(1).mode(1).values.numpy()
        commonest = [np.bincount((w * top).astype(int).ravel()).argmax() / top for w in whole]
        assert np.allclose(ground, commonest, atol=1e-4)


def test_aligned_rows_tell_of_one_scene_in_all_their_fields():
    plain, maps, rows = (view(name, objects="1-3") for name in ("scenes", "maps", "aligned"))
    for index in (0, 7, 20_500):
        row = rows[index]
        for name in ("image", "depth", "segments", "caption"):
            assert np.array_equal(row[name], maps[index][name])
        assert np.array_equal(row["boxes"], plain[index]["boxes"])
        assert len(row["boxes"]) == len(row["objects"]) == len(rows.scene(index).things)
        for x1, y1, x2, y2 in np.array(row["boxes"]) * 64:
            assert (row["segments"][int(y1) : int(y2), int(x1) : int(x2)] > 0).any()
    schema = sm.open("playground:aligned").schema
    read = [field.name for field in schema if field.role in ("query", "target", "input")]
    assert read == [
        *("image", "depth", "segments", "caption", "boxes", "things", "palette", "about")
    ]


def test_a_palette_has_the_most_frequent_colours():
    image = np.zeros((10, 10, 3), dtype=np.uint8)
    image[:6] = (200, 10, 70)
    image[6:9] = (31, 32, 255)
    image[9, :] = (33, 33, 33)
    found = palette(image)
    # the middles of steps of 32: 200 lies in [192, 224), 10 in [0, 32), 70 in [64, 96)
    assert list(found.values())[:4] == [208, 16, 80, 0.6]
    assert list(found.values())[4:8] == [16, 48, 240, 0.3]
    assert list(found.values())[8:] == [48, 48, 48, 0.1]
    assert list(palette(image[:6]).values())[4:] == [None] * 8


def test_what_is_said_about_a_row_is_true():
    rows = view("aligned", objects="1-3")
    for index in (0, 7, 20_500):
        row = rows[index]
        assert row["count"] == str(len(row["objects"]))
        assert row["covered"] == pytest.approx((row["segments"] > 0).mean())
