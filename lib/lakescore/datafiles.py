"""Data files in, their rows and footers out, or an error: what is broken, foreign or different is named before a task reads it.

Spark takes one file's schema for all; what another file lacks it fills with nulls, and ORC even what it cannot convert. Text that is
no UTF-8 it reads with other characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq

from lakescore import text_checks
from lakescore.errors import InputError
from lakescore.parquet_files import OnlySparkError, ParquetFiles, of_footers, read_footer
from lakescore.readers import option
from lakescore.storage import File

# Footers of up to so many files are compared; beyond, a foreign file is found by the task that reads it.
MAX_FILES = 2_000
# So many bytes of text files are looked at, over all of them.
MAX_TEXT = 64 << 20
_AVRO_MAGIC = b"Obj\x01"

Found = tuple[Any, File]  # a file and the pyarrow file system that it is on


@dataclass(frozen=True)
class Footer:
    """What a file says of itself: its columns with their types (for messages and comparison), and its rows where it says so."""

    columns: Mapping[str, str]
    rows: int | None
    parquet: pq.FileMetaData | None = None


@dataclass(frozen=True)
class Checked:
    """What is known of files that were looked at.

    Attributes:
        rows: in all of them; None where the format does not say.
        parquet: Parquet files as workers may read them; None where only Spark reads them right, for the reason ``only_spark``.
    """

    rows: int | None
    parquet: ParquetFiles | None = None
    only_spark: str = ""


def check(files: Sequence[Found], format_: str, options: Mapping[str, str]) -> Checked:
    """Look at every file.

    Args:
        files: what will be read.
        format_: the reader's name.
        options: the reader's, as configured: ``mergeSchema`` and ``avroSchema`` say that the files may differ.

    Raises:
        InputError: naming the first file that is broken, foreign or different.
    """
    if format_ in ("csv", "json"):
        _check_text(files, format_, options)
        return Checked(None, only_spark=f"the source is {format_}")
    if len(files) > MAX_FILES:
        return Checked(None, only_spark=f"the source has more than {MAX_FILES} files")
    read = _FOOTERS[format_]
    with ThreadPoolExecutor(max_workers=16) as pool:
        footers = list(pool.map(lambda found: _footer(found, format_, read), files))
    if (option(options, "mergeSchema") or "").lower() != "true" and option(options, "avroSchema") is None:
        _compare([file for _, file in files], footers)
    rows = [footer.rows for footer in footers if footer.rows is not None]
    total = sum(rows) if len(rows) == len(footers) else None
    if format_ != "parquet":
        return Checked(total, only_spark=f"the source is {format_}")
    if options:
        return Checked(total, only_spark="source.options are set")
    try:
        found = [(file.path, file.size, footer.parquet) for (_, file), footer in zip(files, footers, strict=True) if footer.parquet]
        return Checked(total, of_footers(found))
    except OnlySparkError as reason:
        return Checked(total, only_spark=str(reason))


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
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"source.path: {file.path} cannot be read as {format_}: {reason}") from error


def _parquet(stream: Any) -> Footer:
    footer = read_footer(stream)
    for i in range(footer.num_columns):
        leaf = footer.schema.column(i)
        if leaf.physical_type == "INT64" and "nanoseconds" in str(leaf.logical_type):
            raise ValueError(
                f"Spark has no nanosecond timestamps, which column {leaf.path!r} has; write it with microseconds (pandas: "
                "to_parquet(path, coerce_timestamps='us', allow_truncated_timestamps=True))"
            )
    return Footer({field.name: stored_type(field.type) for field in footer.schema.to_arrow_schema()}, int(footer.num_rows), footer)


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
    if not isinstance(schema, dict):
        raise ValueError("its schema is no record")
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
    left = MAX_TEXT
    for fs, file in files[:MAX_FILES]:
        if left <= 0:
            return
        left -= text_checks.check(fs, file, format_, options, left)
