from enum import Enum


class InterpolationMode(Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class _Unused:
    def __init__(self, *_: object, **__: object) -> None:
        """Transforms of pictures are built with the model, and not called."""


class CenterCrop(_Unused): ...


class ColorJitter(_Unused): ...


class Compose(_Unused): ...


class Grayscale(_Unused): ...


class Normalize(_Unused): ...


class RandomResizedCrop(_Unused): ...


class Resize(_Unused): ...


class ToTensor(_Unused): ...
