"""Pictures: any common file, upright, as uint8 RGB of the size a system asks for."""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import PIL.Image
import PIL.ImageFile
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor
from torch.nn import functional as F

from sensorium.modalities.base import PredictableMedia, View, is_missing
from sensorium.modalities.media import checked, label, locate, share_of_files
from sensorium.types import BadValue, Field

Fit = Literal["squash", "crop", "pad"]
Augmentation = Literal["crop", "flip", "colour"]

MAX_PIXELS = 178_000_000
MAX_PIXELS_IN_PYTHON = 10_000_000
"""Of pictures that Pillow decodes in Python (run-length BMP, wide PPM): a second or two of work."""

TOO_LARGE = f"has more than {MAX_PIXELS} pixels (or {MAX_PIXELS_IN_PYTHON} of a kind that is slow to decode)"

# Bitmaps only: Pillow would also run interpreters on page descriptions.
_FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"]
if importlib.util.find_spec("PIL.AvifImagePlugin"):
    _FORMATS.append("AVIF")

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


class ImageView(View):
    """What a system wants from a picture.

    Attributes:
        size: width and height in pixels.
        fit: how a picture that is not square becomes so. `squash` scales both sides on their own,
            so that boxes stay what they are; `crop` keeps the middle; `pad` adds black bars.
        augment: what is changed at random in training: `crop` (a part of at least half the area),
            `flip` (left and right), `colour` (brightness and contrast).
    """

    size: int = Setting(default=64, gt=0, le=4096)
    fit: Fit = "squash"
    augment: tuple[Augmentation, ...] = ()

    @property
    def key(self) -> str:
        """Size and fit; augmentation comes after decoding."""
        return f"{self.size}/{self.fit}"


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: RGB, of the size and fit the view asked for.
        width: of the original in pixels, as people see it (turned upright).
        height: of the original in pixels.
    """

    pixels: UInt8[np.ndarray, "size size 3"]
    width: int
    height: int


class Image(PredictableMedia):
    """Files, bytes, `PIL` images and uint8 arrays (height, width, channels).

    Transparent parts are laid on white, 16-bit values are scaled to 8 bits by the range of their
    type, of an animation the first frame counts, and the camera's orientation is applied.
    """

    name = "image"
    suffixes = (
        *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".jp2", ".avif"),
    )
    View = ImageView
    cached = True
    options = MappingProxyType({"path": bool})

    def guess(self, column: str, values: Sequence[Any]) -> float:
        """Files of these types, or values that are pictures."""
        cells = [value for cell in values for value in self.entries(cell, _ANY)]
        pictures = sum(_looks_like_picture(cell) for cell in cells)
        share = max(share_of_files(values, self.suffixes), pictures / max(len(cells), 1))
        return 0.98 * share if share > 0.5 else 0.0

    def decode(self, raw: Any, field: Field, view: ImageView) -> Picture:
        """A picture of the view's size.

        Raises:
            BadValue: no picture, a damaged one, or one that `check_pixels` refuses.
        """
        if isinstance(raw, np.ndarray):
            if _is_plain(raw) and raw.shape[:2] == (view.size, view.size):
                return Picture(raw, view.size, view.size)
            raw = _from_array(raw, field)
        source = None
        try:
            # Pillow warns of large pictures and odd metadata; what matters becomes a BadValue.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if isinstance(raw, PIL.Image.Image):
                    return fit_picture(raw, view)
                source = checked(raw, field, "a picture")
                opened = io.BytesIO(source) if isinstance(source, bytes) else source
                with PIL.Image.open(opened, formats=_FORMATS) as picture:
                    return fit_picture(picture, view)
        except BadValue:
            raise
        except PIL.UnidentifiedImageError:
            reason = kind = "is no picture of a known kind"
        except PIL.Image.DecompressionBombError:
            reason = kind = TOO_LARGE
        except Exception as error:  # decoders of damaged files raise whatever they like
            kind = "cannot be decoded"
            reason = f"{kind}: {error or type(error).__name__}"
        where = "the picture" if source is None else label(source)
        raise BadValue(f"field '{field.name}': {where} {reason}", kind)

    def collate(
        self, values: Sequence[Picture], field: Field, view: ImageView
    ) -> tuple[UInt8[Tensor, "entries size size 3"], None]:
        """The pictures side by side; channels last, as they are stored."""
        return torch.from_numpy(np.stack([value.pixels for value in values])), None

    def uncollate(self, value: UInt8[Tensor, "size size 3"], field: Field, view: Any) -> Picture:
        """The picture."""
        return Picture(value.cpu().numpy(), value.shape[1], value.shape[0])

    def as_file(self, value: Picture, field: Field) -> tuple[str, bytes]:
        """PNG."""
        file = io.BytesIO()
        PIL.Image.fromarray(value.pixels).save(file, "PNG")
        return ".png", file.getvalue()

    def freeze(self, value: Picture) -> tuple[NDArray[Any], str]:
        """The pixels, and the original's width and height."""
        return value.pixels, json.dumps([value.width, value.height])

    def thaw(self, array: NDArray[Any], note: str) -> Picture:
        """The picture that `freeze` took apart."""
        width, height = json.loads(note)
        return Picture(array, width, height)

    def show(self, value: Any, field: Field) -> PIL.Image.Image:
        """The picture; a raw one is brought to 256 pixels."""
        if not isinstance(value, Picture):
            value = self.decode(value, field, ImageView(size=256, fit="pad"))
        return PIL.Image.fromarray(value.pixels)


def fit_boxes(
    boxes: Float[np.ndarray, "boxes 4"], width: int, height: int, fit: Fit
) -> Float[np.ndarray, "boxes 4"]:
    """Where boxes lie in the square that a picture of `width` x `height` pixels was made to fit.

    Args:
        boxes: x1, y1, x2, y2 as shares of the original's sides.
        width: of the original.
        height: of the original.
        fit: how it was made square.

    Returns:
        Shares of the square's side; under `crop` they may lie outside of [0, 1].
    """
    if fit == "squash" or width == height:
        return boxes
    side = min(width, height) if fit == "crop" else max(width, height)
    sides = np.array([width, height, width, height], dtype=np.float32)
    return ((boxes * sides - (sides - side) / 2) / side).astype(np.float32)


_ANY = Field(name="any", modality="image")


def fit_picture(picture: PIL.Image.Image, view: ImageView) -> Picture:
    """A picture, upright, of the view's size and fit.

    Raises:
        DecompressionBombError: it has too many pixels.
    """
    check_pixels(picture)
    width, height = picture.size
    size = view.size
    # A JPEG can be decoded at an eighth, a quarter or half its size; twice the target is enough for
    # the filter that follows.
    picture.draft(None, (2 * size, 2 * size))
    turn = _turn(picture)
    plain = _plain(picture)
    box, target = geometry(*plain.size, size, view.fit)
    pixels = _scaled(plain if box == (0, 0, *plain.size) else plain.crop(box), target)
    if turn is not None or target != (size, size):
        plain = PIL.Image.fromarray(pixels)
        if turn is not None:
            plain = plain.transpose(turn)
        if turn in (_UPRIGHT[5], _UPRIGHT[6], _UPRIGHT[7], _UPRIGHT[8]):
            width, height = height, width
        canvas = PIL.Image.new("RGB", (size, size))
        canvas.paste(plain, ((size - plain.width) // 2, (size - plain.height) // 2))
        pixels = np.asarray(canvas)
    return Picture(pixels, width, height)


def check_pixels(picture: PIL.Image.Image, most: int = MAX_PIXELS) -> None:
    """Raise a `DecompressionBombError` if decoding a picture would take too much memory or time."""
    in_python = isinstance(picture, PIL.ImageFile.ImageFile) and any(
        tile.codec_name in PIL.Image.DECODERS for tile in picture.tile
    )
    limit = min(most, MAX_PIXELS_IN_PYTHON) if in_python else most
    if picture.width * picture.height > limit:
        raise PIL.Image.DecompressionBombError


def check_size(file: bytes, most: int) -> None:
    """Refuse a picture with more than `most` pixels by what its header says; nothing is decoded.

    Raises:
        BadValue: it has more, or is no picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(file), formats=_FORMATS) as picture:
                check_pixels(picture, most)
    except PIL.Image.DecompressionBombError:
        raise BadValue(f"the picture has more than {most} pixels; send a smaller one") from None
    except Exception as error:  # readers of damaged headers raise whatever they like
        known = isinstance(error, PIL.UnidentifiedImageError)
        reason = "is no picture of a known kind" if known else f"cannot be read: {error}"
        raise BadValue(f"the picture {reason}") from None


def _scaled(
    picture: PIL.Image.Image, target: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """A grey or RGB picture at a width and height, as RGB.

    PyTorch's bicubic filter is Pillow's, in a quarter of the time: bytes differ by 2 at most.
    """
    # Means of whole blocks, as long as the filter still has three pixels for each one that it gives.
    gap_x, gap_y = (max(1, old // new // 3) for old, new in zip(picture.size, target, strict=True))
    if gap_x > 1 or gap_y > 1:
        picture = picture.reduce((gap_x, gap_y))
    pixels = np.asarray(picture)
    if picture.size != target:
        channels = torch.from_numpy(pixels.reshape(1, *pixels.shape[:2], -1)).permute(0, 3, 1, 2)
        scaled = F.interpolate(channels, target[::-1], mode="bicubic", antialias=True)
        pixels = scaled[0].permute(1, 2, 0).numpy()
    if picture.mode == "L":
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return pixels


def geometry(
    width: int, height: int, size: int, fit: Fit
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Which part of a picture is scaled, and to which width and height."""
    whole = (0, 0, width, height)
    if fit == "squash" or width == height:
        return whole, (size, size)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return (left, top, left + side, top + side), (size, size)
    scale = size / max(width, height)
    return whole, (max(1, round(width * scale)), max(1, round(height * scale)))


def _turn(picture: PIL.Image.Image) -> PIL.Image.Transpose | None:
    try:
        return _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a picture with damaged metadata is still a picture
        return None


def _plain(picture: PIL.Image.Image) -> PIL.Image.Image:
    """L if it is grey (a third of the work), else RGB, with transparent parts on white."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return PIL.Image.fromarray(_to_bytes(np.asarray(picture)))
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", clear.size, "white")
        return PIL.Image.alpha_composite(white, clear).convert("RGB")
    mode = "L" if picture.mode in ("1", "L") else "RGB"
    if picture.mode == mode:
        picture.load()
        return picture
    return picture.convert(mode)


def _to_bytes(values: NDArray[Any]) -> UInt8[np.ndarray, "height width"]:
    top = values.max()
    if np.issubdtype(values.dtype, np.integer):
        if values.min() < 0 or top > 65535:
            raise ValueError("values outside of 16 bits")
        # Only 32-bit files may hold 8-bit values; those of 16-bit files are what they say.
        scale = 1.0 if top <= 255 and values.dtype.itemsize == 4 else 255 / 65535
    else:
        if not (np.isfinite(values).all() and values.min() >= 0 and top <= 255):
            raise ValueError("fractions must be finite and in [0, 1] or [0, 255]")
        scale = 255.0 if top <= 1 else 1.0
    return np.rint(values * scale).astype(np.uint8)


def _is_plain(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3


def _from_array(array: NDArray[Any], field: Field) -> PIL.Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not fits or array.size == 0:
        raise BadValue(
            f"field '{field.name}': expected a uint8 array (height, width, 3), found "
            f"{array.dtype} {array.shape}"
        )
    return PIL.Image.fromarray(array)


def _looks_like_picture(cell: Any) -> bool:
    if isinstance(cell, PIL.Image.Image):
        return True
    if isinstance(cell, np.ndarray):
        return cell.dtype == np.uint8 and cell.ndim == 3 and cell.shape[2] in (1, 3, 4)
    content = None if is_missing(cell) else locate(cell)
    if not isinstance(content, bytes):
        return False
    return content.startswith(_SIGNATURES) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP")
