import numpy as np
import pytest

from sensorium.modalities.augment import augment_sample, place_boxes
from sensorium.modalities.image import Image, ImageView, Picture
from sensorium.modalities.mirror import apply_edits, find_edits, mirrored, move_span
from sensorium.modalities.scalars import Code
from sensorium.types import BadValue, Field, Sample, Schema

SIZE = 64


def schema(**options):
    return Schema(
        fields=(
            Field(name="image", modality="image"),
            Field(name="caption", modality="text"),
            Field(name="boxes", modality="boxes", of="image", options=options),
            Field(name="class", modality="category", of="boxes", fitted={"classes": list("abc")}),
            Field(name="phrases", modality="spans", of="caption", options={"names": "boxes"}),
            Field(
                name="answer",
                modality="category",
                fitted={"classes": ["left", "red", "right", "kiri"]},
            ),
            Field(name="depth", modality="image", of="image"),
            Field(
                name="tags",
                modality="categories",
                fitted={"classes": ["on the left", "on the right", "up"]},
            ),
        )
    )


def boxed(*boxes):
    """A black picture in which each box is filled with a grey of its own, and the boxes."""
    pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        pixels[y1:y2, x1:x2] = 80 * number
    scaled = [np.array(box, dtype=np.float32) / SIZE for box in boxes]
    return Picture(pixels, SIZE, SIZE), scaled


def sample(**values):
    return Sample("key", 0, values)


def rng(seed=0):
    return np.random.default_rng(seed)


def flipped_sample(data, views, given=None):
    """The sample under the first seed whose draw flips (or `given` draws that never do)."""
    for seed in range(50):
        found = augment_sample(data, given or schema(), views, rng(seed))
        if not np.array_equal(found.values["image"][0].pixels, data.values["image"][0].pixels):
            return found
    return None


def test_no_augmentation_returns_the_sample():
    picture, boxes = boxed((8, 8, 24, 40))
    data = sample(image=[picture], boxes=boxes)
    assert augment_sample(data, schema(), {"image": ImageView()}, rng()) is data


def test_flip_moves_pixels_boxes_words_spans_and_classes():
    picture, boxes = boxed((8, 8, 24, 40), (40, 16, 60, 30))
    caption = "Left: a cat left of a dog"
    spans = [np.array([caption.index("cat"), caption.index("cat") + 3]), np.array([22, 25])]
    data = sample(
        image=[picture],
        caption=[caption],
        boxes=boxes,
        phrases=spans,
        answer=[Code(0)],
        depth=[Picture(picture.pixels.copy(), SIZE, SIZE)],
        tags=[np.array([1, 0, 1], np.float32)],
    )
    found = flipped_sample(data, {"image": ImageView(augment=("flip",))})
    values = found.values
    assert np.array_equal(values["image"][0].pixels, picture.pixels[:, ::-1])
    assert np.array_equal(values["depth"][0].pixels, picture.pixels[:, ::-1])
    assert (values["boxes"][0] * SIZE).tolist() == [40, 8, 56, 40]
    assert values["caption"] == ["Right: a cat right of a dog"]
    words = [values["caption"][0][a:b] for a, b in values["phrases"]]
    assert words == ["cat", "dog"]
    assert values["answer"] == [2]
    assert values["tags"][0].tolist() == [0, 1, 1]
    assert data.values["caption"] == [caption]  # the decoded sample may be in a cache
    assert (data.values["boxes"][0] * SIZE).tolist() == [8, 8, 24, 40]


def test_about_half_are_flipped():
    picture, _ = boxed((8, 8, 24, 40))
    view = {"image": ImageView(augment=("flip",))}
    count = sum(
        not np.array_equal(
            augment_sample(sample(image=[picture]), schema(), view, rng(n))
            .values["image"][0]
            .pixels,
            picture.pixels,
        )
        for n in range(200)
    )
    assert 70 < count < 130


def test_rows_that_a_flip_would_make_untrue_are_not_flipped():
    picture, _ = boxed((8, 8, 24, 40))
    view = {"image": ImageView(augment=("flip",))}
    without_opposite = sample(image=[picture], answer=[Code(3)])  # kiri, without kanan
    assert flipped_sample(without_opposite, view) is None
    several = sample(image=[picture, picture], caption=["the left picture is brighter"])
    assert flipped_sample(several, view) is None
    other_class = sample(image=[picture], answer=[Code(1)])
    assert flipped_sample(other_class, view).values["answer"] == [1]


def test_crop_moves_boxes_with_the_pixels():
    boxes = [(4, 4, 28, 20), (30, 34, 60, 62)]
    picture, scaled = boxed(*boxes)
    data = sample(image=[picture], boxes=scaled)
    cut = 0
    for seed in range(40):
        found = augment_sample(data, schema(), {"image": ImageView(augment=("crop",))}, rng(seed))
        pixels = found.values["image"][0].pixels[:, :, 0]
        assert pixels.shape == (SIZE, SIZE)
        for box in found.values.get("boxes", []):
            assert 0 <= box.min() <= box.max() <= 1
        if len(found.values.get("boxes", [])) < 2:
            cut += 1
            continue
        for number, box in enumerate(found.values["boxes"], start=1):
            ys, xs = np.nonzero(np.abs(pixels.astype(int) - 80 * number) < 30)
            if number == 2:  # the border of the brighter box passes the grey of the other
                measured = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                assert np.abs(measured - box * SIZE).max() < 2.5
    assert cut < 20


def test_crop_keeps_at_least_half_of_the_area():
    ramp = np.tile(np.linspace(0, 252, SIZE, dtype=np.uint8)[None, :, None], (SIZE, 1, 3))
    for seed in range(30):
        view = {"image": ImageView(augment=("crop",))}
        found = augment_sample(sample(image=[Picture(ramp, 64, 64)]), schema(), view, rng(seed))
        pixels = found.values["image"][0].pixels[:, :, 0].astype(int)
        assert np.ptp(pixels) > 0.55 * 252  # sqrt(0.5 * 3 / 4) of the width at least


def test_dropped_boxes_take_with_them_what_hangs_on_them():
    picture = Picture(np.zeros((SIZE, SIZE, 3), np.uint8), 400, 100)  # the crop keeps 150-250
    boxes = [(0, 0, 0.3, 1), (0.45, 0.2, 0.55, 0.8), (0.36, 0, 0.4, 0.5), (0.3, 0, 0.5, 1)]
    data = sample(
        image=[picture],
        boxes=[np.array(box, np.float32) for box in boxes],
        phrases=[np.array([n, n + 1]) for n in range(4)],
        **{"class": [Code(0), Code(1), Code(2), Code(1)]},
    )
    found = place_boxes(data, schema(), {"image": ImageView(fit="crop")}).values
    assert np.allclose(found["boxes"][0], [0.3, 0.2, 0.7, 0.8], atol=1e-6)
    assert np.allclose(found["boxes"][1], [0, 0, 0.1, 0.5], atol=1e-6)  # 10 of 16 pixels are left
    assert np.allclose(found["boxes"][2], [0, 0, 0.5, 1], atol=1e-6)
    assert found["class"] == [1, 2, 1]
    assert [span[0] for span in found["phrases"]] == [1, 2, 3]
    gone = sample(image=[picture], boxes=data.values["boxes"][:1], **{"class": [Code(0)]})
    left = place_boxes(gone, schema(), {"image": ImageView(fit="crop")}).values
    assert set(left) == {"image"}


def test_entries_that_do_not_belong_together_are_refused():
    picture = Picture(np.zeros((SIZE, SIZE, 3), np.uint8), SIZE, SIZE)
    box = np.array((0, 0, 0.3, 1), np.float32)
    values = {"image": [picture], "boxes": [box], "class": [Code(0)], "depth": [picture]}
    place_boxes(sample(**values), schema(), {"image": ImageView()})
    for name, owner in {"class": "boxes", "phrases": "boxes", "depth": "image"}.items():
        wrong = sample(**values | {name: [Code(0)] * 2})
        with pytest.raises(BadValue, match=rf"'{name}': 2 entries for 1 of '{owner}'"):
            place_boxes(wrong, schema(), {"image": ImageView()})


def test_squashed_pictures_leave_boxes_alone():
    picture = Picture(np.zeros((SIZE, SIZE, 3), np.uint8), 400, 100)
    box = np.array((0, 0, 0.3, 1), np.float32)
    found = place_boxes(sample(image=[picture], boxes=[box]), schema(), {"image": ImageView()})
    assert found.values["boxes"][0] is box


def test_boxes_in_pixels():
    picture = Image().decode(
        np.zeros((100, 400, 3), np.uint8), Field(name="image", modality="image"), ImageView()
    )
    pixels = schema(unit="pixel")
    data = sample(image=[picture], boxes=[np.array((40, 20, 401, 100), np.float32)])
    found = place_boxes(data, pixels, {"image": ImageView()}).values["boxes"][0]
    assert np.allclose(found, [0.1, 0.2, 1, 1])
    padded = place_boxes(data, pixels, {"image": ImageView(fit="pad")}).values["boxes"][0]
    assert np.allclose(padded, [0.1, 0.425, 1, 0.625], atol=1e-3)
    with pytest.raises(BadValue, match=r"'boxes'.*without their picture"):
        place_boxes(sample(boxes=data.values["boxes"]), pixels, {})
    far = sample(image=[picture], boxes=[np.array((40, 20, 500, 100), np.float32)])
    with pytest.raises(BadValue, match=r"'boxes'.*out of the picture"):
        place_boxes(far, pixels, {"image": ImageView()})


def test_colour_changes_values_and_nothing_else():
    picture, boxes = boxed((8, 8, 24, 40))
    data = sample(image=[picture], boxes=boxes, depth=[picture])
    view = {"image": ImageView(augment=("colour",))}
    levels = set()
    for seed in range(10):
        found = augment_sample(data, schema(), view, rng(seed)).values
        pixels = found["image"][0].pixels
        assert pixels.dtype == np.uint8
        assert len(np.unique(pixels)) == 2  # one value for the ground, one for the box
        assert np.array_equal(found["boxes"][0], boxes[0])
        assert np.array_equal(found["depth"][0].pixels, picture.pixels)
        levels.add(int(pixels[20, 12, 0]))
    assert len(levels) > 5
    assert 80 * 0.4 < min(levels) < max(levels) < 80 * 1.8


def test_the_same_generator_gives_the_same_sample():
    picture, boxes = boxed((8, 8, 24, 40), (30, 34, 60, 62))
    data = sample(image=[picture], boxes=boxes, caption=["left"])
    view = {"image": ImageView(augment=("crop", "flip", "colour"))}
    first, second, other = (augment_sample(data, schema(), view, rng(n)).values for n in (3, 3, 4))
    assert np.array_equal(first["image"][0].pixels, second["image"][0].pixels)
    assert first["caption"] == second["caption"]
    assert not np.array_equal(first["image"][0].pixels, other["image"][0].pixels)


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("LEFT left Left", None, "RIGHT right Right"),
        ("a bright cleft on the right", "en", "a bright cleft on the left"),
        (
            "die linke Katze ist links vom rechten Hund",
            "de",
            "die rechte Katze ist rechts vom linken Hund",
        ),
        ("two links on the left", "en", "two links on the right"),
        ("kucing di kiri anjing di kanan", "id", "kucing di kanan anjing di kiri"),
        ("猫在狗的左边,树在右边", "zh", "猫在狗的右边,树在左边"),
        ("左右", "zh", "左右"),
        ("猫在左边 links left kiri", None, "猫在右边 rechts right kanan"),
        ("nothing to do", None, "nothing to do"),
    ],
)
def test_words(text, language, expected):
    assert apply_edits(text, find_edits(text, language)) == expected
    assert apply_edits(expected, find_edits(expected, language)) == text


def test_spans_move_with_the_words():
    text = "left cat, right dog, left"
    edits = find_edits(text)
    turned = apply_edits(text, edits)
    for phrase, expected in {
        "left cat": "right cat",
        "cat": "cat",
        "right dog": "left dog",
        "dog, left": "dog, right",
        "ef": "right",  # a part of an exchanged word becomes the word
    }.items():
        start = text.index(phrase)
        first, last = move_span(np.array([start, start + len(phrase)]), edits)
        assert turned[first:last] == expected
    assert move_span(np.array([0, 0]), edits).tolist() == [0, 0]  # no part of the text


def test_mirrored_texts_respect_the_language():
    fields = (Field(name="caption", modality="text", options={"language": "en"}),)
    found = mirrored({"caption": ["links left", "x"]}, Schema(fields=fields))
    assert found == {"caption": ["links right", "x"]}
