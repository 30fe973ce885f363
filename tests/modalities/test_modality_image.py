import io
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest
import torch

from sensorium.modalities.base import get_modality
from sensorium.modalities.image import Image, ImageView, Picture, fit_boxes
from sensorium.types import BadValue, Field

FIELD = Field(name="photo", modality="image")
IMAGE = Image()


def halves(width=40, height=20, left=(255, 0, 0), right=(0, 0, 255)):
    """A picture with a left and a right half."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = left, right
    return pixels


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def decode(raw, **view):
    return IMAGE.decode(raw, FIELD, ImageView(**{"size": 16, **view}))


@pytest.mark.parametrize(
    "raw_kind", ["path", "str", "bytes", "mapping", "path only", "pil", "array"]
)
def test_every_kind_of_raw_value_gives_the_same(tmp_path, raw_kind):
    picture = PIL.Image.fromarray(halves())
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture))
    raw = {
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "mapping": {"bytes": path.read_bytes(), "path": "a.png"},
        "path only": {"bytes": None, "path": str(path)},
        "pil": picture,
        "array": halves(),
    }[raw_kind]
    found = decode(raw)
    assert found.pixels.shape == (16, 16, 3)
    assert found.pixels.dtype == np.uint8
    assert (found.width, found.height) == (40, 20)
    assert np.abs(found.pixels[:, 0].astype(int) - (255, 0, 0)).max() <= 1
    assert np.abs(found.pixels[:, -1].astype(int) - (0, 0, 255)).max() <= 1
    assert np.array_equal(found.pixels, decode(path).pixels)


def test_an_array_of_the_right_size_is_not_copied():
    pixels = halves(16, 16)
    assert decode(pixels).pixels is pixels


def test_downscaling_averages():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255  # a filter that skips columns would give all black or all white
    assert 110 < decode(stripes).pixels[8, 8, 0] < 145


@pytest.mark.parametrize(
    ("mode", "expected"), [("L", 76), ("P", (255, 0, 0)), ("CMYK", (255, 0, 0)), ("1", None)]
)
def test_modes_become_rgb(mode, expected):
    picture = PIL.Image.new("RGB", (20, 20), (255, 0, 0)).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    found = decode(encoded(picture, kind)).pixels
    assert found.shape == (16, 16, 3)
    if expected is not None:
        assert np.abs(found.astype(int) - expected).max() <= 2


def test_cmyk_jpeg():
    picture = PIL.Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    red, green, blue = decode(encoded(picture, "JPEG")).pixels[8, 8]
    assert red > 200
    assert green < 60
    assert blue < 60


def test_sixteen_bits_are_scaled_by_their_range():
    values = np.full((20, 20), 32768, dtype=np.uint16)
    found = decode(encoded(PIL.Image.fromarray(values))).pixels
    assert np.abs(found.astype(int) - 128).max() <= 1
    dark = decode(encoded(PIL.Image.fromarray(np.full((20, 20), 200, np.uint16)))).pixels
    assert dark.max() <= 1  # 200 of 65535, not of 255


def test_fractions():
    values = np.full((20, 20), 0.5, dtype=np.float32)
    assert (
        np.abs(decode(encoded(PIL.Image.fromarray(values), "TIFF")).pixels.astype(int) - 128).max()
        <= 1
    )
    with pytest.raises(BadValue, match="photo"):
        decode(encoded(PIL.Image.fromarray(values * np.nan), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode):
    picture = PIL.Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 10, 20))
    raw = encoded(picture, "GIF") if mode == "P" else encoded(picture.convert(mode))
    found = decode(raw).pixels
    assert found[8, 0].max() == 0
    assert found[8, -1].min() == 255


def test_first_frame_of_an_animation():
    frames = [PIL.Image.new("RGB", (20, 20), colour) for colour in ("lime", "red", "blue")]
    raw = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    assert decode(raw).pixels[8, 8].tolist() == [0, 255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_orientation_is_applied(orientation, fit):
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (3, 6, 3), dtype=np.uint8))
    picture = coarse.resize((60, 30), PIL.Image.Resampling.NEAREST)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    raw = encoded(picture, "PNG", exif=exif)
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(raw)))
    found = decode(raw, fit=fit, size=18)
    expected = decode(np.asarray(upright), fit=fit, size=18)
    assert (found.width, found.height) == upright.size == (expected.width, expected.height)
    assert np.abs(found.pixels.astype(int) - expected.pixels).max() <= 3


def test_damaged_metadata_do_not_lose_the_picture():
    raw = encoded(PIL.Image.fromarray(halves()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(raw).pixels.shape == (16, 16, 3)


def test_fits():
    pixels = halves(40, 20)
    crop = decode(pixels, fit="crop", size=20).pixels
    assert np.array_equal(crop, pixels[:, 10:30])
    pad = decode(pixels, fit="pad", size=40).pixels
    assert np.array_equal(pad[10:30], pixels)
    assert pad[:10].max() == pad[30:].max() == 0


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40), (30, 30), (37, 61)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_boxes_follow_the_fit(width, height, fit):
    """A white rectangle is found where the arithmetic says."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    box = np.array([[0.4, 0.4, 0.6, 0.7]], dtype=np.float32)
    x1, y1, x2, y2 = (box[0] * [width, height, width, height]).round().astype(int)
    pixels[y1:y2, x1:x2] = 255
    exact = np.array([[x1 / width, y1 / height, x2 / width, y2 / height]], dtype=np.float32)
    size = 200
    found = decode(pixels, fit=fit, size=size)
    ys, xs = np.nonzero(found.pixels[:, :, 0] > 127)
    measured = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / size
    expected = fit_boxes(exact, found.width, found.height, fit)[0]
    assert np.abs(measured - expected).max() < 2 / size


def test_very_thin_pictures():
    thin = np.zeros((1, 3000, 3), dtype=np.uint8)
    for fit in ("squash", "crop", "pad"):
        assert decode(thin, fit=fit).pixels.shape == (16, 16, 3)


def _png_header(width, height):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(13_500, 13_500), (20_000, 20_000), (100_000, 100_000)])
def test_huge_pictures_are_refused_before_they_are_decoded(size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadValue, match=r"photo.*more than 178000000 pixels"):
            decode(_png_header(*size))


def test_large_but_allowed_pictures_do_not_warn(tmp_path):
    path = tmp_path / "large.png"
    PIL.Image.new("1", (9_500, 9_500)).save(path)  # beyond Pillow's threshold for a warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(path).width == 9_500


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_truncated_files(tmp_path, kind):
    rng = np.random.default_rng(0)
    whole = encoded(PIL.Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadValue, match=r"photo.*cut\.jpg"):
        decode(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"this is not a picture", "no picture"),
        (None, "cannot be read"),
        (b"%!PS-Adobe-3.0", "no picture"),
    ],
)
def test_files_that_are_no_pictures(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadValue, match=rf"photo.*a\.jpg.*{reason}"):
        decode(path)


def test_mislabelled_files_count_by_their_content(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(PIL.Image.fromarray(halves()), "PNG"))
    assert decode(path).width == 40


@pytest.mark.parametrize(
    "raw",
    [
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((3, 20, 20), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
        np.zeros(7, dtype=np.uint8),
        17,
        {"bytes": None, "path": None},
        "https://example.org/a.jpg",
        "nul\0character.jpg",
    ],
)
def test_values_that_are_no_pictures(raw):
    with pytest.raises(BadValue, match="photo"):
        decode(raw)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(BadValue, match="folder"):
        decode(tmp_path)


def test_grey_arrays():
    assert decode(np.full((20, 20), 9, np.uint8)).pixels[3, 3].tolist() == [9, 9, 9]
    assert decode(np.full((20, 20, 1), 9, np.uint8)).pixels[3, 3].tolist() == [9, 9, 9]


def test_missing_cells_have_no_entries():
    assert IMAGE.entries({"bytes": None, "path": None}, FIELD) == []
    assert IMAGE.entries([None, "a.jpg", "b.jpg"], FIELD) == ["a.jpg", "b.jpg"]


def test_collate_freeze_and_show():
    values = [decode(halves()), decode(halves(16, 16))]
    tensor, mask = IMAGE.collate(values, FIELD, ImageView(size=16))
    assert tensor.shape == (2, 16, 16, 3)
    assert tensor.dtype == torch.uint8
    assert mask is None
    thawed = IMAGE.thaw(*IMAGE.freeze(values[0]))
    assert isinstance(thawed, Picture)
    assert (thawed.width, thawed.height) == (40, 20)
    assert np.array_equal(np.asarray(IMAGE.show(values[0], FIELD)), values[0].pixels)
    assert IMAGE.show(halves(), FIELD).size == (256, 256)


def test_augmentation_is_no_part_of_the_key():
    assert ImageView(augment=("flip",)).key == ImageView().key
    assert ImageView(size=32).key != ImageView().key
    assert ImageView(fit="pad").key != ImageView().key
    assert get_modality("image").cached


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("width", "height", "size"), [(90, 90, 64), (61, 80, 40), (30, 20, 48)])
def test_scaling_is_the_bicubic_filter_of_pillow(mode, width, height, size):
    rng = np.random.default_rng(0)
    picture = PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    picture = picture.convert(mode)
    wanted = picture.resize((size, size), PIL.Image.Resampling.BICUBIC).convert("RGB")
    found = decode(picture, size=size).pixels
    assert np.abs(found.astype(int) - np.asarray(wanted)).max() <= 2


def test_far_smaller_pictures_are_nearly_those_of_the_filter_alone():
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    picture = coarse.resize((900, 600), PIL.Image.Resampling.BICUBIC)
    wanted = picture.resize((48, 48), PIL.Image.Resampling.BICUBIC)
    found = decode(picture, size=48).pixels
    assert np.abs(found.astype(int) - np.asarray(wanted)).mean() < 1


def test_a_bitmap_that_takes_minutes_to_unpack_is_refused_at_once():
    width, height = 16_580_601, 9
    header = b"BM" + struct.pack("<IHHI", 270, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    with pytest.raises(BadValue, match="slow to decode"):
        Image().decode(header + bytes(1024) + b"\x01\x01\x00\x00", FIELD, ImageView(size=8))
