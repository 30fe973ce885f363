"""The embedded world: generated scenes of real pictures, to try any system without a download.

`view(name, **parameters)` gives rows that are made when they are asked for. A row is a function of
the seed, its number and the parameters: the same bytes on every machine.
"""

from sensorium.playground.albums import Albums
from sensorium.playground.attributes import Attributes
from sensorium.playground.base import GeneratedView, PlaygroundView
from sensorium.playground.dialogues import Dialogues
from sensorium.playground.graphs import Graphs
from sensorium.playground.known import Known
from sensorium.playground.majority import Majority
from sensorium.playground.maps import Aligned, Layers, Maps
from sensorium.playground.options import PlaygroundError
from sensorium.playground.presence import Presence
from sensorium.playground.questions import Questions
from sensorium.playground.regions import Regions
from sensorium.playground.scenes import Scenes
from sensorium.playground.series import Series
from sensorium.playground.shapes import Shapes
from sensorium.playground.sounds import Sounds
from sensorium.playground.statements import Statements
from sensorium.playground.universal import Universal
from sensorium.playground.videos import Videos
from sensorium.types.names import did_you_mean

_VIEWS: dict[str, type[GeneratedView]] = {
    view.name: view
    for view in (
        Scenes,
        Regions,
        Questions,
        Attributes,
        Sounds,
        Known,
        Majority,
        Series,
        Graphs,
        Shapes,
        Videos,
        Maps,
        Layers,
        Aligned,
        Dialogues,
        Albums,
        Presence,
        Universal,
        Statements,
    )
}
VIEWS = tuple(_VIEWS)


def view(name: str, **parameters: object) -> GeneratedView:
    """Open a view of the playground.

    Args:
        name: one of `VIEWS`.
        parameters: what differs from the view's defaults; numbers may be given as text.

    Raises:
        PlaygroundError: (a ValueError) an unknown name, parameter or value; suggests the nearest.
    """
    if name not in _VIEWS:
        raise PlaygroundError(f"unknown playground view '{name}'. {did_you_mean(name, VIEWS)}")
    return _VIEWS[name](**parameters)


__all__ = ["VIEWS", "PlaygroundError", "PlaygroundView", "view"]
