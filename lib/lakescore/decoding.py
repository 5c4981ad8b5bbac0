"""Runs on executors: the bytes of files in, texts or images out, as pandas UDFs over Spark's ``binaryFile`` source.

Executors need not have Lakescore: ``file_rows`` has this module pickled by value, so it may import nothing of Lakescore. Pillow (the
extra ``images``) is imported where it is used. The driver calls the same functions to look at files before Spark starts.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

Batches = Iterator[tuple[pd.Series, pd.Series]]
Decode = Callable[[bytes, str], Any]
_UNICODE = "utf"


class DecodingError(ValueError):
    """A file that cannot be read as configured; ``lakescore.failures`` finds the message by its marks."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        kind = "input"  # apart, or the line of code that a traceback shows would be taken for the message
        super().__init__(f"[lakescore:{kind}] {self.text} [/lakescore]")


def decoder(one: Decode) -> Callable[[Batches], Iterator[pd.Series]]:
    """A UDF of (path, content) that gives what ``one`` makes of each; a file that cannot be decoded ends it."""

    def decode(batches: Batches) -> Iterator[pd.Series]:
        for paths, contents in batches:
            yield pd.Series([one(content, path) for path, content in zip(paths, contents, strict=True)], dtype=object)

    return decode


def tolerant_decoder(one: Decode) -> Callable[[Batches], Iterator[pd.DataFrame]]:
    """A UDF of (path, content) that gives what ``one`` makes of each as ``value``, or why there is none as ``problem``."""

    def attempt(content: bytes, path: str) -> tuple[Any, str | None]:
        try:
            return one(content, path), None
        except DecodingError as error:
            return None, error.text

    def decode(batches: Batches) -> Iterator[pd.DataFrame]:
        for paths, contents in batches:
            tried = [attempt(content, path) for path, content in zip(paths, contents, strict=True)]
            columns = {name: pd.Series([found[i] for found in tried], dtype=object) for i, name in enumerate(("value", "problem"))}
            yield pd.DataFrame(columns)

    return decode


def text_reader(encoding: str) -> Decode:
    """For ``decoder``: the content as text."""
    return functools.partial(text, encoding=encoding)


def image_reader(options: dict[str, Any]) -> Decode:
    """For ``decoder``: the pixels as flat float arrays, row-major.

    Args:
        options: ``ImageConfig``'s keys as plain values.
    """
    return functools.partial(image, options=options, table=level_table(options))


def image_bytes(content: bytes, path: str) -> bytes:
    """For ``decoder``: the content as it is, once Pillow has recognised an image."""
    check_image(io.BytesIO(content), path)
    return content


def text(content: bytes, path: str, encoding: str) -> str:
    """The content as text, without a byte order mark; line ends stay as they are.

    Raises:
        DecodingError: it is not in this encoding; naming the file and the first byte that is not.
    """
    try:
        decoded = bytes(content).decode(encoding)
    except UnicodeDecodeError as error:
        raise DecodingError(not_in(encoding, path, error.object[error.start], error.start)) from error
    except UnicodeError as error:
        raise DecodingError(f"source.path: {path} is no {encoding} text: {error}; set source.options.encoding") from error
    return decoded.removeprefix("\ufeff") if encoding.lower().startswith(_UNICODE) else decoded


def not_in(encoding: str, path: str, byte: int, position: int) -> str:
    """What is said of a file in another encoding."""
    example = "for example ISO-8859-1" if encoding.lower().startswith(_UNICODE) else "for example UTF-8"
    return f"source.path: {path} is no {encoding} text (byte 0x{byte:02x} at position {position}); set source.options.encoding, {example}"


def check_image(stream: Any, path: str, whole: bool = True) -> None:
    """Look whether Pillow knows the file as an image: by its header, and what the format lets it check without decoding (``whole``).

    Raises:
        DecodingError: naming the file.
    """
    from PIL import Image

    try:
        with Image.open(stream) as found:
            if whole:
                found.verify()
    except Exception as error:  # Pillow's plugins raise all kinds, SyntaxError among them
        raise DecodingError(_broken(path, error)) from error


def image(content: bytes, path: str, options: dict[str, Any], table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The pixels of one image as a flat array of floats.

    The first frame, upright by its EXIF orientation, converted to grey (ITU-R 601-2) or RGB as Pillow's ``convert`` does (palettes are
    looked up, alpha is dropped, of 16 bits the upper 8 stay), then resized (bilinear) unless it has the size.

    Raises:
        DecodingError: it is broken, or no image; naming the file.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as found:
            upright = _eight_bits(ImageOps.exif_transpose(found))
            plain = upright if upright.mode == options["mode"] else upright.convert(options["mode"])
            height, width = options["size"]
            if plain.size != (width, height):
                plain = plain.resize((width, height), Image.Resampling.BILINEAR)
            levels = np.asarray(plain)
    except Exception as error:  # Pillow's plugins raise all kinds, SyntaxError and struct.error among them
        raise DecodingError(_broken(path, error)) from error
    if levels.ndim == 2:
        levels = levels[..., np.newaxis]
    values = np.stack(
        [table[channel][levels[..., channel]] for channel in range(levels.shape[2])], axis=0 if options["layout"] == "chw" else 2
    )
    return values.ravel()


def level_table(options: dict[str, Any]) -> np.ndarray[Any, Any]:
    """What each of the 256 levels of each channel becomes: ``(level * scale - mean) / std``.

    Rounded to float after each step, so that ``scale: 1/255`` equals torchvision's ``ToTensor``, and mean and std its ``Normalize``.
    """
    scaled = (np.arange(256) * options["scale"]).astype(np.float32)
    channels = 1 if options["mode"] == "L" else 3
    mean = np.asarray(options["mean"] or [0.0] * channels, np.float32)
    std = np.asarray(options["std"] or [1.0] * channels, np.float32)
    table: np.ndarray[Any, Any] = (scaled - mean[:, np.newaxis]) / std[:, np.newaxis]
    return table


def _eight_bits(found: Any) -> Any:
    """Pillow would clip deeper levels at 255, and make almost every image white."""
    from PIL import Image

    if found.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(found).astype(np.uint16) >> 8).astype(np.uint8))
    if found.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are 32-bit {'integers' if found.mode == 'I' else 'floats'}, of no known range; save it with 8 or 16 bits"
        )
    return found


def _broken(path: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if type(error).__name__ == "UnidentifiedImageError":
        reason = "it is no image of a format that Pillow knows; choose the images with source.options.pathGlobFilter"
    return f"source.path: {path} cannot be read as an image: {reason}"
