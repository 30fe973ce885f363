"""Sound from scratch: a log-mel spectrogram, patches of it, and a transformer."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.modalities.audio import AudioView
from sensorium.nn.blocks import transformer
from sensorium.nn.encoders.base import Prepared, TransformerEncoder
from sensorium.types import Field


class LogMel(nn.Module):
    """The logarithm of the energy in bands of equal width on the mel scale.

    Frames of 25 ms every 10 ms under a Hann window. The mel scale is the logarithmic one
    (2595 log10(1 + f / 700)), with triangular bands from 0 Hz to half the rate.

    Args:
        rate: samples a second.
        bands: number of mel bands.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, rate: int, bands: int = 64) -> None:
        super().__init__()
        self.hop = rate // 100
        self.length = rate // 40
        self.size = 2 ** math.ceil(math.log2(self.length))
        self.register_buffer("window", torch.hann_window(self.length), persistent=False)
        self.register_buffer("filters", _mel_filters(rate, self.size, bands), persistent=False)

    def frames(self, samples: int) -> int:
        """How many frames a sound of so many samples has."""
        return -(-samples // self.hop)

    def forward(
        self, sound: Float[Tensor, "entries samples"]
    ) -> Float[Tensor, "entries frames bands"]:
        """One frame for each hop that has begun; what a frame reads beyond the end is silence.

        Scaled so that silence is near -1 and the loudest sounds near 2.
        """
        frames = self.frames(sound.shape[1])
        missing = (frames - 1) * self.hop + self.size - sound.shape[1]
        spectrum = torch.stft(
            F.pad(sound.float(), (0, max(missing, 0))),
            self.size,
            self.hop,
            window=F.pad(self.window, (0, self.size - self.length)),
            center=False,
            return_complex=True,
        )
        power = spectrum[:, :, :frames].abs().square()
        return (self.filters @ power).transpose(1, 2).add(1e-5).log() / 8 + 0.5


def _mel_filters(rate: int, size: int, bands: int) -> Float[Tensor, "bands frequencies"]:
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    frequency = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequency - low) / (middle - low)
    falling = (high - frequency) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0).float()


class AudioEncoder(TransformerEncoder):
    """A pre-norm transformer over patches of a spectrogram, each all bands of some frames.

    Args:
        field: which field.
        view: with the sampling rate and the longest sound, in seconds.
        width: of the vectors.
        depth: number of layers.
        heads: of the attention.
        bands: of the spectrogram.
        frames: of a patch; 10 ms each.
        activation: of the feed-forward networks.
    """

    view: AudioView

    def __init__(
        self,
        field: Field,
        view: AudioView,
        width: int,
        depth: int,
        heads: int,
        *,
        bands: int = 64,
        frames: int = 4,
        activation: str = "gelu",
    ) -> None:
        super().__init__(width, view)
        self.spectrogram = LogMel(view.rate, bands)
        self.frames = frames
        self.patch = nn.Linear(bands * frames, width)
        longest = self.spectrogram.frames(view.num_samples)
        self.positions = nn.Parameter(torch.randn(-(-longest // frames), width) * 0.02)
        self.layers = transformer(depth, width, heads, activation=activation)
        self.norm = nn.LayerNorm(width)

    def prepare(
        self,
        values: Float[Tensor, "entries samples"],
        mask: Bool[Tensor, "entries samples"] | None,
    ) -> Prepared:
        """A vector for each patch in which the sound has not ended."""
        samples = values.new_full((len(values),), values.shape[1], dtype=torch.long)
        if mask is not None:
            values, samples = values * mask, mask.sum(1)
        spectrum = self.spectrogram(values)
        # The last patch is completed with silence, in a batch as for a sound alone.
        step = self.spectrogram.hop * self.frames
        used = -(-samples // step)
        number = -(-values.shape[1] // step)
        spectrum = F.pad(
            spectrum, (0, 0, 0, number * self.frames - spectrum.shape[1]), value=SILENCE
        )
        x = self.patch(rearrange(spectrum, "m (n f) b -> m n (f b)", f=self.frames))
        real = torch.arange(number, device=values.device) < used[:, None]
        return x + self.positions[:number], real[:, None, None], real


SILENCE = math.log(1e-5) / 8 + 0.5
