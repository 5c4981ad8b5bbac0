"""A text file and its reader's options in, nothing out, or an error: what Spark would split, join or change without a word is named.

Spark's readers take a line for a row. They go on with the next line where a quoted value spans two, leave out what stands behind the
first JSON value of a line, and read bytes that are no UTF-8 as other characters.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from lakescore.errors import InputError
from lakescore.readers import option
from lakescore.storage import File

COMPRESSED = (".gz", ".gzip", ".bz2", ".zst", ".lz4", ".snappy", ".deflate")
_DECOMPRESSED = {".gz": "gzip", ".gzip": "gzip", ".bz2": "bz2", ".zst": "zstd"}
# Spark would read these as text.
ARCHIVES = (".zip", ".xz", ".7z", ".rar", ".tar", ".tgz")
_BLOCK = 1 << 20
_SPACE = " \t\r\n"

# Lines, and how many there are before them.
_Check = Callable[[Sequence[bytes], int], None]


def check(fs: Any, file: File, format_: str, options: Mapping[str, str], most: int) -> int:
    """Look at the beginning of a file, of at most so many bytes.

    Args:
        fs: the pyarrow file system that it is on.
        file: the file.
        format_: ``csv`` or ``json``.
        options: the reader's, as configured.
        most: bytes after decompression.

    Returns:
        How many bytes were looked at.

    Raises:
        InputError: naming the file, and the line or position.
    """
    suffix = PurePosixPath(file.path).suffix.lower()
    if suffix in ARCHIVES:
        raise InputError(f"source.path: {file.path}: Spark cannot read {suffix} files; unpack it, or compress it with gzip, bzip2 or zstd")
    encoding = option(options, "encoding") or option(options, "charset") or "UTF-8"
    if encoding.upper() not in ("UTF-8", "UTF8"):
        return 0
    spans = (option(options, "multiLine") or "").lower() == "true"
    try:
        with _stream(fs, file, suffix) as stream:
            if format_ == "json" and spans:
                return _check_document(stream, file, most)
            return _check_lines(stream, file, most, None if spans else _line_check(file, format_, options))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"source.path: {file.path} cannot be read: {reason}") from error


def _stream(fs: Any, file: File, suffix: str) -> Any:
    """The text, decompressed where pyarrow can; an empty one where only Spark can."""
    if suffix in COMPRESSED and suffix not in _DECOMPRESSED:
        return io.BytesIO()
    return fs.open_input_stream(file.path, compression=_DECOMPRESSED.get(suffix))


def _line_check(file: File, format_: str, options: Mapping[str, str]) -> _Check | None:
    """What to look for in lines; None where the dialect is not one that this module knows."""
    if option(options, "lineSep") is not None:
        return None
    if format_ == "json":
        return partial(_check_json, file)
    separator, quote, escape = _separator(file, options), option(options, "quote") or '"', option(options, "escape") or '"'
    comment = (option(options, "comment") or "").encode()
    if any(len(one.encode()) != 1 for one in (separator, quote, escape)):
        return None
    whole = _csv_line(separator.encode(), quote.encode(), escape.encode())
    check_quotes = partial(_check_quotes, file, quote.encode(), escape == quote, whole, comment)
    has_header = (option(options, "header") or "true").lower() == "true" and not comment
    return partial(_check_csv, check_quotes, partial(_check_header, file, separator, quote) if has_header else None)


def _separator(file: File, options: Mapping[str, str]) -> str:
    is_tabs = ".tsv" in [suffix.lower() for suffix in PurePosixPath(file.path).suffixes]
    return (option(options, "sep") or option(options, "delimiter") or ("\t" if is_tabs else ",")).replace("\\t", "\t")


def _check_lines(stream: Any, file: File, most: int, check: _Check | None) -> int:
    decoder, done, rest, lines = codecs.getincrementaldecoder("utf-8")(), 0, b"", 0
    while done < most and (block := stream.read(_BLOCK)):
        _decode(decoder, block, done, file)
        done += len(block)
        # A line may end with \r alone; one at the end of the block may be half of \r\n.
        *whole, rest = (rest + block).splitlines(keepends=True)
        if check is not None:
            check(whole, lines)
        lines += len(whole)
    if check is not None and rest and done < most:
        check([rest], lines)
    return done


def _decode(decoder: codecs.IncrementalDecoder, block: bytes, before: int, file: File) -> None:
    try:
        decoder.decode(block, final=False)
    except UnicodeDecodeError as error:
        raise InputError(
            f"source.path: {file.path} is no UTF-8 (byte 0x{error.object[error.start]:02x} near position {before + error.start}); "
            "set source.options.encoding, for example ISO-8859-1"
        ) from error


def _check_csv(check_quotes: _Check, check_header: Callable[[bytes], None] | None, lines: Sequence[bytes], before: int) -> None:
    check_quotes(lines, before)
    if before == 0 and lines and check_header is not None:
        check_header(lines[0])


def _check_header(file: File, separator: str, quote: str, line: bytes) -> None:
    """Spark would give the second of two columns of one name a name of its own."""
    try:
        (names,) = csv.reader([line.decode("utf-8-sig", "replace").rstrip("\r\n")], delimiter=separator, quotechar=quote)
    except (csv.Error, TypeError, ValueError):
        return  # a dialect that Python has not
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice is not None:
        raise InputError(f"source.path: {file.path}: its header has {twice!r} twice; give the columns names of their own")


def _check_quotes(
    file: File, quote: bytes, is_doubled: bool, whole: re.Pattern[bytes], comment: bytes, lines: Sequence[bytes], before: int
) -> None:
    for number, line in enumerate(lines, before + 1):
        if quote not in line or (comment and line.startswith(comment)):
            continue
        # Quotes that are doubled come in pairs; what else is wrong with such a line Spark says itself.
        if is_doubled and line.count(quote) % 2 == 0:
            continue
        if not whole.fullmatch(line.rstrip(b"\r\n")):
            raise InputError(
                f"source.path: {file.path}, line {number}: a quote is not closed in its line; if values span lines, set "
                "source.options.multiLine=true"
            )


@lru_cache
def _csv_line(separator: bytes, quote: bytes, escape: bytes) -> re.Pattern[bytes]:
    """Values with a separator between: not beginning with a quote, or whole in quotes, in which another one is escaped."""
    sep, q, e = re.escape(separator), re.escape(quote), re.escape(escape)
    inside = rb"[^%b]|%b%b" % (q, q, q) if escape == quote else rb"[^%b%b]|%b." % (q, e, e)
    # No two alternatives match the same text: the time stays linear on a line that does not fit.
    return re.compile(rb"(?:(?:%b(?:%b)*%b|[^%b%b][^%b]*|)(?:%b|$))*" % (q, inside, q, q, sep, sep, sep), re.DOTALL)


def _check_json(file: File, lines: Sequence[bytes], before: int) -> None:
    for number, line in enumerate(lines, before + 1):
        if _rest_after_value(line.decode("utf-8", "replace")):
            raise InputError(
                f"source.path: {file.path}, line {number}: something stands behind the JSON value, which Spark would leave out; write one "
                "value on each line"
            )


def _check_document(stream: Any, file: File, most: int) -> int:
    content: bytes = stream.read(most)
    _decode(codecs.getincrementaldecoder("utf-8")(), content, 0, file)
    if len(content) < most and _rest_after_value(content.decode("utf-8", "replace")):
        raise InputError(
            f"source.path: {file.path}: something stands behind the first JSON value, which Spark would leave out; a file of one value on "
            "each line is read without source.options.multiLine"
        )
    return len(content)


def _rest_after_value(text: str) -> bool:
    """Whether a JSON value is there, and more behind it; what is no JSON at all Spark's own reader refuses."""
    start = len(text) - len(text.lstrip(_SPACE + "\ufeff"))
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):  # or too many levels, for which Spark's reader has a limit too
        return False
    return bool(text[end:].strip(_SPACE))
