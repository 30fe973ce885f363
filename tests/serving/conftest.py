import pytest
from servers import process, thread

from sensorium.search.building import index_rows
from sensorium.serving.batching import Batching
from sensorium.serving.uploads import Limits
from sensorium.training.run import train

SCENES = "playground:scenes?pictures=30&train=40&validation=8&test=8&size=32"
DIALOGUES = "playground:dialogues?pictures=30&train=32&validation=8&test=8&size=32"
OPTIONS = {"workers": 0, "batch_size": 8, "validation_rows": 8}


@pytest.fixture(scope="session")
def embedder(tmp_path_factory):
    """The folder of a run that embeds pictures and captions."""
    folder = tmp_path_factory.mktemp("serving") / "eye"
    settings = {"width": 32, "depth": 1, "embed_dim": 16}
    train("dual-encoder", SCENES, out=folder, task="retrieval", settings=settings,
          options=OPTIONS, budget="2steps", device="cpu")  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def indexed(embedder, tmp_path_factory):
    """An index that no test changes."""
    folder = tmp_path_factory.mktemp("serving") / "scenes.index"
    index_rows(embedder, SCENES, folder)
    return folder


@pytest.fixture(scope="session")
def assistant(tmp_path_factory):
    """The folder of an assistant that has learned nothing, and so seldom comes to an end."""
    folder = tmp_path_factory.mktemp("serving") / "talker"
    settings = {"width": 32, "encoder_width": 32, "image_size": 32, "depth": 2}
    train("llava", DIALOGUES, out=folder, settings=settings, options=OPTIONS, budget="1steps",
          device="cpu")  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def server(indexed, assistant):
    """The address of a server, in a process of its own."""
    with process(indexed, assistant) as (address, _):
        yield address


@pytest.fixture(scope="module")
def strict(indexed, assistant):
    """The address of a server with narrow limits and a token, in this process."""
    limits = Limits(bytes=200_000, pixels=10_000, seconds=1.0)
    with thread([indexed, assistant], limits=limits, token="a token of tests") as address:
        yield address


@pytest.fixture(scope="module")
def single(indexed, assistant):
    """The address of a server that makes every call alone."""
    with thread([indexed, assistant], batching=Batching(most=1)) as address:
        yield address
