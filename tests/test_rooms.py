"""A module imports only from rooms above it, and looking something up imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sensorium
from sensorium.systems.registry import catalogue

ROOMS = [
    "types",
    "modalities",
    "nn",
    "objectives",
    "playground",
    "data",
    "systems",
    "tasks",
    "training",
    "report",
    "diagnostics",
    "comparison",
    "claims",
    "search",
    "curation",
    "serving",
    "cli",
]
SOURCE = Path(sensorium.__file__).parent
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem in ROOMS)


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path):
    """The rooms a file imports from, wherever in the file; not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    only_types = {
        node
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and ast.unparse(guard.test) == "TYPE_CHECKING"
        for node in ast.walk(guard)
    }
    for node in ast.walk(tree):
        if node in only_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sensorium."):
            yield node.module.split(".")[1]
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("sensorium."):
                    yield name.name.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_up(path):
    own = ROOMS.index(room_of(path))
    for room in imported_rooms(path):
        assert ROOMS.index(room) <= own, f"{path} imports from '{room}', a room below its own"


def test_a_system_imports_no_other_system_than_a_baseline():
    systems = {module for module, _ in catalogue().values() if ".baselines." not in module}
    for path in (SOURCE / "systems").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in systems, f"{path} imports the system {node.module}"


@pytest.mark.parametrize(
    "code",
    ["import sensorium", "from sensorium.systems.registry import list_systems; list_systems()"],
)
def test_looking_something_up_is_light(code):
    heavy = [
        "torch",
        "transformers",
        "datasets",
        "matplotlib",
        "sklearn",
        "scipy",
        "accelerate",
        "pandas",
        "pyarrow",
        "lancedb",
        "faiss",
    ]
    check = f"import sys; {code}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
