"""Sound: recordings as mono float32 at the rate a system asks for."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor

from sensorium.modalities.base import Modality, View, is_missing
from sensorium.modalities.containers import is_container, read_track
from sensorium.modalities.media import checked, label, share_of_files
from sensorium.types import BadValue, Field, MissingExtra

MAX_RATE = 768_000

# What the resampling filter sees past the end of the part that is kept, in seconds.
_MARGIN = 0.05


class AudioView(View):
    """What a system wants from a recording.

    Attributes:
        rate: samples in a second.
        seconds: how much of it, from the start; the rest is dropped, what is missing is padded.
    """

    rate: int = Setting(default=16_000, gt=0, le=MAX_RATE)
    seconds: float = Setting(default=1.0, gt=0, le=3600)

    @property
    def num_samples(self) -> int:
        """Samples in a full recording."""
        return max(1, round(self.rate * self.seconds))


class Audio(Modality):
    """Files and bytes that libsndfile reads, clips, and mappings of `array` and `sampling_rate`.

    Channels are averaged. Whole numbers are scaled to [-1, 1) by the range of their type. Of a clip
    (MP4, MOV, Matroska, WebM, AVI) the sound is read; a clip that has none is a row without sound.
    """

    name = "audio"
    suffixes = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
    View = AudioView
    cached = True
    options = MappingProxyType({"path": bool})

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Files of these types, or arrays with a sampling rate."""
        cells = [value for cell in values for value in self.entries(cell, _ANY)]
        sounds = sum(isinstance(cell, Mapping) and "sampling_rate" in cell for cell in cells)
        sounds += sum(_looks_like_sound(cell) for cell in cells)
        share = max(share_of_files(values, self.suffixes), sounds / max(len(cells), 1))
        return 0.98 * share if share > 0.5 else 0.0

    def decode(
        self, raw: Any, field: Field, view: AudioView
    ) -> Float[np.ndarray, "samples"] | None:
        """The first `view.seconds` of a recording, or all of a shorter one; None for a clip without.

        Raises:
            BadValue: no recording, a damaged one, no samples, or samples that are not finite.
            MissingExtra: reading or resampling needs the `audio` extra, and clips the `video` extra.
        """
        is_array = isinstance(raw, Mapping) and raw.get("array") is not None
        found = _from_array(raw, field) if is_array else _from_file(raw, field, view.seconds)
        if found is None:
            return None
        samples, rate = found
        # Only what is kept, so that a long recording costs no more than a short one.
        samples = samples[: math.ceil(rate * (view.seconds + _MARGIN))]
        if samples.ndim == 2:
            samples = samples.mean(axis=1)
        if samples.size == 0:
            raise BadValue(f"field '{field.name}': a recording without samples", "has no samples")
        if not np.isfinite(samples).all():
            raise BadValue(
                f"field '{field.name}': a recording with samples that are not finite",
                "has samples that are not finite",
            )
        return _resample(samples.astype(np.float32), rate, view.rate)[: view.num_samples]

    def collate(
        self, values: Sequence[Float[np.ndarray, "_"]], field: Field, view: AudioView
    ) -> tuple[Float[Tensor, "entries samples"], Bool[Tensor, "entries samples"]]:
        """Recordings of `view.seconds`, and which samples are no padding."""
        out = np.zeros((len(values), view.num_samples), dtype=np.float32)
        real = np.zeros(out.shape, dtype=bool)
        for at, value in enumerate(values):
            out[at, : len(value)] = value
            real[at, : len(value)] = True
        return torch.from_numpy(out), torch.from_numpy(real)

    def show(self, value: Any, field: Field) -> PIL.Image.Image | str:
        """The wave form; of a raw recording the first ten seconds."""
        if not isinstance(value, np.ndarray):
            value = self.decode(value, field, AudioView(seconds=10.0))
        return "no sound" if value is None else _draw(value)


_ANY = Field(name="any", modality="audio")


def _from_array(raw: Mapping[str, Any], field: Field) -> tuple[NDArray[Any], int]:
    samples = np.asarray(raw["array"])
    rate = raw.get("sampling_rate")
    if not isinstance(rate, (int, float, np.number)) or not 0 < rate <= MAX_RATE:
        raise BadValue(f"field '{field.name}': sampling_rate is {rate!r}, not in 1-{MAX_RATE}")
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu" or samples.dtype == np.int64:
        raise BadValue(
            f"field '{field.name}': expected samples as int16, int32 or float (time, or time and "
            f"channels), found {samples.dtype} {samples.shape}"
        )
    if samples.dtype.kind == "f":
        return samples, int(rate)
    half = 2 ** (8 * samples.dtype.itemsize - 1)
    centre = half if samples.dtype.kind == "u" else 0
    return ((samples.astype(np.float64) - centre) / half).astype(np.float32), int(rate)


def _from_file(raw: Any, field: Field, seconds: float) -> tuple[NDArray[Any], int] | None:
    source = checked(raw, field, "a recording")
    if is_container(source):
        return read_track(source, field, seconds + _MARGIN, MAX_RATE)
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: its library is not on this machine
        raise MissingExtra("reading recordings", "audio") from None
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else source
        with soundfile.SoundFile(opened) as file:
            rate: int = file.samplerate
            if not 0 < rate <= MAX_RATE:
                raise BadValue(f"field '{field.name}': {label(source)} has rate {rate}")
            wanted = math.ceil(rate * (seconds + _MARGIN))
            # A header may promise more than there is, and memory is taken for what it promises.
            blocks = [file.read(min(wanted, rate), dtype="float32", always_2d=True)]
            while len(blocks[-1]) and sum(map(len, blocks)) < wanted:
                blocks.append(file.read(rate, dtype="float32", always_2d=True))
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error))
        raise BadValue(
            f"field '{field.name}': {label(source)} cannot be decoded: {reason}",
            "cannot be decoded",
        ) from None
    return np.concatenate(blocks), rate


def _resample(
    samples: Float[np.ndarray, "samples"], rate: int, target: int
) -> Float[np.ndarray, "resampled"]:
    if rate == target:
        return samples
    try:
        import soxr
    except ImportError:
        raise MissingExtra("resampling recordings", "audio") from None
    resampled: NDArray[np.float32] = soxr.resample(samples, rate, target)
    return resampled


def _draw(samples: Float[np.ndarray, "samples"]) -> PIL.Image.Image:
    width, height = 256, 64
    edges = np.linspace(0, len(samples), width + 1).astype(int)
    starts = np.minimum(edges[:-1], len(samples) - 1)
    low = np.minimum(np.minimum.reduceat(samples, starts), 0).clip(-1)
    high = np.maximum(np.maximum.reduceat(samples, starts), 0).clip(max=1)
    level = np.linspace(1, -1, height)[:, None]
    half = 1.01 / (height - 1)  # so that silence is a line
    inside = (level >= low - half) & (level <= high + half)
    picture = np.full((height, width, 3), 255, dtype=np.uint8)
    picture[inside] = (40, 90, 160)
    return PIL.Image.fromarray(picture)


def _looks_like_sound(cell: Any) -> bool:
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if is_missing(content) or not isinstance(content, bytes):
        return False
    wave = content[:4] == b"RIFF" and content[8:12] == b"WAVE"
    return wave or content.startswith((b"fLaC", b"OggS", b"ID3"))
