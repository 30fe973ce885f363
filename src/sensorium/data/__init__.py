"""From what a user has to batches: sources, schemas, splits, the media cache and the loader."""

from sensorium.data.cache import MediaCache
from sensorium.data.dataset import Data
from sensorium.data.loader import read_batches, train_batches
from sensorium.data.missing import Missing, parse_missing
from sensorium.data.opening import open_data

__all__ = [
    "Data",
    "MediaCache",
    "Missing",
    "open_data",
    "parse_missing",
    "read_batches",
    "train_batches",
]
