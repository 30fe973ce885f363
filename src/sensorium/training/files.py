"""Files that are whole or not there: written aside, flushed, and renamed."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from sensorium.types import UserError


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` make a file beside `path`, then put it in its place in one move.

    Raises:
        UserError: the folder cannot be written or the disk is full; what was there before is intact.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except Exception as error:
        aside.unlink(missing_ok=True)
        # safetensors reports a full disk through an exception of its own
        if isinstance(error, OSError) or type(error).__module__.startswith("safetensors"):
            raise UserError(
                f"cannot write {path}: {error}. Free some space or choose another folder; "
                "what was saved before is intact and the run can be resumed from it"
            ) from error
        raise


def write_folder_aside(folder: Path, write: Callable[[Path], object]) -> None:
    """The same for a folder."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        write(aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.replace(folder)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {folder}: {error}") from error
        raise


def write_json(path: Path, content: Any) -> None:
    """A JSON file, in one move. Numbers that JSON does not know (NaN) become null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_aside(path, lambda aside: aside.write_text(text))


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def write_yaml(path: Path, content: Any) -> None:
    """A YAML file, in one move."""
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_aside(path, lambda aside: aside.write_text(text))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, in one move; tensors that share memory are written each."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    ready = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        ready[name] = tensor
    write_aside(path, lambda aside: save_file(ready, str(aside)))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors from a safetensors file.

    Raises:
        UserError: the file is missing, cut short, or of another format, such as a pickle.
    """
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}); "
            "weights in other formats, such as pickles, are not read"
        ) from None
