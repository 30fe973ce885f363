"""Point clouds: every kind of file, hostile ones, what is left out, and random changes."""

import io
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sensorium.data import open_data
from sensorium.modalities import point_files
from sensorium.modalities.base import get_modality
from sensorium.modalities.points import (
    CHANGES,
    Points,
    PointSet,
    PointsView,
    augmented,
    seen_from,
    splat,
    turning,
)
from sensorium.types import BadValue, Field, UserError

FIELD = Field(name="cloud", modality="points")
POINTS = Points()
RAW = PointsView(normalise=False)
FULL = PointsView(normalise=False, channels=("colour", "normal"))
PLACES = np.array([[0, 0, 0], [1, 2, 3], [-4, 5.5, 6], [7, -8, 0.25]], dtype=np.float32)
COLOURS = np.array([[0, 0, 0], [255, 0, 51], [1, 2, 3], [102, 255, 255]], dtype=np.uint8)
NORMALS = np.array([[0, 0, 1], [0, -1, 0], [0.6, 0.8, 0], [0, 0.6, -0.8]], dtype=np.float32)
FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")


def ply(
    form, before="", after="element face 1\nproperty list uchar int vertex_indices\n", first=b""
):
    """A PLY of four points with colours and normals, and a face that nobody reads."""
    order = ">" if form == "binary_big_endian" else "<"
    head = f"ply\nformat {form} 1.0\ncomment made here\n{before}element vertex {len(PLACES)}\n"
    head += "".join(f"property float {n}\n" for n in "xyz")
    head += "".join(f"property uchar {n}\n" for n in ("red", "green", "blue"))
    head += "".join(f"property double {n}\n" for n in ("nx", "ny", "nz"))
    head = (head + after + "end_header\n").encode()
    if form == "ascii":
        rows = [[*a, *b, *c] for a, b, c in zip(PLACES, COLOURS, NORMALS, strict=True)]
        lines = [" ".join(f"{number:g}" for number in row) for row in rows]
        return head + first + "\n".join([*lines, "3 0 1 2", ""]).encode()
    layout = [(n, order + "f4") for n in "xyz"] + [(n, "u1") for n in "rgb"]
    layout += [(n, order + "f8") for n in ("nx", "ny", "nz")]
    rows = np.zeros(len(PLACES), layout)
    for part, names in ((PLACES, "xyz"), (COLOURS, "rgb"), (NORMALS, ("nx", "ny", "nz"))):
        for at, name in enumerate(names):
            rows[name] = part[:, at]
    return head + first + rows.tobytes() + b"\x03" + np.arange(3, dtype=order + "i4").tobytes()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def decode(raw, view=RAW, field=FIELD):
    return POINTS.decode(raw, field, view).values


def refused(raw, field=FIELD):
    with pytest.raises(BadValue) as error:
        POINTS.decode(raw, field, RAW)
    return str(error.value)


# files


@pytest.mark.parametrize("form", FORMATS)
def test_ply(form, tmp_path):
    path = tmp_path / "thing.ply"
    path.write_bytes(ply(form))
    for raw in (path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None}):
        found = decode(raw, FULL)
        np.testing.assert_array_equal(found[:, :3], PLACES)
        np.testing.assert_allclose(found[:, 3:6], COLOURS / 255, rtol=1e-6)
        np.testing.assert_allclose(found[:, 6:], NORMALS, rtol=1e-6)
    assert decode(path).shape == (4, 3)


def test_ply_with_another_element_before_its_vertices():
    before = "element camera 2\nproperty double f\nproperty uchar kind\n"
    np.testing.assert_array_equal(decode(ply(FORMATS[1], before, first=bytes(18))), PLACES)
    np.testing.assert_array_equal(decode(ply("ascii", before, first=b"1 2\n3 4\n")), PLACES)


def test_colours_of_bytes_are_dark_where_they_are_1():
    head = "ply\nformat ascii 1.0\nelement vertex 1\n"
    names = ("float x", "float y", "float z", "uchar red", "uchar green", "uchar blue")
    lines = [f"property {name}" for name in names]
    content = head + "\n".join([*lines, "end_header", "0 0 0 1 0 1"])
    assert decode(content.encode(), FULL)[0, 3:6] == pytest.approx([1 / 255, 0, 1 / 255])


HEAD = "ply\nformat {form} 1.0\nelement vertex {count}\nproperty float x\nproperty float y\n"
HOSTILE = {
    "counts more than there is": ("binary_little_endian", 10**6, "property float z\n", "room for 1"),
    "counts more lines": ("ascii", 7, "property float z\n", "and has 1"),
    "counts beyond all limits": ("binary_big_endian", 10**14, "property float z\n", "more than 5000000"),
    "a count of 10**40": ("ascii", 10**40, "property float z\n", "unknown line"),
    "a negative count": ("ascii", -1, "property float z\n", "unknown line"),
    "lists of vertices": ("ascii", 1, "property list uchar int n\nproperty float z\n", "has lists among"),
    "an unknown type": ("ascii", 1, "property quad z\n", "unknown line"),
    "no z": ("binary_little_endian", 1, "property float w\n", "has no x, y, z"),
    "two of one name": ("binary_little_endian", 1, "property float y\n", "two properties"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_of_ply(name):
    form, count, more, message = HOSTILE[name]
    head = HEAD.format(form=form, count=count) + more + "end_header\n"
    body = b"1 2 3\n" if form == "ascii" else bytes(13)
    assert message in refused(head.encode() + body)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ply\n", "no 'end_header'"),
        (b"ply\nformat ascii 1.0\n" + b"comment x\n" * 9000 + b"end_header\n", "no 'end_header'"),
        (b"ply\nelement vertex 1\nproperty float x\nend_header\n", "does not say"),
        (b"ply\nformat ascii 1.0\nelement face 1\nproperty int a\nend_header\n1\n", "no element"),
        (b"ply\nformat binary_little_endian 1.0\nelement face 1\nproperty list char int a\n"
         b"element vertex 1\nproperty float x\nend_header\n", "lists of 'face' before"),
        (b"ply\nformat ascii 1.0\nelement a 99\nproperty int a\nelement vertex 1\n"
         b"property float x\nend_header\n1\n2\n", "ends before its 99"),
        (b"ply\nformat ascii 1.0\nproperty float x\nend_header\n", "unknown line"),
        (b"ply\nformat binary_little_endian 1.0\nelement a 1\nproperty int a\nproperty int a\n"
         b"element vertex 0\nend_header\n", "two properties of one name"),
    ],
)  # fmt: skip
def test_broken_headers_of_ply(content, message):
    assert message in refused(content)


def test_obj_reads_vertices_and_their_colours():
    text = b"# made here\no thing\nv 0 0 0\nvn 1 0 0\nv 1 2 3\nv -4 5.5 6 \nf 1 2 3\nv\t7 -8 0.25\n"
    np.testing.assert_array_equal(decode(text), PLACES)
    coloured = b"v 0 0 0 1 0.5 0\nv 1 2 3 0 0 0\n"
    np.testing.assert_allclose(decode(coloured, FULL)[:, 3:6], [[1, 0.5, 0], [0, 0, 0]])
    assert "no vertices" in refused(b"o thing\nf 1 2 3\n")
    assert "cannot be read as numbers" in refused(b"v 1 2 3\nv 1 two 3\n")


@pytest.mark.parametrize("kind", ["f4", "f8", "i4", ">f4"])
def test_npy(kind):
    whole = np.round(PLACES).astype(kind)
    np.testing.assert_array_equal(decode(npy(whole)), np.round(PLACES))
    np.testing.assert_array_equal(decode(npy(np.asfortranarray(whole))), np.round(PLACES))


def test_npy_that_is_none():
    content = npy(PLACES)
    assert refused(content[:-1])
    assert refused(content.replace(b"(4, 3), ", b"(99999999999, 3), "))
    assert refused(npy(np.array([[1, 2, {}]], dtype=object)))
    assert "expected numbers (points, 3 or more)" in refused(npy(PLACES[:, :2]))
    assert "expected numbers" in refused(npy(PLACES[0]))


TEXTS = {
    "blanks": "0 0 0\n1 2 3\n-4 5.5 6\n7 -8 .25",
    "a header": "x,y,z\n0,0,0\n1,2,3\n-4,5.5,6\n7,-8,0.25\n",
    "another order": "\ufeffZ;intensity;X;Y\n0;9;0;0\n3;9;1;2\n6;9;-4;5.5\n0.25;9;7;-8\n",
    "the number of points first": "4\n0 0 0\n1 2 3\n-4 5.5 6\n7 -8 0.25\n",
    "comments and empty lines": "# x y z\n\n0 0 0\n1 2 3\n\n# more\n-4 5.5 6\n7 -8 0.25\n",
    "intensities": "0 0 0 9\n1 2 3 9\n-4 5.5 6 9\n7 -8 0.25 9\n",
    "tabs": "0\t0\t0\n1\t2\t3\n-4\t5.5\t6\n7\t-8\t0.25",
}


@pytest.mark.parametrize("name", TEXTS)
def test_text(name, tmp_path):
    path = tmp_path / "cloud.csv"
    path.write_text(TEXTS[name], encoding="utf-8")
    np.testing.assert_array_equal(decode(path), PLACES)


def test_text_with_colours_and_normals_told_by_their_values():
    rows = np.concatenate([PLACES, NORMALS], 1)  # as in ModelNet40
    content = "\n".join(",".join(map(str, row)) for row in rows.tolist()).encode()
    found = decode(content, FULL)
    np.testing.assert_allclose(found[:, 6:], NORMALS, rtol=1e-6)
    assert (found[:, 3:6] == 0.5).all()  # no colours: grey
    rows = np.concatenate([PLACES, COLOURS, NORMALS], 1)
    found = decode("\n".join(" ".join(map(str, row)) for row in rows.tolist()).encode(), FULL)
    np.testing.assert_allclose(found[:, 3:6], COLOURS / 255, rtol=1e-6)
    np.testing.assert_allclose(found[:, 6:], NORMALS, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3 4", "has 2 numbers a line"),
        ("1 2 3\n4 5", "cannot be read as numbers"),
        ("1 2 3\nthis is text", "cannot be read as numbers"),
        ("a,b,c\n1,2,3", "has no x, y, z"),
        ("x,x,z\n1,2,3", "two columns of one name"),
        ("# nothing\n", "has no points"),
        ("x,y,z\n", "no points"),
    ],
)
def test_text_that_is_no_cloud(text, message):
    assert message in refused(text.encode())


def test_bytes_that_are_nothing_known():
    assert "none of PLY, OBJ, NPY and text" in refused(b"\xff\xfe\x00\x81")
    assert "is empty" in refused(b"")
    assert "cannot be read" in refused("nowhere.ply")
    assert "expected a cloud" in refused(7)
    assert "expected a cloud" in refused({"array": [1, 2, 3]})


def test_too_many_points(monkeypatch):
    monkeypatch.setattr(point_files, "MAX_POINTS", 3)
    for raw in (ply("ascii"), ply(FORMATS[1]), npy(PLACES), b"v 1 2 3\n" * 4, b"1 2 3\n" * 4):
        assert "has 4 points, more than 3" in refused(raw)
    assert "more than 3" in refused(PLACES)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [b"", b"ply\nformat ascii 1.0\n", b"v 1 2 3\n", b"\x93NUMPY\x01\x00", b"1 2 3\n"]
    ),
    st.binary(max_size=200),
)
@example(b"v 1 2 3\n", b"v nan inf 1e400 1 1 1")
@example(b"1 2 3\n", b"1e999 nan -inf")
def test_any_bytes_are_a_cloud_or_refused(start, rest):
    try:
        found = POINTS.decode(start + rest, FIELD, FULL)
    except UserError as error:
        assert str(error)
    else:
        assert np.isfinite(found.values).all() and len(found.values)


def test_flipped_bytes_of_a_good_file_are_a_cloud_or_refused():
    for form in FORMATS:
        content = bytearray(ply(form))
        for place in range(len(content)):
            changed = content.copy()
            changed[place] ^= 0x15
            try:
                found = POINTS.decode(bytes(changed), FIELD, RAW)
            except UserError:
                continue
            assert np.isfinite(found.values).all()


# values in memory


def test_arrays_and_lists():
    nested = np.empty(4, dtype=object)
    nested[:] = list(PLACES)
    for raw in (PLACES, PLACES.tolist(), nested, PLACES.astype(np.float16)):
        (entry,) = POINTS.entries(raw, FIELD)
        np.testing.assert_array_equal(decode(entry), PLACES)
    (entry,) = POINTS.entries(json.dumps(PLACES.tolist()), FIELD)
    np.testing.assert_array_equal(decode(entry), PLACES)
    assert len(POINTS.entries([PLACES, PLACES], FIELD)) == 2
    assert len(POINTS.entries(["a.ply", "b.ply"], FIELD)) == 2
    assert POINTS.entries(None, FIELD) == []
    assert "expected a cloud" in refused([["a", "b", "c"]])


def test_points_that_are_not_finite_are_left_out_and_counted():
    broken = PLACES.copy()
    broken[1, 2], broken[3, 0] = np.nan, np.inf
    found = POINTS.decode(broken, FIELD, RAW)
    np.testing.assert_array_equal(found.values, PLACES[[0, 2]])
    assert found.dropped == 2
    assert POINTS.decode(PLACES, FIELD, RAW).dropped == 0
    assert "4 points, none of them finite" in refused(np.full((4, 3), np.nan))
    assert "with no points" in refused(np.zeros((0, 3)))
    assert "with no points" in refused(npy(np.zeros((0, 3))))
    assert decode(np.array([[1e300, 0, 0], [1.0, 2, 3]])).shape == (1, 3)  # float32 cannot hold it


def test_of_many_points_a_part_that_depends_on_the_cloud_alone(tmp_path):
    cloud = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    view = PointsView(num_points=64, normalise=False)
    found = decode(cloud, view)
    assert len(np.unique(found, axis=0)) == 64
    assert {tuple(row) for row in found} <= {tuple(row) for row in cloud}
    np.testing.assert_array_equal(decode(cloud, view), found)
    np.testing.assert_array_equal(decode(npy(cloud.astype(np.float64)), view), found)
    shifted = cloud.copy()
    shifted[0] += 1
    kept = {tuple(row) for row in found} & {tuple(row) for row in decode(shifted, view)}
    assert len(kept) < 40  # another cloud, another part


def test_normalised_to_the_unit_sphere():
    cloud = 50 + 7 * np.random.default_rng(0).normal(size=(90, 3))
    found = decode(cloud, PointsView())
    assert np.abs(found.mean(0)).max() < 1e-6
    assert np.linalg.norm(found, axis=1).max() == pytest.approx(1)
    np.testing.assert_allclose(decode(1000 * cloud - 3, PointsView()), found, atol=1e-5)
    assert (decode(np.ones((5, 3)), PointsView()) == 0).all()
    large = decode(np.array([[3e38, 0, 0], [-3e38, 0, 0]]), PointsView())
    np.testing.assert_allclose(large, [[1, 0, 0], [-1, 0, 0]])


def test_z_upwards_becomes_y_upwards_without_a_mirror():
    field = FIELD.replace(options={"up": "z"})
    raw = np.concatenate([np.eye(3), np.eye(3)], 1)
    found = decode(raw, PointsView(normalise=False, channels=("normal",)), field)
    np.testing.assert_array_equal(found[2], [0, 1, 0, 0, 1, 0])
    assert np.linalg.det(found[:, :3]) == pytest.approx(1)
    POINTS.check(field)
    with pytest.raises(UserError, match="expected .*'y', 'z'"):
        POINTS.check(FIELD.replace(options={"up": "x"}))


def test_clouds_of_different_sizes_are_padded():
    view = PointsView(num_points=6, channels=("colour",))
    sets = [POINTS.decode(PLACES[:count], FIELD, view) for count in (4, 1)]
    values, mask = POINTS.collate(sets, FIELD, view)
    assert values.shape == (2, 6, 6) and mask.sum(1).tolist() == [4, 1]
    assert (values[~mask] == 0).all()
    np.testing.assert_array_equal(values[0, :4].numpy(), sets[0].values)


def test_the_cache_keeps_numbers_and_count():
    found = POINTS.decode(np.vstack([PLACES, [[np.nan] * 3]]), FIELD, FULL)
    again = POINTS.thaw(*POINTS.freeze(found))
    assert again.dropped == 1
    np.testing.assert_array_equal(again.values, found.values)
    assert PointsView().key == PointsView(augment=CHANGES).key != PointsView(num_points=9).key


# pictures


def test_the_nearest_point_is_seen():
    places = np.array([[0, 0, 0.5], [0, 0, -0.5], [0.9, 0.9, 0]])
    colours = np.array([[200, 10, 10], [10, 200, 10], [10, 10, 200]], dtype=np.uint8)
    for order in ([0, 1, 2], [1, 0, 2]):
        picture = splat(places[order], 32, colours[order])
        assert picture[16, 16].tolist() == [200, 10, 10]
        assert picture[2, 29].tolist() == [10, 10, 200]  # to the right and above
        assert picture[30, 3].tolist() == [255, 255, 255]
    grey = splat(places, 32)
    assert grey[16, 16, 0] < grey[2, 29, 0] < 255  # near is dark


def test_the_eye_sees_from_where_it_is():
    front, right, up = np.eye(3)[[2, 0, 1]]
    np.testing.assert_allclose(seen_from(right[None], 90.0, 0.0)[0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(seen_from(front[None], 0.0, 0.0)[0], [0, 0, 1], atol=1e-12)
    assert seen_from(up[None], 0.0, 30.0)[0, 2] == pytest.approx(
        0.5
    )  # from above, the top is nearer


def test_shown_in_its_colours_if_it_has_any():
    plain = np.asarray(POINTS.show(PLACES, FIELD))
    assert plain.shape == (128, 128, 3) and len(np.unique(plain)) > 1
    assert (plain[..., 0] == plain[..., 1]).all()
    red = np.concatenate([PLACES, np.tile([[255, 0, 0]], (4, 1))], 1)
    seen = np.asarray(POINTS.show(red, FIELD)).reshape(-1, 3)
    assert {tuple(pixel) for pixel in seen.tolist()} == {(255, 255, 255), (255, 0, 0)}
    np.asarray(POINTS.show(POINTS.decode(PLACES, FIELD, PointsView()), FIELD))


# random changes

CLOUD = POINTS.decode(
    np.random.default_rng(1).normal(size=(400, 3)), FIELD, PointsView(channels=("normal",))
)
WITH_NORMALS = PointSet(
    np.concatenate([CLOUD.values[:, :3], CLOUD.values[:, :3]], 1).astype(np.float32)
)


def changed(*changes, seed=0, value=WITH_NORMALS):
    view = PointsView(channels=("normal",), augment=changes)
    return augmented(value, view, np.random.default_rng(seed)).values


def test_a_change_is_a_function_of_its_draws():
    before = WITH_NORMALS.values.copy()
    np.testing.assert_array_equal(changed(*CHANGES), changed(*CHANGES))
    assert not np.allclose(changed(*CHANGES), changed(*CHANGES, seed=1))
    np.testing.assert_array_equal(WITH_NORMALS.values, before)
    assert augmented(WITH_NORMALS, PointsView(), np.random.default_rng(0)) is WITH_NORMALS


def test_dropped_points_become_copies_of_the_first():
    shares = []
    for seed in range(40):
        found = changed("dropout", seed=seed)
        same = (found == WITH_NORMALS.values).all(1)
        assert (found[~same] == WITH_NORMALS.values[0]).all()
        shares.append(1 - same.mean())
    assert max(shares) < 0.95 and 0.3 < np.mean(shares) < 0.58 and min(shares) < 0.2


def test_scale_and_shift_move_places_and_leave_normals():
    before = WITH_NORMALS.values
    for seed in range(20):
        scaled = changed("scale", seed=seed)
        factor = scaled[1, 0] / before[1, 0]
        assert 0.8 <= factor <= 1.25
        np.testing.assert_allclose(scaled[:, :3], factor * before[:, :3], rtol=1e-5, atol=1e-7)
        shift = changed("shift", seed=seed)[:, :3] - before[:, :3]
        np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-6)
        assert np.abs(shift).max() <= 0.1 + 1e-6
        np.testing.assert_array_equal(scaled[:, 3:], before[:, 3:])


def test_a_turn_about_the_vertical_keeps_heights_and_turns_normals_too():
    before, after = WITH_NORMALS.values, changed("rotate", seed=3)
    np.testing.assert_allclose(after[:, 1], before[:, 1], atol=1e-6)
    np.testing.assert_allclose(after[:, :3], after[:, 3:], atol=1e-6)
    assert not np.allclose(after, before, atol=0.05)
    np.testing.assert_allclose(
        after[:, :3] @ after[:, :3].T, before[:, :3] @ before[:, :3].T, atol=1e-5
    )


def test_small_turns_are_small():
    for seed in range(30):
        after = changed("perturb", seed=seed)[:, :3]
        before = WITH_NORMALS.values[:, :3]
        np.testing.assert_allclose(
            np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1), atol=1e-5
        )
        assert np.linalg.norm(after - before, axis=1).max() < 3 * 0.18


def test_clouds_are_normalised_before_they_are_changed():
    """Else a change of scale would be undone."""
    sizes = {
        round(float(np.linalg.norm(changed("scale", seed=s)[:, :3], axis=1).max()), 3)
        for s in range(9)
    }
    assert len(sizes) == 9 and max(sizes) > 1.05


def test_turning_by_hand():
    np.testing.assert_allclose(turning(1, np.pi / 2) @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(turning(2, np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


# in a data set


def test_rows_are_changed_by_seed_epoch_and_row():
    data = open_data("playground:shapes?train=8&validation=2&test=2&points=64").fit()
    views = {"points": PointsView(num_points=64, augment=CHANGES)}

    def read(key):
        samples, faults = data.read(data.rows("train"), views, augment=key)
        assert not faults
        return np.stack([sample.values["points"][0].values for sample in samples])

    plain = read(None)
    assert np.linalg.norm(plain, axis=2).max() < 1.001
    np.testing.assert_array_equal(read((5, 0)), read((5, 0)))
    for other in ((5, 1), (6, 0)):
        assert not np.allclose(read((5, 0)), read(other))
    assert not np.allclose(read((5, 0)), plain)
    turned = read((5, 0))[:, :, 1] - plain[:, :, 1]
    assert len({round(float(row.mean()), 4) for row in turned}) == 8  # each row by its own draws


def test_a_folder_of_clouds(tmp_path):
    for number in range(6):
        kind = FORMATS[number % 3]
        (tmp_path / f"{number}.ply").write_bytes(ply(kind))
        (tmp_path / f"{number}.txt").write_text(f"thing number {number}")
    (tmp_path / "7.ply").write_bytes(b"ply\nbroken")
    (tmp_path / "7.txt").write_text("broken thing")
    data = open_data(tmp_path)
    assert data.schema["points"].modality == "points"
    samples, faults = data.read(data.rows("all"), {"points": RAW})
    assert len(samples) == 6 and len(faults) == 1 and "end_header" in faults[0].reason
    np.testing.assert_array_equal(samples[0].values["points"][0].values, PLACES)


def test_columns_of_arrays_are_clouds_if_they_are_called_so():
    rows = [np.random.default_rng(n).normal(size=(20, 3)).tolist() for n in range(5)]
    assert POINTS.guess("point_cloud", rows) > max(
        get_modality(name).guess("point_cloud", rows) for name in ("boxes", "series", "text")
    )
    assert POINTS.guess("measurements", rows) == 0
    assert POINTS.guess("x", ["a/1.ply", "a/2.obj"]) > 0.9
    assert POINTS.guess("cloud", ["a/1.csv", "a/2.npy"]) > 0.9
    assert POINTS.guess("x", ["a/1.csv", "a/2.csv"]) == 0
