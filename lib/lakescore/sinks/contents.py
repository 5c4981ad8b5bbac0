"""An output in, what it holds out: each batch with its rows by run, and the files that it names and that are gone or broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakescore import storage
from lakescore.catalog import quote_table
from lakescore.config import OutputConfig
from lakescore.errors import OutputError
from lakescore.failures import translated
from lakescore.schema import BATCH, PARTITION
from lakescore.sinks.base import Batch
from lakescore.sinks.delta import DeltaSink, batches_in, transaction_of
from lakescore.sinks.rows import read_record, recorded_files
from lakescore.sinks.table import TableSink
from lakescore.storage import Location

RUN = "run_id"
_READABLE_FEATURES = {"timestampNtz"}


@dataclass
class Held:
    """What an output holds of one batch: rows by run, partition dates (ISO), and files that are named and gone or unreadable."""

    batch_id: str
    rows: Counter[str] = field(default_factory=Counter)
    dates: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)


@dataclass
class Contents:
    """What an output holds: ``batches`` by ID; ``broken``: files of which not even the batch is known.

    ``is_published`` tells of a batch without rows too; ``is_counted``: whether the rows could be counted, which Spark does not where a
    file is gone; ``is_table``: whether the table that is meant is in the catalog.
    """

    is_published: Callable[[str], bool]
    batches: dict[str, Held] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    is_counted: bool = True
    is_table: bool = True

    def of(self, batch_id: str) -> Held:
        return self.batches.setdefault(batch_id, Held(batch_id))


def contents(output: OutputConfig, spark: Callable[[], SparkSession], only: str | None = None) -> Contents:
    """Look into an output.

    Args:
        output: where it is; nothing need be there.
        spark: opens a session, for what only Spark reads (tables of the catalog, deletion vectors, column mapping).
        only: the batch that is meant; default: all.

    Raises:
        OutputError: it cannot be read.
    """
    if output.table is not None:
        return _of_catalog(output, spark(), only)
    root = Location.of(storage.absolute(output.path or ""))
    if root is None:
        raise OutputError(f"output.path: {output.path} is on a file system that this process cannot reach")
    if output.is_row_file:
        return _of_row_files(root, output.file)
    return _of_delta(output, root, spark, only) if output.format == "delta" else _of_parquet(root, only)


def _of_delta(output: OutputConfig, root: Location, spark: Callable[[], SparkSession], only: str | None) -> Contents:
    sink = DeltaSink(output, Batch("", "", date.min, "skip"))
    table = sink.open_table()
    if table is None:
        return Contents(lambda _: False)
    sink.check_partitions(table)
    location = storage.absolute(output.path or "")
    inside = cache(lambda: batches_in(table))
    found = Contents(lambda batch_id: transaction_of(table, batch_id, inside)[1])
    there = {file.path for file in root.files()}
    adds = [add for add in pa.table(table.get_add_actions(flatten=True)).to_pylist() if only is None or _may_hold(add, only)]
    by_library = _is_plain(table)
    for add in adds:
        place = root
        for part in unquote(add["path"]).split("/"):
            place = place / part
        batch, run = _single(add, BATCH), _single(add, RUN)
        if place.path not in there and not place.exists():
            (found.broken if batch is None else found.of(batch).broken).append(place.path)
        elif by_library:
            day = str(add.get(f"partition.{PARTITION}"))
            if batch is not None and run is not None and add.get("num_records") is not None:
                found.of(batch).rows[run] += int(add["num_records"])
                found.of(batch).dates.add(day)
            else:
                _count_file(found, place, day, batch)
    found.is_counted = by_library or not (found.broken or any(held.broken for held in found.batches.values()))
    if not by_library and found.is_counted:
        with translated(f"output.path: {location} cannot be read", OutputError):
            _count_with_spark(found, spark().read.format("delta").load(storage.for_spark(location)), only)
    return _only(found, only)


def _is_plain(table: DeltaTable) -> bool:
    """Whether the rows are what the files hold, under the names that they have there."""
    protocol = table.protocol()
    features: set[str] = set(protocol.reader_features or ())
    return protocol.min_reader_version <= 1 or bool(features and features <= _READABLE_FEATURES)


def _may_hold(add: dict[str, Any], batch_id: str) -> bool:
    low, high = add.get(f"min.{BATCH}"), add.get(f"max.{BATCH}")
    # In a table of others it may be no text.
    return not (isinstance(low, str) and isinstance(high, str)) or low <= batch_id <= high


def _single(add: dict[str, Any], column: str) -> str | None:
    """The value that all rows of a file have in a column; None where its statistics do not tell."""
    low, high = add.get(f"min.{column}"), add.get(f"max.{column}")
    return str(low) if low is not None and low == high and add.get(f"null_count.{column}") == 0 else None


def _count_file(found: Contents, file: Location, day: str, batch: str | None) -> None:
    """Read the two columns of a file that tell whose rows are in it."""
    try:
        with file.fs.open_input_file(file.path) as stream:
            parquet = pq.ParquetFile(stream)
            names = [name for name in (BATCH, RUN) if name in parquet.schema_arrow.names]
            counted: Counter[tuple[str | None, str | None]] = Counter()
            for rows in parquet.iter_batches(columns=names) if names else ():
                columns = [rows.column(name).to_pylist() if name in names else [None] * len(rows) for name in (BATCH, RUN)]
                counted.update(zip(columns[0], columns[1], strict=True))
    except (pa.ArrowException, OSError):
        (found.broken if batch is None else found.of(batch).broken).append(file.path)
        return
    if not counted and batch is not None:  # of a batch without rows
        found.of(batch).dates.add(day)
    for (in_file, run), rows_there in counted.items():
        if (whose := batch or in_file) is not None:
            found.of(whose).rows[str(run or "")] += rows_there
            found.of(whose).dates.add(day)


def _of_parquet(root: Location, only: str | None) -> Contents:
    found = Contents(lambda batch_id: batch_id in found.batches)
    for day in root.children():
        if not day.name.startswith(f"{PARTITION}="):
            continue
        for folder in day.children():
            batch_id = unquote(folder.name).removeprefix(f"{BATCH}=")
            if folder.name.startswith(f"{BATCH}=") and only in (None, batch_id):
                files = [file for file in folder.files() if file.path.endswith(".parquet")]
                if not files:  # even a batch without rows has a file
                    found.of(batch_id).broken.append(folder.path)
                for file in files:
                    _count_file(found, Location(root.fs, file.path), day.name.removeprefix(f"{PARTITION}="), batch_id)
    return found


def _of_row_files(folder: Location, name: str | None) -> Contents:
    found = Contents(lambda batch_id: batch_id in found.batches)
    for file in [folder / name] if name is not None else recorded_files(folder):
        if not file.exists():
            continue
        record = read_record(file)
        if record is None:
            found.broken.append(file.path)
        else:
            held = found.of(str(record["batch_id"]))
            held.rows[str(record["run_id"])] = int(record["rows"])
            held.dates.add(str(record["score_date"]))
    return found


def _of_catalog(output: OutputConfig, spark: SparkSession, only: str | None) -> Contents:
    name = quote_table("output.table", str(output.table))

    def is_published(batch_id: str) -> bool:
        return bool(TableSink(output, Batch(batch_id, "", date.min, "skip")).find(spark))

    found = Contents(is_published)
    with translated(f"output.table: {output.table} cannot be read", OutputError):
        found.is_table = spark.catalog.tableExists(name)
        if found.is_table:
            _count_with_spark(found, spark.read.table(name), only)
    return _only(found, only)


def _count_with_spark(found: Contents, rows: DataFrame, only: str | None) -> None:
    for row in _groups(rows if only is None else rows.where(F.col(BATCH) == F.lit(only))):
        if row[BATCH] is not None:
            found.of(str(row[BATCH])).rows[str(row[RUN] or "")] += int(row["count"])
            found.of(str(row[BATCH])).dates.add(str(row[PARTITION]))


def _groups(rows: DataFrame) -> Iterator[Any]:
    return iter(rows.groupBy(BATCH, RUN, PARTITION).count().collect())


def _only(found: Contents, only: str | None) -> Contents:
    """A file may hold other batches beside the one that is meant."""
    if only is not None:
        found.batches = {batch_id: held for batch_id, held in found.batches.items() if batch_id == only}
    return found
