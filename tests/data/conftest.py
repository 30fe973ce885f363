"""Small real files for the tests of this folder."""

import io

import numpy as np
import PIL.Image
import pytest

from sensorium.modalities.base import get_modality
from sensorium.modalities.text import Tokenizer


def picture_bytes(number, kind="PNG", size=(24, 20)):
    """A picture of noise that only this number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="session")
def picture():
    return picture_bytes


@pytest.fixture
def write_picture():
    def write(path, number):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(number, "JPEG" if path.suffix == ".jpg" else "PNG"))

    return write


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.train(["words and other words of captions"], 270)


@pytest.fixture(scope="session")
def views(tokenizer):
    """What a system might ask of all fields of a schema."""

    def ask(schema):
        found = {}
        for field in schema:
            if field.role != "ignore":
                kind = get_modality(field.modality).View
                found[field.name] = (
                    kind(tokenizer=tokenizer) if field.modality == "text" else kind()
                )
        return found

    return ask
