"""Sensorium: published multimodal systems to train, compare, diagnose, search and serve.

    import sensorium as sm

    data = sm.open("products/")
    result = sm.compare(["dual-encoder", "interbert"], data, out="comparison")
    print(result)

Names are imported when they are first used, so that `import sensorium` takes no time.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# No dependency calls home. A user who wants that says so in the environment beforehand.
for _switch, _value in (("HF_HUB_DISABLE_TELEMETRY", "1"), ("DO_NOT_TRACK", "1")):
    os.environ.setdefault(_switch, _value)

# Threads that wait for each other sleep instead of spinning: on a machine that does something else as
# well, a training step otherwise takes ten times as long (measured on two cores beside one busy process).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_WHERE = {
    "open": ("sensorium.data", "open_data"),
    "inspect": ("sensorium.data", "inspect_data"),
    "train": ("sensorium.training.run", "train"),
    "load": ("sensorium.training.run", "load"),
    "evaluate": ("sensorium.training.run", "evaluate"),
    "compare": ("sensorium.comparison", "compare"),
    "diagnose": ("sensorium.diagnostics.diagnosis", "diagnose"),
    "index": ("sensorium.search.building", "index_rows"),
    "Index": ("sensorium.search.index", "Index"),
    "list_systems": ("sensorium.systems.registry", "list_systems"),
    "get_system": ("sensorium.systems.registry", "get_system"),
    "register": ("sensorium.systems.base", "register"),
    "System": ("sensorium.systems.base", "System"),
    "SystemConfig": ("sensorium.systems.base", "SystemConfig"),
    "Schema": ("sensorium.types", "Schema"),
    "Field": ("sensorium.types", "Field"),
    "Batch": ("sensorium.types", "Batch"),
    "Tokens": ("sensorium.types", "Tokens"),
    "Loss": ("sensorium.types", "Loss"),
    "Stage": ("sensorium.types", "Stage"),
    "Card": ("sensorium.types", "Card"),
    "UserError": ("sensorium.types", "UserError"),
}

if TYPE_CHECKING:
    from sensorium.comparison import compare as compare
    from sensorium.data import inspect_data as inspect  # noqa: F401
    from sensorium.data import open_data as open  # noqa: F401
    from sensorium.diagnostics.diagnosis import diagnose as diagnose
    from sensorium.search.building import index_rows as index  # noqa: F401
    from sensorium.search.index import Index as Index
    from sensorium.systems.base import System as System
    from sensorium.systems.base import SystemConfig as SystemConfig
    from sensorium.systems.base import register as register
    from sensorium.systems.registry import get_system as get_system
    from sensorium.systems.registry import list_systems as list_systems
    from sensorium.training.run import evaluate as evaluate
    from sensorium.training.run import load as load
    from sensorium.training.run import train as train
    from sensorium.types import Batch as Batch
    from sensorium.types import Card as Card
    from sensorium.types import Field as Field
    from sensorium.types import Loss as Loss
    from sensorium.types import Schema as Schema
    from sensorium.types import Stage as Stage
    from sensorium.types import Tokens as Tokens
    from sensorium.types import UserError as UserError

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'sensorium' has no attribute '{name}'")
    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
