"""Maps: own units to [0, 1], classes kept whole, and pixels that say nothing never taken for values."""

import io
import resource

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.data import MediaCache
from sensorium.data.decoding import decode_rows
from sensorium.modalities import map_pixels
from sensorium.modalities.augment import _Change, augment_sample
from sensorium.modalities.image import ImageView, Picture
from sensorium.modalities.maps import Map, Maps, MapView, class_numbers, value_range
from sensorium.types import BadValue, Field, Sample, Schema, UserError

MAPS = Maps()


def field(**options):
    found = Field(name="depth", modality="maps", options=options)
    MAPS.check(found)
    return found


def decode(raw, size=4, fit="squash", **options):
    return MAPS.decode(raw, field(**options), MapView(size=size, fit=fit))


def encoded(array, kind, **settings):
    file = io.BytesIO()
    if kind == "NPY":
        np.save(file, array)
    else:
        PIL.Image.fromarray(array).save(file, kind, **settings)
    return file.getvalue()


RAMP = np.arange(16, dtype=np.float32).reshape(4, 4) * 1000


@pytest.mark.parametrize(
    ("raw", "divisor"),
    [
        (encoded(RAMP.astype(np.uint16), "PNG"), 1),
        (encoded(RAMP.astype(np.uint16), "TIFF"), 1),
        (encoded(RAMP / 7, "TIFF"), 7),
        (encoded(RAMP / 7, "NPY"), 7),
        (encoded(RAMP.astype(np.int32), "TIFF"), 1),
        (encoded((RAMP / 100).astype(np.uint8), "PNG"), 100),
        (encoded(RAMP.astype(">f4"), "NPY"), 1),
        (RAMP.astype(np.uint16), 1),
        (RAMP.astype(np.float64)[:, :, None], 1),
        (PIL.Image.fromarray(RAMP / 7), 7),
        (np.repeat((RAMP / 100).astype(np.uint8)[:, :, None], 3, 2), 100),
    ],
)
def test_values_keep_their_unit(raw, divisor):
    found = decode(raw)
    assert found.values.dtype == np.float32
    assert np.allclose(found.values[..., 0], RAMP / divisor)
    assert (found.width, found.height) == (4, 4)


def test_pfm_files(tmp_path):
    path = tmp_path / "a.pfm"
    lines = b"Pf\n4 4\n-1.0\n" + RAMP[::-1].astype("<f4").tobytes()
    path.write_bytes(lines)
    assert np.array_equal(decode(path).values[..., 0], RAMP)


def test_several_channels():
    two = np.stack([RAMP, RAMP + 1], -1)
    assert np.array_equal(decode(two, channels=2).values, two)
    with pytest.raises(BadValue, match="another number of channels than 1: 2; see the option"):
        decode(two)


def test_the_range_becomes_zero_to_one_and_what_is_beyond_is_cut():
    known = field(range=[1000, 11000])
    values, mask = MAPS.collate([decode(RAMP), decode(RAMP * 0)], known, MapView(size=4))
    assert mask is None and values.shape == (2, 4, 4, 2) and values.dtype == torch.float32
    assert np.allclose(values[0, ..., 0], ((RAMP - 1000) / 10000).clip(0, 1))
    assert values[1, ..., 0].eq(0).all() and values[..., 1].eq(1).all()


def test_pixels_that_say_nothing_are_zero_and_marked():
    raw = RAMP.copy()
    raw[0, 1], raw[2, 2], raw[3, 3] = np.nan, np.inf, 65535
    known = field(range=[0, 15000], invalid=[0, 65535])
    decoded = MAPS.decode(raw, known, MapView(size=4))
    values, _ = MAPS.collate([decoded], known, MapView(size=4))
    said = values[0, ..., 1]
    assert torch.nonzero(said == 0).tolist() == [[0, 0], [0, 1], [2, 2], [3, 3]]
    assert values[0, ..., 0][said == 0].eq(0).all()
    assert np.allclose(values[0, 1, :, 0], RAMP[1] / 15000)


def test_transparent_pixels_say_nothing():
    grey = np.full((4, 4), 9, np.uint8)
    clear = np.where(np.arange(16).reshape(4, 4) < 4, 0, 255).astype(np.uint8)
    raw = encoded(np.stack([grey, clear], -1), "PNG")
    found = decode(raw).values[..., 0]
    assert np.isnan(found[0]).all() and (found[1:] == 9).all()


def test_scaling_mixes_only_what_says_something():
    raw = np.full((8, 8), 3.0, np.float32)
    raw[:, 1] = np.nan  # a quarter of the first column of the result, or so
    raw[6:, 4:] = np.nan
    found = decode(raw, size=4).values[..., 0]
    assert np.isnan(found[3, 2:]).all()
    assert np.allclose(found[:2], 3.0)  # zeros for what is missing would make it less
    step = np.where(np.arange(16) < 8, 0.0, 1.0)[None].repeat(16, 0)
    assert decode(step, size=6).values.min() >= 0 and decode(step, size=6).values.max() <= 1


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_scaled_values_stay_between_the_smallest_and_the_largest(height, width, size, seed):
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(height, width)).astype(np.float32)
    raw[rng.random(raw.shape) < 0.2] = np.nan
    raw[rng.integers(height), rng.integers(width)] = 1.0
    found = decode(raw, size=size).values
    there = found[np.isfinite(found)]
    assert found.shape == (size, size, 1)
    assert there.size == 0 or (
        there.min() >= np.nanmin(raw) - 1e-5 and there.max() <= np.nanmax(raw) + 1e-5
    )


def test_a_long_map_is_scaled_along_its_long_side_first():
    raw = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    raw[::5] = np.nan
    np.testing.assert_allclose(decode(raw).values, decode(raw.T).values.swapaxes(0, 1), atol=1e-5)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for shape in ((4_000_000, 1), (1, 4_000_000)):
        assert (decode(np.ones(shape, np.float32), size=64).values == 1).all()
    # 64 columns of 4 million, twice, would be 2 GB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6


def test_fits():
    wide = np.arange(1, 33, dtype=np.float32).reshape(4, 8)
    assert np.array_equal(decode(wide, fit="crop").values[..., 0], wide[:, 2:6])
    padded = decode(wide, size=8, fit="pad").values[..., 0]
    assert np.isnan(padded[:2]).all() and np.isnan(padded[6:]).all()
    assert np.array_equal(padded[2:6], wide)
    assert decode(wide, size=4).values.shape == (4, 4, 1)


def test_classes_are_never_mixed():
    raw = np.repeat(np.repeat(np.array([[0, 7], [3, 255]], np.uint8), 5, 0), 5, 1)
    options = {"kind": "classes", "invalid": 255}
    for size in (2, 3, 4, 7, 10, 23):
        found = decode(raw, size=size, **options).values
        assert set(np.unique(found[np.isfinite(found)])) <= {0, 3, 7}
    known = field(**options)
    fitted = known.replace(fitted=MAPS.fit(known, [raw, None]))
    assert class_numbers(fitted) == [0, 3, 7]
    codes, _ = MAPS.collate([decode(raw, size=2, **options)], fitted, MapView(size=2))
    assert codes.dtype == torch.long and codes.tolist() == [[[0, 2], [1, 3]]]
    other = field(kind="classes", classes=[7, 0])
    codes, _ = MAPS.collate([decode(raw, size=2, **options)], other, MapView(size=2))
    assert codes.tolist() == [[[1, 0], [2, 2]]]  # the number of classes: unknown, or nothing


def test_numbers_of_a_palette_are_classes():
    picture = PIL.Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L")
    picture = picture.convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    file = io.BytesIO()
    picture.save(file, "PNG")
    found = decode(file.getvalue(), size=2, kind="classes").values[..., 0]
    assert found.tolist() == [[0, 1], [2, 1]]


def test_the_range_is_found_without_outliers():
    rng = np.random.default_rng(0)
    maps = [rng.uniform(100, 200, (32, 32)).astype(np.float32) for _ in range(20)]
    maps[3][0, 0], maps[4][1, 1] = 1e9, -1e9
    plain = field(invalid=0)
    maps[5][:16] = 0
    ((low, high),) = MAPS.fit(plain, [*maps, None, b"broken"])["range"]
    assert 100 < low < 103 and 197 < high < 200
    assert value_range(field(range=[2, 3], channels=2)) == [[2, 3], [2, 3]]
    assert MAPS.fit(field(range=[2, 3]), []) == {"range": [[2.0, 3.0]]}
    flat = MAPS.fit(plain, [np.full((4, 4), 5.0)])["range"]
    assert flat == [[5.0, 6.0]]
    with pytest.raises(UserError, match="no map could be read.*cannot be decoded|no map"):
        MAPS.fit(plain, [b"broken"])
    with pytest.raises(ValueError, match="not fitted"):
        value_range(plain)


@pytest.mark.parametrize(
    ("raw", "options", "reason"),
    [
        (b"", {}, "is empty"),
        (b"\0", {}, "no map of a known kind"),
        (b"this is no map", {}, "no map of a known kind"),
        (encoded(RAMP.astype(np.uint16), "PNG")[:60], {}, "cannot be decoded|no map of a known"),
        (encoded(RAMP, "NPY")[:-1], {}, "cannot be decoded: EOF"),
        (encoded(RAMP, "NPY")[:20], {}, "cannot be decoded"),
        (encoded(np.array([["a"]]), "NPY"), {}, "is no map: expected numbers"),
        (encoded(np.zeros(4), "NPY"), {}, "is no map"),
        (np.zeros((0, 4)), {}, "is no map"),
        (np.zeros((2, 2, 2, 2)), {}, "is no map"),
        (np.zeros((2, 2), complex), {}, "is no map"),
        (np.full((4, 4), np.nan), {}, "no pixel that says something"),
        (np.zeros((4, 4)), {"invalid": 0}, "no pixel that says something"),
        (np.full((4, 4), 0.5), {"kind": "classes"}, "no whole numbers"),
        (np.full((4, 4), -1), {"kind": "classes"}, "no whole numbers"),
        ("https://a.org/a.png", {}, "is not downloaded"),
        (12, {}, "expected a map, found int"),
    ],
)
def test_bad_maps(raw, options, reason):
    with pytest.raises(BadValue, match=f"depth.*({reason})"):
        decode(raw, **options)


def test_pickles_are_not_read():
    file = io.BytesIO()
    np.save(file, np.array([[object()]]), allow_pickle=True)
    with pytest.raises(BadValue, match="cannot be decoded"):
        decode(file.getvalue())


def test_limits(monkeypatch, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(RAMP.astype(np.uint16), "PNG"))
    monkeypatch.setattr(map_pixels, "MAX_PIXELS", 15)
    for raw in (path, RAMP, encoded(RAMP, "NPY")):
        with pytest.raises(BadValue, match="more than 15 pixels"):
            decode(raw)


def test_a_header_that_promises_too_much_takes_no_memory():
    raw = encoded(np.zeros((4, 4)), "NPY").replace(b"(4, 4), }", b"(99999, 99999), }"[:9])
    with pytest.raises(BadValue, match="cannot be decoded"):
        decode(raw)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f8", "fortran_order": False, "shape": (10**5, 10**5)}
    )
    with pytest.raises(BadValue, match=r"not an array of float64 \(100000, 100000\)"):
        decode(head.getvalue() + bytes(64))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_maps_are_read_or_refused(data):
    whole = [encoded(RAMP.astype(np.uint16), k) for k in ("PNG", "TIFF")] + [encoded(RAMP, "NPY")]
    raw = bytearray(data.draw(st.sampled_from(whole)))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(raw))
    except BadValue as error:
        assert "field 'depth'" in str(error)
    else:
        assert found.values.shape == (4, 4, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"range": [3, 2]}, r"'range': expected \[low, high\]"),
        ({"range": [1]}, r"'range': expected \[low, high\]"),
        ({"range": [0, float("inf")]}, r"'range': expected \[low, high\]"),
        ({"range": ["a", "b"]}, r"'range': expected \[low, high\]"),
        ({"range": 3}, "'range': expected list"),
        ({"kind": "class"}, "'kind': expected"),
        ({"kind": "classes", "range": [0, 1]}, "classes have one channel and no range"),
        ({"kind": "classes", "channels": 2}, "classes have one channel and no range"),
        ({"classes": [1]}, "set kind: classes as well"),
        ({"kind": "classes", "classes": [0.5]}, "expected numbers of classes"),
        ({"channels": 0}, "'channels': expected 1 to 64"),
        ({"invalid": "none"}, "'invalid': expected numbers"),
        ({"rang": [0, 1]}, "no option 'rang'. Did you mean 'range'"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        field(**options)


def test_what_the_cache_gives_is_what_was_decoded_whatever_the_range(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(RAMP.astype(np.uint16), "PNG"))
    view = MapView(size=4)
    with MediaCache(tmp_path / "cache") as cache:
        for fitted in ({"range": [[0.0, 1.0]]}, {"range": [[0.0, 5000.0]]}):
            known = field().replace(fitted=fitted)
            found = cache.get_or_decode(path, MAPS, known, view)
            assert np.array_equal(found.values[..., 0], RAMP)
            assert (found.width, found.height) == (4, 4)
        invalid = cache.get_or_decode(path, MAPS, field(invalid=1000), view)
        assert np.isnan(invalid.values).sum() == 1


def test_show_tells_small_from_large_and_nothing():
    raw = RAMP.copy()
    raw[3, 3] = np.nan
    shown = np.asarray(MAPS.show(decode(raw), field(range=[0, 15000]))).astype(int)
    assert shown.shape == (4, 4, 3) and shown[3, 3].tolist() == [128, 128, 128]
    grey = shown @ [299, 587, 114] / 1000
    assert (np.diff(grey.ravel()[:-1]) > 0).all()
    assert MAPS.show(RAMP, field()).size == (128, 128)
    classes = np.asarray(MAPS.show(decode(RAMP / 1000, kind="classes"), field(kind="classes")))
    assert len(np.unique(classes.reshape(-1, 3), axis=0)) == 16


def test_guess():
    assert MAPS.guess("depth", ["a.png", "b.tiff"]) > 0.98  # a picture's guess is 0.98
    assert MAPS.guess("thermal_path", ["a.npy"]) > 0.98
    assert MAPS.guess("depth", [RAMP]) > 0.98
    assert MAPS.guess("x", ["a.pfm"]) > 0.98
    for column, values in (("photo", ["a.png"]), ("in-depth", ["words"]), ("depth", [1.5, 2.0])):
        assert MAPS.guess(column, values) == 0.0
    assert MAPS.guess("depth", []) == 0.0


IMAGE, DEPTH = Field(name="image", modality="image"), field().replace(of="image")
CAPTION = Field(name="caption", modality="text")


def test_a_map_of_a_picture_moves_with_it():
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    grid = pixels.astype(np.float32)[..., None]
    whole, half = _Change(), _Change(part=(0.5, 0.0, 1.0, 0.5), flip=True)
    assert np.array_equal(whole.map_values(grid), grid)
    assert half.map_values(grid)[..., 0].tolist() == [
        [3, 3, 2, 2], [3, 3, 2, 2], [7, 7, 6, 6], [7, 7, 6, 6],
    ]  # fmt: skip
    sample = Sample(
        "a",
        0,
        {
            "image": [Picture(np.repeat(pixels[..., None], 3, 2), 4, 4)],
            "depth": [Map(grid, 4, 4)],
            "caption": ["left"],
        },
    )
    views = {"image": ImageView(size=4, augment=("flip",))}
    schema = Schema(fields=(IMAGE, DEPTH, CAPTION))
    turned = set()
    for seed in range(12):
        found = augment_sample(sample, schema, views, np.random.default_rng(seed)).values
        assert np.array_equal(found["image"][0].pixels[..., :1], found["depth"][0].values)
        assert (found["depth"][0].values[0, 0] == 3) == (found["caption"] == ["right"])
        turned |= set(found["caption"])
    assert turned == {"left", "right"}
    alone = Schema(fields=(IMAGE, DEPTH.replace(of=None), CAPTION))
    for seed in range(12):
        found = augment_sample(sample, alone, views, np.random.default_rng(seed)).values
        assert found["caption"] == ["left"] and found["image"][0].pixels[0, 0, 0] == 0


def test_as_many_maps_as_pictures():
    schema = Schema(fields=(IMAGE, DEPTH))
    picture = np.zeros((4, 4, 3), np.uint8)
    _, faults = decode_rows(
        np.arange(1),
        ["a"],
        {"image": [[picture, picture]], "depth": [RAMP]},
        schema=schema,
        views={"image": ImageView(size=4), "depth": MapView(size=4)},
        cache=None,
        augment=None,
    )
    assert "1 entries for 2 of 'image'" in faults[0].reason


@pytest.mark.parametrize("value", [0.0, 2.0**24, 1e30, -3e38, 3e38])
def test_a_channel_that_is_everywhere_the_same_is_scaled_to_a_number(value):
    field = Field(name="depth", modality="maps")
    arrays = [np.full((8, 8, 1), value, np.float32)] * 3
    field = field.replace(fitted=MAPS.fit(field, arrays))
    found, _ = MAPS.collate(
        [MAPS.decode(a, field, MapView(size=8)) for a in arrays], field, MapView(size=8)
    )
    assert torch.isfinite(found).all()


def test_a_range_that_32_bits_cannot_tell_apart_is_refused():
    for limits in ([2.0**24, 2.0**24 + 1e-3], [-3e38, 3e38]):
        with pytest.raises(UserError, match="range"):
            MAPS.check(Field(name="depth", modality="maps", options={"range": limits}))
