"""Data files in, their number of rows out, or an error: what is broken, foreign or different is named before a task reads it.

Spark takes one file's schema for all; what another file lacks it fills with nulls, and ORC even what it cannot convert. Text that is
no UTF-8 it reads with other characters.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq

from lakescore.errors import InputError
from lakescore.readers import option
from lakescore.storage import File

# Footers of up to so many files are compared; beyond, a foreign file is found by the task that reads it.
MAX_FILES = 2_000
# So many bytes of text files are looked at, over all of them.
MAX_TEXT = 64 << 20
COMPRESSED = (".gz", ".gzip", ".bz2", ".zst", ".lz4", ".snappy", ".deflate", ".xz", ".zip")
_DECOMPRESSED = {".gz": "gzip", ".gzip": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_AVRO_MAGIC = b"Obj\x01"

Found = tuple[Any, File]  # a file and the pyarrow file system that it is on


@dataclass(frozen=True)
class Footer:
    """What a file says of itself: its columns with their types (for messages and comparison), and its rows where it says so."""

    columns: Mapping[str, str]
    rows: int | None


def check(files: Sequence[Found], format_: str, options: Mapping[str, str]) -> int | None:
    """Look at every file.

    Args:
        files: what will be read.
        format_: the reader's name.
        options: the reader's, as configured: ``mergeSchema`` and ``avroSchema`` say that the files may differ.

    Returns:
        The rows in all of them; None where the format does not say.

    Raises:
        InputError: naming the first file that is broken, foreign or different.
    """
    if format_ in ("csv", "json"):
        _check_text(files, format_, options)
        return None
    if len(files) > MAX_FILES:
        return None
    read = _FOOTERS[format_]
    with ThreadPoolExecutor(max_workers=16) as pool:
        footers = list(pool.map(lambda found: _footer(found, format_, read), files))
    if (option(options, "mergeSchema") or "").lower() != "true" and option(options, "avroSchema") is None:
        _compare([file for _, file in files], footers)
    rows = [footer.rows for footer in footers if footer.rows is not None]
    return sum(rows) if len(rows) == len(footers) else None


def _compare(files: Sequence[File], footers: Sequence[Footer]) -> None:
    first = footers[0].columns
    for file, footer in zip(files[1:], footers[1:], strict=True):
        if footer.columns != first:
            odd = sorted(set(footer.columns.items()) ^ set(first.items()))[0][0]
            raise InputError(
                f"source.path: {file.path} and {files[0].path} have different schemas: column {odd!r} is "
                f"{footer.columns.get(odd, 'absent')} in the one and {first.get(odd, 'absent')} in the other; score them apart, or set "
                "source.options.mergeSchema=true to read what a file lacks as null"
            )


def _footer(found: Found, format_: str, read: Callable[[Any], Footer]) -> Footer:
    fs, file = found
    try:
        with fs.open_input_file(file.path) as stream:
            return read(stream)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"source.path: {file.path} cannot be read as {format_}: {reason}") from error


def _parquet(stream: Any) -> Footer:
    footer = pq.read_metadata(stream)
    for i in range(footer.num_columns):
        leaf = footer.schema.column(i)
        if leaf.physical_type == "INT64" and "nanoseconds" in str(leaf.logical_type):
            raise ValueError(
                f"Spark has no nanosecond timestamps, which column {leaf.path!r} has; write it with microseconds (pandas: "
                "to_parquet(path, coerce_timestamps='us', allow_truncated_timestamps=True))"
            )
    return Footer({field.name: stored_type(field.type) for field in footer.schema.to_arrow_schema()}, int(footer.num_rows))


def stored_type(kind: pa.DataType) -> str:
    """An Arrow type by what Parquet stores: categories are their values, and large text is text, whoever wrote the file."""
    if pa.types.is_dictionary(kind):
        return stored_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return "binary"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{stored_type(kind.value_type)}>"
    if pa.types.is_timestamp(kind):
        return f"timestamp[{kind.unit}, UTC]" if kind.tz else f"timestamp[{kind.unit}]"
    return str(kind)


def _orc(stream: Any) -> Footer:
    file = orc.ORCFile(stream)
    return Footer({field.name: str(field.type) for field in file.schema}, int(file.nrows))


def _avro(stream: Any) -> Footer:
    """Read the header: a map of bytes with the schema in it. Types are left to Spark, which refuses the wrong ones by itself."""
    if stream.read(len(_AVRO_MAGIC)) != _AVRO_MAGIC:
        raise ValueError("it is no Avro file, or cut off")
    metadata = {}
    while count := _avro_long(stream):
        if count < 0:
            _avro_long(stream)  # the block's size in bytes
        for _ in range(abs(count)):
            name = stream.read(_avro_long(stream)).decode("utf-8")
            metadata[name] = stream.read(_avro_long(stream))
    schema = json.loads(metadata["avro.schema"])
    return Footer({field["name"]: "present" for field in schema.get("fields", [])}, None)


def _avro_long(stream: Any) -> int:
    """Avro's variable-length zig-zag integer."""
    value, shift = 0, 0
    while True:
        byte: bytes = stream.read(1)
        if not byte:
            raise ValueError("it is cut off in its header")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return (value >> 1) ^ -(value & 1)
        shift += 7


_FOOTERS: dict[str, Callable[[Any], Footer]] = {"parquet": _parquet, "orc": _orc, "avro": _avro}


def _check_text(files: Sequence[Found], format_: str, options: Mapping[str, str]) -> None:
    encoding = option(options, "encoding") or option(options, "charset") or "UTF-8"
    if encoding.upper() not in ("UTF-8", "UTF8"):
        return
    dialect = any(option(options, name) for name in ("multiLine", "quote", "escape", "lineSep", "comment"))
    left = MAX_TEXT
    for fs, file in files[:MAX_FILES]:
        if left <= 0:
            return
        separator = _separator(file, options) if format_ == "csv" and not dialect else None
        left -= _check_lines(fs, file, left, separator)


def _separator(file: File, options: Mapping[str, str]) -> bytes | None:
    """What separates the values; None where it is more than one character."""
    given = option(options, "sep") or option(options, "delimiter") or ("\t" if _is_tabs(file) else ",")
    found = given.replace("\\t", "\t").encode()
    return found if len(found) == 1 else None


def _is_tabs(file: File) -> bool:
    return ".tsv" in [suffix.lower() for suffix in PurePosixPath(file.path).suffixes]


def _check_lines(fs: Any, file: File, most: int, separator: bytes | None) -> int:
    """Look for bytes that are no UTF-8, and for quotes that their line does not close: Spark would go on with the next line as a row.

    Returns how many bytes were looked at, after decompression.
    """
    decoder, done, rest, lines = codecs.getincrementaldecoder("utf-8")(), 0, b"", 0
    try:
        with _text_stream(fs, file) as stream:
            while done < most and (block := stream.read(1 << 20)):
                _decode(decoder, block, done, file)
                done += len(block)
                # A line may end with \\r alone; one at the end of the block may be half of \\r\\n.
                *whole, rest = (rest + block).splitlines(keepends=True)
                if separator is not None:
                    _check_quotes(file, whole, lines, separator)
                lines += len(whole)
            if separator is not None and done < most:
                _check_quotes(file, [rest] if rest else [], lines, separator)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"source.path: {file.path} cannot be read: {reason}") from error
    return done


def _text_stream(fs: Any, file: File) -> Any:
    """The text, decompressed where pyarrow can; an empty one where only Spark can."""
    suffix = PurePosixPath(file.path).suffix.lower()
    if suffix in COMPRESSED and suffix not in _DECOMPRESSED:
        return io.BytesIO()
    return fs.open_input_stream(file.path, compression=_DECOMPRESSED.get(suffix))


def _decode(decoder: codecs.IncrementalDecoder, block: bytes, before: int, file: File) -> None:
    try:
        decoder.decode(block, final=False)
    except UnicodeDecodeError as error:
        raise InputError(
            f"source.path: {file.path} is no UTF-8 (byte 0x{error.object[error.start]:02x} near position {before + error.start}); "
            "set source.options.encoding, for example ISO-8859-1"
        ) from error


def _check_quotes(file: File, lines: Sequence[bytes], before: int, separator: bytes) -> None:
    whole = _csv_line(separator)
    for number, line in enumerate(lines, before + 1):
        if line.count(b'"') % 2 and not whole.fullmatch(line.rstrip(b"\r\n")):
            raise InputError(
                f"source.path: {file.path}, line {number}: a quote is not closed in its line; if values span lines, set "
                "source.options.multiLine=true"
            )


@lru_cache
def _csv_line(separator: bytes) -> re.Pattern[bytes]:
    """Values with a separator between: quoted, the quotes in them doubled, or not beginning with a quote."""
    sep = re.escape(separator)
    return re.compile(rb'(?:(?:"(?:[^"]|"")*"|[^"%b][^%b]*|)(?:%b|$))*' % (sep, sep, sep))
