"""Files of which each becomes a row in, an error out where one is no image, or no text in its encoding, before Spark starts."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from lakescore import decoding, readers
from lakescore.config import SourceConfig
from lakescore.datafiles import MAX_FILES, MAX_TEXT, Found
from lakescore.errors import InputError
from lakescore.readers import option
from lakescore.storage import is_hidden
from lakescore.text_checks import ARCHIVES, COMPRESSED


def check(files: Sequence[Found], config: SourceConfig, tolerant: bool = False) -> int | None:
    """Look at the first files; those beyond, and what is broken behind a good header, are for the tasks to find.

    Args:
        files: all of them.
        config: the section ``source``.
        tolerant: whether they may be broken.

    Returns:
        How many rows they give; None where only Spark can tell.

    Raises:
        InputError: naming the first file that is hidden, no image, or no text in the configured encoding.
    """
    for _, file in files:
        if is_hidden(PurePosixPath(file.path).name):
            raise InputError(f"source.path: Spark would leave out {file.path}, because its name begins with . or _; give it another")
    is_partial = option(config.options, "modifiedAfter") is not None or option(config.options, "modifiedBefore") is not None
    if is_partial or tolerant or config.filter is not None:
        return None if is_partial else len(files)
    if config.format == "images" and find_spec("PIL") is not None:
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(_check_image, files[:MAX_FILES]))
    if config.format == "text_files":
        _check_texts(files[:MAX_FILES], readers.encoding(config.options))
    return len(files)


def _check_image(found: Found) -> None:
    fs, file = found
    try:
        with fs.open_input_file(file.path) as stream:
            decoding.check_image(stream, file.path, whole=False)
    except decoding.DecodingError as error:
        raise InputError(error.text) from error
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file.path, error) from error


def _check_texts(files: Sequence[Found], encoding: str) -> None:
    left = MAX_TEXT
    for fs, file in files:
        if PurePosixPath(file.path).suffix.lower() in (*COMPRESSED, *ARCHIVES):
            raise InputError(f"source.path: {file.path} is compressed; unpack it, or choose the texts with source.options.pathGlobFilter")
        if left > 0:
            left -= _check_text(fs, file.path, encoding, left)


def _check_text(fs: Any, path: str, encoding: str, most: int) -> int:
    """Returns how many bytes were looked at."""
    decoder, done = codecs.getincrementaldecoder(encoding)(), 0
    try:
        with fs.open_input_stream(path, compression=None) as stream:
            while done < most and (block := stream.read(1 << 20)):
                decoder.decode(block)
                done += len(block)
            if done < most:
                decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        # What the decoder kept of the block before stands in front of this one's bytes.
        position = done + error.start - (len(error.object) - len(block))
        raise InputError(decoding.not_in(encoding, path, error.object[error.start], position)) from error
    except UnicodeError as error:
        raise InputError(f"source.path: {path} is no {encoding} text: {error}; set source.options.encoding") from error
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    return done


def _unreadable(path: str, error: BaseException) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"source.path: {path} cannot be read: {reason}")
