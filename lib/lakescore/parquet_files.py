"""Parquet footers in, what workers need to read the files without Spark out; or why only Spark reads them right."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import types as T

# Spark before 3 wrote dates in another calendar, and later ones say so where they still do.
_OLD_CALENDAR = (b"org.apache.spark.legacyDateTime", b"org.apache.spark.legacyINT96")
_SPARK_VERSION = "org.apache.spark.version"
_TYPES: dict[pa.DataType, T.DataType] = {
    pa.bool_(): T.BooleanType(),
    pa.int8(): T.ByteType(),
    pa.int16(): T.ShortType(),
    pa.int32(): T.IntegerType(),
    pa.int64(): T.LongType(),
    pa.float32(): T.FloatType(),
    pa.float64(): T.DoubleType(),
    pa.string(): T.StringType(),
    pa.large_string(): T.StringType(),
    pa.binary(): T.BinaryType(),
    pa.large_binary(): T.BinaryType(),
    pa.date32(): T.DateType(),
}
# What stands behind a plain footer of a file with encrypted columns: nonce and tag.
_SIGNATURE_BYTES = 28
_ENCRYPTED = "it is encrypted, and Lakescore has no keys; decrypt it first"
_SPARK_SCHEMA = "org.apache.spark.sql.parquet.row.metadata"
# A text that takes fewer bytes than this in its file repeats, and is stored as a position in a dictionary.
_REPEATING_TEXT_BYTES = 4
# Of the plain size: a column of numbers that is not smaller has few that repeat.
_REPEATING_SHARE = 0.9


@dataclass(frozen=True)
class ParquetFile:
    """One file: its path, its size, rows and uncompressed bytes of each row group, and the values of the partition that it is in."""

    path: str
    size: int
    groups: tuple[tuple[int, int], ...]
    values: tuple[Any, ...] = ()

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.groups)


@dataclass(frozen=True)
class ParquetFiles:
    """All files of a source.

    Attributes:
        files: in order.
        schema: what Spark reads them as.
        repeating: the columns of which many values repeat, as far as the first file tells.
        partition: the columns that are not in the files, because each has one value in all its rows.
    """

    files: tuple[ParquetFile, ...]
    schema: T.StructType
    repeating: frozenset[str]
    partition: tuple[str, ...] = ()


class OnlySparkError(Exception):
    """Why only Spark reads the files right."""


def read_footer(stream: Any) -> pq.FileMetaData:
    """A file's footer.

    Args:
        stream: the file, opened for reading at any position.

    Raises:
        ValueError: it is encrypted. Of encrypted columns under a plain footer Arrow ends the process when their sizes are asked for.
        ArrowException, OSError: it is none.
    """
    try:
        footer = pq.read_metadata(stream)
    except OSError as error:
        if "encrypted" in str(error):
            raise ValueError(_ENCRYPTED) from error
        raise
    stream.seek(stream.size() - 8)
    length = int.from_bytes(stream.read(4), "little")
    if length == footer.serialized_size + _SIGNATURE_BYTES:
        raise ValueError(_ENCRYPTED)
    return footer


def of_footers(
    footers: Sequence[tuple[str, int, pq.FileMetaData]], partition: T.StructType | None = None, values: Sequence[tuple[Any, ...]] = ()
) -> ParquetFiles:
    """What workers need of files that have the same columns.

    Args:
        footers: path, size in bytes and footer of each.
        partition: the columns that are not in the files; values: theirs, for each file.

    Raises:
        OnlySparkError: pyarrow would give other values than Spark, or other types.
    """
    schemas = [schema_of(footer) for *_, footer in footers]
    for (path, *_), schema in zip(footers[1:], schemas[1:], strict=True):
        if sorted(schema.fields, key=str) != sorted(schemas[0].fields, key=str):
            raise OnlySparkError(f"{path} has another schema than {footers[0][0]}")
    outside = partition.fields if partition is not None else []
    files = tuple(_described(*one, inside) for one, inside in zip(footers, values or [()] * len(footers), strict=True))
    names = tuple(one.name for one in outside)
    return ParquetFiles(files, T.StructType([*schemas[0].fields, *outside]), repeating(footers[0][2]).union(names), names)


def _described(path: str, size: int, footer: pq.FileMetaData, values: tuple[Any, ...]) -> ParquetFile:
    groups = (footer.row_group(i) for i in range(footer.num_row_groups))
    return ParquetFile(path, size, tuple((group.num_rows, group.total_byte_size) for group in groups), values)


def schema_of(footer: pq.FileMetaData) -> T.StructType:
    """What Spark reads a file as.

    Raises:
        OnlySparkError: pyarrow would give other values than Spark, or another type.
    """
    metadata = footer.metadata or {}
    for i in range(footer.num_columns):
        leaf = footer.schema.column(i)
        if leaf.physical_type == "INT96":
            raise OnlySparkError(f"column {leaf.path!r} holds INT96 timestamps")
        if leaf.physical_type == "BYTE_ARRAY" and str(leaf.logical_type.type) not in ("STRING", "NONE", "DECIMAL"):
            raise OnlySparkError(f"column {leaf.path!r} holds {leaf.logical_type.type}")
    schema = footer.schema.to_arrow_schema()
    found = T.StructType([T.StructField(field.name, spark_type(field.type, field.name), True) for field in schema])
    version = metadata.get(_SPARK_VERSION.encode(), b"3").split(b".")[0]
    is_old = any(key in metadata for key in _OLD_CALENDAR) or (version.isdigit() and int(version) < 3)
    if is_old and any(_has_days(field.type) for field in schema):
        raise OnlySparkError("the files are of an old Spark, whose calendar was another")
    return found


def spark_type(kind: pa.DataType, name: str) -> T.DataType:
    """The Spark type of a column that pyarrow and Spark read alike.

    Raises:
        OnlySparkError: they do not.
    """
    if pa.types.is_dictionary(kind):
        return spark_type(kind.value_type, name)
    if kind in _TYPES:
        return _TYPES[kind]
    if pa.types.is_timestamp(kind) and kind.unit in ("us", "ms"):
        return T.TimestampType() if kind.tz else T.TimestampNTZType()
    if pa.types.is_decimal128(kind):
        return T.DecimalType(kind.precision, kind.scale)
    if pa.types.is_list(kind):
        return T.ArrayType(spark_type(kind.value_type, name), True)
    if pa.types.is_map(kind):
        return T.MapType(spark_type(kind.key_type, name), spark_type(kind.item_type, name), True)
    if pa.types.is_struct(kind):
        return T.StructType([T.StructField(field.name, spark_type(field.type, name), True) for field in kind])
    raise OnlySparkError(f"column {name!r} is {kind}")


def _has_days(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_has_days(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def arrow_type(kind: T.DataType) -> pa.DataType:
    """The Arrow type that is written for a Spark type."""
    if isinstance(kind, T.TimestampType):
        return pa.timestamp("us", "UTC")
    if isinstance(kind, T.TimestampNTZType):
        return pa.timestamp("us")
    if isinstance(kind, T.DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, T.ArrayType):
        return pa.list_(pa.field("element", arrow_type(kind.elementType)))
    if isinstance(kind, T.MapType):
        return pa.map_(arrow_type(kind.keyType), arrow_type(kind.valueType))
    if isinstance(kind, T.StructType):
        return pa.struct([pa.field(field.name, arrow_type(field.dataType)) for field in kind.fields])
    return next(arrow for arrow, spark in _TYPES.items() if type(spark) is type(kind))


def repeating(footer: pq.FileMetaData) -> frozenset[str]:
    """The flat columns of which many values repeat, by the bytes that they take."""
    if not footer.num_row_groups:
        return frozenset()
    group = footer.row_group(0)
    found = set()
    for i in range(group.num_columns):
        chunk, leaf = group.column(i), footer.schema.column(i)
        if leaf.path != leaf.name or not chunk.num_values:
            continue
        each = chunk.total_uncompressed_size / chunk.num_values
        width = {"INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}.get(leaf.physical_type)
        if each < (_REPEATING_TEXT_BYTES if width is None else _REPEATING_SHARE * width):
            found.add(leaf.name)
    return frozenset(found)


def rows_at_once(files: Sequence[ParquetFile], most_rows: int, most_bytes: int) -> int:
    """Rows of which one batch is made, bounded in rows and in uncompressed bytes."""
    rows, size = sum(file.rows for file in files), sum(bytes_ for file in files for _, bytes_ in file.groups)
    each = size / rows if rows else 0
    return max(1, min(most_rows, int(most_bytes / each) if each else most_rows))


def tasks(files: Sequence[ParquetFile], cores: int, least_bytes: int, most_bytes: int) -> list[list[tuple[int, tuple[int, ...]]]]:
    """Row groups as tasks of about the same size: one for a small input, else a few for each core so that none waits long for the last.

    Args:
        files: what is to be read.
        cores: tasks that run at once.
        least_bytes, most_bytes: of a task, uncompressed, where the row groups allow it.

    Returns:
        For each task the positions of its files, each with those of its row groups.
    """
    units = [(i, g, bytes_) for i, file in enumerate(files) for g, (rows, bytes_) in enumerate(file.groups) if rows]
    total = sum(bytes_ for *_, bytes_ in units)
    count = max(min(math.ceil(total / least_bytes), cores * 4), math.ceil(total / most_bytes), 1)
    found: list[dict[int, list[int]]] = [{}]
    filled, done = 0.0, 0.0
    for i, group, bytes_ in units:
        # Cut where the middle of the next row group lies behind the task's share.
        if filled and done + bytes_ / 2 > len(found) * total / count:
            found.append({})
            filled = 0.0
        found[-1].setdefault(i, []).append(group)
        filled += bytes_
        done += bytes_
    return [[(i, tuple(groups)) for i, groups in task.items()] for task in found if task]


def metadata_of(row: T.StructType, version: str) -> dict[str, str]:
    """What Spark writes into a footer, so that the file reads back as exactly these types."""
    return {_SPARK_SCHEMA: row.json(), _SPARK_VERSION: version}


def written_schema(footer: pq.FileMetaData) -> T.StructType | None:
    """The schema of a file that Spark or Lakescore wrote; None of another."""
    found = (footer.metadata or {}).get(_SPARK_SCHEMA.encode())
    return None if found is None else T.StructType.fromJson(json.loads(found))
