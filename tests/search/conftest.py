import pytest
from shops import CAPTIONS, make_shop

from sensorium.search.building import index_rows
from sensorium.search.model import Model
from sensorium.training.run import train


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """Thirty things with a picture, a caption, a price and a kind, some of which are missing."""
    return make_shop(tmp_path_factory.mktemp("data") / "shop")


@pytest.fixture(scope="session")
def trained(shop, tmp_path_factory):
    """The folder of a run that embeds pictures and captions."""
    folder = tmp_path_factory.mktemp("runs") / "embedder"
    train(
        "dual-encoder",
        shop,
        out=folder,
        task="retrieval",
        settings={"width": 32, "depth": 1, "embed_dim": 16},
        options={"workers": 0, "batch_size": 8},
        budget="2steps",
        device="cpu",
    )
    return folder


@pytest.fixture(scope="session")
def indexed(shop, trained, tmp_path_factory):
    """An index of the shop, which no test changes."""
    folder = tmp_path_factory.mktemp("indexes") / "shop.index"
    done = index_rows(trained, shop, folder)
    assert done.added == len(CAPTIONS) - 1  # one picture is broken
    return folder


@pytest.fixture
def encoded(monkeypatch):
    """The keys of the rows that go through the model, from now on."""
    keys = []
    embed = Model.embed

    def counted(self, batch, name):
        keys.extend(batch.keys)
        return embed(self, batch, name)

    monkeypatch.setattr(Model, "embed", counted)
    return keys
