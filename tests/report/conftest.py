import numpy as np
import PIL.Image
import pytest
from written_folders import SCRIPT, retrieval_examples, write_comparison

from sensorium.data import open_data
from sensorium.tasks import get_task


@pytest.fixture
def products(tmp_path):
    """Twelve coloured squares with captions, one of which is hostile, and a class."""
    folder = tmp_path / "products"
    folder.mkdir()
    lines = ["file_name,caption,label"]
    for number in range(12):
        pixels = np.full((40, 60, 3), 20 * number, dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        caption = SCRIPT if number == 3 else f"grey number {number}"
        lines.append(f"{number}.png,{caption},{'dark' if number < 6 else 'light'}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def retrieval_data(products):
    data = open_data(products)
    return data.with_schema(get_task("retrieval").assign(data.schema))


@pytest.fixture
def classification_data(products):
    data = open_data(products)
    return data.with_schema(get_task("classification").assign(data.schema, "label"))


@pytest.fixture
def comparison(tmp_path, retrieval_data):
    """A finished comparison of two systems and one that failed."""
    folder = tmp_path / "comparison"
    write_comparison(folder, retrieval_data, retrieval_examples(retrieval_data))
    return folder
