"""Find claims and their results, and say whether a result still speaks of the present code."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import sensorium
from sensorium.claims.base import Claim
from sensorium.types import UserError
from sensorium.types.names import did_you_mean

PACKAGE = Path(sensorium.__file__).parent
RESULTS = Path(__file__).with_name("results")
# what a result does not depend on: what is printed and drawn
_OUTSIDE = ("claims", "cli", "report", "diagnostics", "comparison.py")


@lru_cache
def claims() -> dict[str, Claim]:
    """All claims by name."""
    import sensorium.claims.catalogue as package

    found = {}
    for entry in pkgutil.iter_modules(package.__path__):
        claim: Claim = importlib.import_module(f"{package.__name__}.{entry.name}").CLAIM
        if claim.name != entry.name.replace("_", "-"):
            raise ValueError(f"claim '{claim.name}' is in a file named {entry.name}.py")
        found[claim.name] = claim
    return found


def find_claims(name: str | None = None) -> list[Claim]:
    """The claim of that name, those of the system of that name, or all.

    Raises:
        UserError: there is none.
    """
    found = [c for c in claims().values() if name in (None, c.name, c.system)]
    if not found:
        known = [n for claim in claims().values() for n in (claim.name, claim.system)]
        raise UserError(f"no claim or system '{name}'. {did_you_mean(str(name), set(known))}")
    return found


@dataclass(frozen=True)
class Result:
    """What came of an experiment.

    Attributes:
        content: as in its file.
        status: `current`; `older core`, if code that all systems share has changed since; or `stale`,
            if its configuration, a system's own code, its measures or its data have; then `changed`
            says which.
    """

    content: Mapping[str, Any]
    status: str
    changed: str = ""


def read_result(claim: Claim) -> Result | None:
    """The recorded result of a claim, or None."""
    path = RESULTS / f"{claim.name}.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    now = json.loads(json.dumps(fingerprints(claim)))
    changed = [name for name, value in now.items() if content["fingerprints"].get(name) != value]
    if changed == ["core"]:
        return Result(content, "older core")
    important = [name for name in changed if name != "core"]
    return Result(content, "stale" if important else "current", ", ".join(important))


def fingerprints(claim: Claim) -> dict[str, str]:
    """What a result depends on, each as a digest that changes with it."""
    from sensorium.data import open_data
    from sensorium.systems.registry import get_system

    found = {"configuration": _digest([json.dumps(claim.configuration, sort_keys=True)])}
    systems = sorted({arm.system for arm in claim.runs.values()})
    of_systems = {name: _composed_of(get_system(name).__module__) for name in systems}
    for name, modules in of_systems.items():
        found[f"system {name}"] = _code(map(_file, sorted(modules)))
    if claim.measure:
        module = claim.measure.partition(":")[0]
        found["measure"] = _code(map(_file, sorted(_composed_of(module, "diagnostics"))))
    for where in sorted({claim.data_of(arm) for arm in claim.runs.values()}):
        found[f"data {where}"] = open_data(where).version
    return found | {"core": _core()}


@lru_cache
def _core() -> str:
    outside = {PACKAGE / name for name in _OUTSIDE}
    own = PACKAGE / "systems"
    shared = [own / "base.py", own / "registry.py"]
    for path in sorted(PACKAGE.rglob("*.py")):
        above = {path, *path.parents}
        if own not in above and not above & outside:
            shared.append(path)
    return _code(shared)


def _composed_of(module: str, room: str = "systems") -> set[str]:
    """A module, and those of a room that it imports, in turn."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse(_file(name).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = node.module
                shared = inner.endswith((".base", ".registry"))
                if inner.startswith(f"sensorium.{room}.") and not shared:
                    waiting.append(inner)
    return found


def _file(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _code(paths: Iterable[Path]) -> str:
    """A digest of what code does: comments, docstrings and layout change nothing."""
    return _digest(_without_docstrings(path.read_text()) for path in paths)


def _without_docstrings(text: str) -> str:
    """A module without what only people read."""
    tree = ast.parse(text)
    # what a claim says in words may be put better; what it runs is in its configuration
    tree.body = [node for node in tree.body if not _is_claim(node)]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.unparse(tree)


def _is_claim(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "CLAIM" for target in targets)


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]
