"""Reading JPEGs into batches, against webdataset with Pillow.

2,000 pictures of 256 pixels in four tars, which both read with two worker processes, bring to a size
with the same filter (bicubic) and put into batches of uint8, channels last. Ours come in the shuffled
order of an epoch, the peer's in the order of the tars, which is less work. Both find the tars in the
system's file cache. The peer has no cache of decoded pictures.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image

import sensorium as sm
from harness import Figure, Result, Settings, Target, rates, timed
from sensorium.data import MediaCache, train_batches
from sensorium.data.dataset import Data
from sensorium.modalities.image import ImageView

NUM_PICTURES, NUM_TARS, SIDE, QUALITY = 2000, 4, 256, 90
BATCH_SIZE, WORKERS = 50, 2
FIRST_TARGETS = {64: 2.0, 224: 1.3}
SECOND_TARGET = 10.0


def measure(settings: Settings) -> Result:
    """Pictures a second, in a first and in a second epoch."""
    torch.set_num_threads(settings.threads)
    figures: list[Figure] = []
    peer = f"webdataset {webdataset.__version__}"
    with tempfile.TemporaryDirectory() as folder:
        tars = write_tars(Path(folder))
        num_bytes = sum(tar.stat().st_size for tar in tars) / NUM_PICTURES
        data = sm.open(Path(folder), split="share:1,0,0")
        differences = []
        for size, target in FIRST_TARGETS.items():
            cache = Path(folder) / f"cache-{size}"
            found: dict[str, list[tuple[float, float]]] = {"cache": [], "none": [], "theirs": []}
            for repeat in range(settings.repeats + 1):
                shutil.rmtree(cache, ignore_errors=True)
                round_ = {
                    "cache": our_epochs(data, size, MediaCache(cache)),
                    "none": our_epochs(data, size, None),
                    "theirs": their_epochs(tars, size),
                }
                if repeat:
                    for side, seconds in round_.items():
                        found[side].append(seconds)
            for what, side, epoch, limit in (
                ("first epoch, no cache", "none", 0, target),
                ("first epoch, which also writes the cache", "cache", 0, target),
                ("second epoch, from the cache", "cache", 1, SECOND_TARGET),
            ):
                figures.append(
                    Figure(
                        f"{size} pixels, {what}",
                        "pictures/s",
                        rates(NUM_PICTURES, [seconds[epoch] for seconds in found[side]]),
                        peer,
                        rates(NUM_PICTURES, [seconds[epoch] for seconds in found["theirs"]]),
                        Target("at least", limit),
                    )
                )
            differences.append(f"{size} pixels: {mean_difference(data, tars, size):.2f}")
    note = (
        f"{WORKERS} worker processes each, which live on from the first epoch to the second. JPEGs have "
        f"{num_bytes / 1024:.0f} KiB on average. Where the target is half the picture or less, ours has "
        "the JPEG decoder give the picture at half, a quarter or an eighth of its size (never less than "
        "twice the target) before the filter, the peer decodes in full. Mean absolute difference of "
        "the results, of 255: " + ", ".join(differences) + "."
    )
    return Result(figures, [note], ["webdataset"])


def write_tars(folder: Path) -> list[Path]:
    """Scenes of the playground with the noise of a camera, as JPEGs of common quality."""
    scenes = sm.open(f"playground:scenes?size={SIDE}&objects=2-4")
    rows = scenes.rows("train")[:NUM_PICTURES]
    pictures = scenes.columns(["image"], rows)["image"]
    random = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.tar" for number in range(NUM_TARS)]
    for path, part in zip(paths, np.array_split(np.arange(NUM_PICTURES), NUM_TARS), strict=True):
        with tarfile.open(path, "w") as tar:
            for number in part:
                noise = random.normal(0, 8, (SIDE, SIDE, 1))
                noisy = np.clip(np.asarray(pictures[number]) + noise, 0, 255).astype(np.uint8)
                file = io.BytesIO()
                Image.fromarray(noisy).save(file, "JPEG", quality=QUALITY)
                member = tarfile.TarInfo(f"{number:06d}.jpg")
                member.size = file.tell()
                file.seek(0)
                tar.addfile(member, file)
    return paths


def our_epochs(data: Data, size: int, cache: MediaCache | None) -> tuple[float, float]:
    """The seconds of two epochs of the training loader, as the trainer uses it.

    A third follows if there is a cache, so that the second ends as it began, with batches under way.
    """
    per_epoch = NUM_PICTURES // BATCH_SIZE
    epochs = 1 if cache is None else 3
    marks = [time.perf_counter()]
    batches = train_batches(
        data,
        {"image": ImageView(size=size)},
        batch_size=BATCH_SIZE,
        seed=0,
        num_steps=epochs * per_epoch,
        workers=WORKERS,
        cache=cache,
    )
    for step, (batch,) in enumerate(batches, start=1):
        assert batch["image"].values.shape == (BATCH_SIZE, size, size, 3)
        if step % per_epoch == 0:
            marks.append(time.perf_counter())
    return marks[1] - marks[0], marks[min(2, epochs)] - marks[min(1, epochs - 1)]


def their_epochs(tars: list[Path], size: int) -> tuple[float, float]:
    """The seconds of two epochs of webdataset, set up as its documentation does."""
    dataset = (
        webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False)
        .decode("pil")
        .to_tuple("jpg")
        .map_tuple(partial(resized, size=size))
        .batched(BATCH_SIZE, collation_fn=stacked)
    )
    loader = webdataset.WebLoader(
        dataset, num_workers=WORKERS, batch_size=None, persistent_workers=True
    )

    def epoch() -> None:
        assert sum(len(batch) for batch in loader) == NUM_PICTURES

    return timed(epoch), timed(epoch)


def resized(picture: Image.Image, size: int) -> np.ndarray:
    """One picture of webdataset."""
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


def stacked(samples: list[tuple[np.ndarray]]) -> torch.Tensor:
    """Samples side by side."""
    return torch.from_numpy(np.stack([sample[0] for sample in samples]))


def mean_difference(data: Data, tars: list[Path], size: int) -> float:
    """How far ours are from the peer's, for some pictures."""
    rows = np.arange(20)
    samples, _ = data.read(rows, {"image": ImageView(size=size)})
    ours = np.stack([sample.values["image"][0].pixels for sample in samples]).astype(float)
    with tarfile.open(tars[0]) as tar:
        members = [tar.extractfile(member) for member in tar.getmembers()[: len(rows)]]
        theirs = [resized(Image.open(member).convert("RGB"), size) for member in members if member]
    return float(np.abs(ours - np.stack(theirs)).mean())
