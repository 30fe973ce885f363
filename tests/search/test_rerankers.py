"""Found rows are ranked again by the relevancy score of their pictures."""

import io

import numpy as np
import PIL.Image
import pytest
import torch

from sensorium.data import read_batches
from sensorium.search.index import Hit
from sensorium.search.rerankers import RelevancyReranker
from sensorium.training.run import train
from sensorium.types import UserError

WHERE = "playground:statements?train=32&validation=8&test=8&pictures=12&size=32"
SMALL = {"width": 32, "heads": 2, "key_heads": 1, "image_size": 32, "encoder_width": 32}
COMMON = {"budget": "2steps", "options": {"batch_size": 8, "workers": 0}, "device": "cpu"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "relevancy"
    return train("relevancy", WHERE, out=out, settings=SMALL, **COMMON)


def hit(place, image):
    picture = None
    if image is not None:
        file = io.BytesIO()
        PIL.Image.fromarray(image).save(file, "WEBP", lossless=True)
        picture = file.getvalue()
    return Hit(place, f"row-{place}", 0.5, "image", {}, {}, "", picture)


@torch.no_grad()
def test_each_picture_has_the_score_that_the_model_gives_it(run, monkeypatch):
    monkeypatch.setattr("sensorium.search.rerankers._AT_ONCE", 3)
    data = run.data()
    rows = data.rows("test")
    images = data.columns(["image"], rows)["image"]
    text = data.columns(["statement"], rows)["statement"][0]
    found = RelevancyReranker(run).scores({"text": text}, [hit(i, x) for i, x in enumerate(images)])
    (batch,) = read_batches(data, rows, run.system.views(), batch_size=8)
    said = batch.take(torch.zeros(8, dtype=torch.long)).only("statement")
    expected = run.system.relevancy(batch.only("image").joined(said))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert len(set(found.round(6).tolist())) > 1 and ((found > 0) & (found < 1)).all()


def test_a_row_without_a_picture_is_not_relevant(run):
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    found = RelevancyReranker(run).scores({"text": "a cat"}, [hit(1, None), hit(2, image)])
    assert found[0] == 0 and found[1] > 0
    assert RelevancyReranker(run).scores({"text": "a cat"}, []).shape == (0,)


def test_other_systems_give_no_relevancy_score(tmp_path):
    where = WHERE.replace("statements", "scenes")
    other = train("dual-encoder", where, out=tmp_path / "other", **COMMON)
    with pytest.raises(UserError, match="expected one of 'relevancy'"):
        RelevancyReranker(other)
