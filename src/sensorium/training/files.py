"""Files that are whole or not there: written aside, flushed, and renamed."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from sensorium.types import UserError, plain_yaml


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
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        # safetensors reports a full disk through an exception of its own
        if isinstance(error, OSError) or type(error).__module__.startswith("safetensors"):
            raise _unwritten(path, error) from error
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
        _settle(folder.parent)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError | UserError):
            raise _unwritten(folder, error.__cause__ or error) from error
        raise


def _unwritten(path: Path, error: BaseException) -> UserError:
    return UserError(
        f"cannot write {path}: {error}. Free some space or choose another folder; "
        "what was saved before is intact and the run can be resumed from it"
    )


def _settle(folder: Path) -> None:
    """Have the names in a folder outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_parts(folder: Path) -> None:
    """Remove what a killed process had not finished writing into a folder."""
    for part in folder.glob(".*.part"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """A JSON file, in one move. Numbers that JSON does not know (NaN) become null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_aside(path, lambda aside: write_text(aside, text))


def write_text(path: Path, text: str) -> None:
    """UTF-8; halves of surrogate pairs, which file names may hold, as escapes that JSON reads."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not whole: {error}") from None


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
    text = plain_yaml.write_yaml(content)
    write_aside(path, lambda aside: write_text(aside, text))


def read_yaml(path: Path) -> Any:
    """What a YAML file says, as plain data.

    Raises:
        UserError: it is missing, damaged, or asks for objects to be made.
    """
    try:
        return plain_yaml.read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as YAML: {error}") from None


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
