"""The view `videos`: the same bytes everywhere; pixels and sound move as the caption says."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from test_playground_views import digest

from sensorium.modalities.mirror import apply_edits, find_edits
from sensorium.playground import PlaygroundError, view
from sensorium.playground.pictures import name
from sensorium.playground.synthesis import following
from sensorium.playground.videos import FRAME_RATE, SAMPLES
from sensorium.playground.words import MOTIONS, STILL

# These may change only together with `VERSION` in playground/base.py.
DIGESTS = {
    "playground:videos": "2230c53c3dc08c307bc0d64c375d54a19cc6b62d92f5b6b02330dee14dee0f20",
    "playground:videos?seed=3&size=96&objects=1-4&language=mixed&holdout=objects&tiles=1&frames=9": (
        "39a7cd3b5631e63df16991277cd3a20ae462f2901c1b01e9092a7fa7efdae029"
    ),
}


@pytest.mark.parametrize("reference", DIGESTS)
def test_rows_have_the_same_bytes_everywhere(reference):
    _, _, text = reference.partition("?")
    rows = view("videos", **dict(part.split("=") for part in text.split("&") if part))
    assert repr(rows) == reference
    found = digest([rows[index] for index in (0, 1, 17, 35, 20_003, 21_000, 21_007)])
    assert found == DIGESTS[reference]


def moved(frames):
    """How far right and down the middle of what is no ground goes, from first to last frame."""
    edges = np.concatenate([frames[:, [0, -1]], frames[:, :, [0, -1]].swapaxes(1, 2)], axis=1)
    colours, counts = np.unique(edges.reshape(-1, 3), axis=0, return_counts=True)
    centres = []
    for frame in (frames[0], frames[-1]):
        rows, columns = np.nonzero(np.abs(frame - colours[counts.argmax()]).sum(-1) > 20)
        centres.append((columns.mean(), rows.mean()))
    return np.subtract(centres[1], centres[0])


def test_the_clip_shows_what_the_caption_says():
    rows = view("videos", objects=1)
    seen = Counter()
    for index in range(120):
        row = rows[index]
        across, along = moved(row["video"]["array"].astype(int))
        if abs(across) > abs(along):
            direction = "right" if across > 0 else "left"
        else:
            direction = "down" if along > 0 else "up"
        assert row["direction"] == direction
        assert row["caption"] == f"{row['objects'][0]} moves {direction}"
        seen[direction] += 1
    assert min(seen.values()) > 15 and len(seen) == 4


def test_one_thing_moves_and_the_others_stand_still():
    rows = view("videos", objects=3, size=96)
    for index in range(60):
        row, motion, scene = rows[index], rows.motion(index), rows.scene(index)
        frames = row["video"]["array"].astype(int)
        changing = np.abs(frames - frames[0]).sum((0, 3)) > 0
        path = np.zeros((96, 96), dtype=bool)
        thing = scene.things[motion.thing]
        for number in range(16):
            right, down = motion.shift(number, 16)
            path[
                max(0, thing.top + down) : max(0, thing.bottom + down),
                max(0, thing.left + right) : max(0, thing.left + right + thing.width),
            ] = True
        assert changing.any() and not (changing & ~path).any()
        told = row["caption"].split(", ")
        assert told[0] == f"{name(thing.picture)} moves {motion.direction}"
        still = {name(other.picture) for other in scene.things if other is not thing}
        assert {clause.removesuffix(" stands still") for clause in told[1:]} == still


def test_halfway_it_is_the_scene_and_steps_are_even():
    rows = view("videos", frames=9, tiles=1)
    for index in range(40):
        frames = rows[index]["video"]["array"]
        scene, motion = rows.scene(index), rows.motion(index)
        last = (*(t for n, t in enumerate(scene.things) if n != motion.thing),)
        whole = replace(scene, things=(*last, scene.things[motion.thing])).image()
        assert np.array_equal(frames[4], whole)
        shifts = np.array([motion.shift(number, 9) for number in range(9)])
        steps = np.diff(shifts, axis=0)
        assert np.array_equal(np.abs(shifts[-1] - shifts[0]).max(), motion.way)
        assert np.ptp(np.abs(steps).max(1)) <= 1
    plain, other = view("scenes"), view("videos")
    assert [plain.scene(i) for i in range(10)] == [other.scene(i) for i in range(10)]


def test_the_label_is_how_far_it_goes_and_the_caption_does_not_tell():
    rows = view("videos")
    ways = {"slow": [], "fast": []}
    captions = Counter()
    for index in range(400):
        motion = rows.motion(index)
        ways["fast" if motion.fast else "slow"].append(motion.way)
        captions[motion.direction, motion.fast] += 1
    assert max(ways["slow"]) < 16 < 26 <= min(ways["fast"]) and max(ways["fast"]) <= 31
    assert min(captions.values()) > 25 and len(captions) == 8
    assert {rows[i]["label"] for i in range(20)} == {"slow", "fast"}


def pitch(samples):
    padded = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 2**16))
    strongest = padded[: len(padded) // 2].argmax() * 16_000 / 2**16
    return strongest


def test_the_sound_is_as_long_as_the_clip_and_follows_the_motion():
    for frames in (2, 16):
        row = view("videos", frames=frames)[0]
        assert row["video"]["fps"] == FRAME_RATE == 16_000 / SAMPLES
        assert row["sound"]["array"].shape == (frames * SAMPLES,)
        assert row["sound"]["array"].dtype == np.int16
    rows = view("videos", objects=1)
    checked = Counter()
    for index in range(100):
        row = rows[index]
        if row["label"] == "slow":
            continue
        sound = row["sound"]["array"].astype(float)
        early, late = sound[500:4500], sound[-4500:-500]
        louder = np.sqrt((late**2).mean()) / np.sqrt((early**2).mean())
        higher = pitch(late) / pitch(early)
        wanted = {
            "left": louder < 0.85,
            "right": louder > 1.15,
            "up": higher > 1.1,
            "down": higher < 0.9,
        }
        if row["direction"] in ("left", "right"):
            assert higher == pytest.approx(1, abs=0.02)
        assert wanted[row["direction"]], (index, louder, higher)
        checked[row["direction"]] += 1
    assert len(checked) == 4


def test_what_a_thing_sounds_like_by_hand():
    size, samples = 128, 16_000
    low = following(7, (64, 64), (128, 128), size, samples)
    high = following(7, (64, 64), (0, 0), size, samples)
    assert pitch(high) / pitch(low) == pytest.approx(2, rel=0.01)
    loud, soft = (following(7, (x, x), (64, 64), size, samples) for x in (128, 0))
    middle = slice(200, -200)
    ratio = np.abs(loud[middle].astype(int)).max() / np.abs(soft[middle].astype(int)).max()
    assert ratio == pytest.approx(4, rel=0.01)
    assert loud[0] == loud[-1] == 0
    # Beyond the edges it is as at the edge.
    assert np.array_equal(
        following(7, (200, 200), (-9, -9), size, samples),
        following(7, (128, 128), (0, 0), size, samples),
    )
    other = following(8, (64, 64), (64, 64), size, samples)
    assert not np.array_equal(other, following(7, (64, 64), (64, 64), size, samples))


def test_a_thing_beyond_the_edge_is_cut():
    scene = view("scenes", objects=1).scene(0)
    (thing,) = scene.things
    whole = scene.image()
    for right, down in ((-20, 0), (20, 0), (0, -20), (0, 20), (-20, 20), (200, 0), (0, -200)):
        canvas = replace(scene, things=()).image()
        scene.paint(canvas, replace(thing, left=thing.left + right, top=thing.top + down))
        wide = np.empty((64 * 9, 64 * 9, 3), np.uint8)
        wide[:] = replace(scene, things=()).image()[0, 0]
        wide[256 + down : 320 + down, 256 + right : 320 + right] = whole
        assert np.array_equal(canvas, wide[256:320, 256:320])


def test_all_languages_tell_the_same():
    for language in ("en", "de", "id", "zh"):
        rows = view("videos", language=language)
        for index in range(10):
            row, motion = rows[index], rows.motion(index)
            moving = MOTIONS[language][motion.direction].format(a=row["objects"][motion.thing])
            still = STILL[language].format(a=row["objects"][1 - motion.thing])
            assert row["caption"].startswith(moving) and row["caption"].endswith(still)


def test_a_mirror_turns_the_words():
    for motions in MOTIONS.values():
        assert apply_edits(motions["left"], find_edits(motions["left"])) == motions["right"]


def test_wrong_parameters():
    with pytest.raises(PlaygroundError, match="'frames': 1 is not from 2 to 64"):
        view("videos", frames=1)
    with pytest.raises(PlaygroundError, match="no parameter 'caption'"):
        view("videos", caption="short")
