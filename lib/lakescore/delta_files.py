"""A Delta table's snapshot in, its files as workers may read them out; or why only Spark reads them right."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyspark.sql import types as T

from lakescore.parquet_files import OnlySparkError, ParquetFiles, of_footers, read_footer
from lakescore.schema import nullable

# Files are added and removed, and nothing else is to be known of them.
_PLAIN_READER = 1
_READABLE_FEATURES = {"timestampNtz"}
_PARTITION_TYPES = (T.StringType, T.ByteType, T.ShortType, T.IntegerType, T.LongType, T.BooleanType, T.DateType)
_MAX_FILES = 2_000
# Spark pads what it reads of such columns.
_PADDED = "__CHAR_VARCHAR_TYPE_STRING"


def files_of(table: DeltaTable, root: str) -> ParquetFiles:
    """The files of a snapshot.

    Args:
        table: at its version.
        root: its folder on this machine.

    Raises:
        OnlySparkError: the snapshot is more than its files (deletion vectors, column mapping), or pyarrow would read them otherwise.
    """
    return _of_adds(table, root, pa.table(table.get_add_actions(flatten=True)).to_pylist())


def added_to(table: DeltaTable, root: str, adds: Sequence[dict[str, Any]]) -> ParquetFiles:
    """The files of some ``add`` actions, as they stand in the log, with the table's columns.

    Raises:
        OnlySparkError: as ``files_of``.
    """
    kinds = {one.name: one.dataType for one in T.StructType.fromJson(json.loads(table.schema().to_json())).fields}
    return _of_adds(table, root, [_flat(add, kinds) for add in adds])


def _flat(add: dict[str, Any], kinds: dict[str, T.DataType]) -> dict[str, Any]:
    values = {f"partition.{name}": _typed(text, kinds.get(name)) for name, text in add["partitionValues"].items()}
    return {"path": add["path"], "size_bytes": add["size"], **values}


def _typed(text: str | None, kind: T.DataType | None) -> Any:
    """A partition's value, which a log has as text; the empty one is null."""
    if not text:
        return None
    if isinstance(kind, T.BooleanType):
        return text == "true"
    if isinstance(kind, T.DateType):
        return date.fromisoformat(text)
    return int(text) if isinstance(kind, (T.ByteType, T.ShortType, T.IntegerType, T.LongType)) else text


def _of_adds(table: DeltaTable, root: str, adds: list[dict[str, Any]]) -> ParquetFiles:
    protocol = table.protocol()
    features = set(protocol.reader_features or ())
    if protocol.min_reader_version > _PLAIN_READER and (not features or features - _READABLE_FEATURES):
        raise OnlySparkError(f"the Delta table has {', '.join(sorted(features)) or 'column mapping'}")
    text = table.schema().to_json()
    if _PADDED in text:
        raise OnlySparkError("the Delta table has columns of type char or varchar")
    schema = nullable(T.StructType.fromJson(json.loads(text)))
    partition = T.StructType([one for one in schema.fields if one.name in table.metadata().partition_columns])
    odd = next((one for one in partition.fields if not isinstance(one.dataType, _PARTITION_TYPES)), None)
    if odd is not None:
        raise OnlySparkError(f"the Delta table is partitioned by {odd.name!r}, which is {odd.dataType.simpleString()}")
    if len(adds) > _MAX_FILES:
        raise OnlySparkError(f"the Delta table has more than {_MAX_FILES} files")
    if not adds:
        raise OnlySparkError("the Delta table has no rows")
    with ThreadPoolExecutor(max_workers=16) as pool:
        footers = list(pool.map(lambda add: _footer(root, add), adds))
    values = [tuple(add[f"partition.{one.name}"] for one in partition.fields) for add in adds]
    found = of_footers(footers, partition, values)
    given, there = ({one.name: one.dataType for one in fields.fields} for fields in (schema, found.schema))
    if given != there:
        raise OnlySparkError("files of the Delta table have other columns than the table")
    return ParquetFiles(found.files, schema, found.repeating, found.partition)


def _footer(root: str, add: dict[str, Any]) -> tuple[str, int, pq.FileMetaData]:
    path = unquote(add["path"])
    if os.path.isabs(path) or "://" in path:
        raise OnlySparkError("the Delta table names files outside its folder")
    full = os.path.join(root, path)
    with pa.OSFile(full) as stream:
        return full, int(add["size_bytes"]), read_footer(stream)
