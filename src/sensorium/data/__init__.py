"""From what a user has to batches: sources, schemas, splits, the media cache and the loader."""

from sensorium.data.cache import MediaCache
from sensorium.data.dataset import Data
from sensorium.data.inspection import Inspection, inspect_data
from sensorium.data.loader import read_batches, train_batches
from sensorium.data.missing import Missing, parse_missing, read_missing
from sensorium.data.opening import open_data
from sensorium.data.sheet import contact_sheet

__all__ = [
    "Data",
    "Inspection",
    "MediaCache",
    "Missing",
    "contact_sheet",
    "inspect_data",
    "open_data",
    "parse_missing",
    "read_batches",
    "read_missing",
    "train_batches",
]
