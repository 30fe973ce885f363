"""Find a system by name; nothing heavy is imported before one is asked for.

`catalogue.json` is generated from the cards by `make docs`; a test checks that it is current.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import json
import pkgutil
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sensorium.types.card import Card
from sensorium.types.errors import UserError
from sensorium.types.names import did_you_mean

if TYPE_CHECKING:
    from sensorium.systems.base import System

CATALOGUE = Path(__file__).with_name("catalogue.json")


@lru_cache
def catalogue() -> dict[str, tuple[str, Card]]:
    """Name to module and card of every system that comes with the library."""
    content = json.loads(CATALOGUE.read_text())
    return {name: (entry.pop("module"), Card(**entry)) for name, entry in content.items()}


def list_systems(pattern: str = "*") -> list[str]:
    """The names that fit a pattern such as `*clip*`."""
    return sorted(fnmatch.filter(catalogue(), pattern))


def get_system(name: str) -> type[System]:
    """The class of a system, by its name or by `path/to/file.py:ClassName`.

    Raises:
        UserError: there is no such system, file or class.
    """
    if ".py:" in name:
        return _from_file(name)
    if name not in catalogue():
        raise UserError(f"unknown system '{name}'. {did_you_mean(name, catalogue())}")
    from sensorium.systems.base import _REGISTERED

    importlib.import_module(catalogue()[name][0])
    return _REGISTERED[name]


def _from_file(reference: str) -> type[System]:
    from sensorium.systems.base import System

    file, _, class_name = reference.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{reference}: there is no file {path}")
    module_name = f"sensorium_user_{path.stem}"
    module = sys.modules.get(module_name)
    if module is None or getattr(module, "__file__", None) != str(path):
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise UserError(
                f"{path} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, System)):
        systems = [n for n, v in vars(module).items() if isinstance(v, type) and v is not System]
        raise UserError(f"{path} has no system '{class_name}'. {did_you_mean(class_name, systems)}")
    if not hasattr(found, "name"):
        found.name = class_name
    return found


def build_catalogue() -> str:
    """The text of `catalogue.json`, from the cards of all modules in this package."""
    import sensorium.systems
    from sensorium.systems.base import _REGISTERED

    for module in pkgutil.walk_packages(sensorium.systems.__path__, "sensorium.systems."):
        importlib.import_module(module.name)
    entries = {
        name: {"module": system.__module__, **system.card.model_dump(exclude_defaults=True)}
        for name, system in sorted(_REGISTERED.items())
        if system.__module__.startswith("sensorium.systems.")
    }
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
