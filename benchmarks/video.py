"""Reading 8 of the 300 frames of a clip, against decoding all of it.

Clips of ten seconds, H.264 in MP4 at 30 frames a second, in which a picture moves; with a key frame
every 12 or 30 frames. All sides start from the bytes, use PyAV with one thread, and make the frames that
they give 64 pixels large.
"""

from __future__ import annotations

import io
from functools import partial

import av
import numpy as np
import PIL.Image
import torch

from harness import Figure, Result, Settings, Target, rates, take_turns
from sensorium.modalities.image import ImageView, fit_picture
from sensorium.modalities.video import Video, VideoView
from sensorium.types import Field

SIDES = (320, 240)
NUM_FRAMES, RATE, NUM_WANTED = 300, 30, 8
GAPS = (12, 30)
TARGET = 5.0
CLIPS = 5  # read in each turn
FIELD, VIEW = Field(name="clip", modality="video"), VideoView(frames=NUM_WANTED)


def measure(settings: Settings) -> Result:
    """Clips a second."""
    torch.set_num_threads(settings.threads)
    figures = []
    for gap in GAPS:
        raw = write_clip(gap)
        ours = read_ours(raw)
        assert np.array_equal(ours, read_all(raw, every=True))
        assert np.array_equal(ours, read_all(raw, every=False))
        sides = {
            "ours": partial(repeat, partial(read_ours, raw)),
            "same": partial(repeat, partial(read_ours, raw, NUM_FRAMES)),
            "all": partial(repeat, partial(read_all, raw, True)),
            "decoded": partial(repeat, partial(read_all, raw, False)),
        }
        seconds = take_turns(sides, settings.repeats)
        found = {name: rates(CLIPS, each) for name, each in seconds.items()}
        for name, peer, target in (
            ("same", "all 300 frames, read by us", Target("at least", TARGET)),
            ("all", "all decoded and converted by PyAV", Target("at least", TARGET)),
            ("decoded", "all decoded by PyAV, 8 converted", None),
        ):
            figures.append(
                Figure(
                    f"8 of {NUM_FRAMES} frames, a key frame every {gap}",
                    "clips/s",
                    found["ours"],
                    peer,
                    found[name],
                    target,
                )
            )
    size = " x ".join(map(str, SIDES))
    note = f"Frames of {size} pixels. The 8 frames that we and PyAV give are equal byte for byte."
    return Result(figures, [note], ["av"])


def repeat(read: partial[np.ndarray]) -> None:
    """Read the clip several times."""
    for _ in range(CLIPS):
        read()


def write_clip(gap: int) -> bytes:
    """A part of a picture of soft noise that moves across it."""
    width, height = SIDES
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (height // 8, (width + 2 * NUM_FRAMES) // 8, 3), dtype=np.uint8)
    wide = np.asarray(PIL.Image.fromarray(small).resize((width + 2 * NUM_FRAMES, height)))
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gap
        for number in range(NUM_FRAMES):
            part = np.ascontiguousarray(wide[:, 2 * number : 2 * number + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def read_ours(raw: bytes, frames: int = NUM_WANTED) -> np.ndarray:
    """The frames that the modality gives."""
    return Video().decode(raw, FIELD, VideoView(frames=frames, size=VIEW.size)).frames


def read_all(raw: bytes, every: bool) -> np.ndarray:
    """The same frames, from decoding all; RGB is made of every frame, or of those only."""
    step = NUM_FRAMES / NUM_WANTED
    places = {int(step * (number + 0.5) + 1e-6) for number in range(NUM_WANTED)}
    kept = []
    with av.open(io.BytesIO(raw)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for place, frame in enumerate(container.decode(stream)):
            if every or place in places:
                pixels = frame.to_ndarray(format="rgb24")
            if place in places:
                pixels.flags.writeable = True
                kept.append(fit_picture(PIL.Image.fromarray(pixels), ImageView(size=VIEW.size)))
    return np.stack([picture.pixels for picture in kept])
