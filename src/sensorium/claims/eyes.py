"""What assistants of claims see with: an encoder of pictures that has learned from captions, and stays.

As in the papers, whose encoders come from CLIP. In two steps, since what lies on coloured tiles can be told
from what else there is by the colours alone: first things without tiles, then with them. A stem of
convolutions without attention, since what a patch shows is read from its own vector: after about as many
steps, a linear map read the colour of a tile at .57 of the patches behind a layer of attention, at .70 without.
"""

from __future__ import annotations

from collections.abc import Mapping

from sensorium.claims.base import Arm

THINGS, EYE = "things", "eye"

WIDTH = 64
SHAPE = {"image_size": 32, "patch": 16}
TOWERS = {"width": WIDTH, "depth": 0, "text_width": WIDTH, "text_depth": 1, "embed_dim": WIDTH}

ASSISTANT = {"width": WIDTH, "encoder_width": WIDTH, "encoder_depth": 0, **SHAPE}
"""Settings of an assistant that sees with it."""

SEES = {"frozen": ["media.*"], "learning_rate": 2e-3, "batch_size": 64, "workers": 0}
"""Options of its training."""


def eyes(view: str) -> Mapping[str, Arm]:
    """The runs that make an eye, on scenes with these parameters, such as `pictures=12&objects=2-4`."""
    options = {"batch_size": 128, "workers": 0, "learning_rate": 2e-3}
    settings = {**TOWERS, **SHAPE}
    where = f"playground:scenes?size={SHAPE['image_size']}&{view}"
    return {
        name: Arm(
            "dual-encoder",
            "start",
            settings,
            options,
            data=where + tiles,
            task="retrieval",
            budget=f"{steps}steps",
            start=start,
        )
        for name, start, tiles, steps in (
            (THINGS, "", "", 500),
            (EYE, THINGS, "&tiles=1", 800),
        )
    }
