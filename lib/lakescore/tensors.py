"""The model's inputs in, the tensor that the guard is to hand over out; refused where the configured image has another shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyspark.sql import types as T

from lakescore.config import ImageConfig
from lakescore.errors import ConfigError
from lakescore.schema import Feature, Tensor


def check_image(features: Sequence[Feature], image: ImageConfig) -> None:
    """Compare the configured shape with the tensors that are made of images.

    Raises:
        ConfigError: naming both shapes.
    """
    made = image.shape
    for feature in features:
        wanted = feature.tensor.shape if feature.tensor else None
        if made is None or wanted is None or _fits(made, wanted):
            continue
        raise ConfigError(
            f"source.image: size [{', '.join(map(str, image.size or ()))}], mode {image.mode} and layout {image.layout} make arrays of "
            f"shape {_shown((-1, *made))}, and the model takes {_shown((-1, *wanted))}{_hint(image, wanted)}"
        )


def for_guard(features: Sequence[Feature], image: ImageConfig | None) -> Tensor | None:
    """The one tensor that all inputs together are, its open dimensions filled from the image's; None where there is none."""
    tensor = features[0].tensor if len(features) == 1 else None
    if tensor is None or not isinstance(features[0].type, T.ArrayType):
        return None
    if -1 in tensor.shape and image is not None and image.shape is not None and len(image.shape) == len(tensor.shape):
        return Tensor(image.shape, tensor.type)
    return None if -1 in tensor.shape else tensor


def _fits(made: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Equal but for dimensions of 1, which change no value's place, or a flat row of all values."""
    if len(made) == len(wanted) and all(b in (a, -1) for a, b in zip(made, wanted, strict=True)):
        return True
    if len(wanted) == 1:
        return wanted[0] in (-1, math.prod(made))
    return -1 not in wanted and [a for a in made if a != 1] == [b for b in wanted if b != 1]


def _hint(image: ImageConfig, wanted: tuple[int, ...]) -> str:
    """The configuration that would fit, where there is one."""
    for layout in (image.layout, "chw", "hwc"):
        if len(wanted) != 3:
            break
        channels, size = (wanted[0], wanted[1:]) if layout == "chw" else (wanted[2], wanted[:2])
        if channels in (1, 3):
            height, width = (a if b == -1 else b for a, b in zip(image.size or (-1, -1), size, strict=True))
            return f"; set source.image.size=[{height}, {width}], mode={'L' if channels == 1 else 'RGB'}, layout={layout}"
    return ""


def _shown(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
