"""Clips: frames chosen by time, upright, as uint8 RGB of the size a system asks for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor

from sensorium.modalities.base import Modality, View, is_missing
from sensorium.modalities.containers import SUFFIXES, bad, is_container
from sensorium.modalities.image import Fit, ImageView, Picture, fit_picture
from sensorium.modalities.media import checked, locate, share_of_files
from sensorium.modalities.video_files import MAX_SECONDS, read_frames
from sensorium.types import BadValue, Field

MAX_RATE = 1000

# Time stamps are rounded; what is due at a frame's start should see that frame.
_ROUNDING = 1e-6
_SHOWN = 4
_TOO_SHORT = "ends before the part begins"


class VideoView(View):
    """What a system wants from a clip.

    Attributes:
        frames: how many, at most. Each is the one that is seen in the middle of one of as many equal
            intervals.
        size: width and height in pixels.
        fit: how a frame that is not square becomes so, as for pictures.
        seconds: how long a part is divided into intervals, so that frames come at the same rate from
            every clip; moments after its end give no frame. None: what there is of the clip, however
            long; one of no more frames than are asked for gives each of them once.
        start: where the part begins, in seconds.
    """

    frames: int = Setting(default=8, gt=0, le=1024)
    size: int = Setting(default=64, gt=0, le=4096)
    fit: Fit = "squash"
    seconds: float | None = Setting(default=None, gt=0, le=MAX_SECONDS)
    start: float = Setting(default=0.0, ge=0, le=MAX_SECONDS)

    @property
    def key(self) -> str:
        """All of it."""
        return f"{self.frames}/{self.size}/{self.fit}/{self.seconds}/{self.start}"


@dataclass(frozen=True, eq=False)
class Clip:
    """A decoded clip.

    Attributes:
        frames: RGB, of the size and fit the view asked for, in the order of time.
        times: when each begins to be seen, in seconds from the start of the clip.
        width: of the original in pixels, as people see it (turned upright).
        height: of the original in pixels.
    """

    frames: UInt8[np.ndarray, "frames size size 3"]
    times: Float[np.ndarray, "frames"]
    width: int
    height: int


class Video(Modality):
    """Files and bytes (MP4, MOV, Matroska, WebM, AVI), and mappings of `array` and `fps`.

    Such an array is uint8 (time, height, width, 3). The sound of a clip is a field of its own: one
    of the modality `audio` whose `column` is the clip's.

    Of a file all packets are looked at, which costs little and tells when each frame is seen,
    whatever its header says; then only those are decoded that the chosen frames depend on.
    """

    name = "video"
    suffixes = SUFFIXES
    View = VideoView
    cached = True
    options = MappingProxyType({"path": bool})

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Files of these types, or arrays with a frame rate."""
        cells = [value for cell in values for value in self.entries(cell, _ANY)]
        clips = sum(_looks_like_clip(cell) for cell in cells)
        share = max(share_of_files(values, self.suffixes), clips / max(len(cells), 1))
        return 0.98 * share if share > 0.5 else 0.0

    def decode(self, raw: Any, field: Field, view: VideoView) -> Clip:
        """The frames that the view asks for.

        Raises:
            BadValue: no clip, one without pictures, a damaged one, one that is cut off or ends before
                the part begins, of more than `MAX_SECONDS` or of frames of more than `MAX_PIXELS`.
            MissingExtra: reading files needs the `video` extra.
        """
        if isinstance(raw, Mapping) and raw.get("array") is not None:
            return _from_array(raw, field, view)
        return _from_file(checked(raw, field, "a clip"), field, view)

    def collate(
        self, values: Sequence[Clip], field: Field, view: VideoView
    ) -> tuple[UInt8[Tensor, "entries frames size size 3"], Bool[Tensor, "entries frames"]]:
        """Clips of `view.frames`, and which frames are no padding."""
        size = view.size
        frames = np.zeros((len(values), view.frames, size, size, 3), dtype=np.uint8)
        real = np.zeros(frames.shape[:2], dtype=bool)
        for at, value in enumerate(values):
            frames[at, : len(value.frames)] = value.frames
            real[at, : len(value.frames)] = True
        return torch.from_numpy(frames), torch.from_numpy(real)

    def freeze(self, value: Clip) -> tuple[NDArray[Any], str]:
        """The frames; their times, and the original's width and height."""
        return value.frames, json.dumps([value.width, value.height, value.times.tolist()])

    def thaw(self, array: NDArray[Any], note: str) -> Clip:
        """The clip that `freeze` took apart."""
        width, height, times = json.loads(note)
        return Clip(array, np.array(times, dtype=np.float64), width, height)

    def show(self, value: Any, field: Field) -> PIL.Image.Image:
        """Four frames from all over the clip, two in a line."""
        if not isinstance(value, Clip):
            value = self.decode(value, field, VideoView(frames=_SHOWN, size=128, fit="pad"))
        count = len(value.frames)
        chosen = value.frames[[(2 * n + 1) * count // (2 * _SHOWN) for n in range(_SHOWN)]]
        lines = [np.concatenate(list(chosen[n : n + 2]), axis=1) for n in range(0, _SHOWN, 2)]
        return PIL.Image.fromarray(np.concatenate(lines))


_ANY = Field(name="any", modality="video")


def choose_frames(
    times: Float[np.ndarray, "all"], end: float, view: VideoView
) -> Int[np.ndarray, "chosen"]:
    """Which frames of a clip the view asks for.

    Args:
        times: when each frame begins to be seen, ascending, in seconds.
        end: when the last one ceases to be seen.
        view: what is asked for.

    Returns:
        Places in `times`; none if the clip ends before the part begins.
    """
    if view.start >= end:
        return np.zeros(0, dtype=np.int64)
    first = _seen(times, np.array([view.start]))[0]
    if view.seconds is None and len(times) - first <= view.frames:
        return np.arange(first, len(times))
    length = end - view.start if view.seconds is None else view.seconds
    moments = view.start + length * (np.arange(view.frames) + 0.5) / view.frames
    places = _seen(times, moments[moments < end])
    return places if len(places) else np.array([first])


def _seen(
    times: Float[np.ndarray, "all"], moments: Float[np.ndarray, "moments"]
) -> Int[np.ndarray, "moments"]:
    """The place of the frame that is seen at each moment."""
    return np.maximum(np.searchsorted(times, moments + _ROUNDING, side="right") - 1, 0)


def _from_array(raw: Mapping[str, Any], field: Field, view: VideoView) -> Clip:
    array, rate = np.asarray(raw["array"]), raw.get("fps")
    if not isinstance(rate, (int, float, np.number)) or not 0 < rate <= MAX_RATE:
        raise BadValue(f"field '{field.name}': fps is {rate!r}, not in 0-{MAX_RATE}")
    fits = array.ndim == 4 and array.shape[3] == 3 and array.size > 0
    if array.dtype != np.uint8 or not fits:
        raise BadValue(
            f"field '{field.name}': expected a uint8 array (time, height, width, 3), found "
            f"{array.dtype} {array.shape}"
        )
    times = np.arange(len(array)) / float(rate)
    chosen = choose_frames(times, len(array) / float(rate), view)
    if not len(chosen):
        message = f"field '{field.name}': the clip {_TOO_SHORT}: at {view.start} s"
        raise BadValue(message, _TOO_SHORT)
    height, width = array.shape[1:3]
    if height == width == view.size:
        return Clip(array[chosen], times[chosen], width, height)
    pictures = {place: _fitted(array[place], view) for place in set(chosen.tolist())}
    return _clip(chosen, times, pictures)


def _from_file(source: Path | bytes, field: Field, view: VideoView) -> Clip:
    found = read_frames(
        source,
        field,
        choose=lambda times, end: choose_frames(times, end, view),
        keep=lambda pixels: _fitted(pixels, view),
    )
    if found is None:
        raise bad(source, field, _TOO_SHORT, f"at {view.start} s")
    return _clip(*found)


def _fitted(pixels: UInt8[np.ndarray, "height width 3"], view: VideoView) -> Picture:
    picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    with warnings.catch_warnings():  # that Pillow's arrays are not to be written to
        warnings.simplefilter("ignore")
        return fit_picture(picture, ImageView(size=view.size, fit=view.fit))


def _clip(
    chosen: Int[np.ndarray, "chosen"],
    times: Float[np.ndarray, "all"],
    pictures: Mapping[int, Picture],
) -> Clip:
    frames = np.stack([pictures[place].pixels for place in chosen.tolist()])
    one = pictures[int(chosen[0])]
    return Clip(frames, times[chosen], one.width, one.height)


def _looks_like_clip(cell: Any) -> bool:
    if isinstance(cell, Mapping) and "fps" in cell:
        return True
    content = None if is_missing(cell) else locate(cell)
    return isinstance(content, bytes) and is_container(content)
