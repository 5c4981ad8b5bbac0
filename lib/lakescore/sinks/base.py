"""What all sinks share: the two-step interface, staged Parquet files with their footers, and the comparison of schemas."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from lakescore import interruption, session, storage
from lakescore.config import OutputConfig
from lakescore.errors import OutputError
from lakescore.redact import redact
from lakescore.storage import Location

log = logging.getLogger(__name__)

MERGE_HINT = "rename or cast it, or set output.merge_schema=true to add new columns"
_DELTA_TYPES = (
    T.StringType, T.BinaryType, T.BooleanType, T.ByteType, T.ShortType, T.IntegerType, T.LongType, T.FloatType, T.DoubleType,
    T.DecimalType, T.DateType, T.TimestampType, T.TimestampNTZType, T.VariantType,
)  # fmt: skip
_NO_SUCCESS_FILE = {"mapreduce.fileoutputcommitter.marksuccessfuljobs": "false"}


@dataclass(frozen=True)
class Batch:
    """What is published: its ID and date, the run that makes it, and what to do when it is there already."""

    batch_id: str
    run_id: str
    score_date: date
    on_rerun: str


@dataclass(frozen=True)
class Staged:
    """A batch that no reader sees: its rows (from the files themselves), files and bytes, and the sink's own handle.

    ``written`` tells how many of the rows a reader will find, where it is not all of them.
    """

    rows: int
    files: int
    size: int
    handle: Any
    written: int | None = None


@dataclass(frozen=True)
class Published:
    """Where a batch is visible; ``version`` is the table's after the commit, where the format has versions."""

    location: str
    version: int | None


@dataclass(frozen=True)
class PublishedRows:
    """What one run has published of a batch: its rows, and the version of the table that it made, where it tells."""

    rows: int
    version: int | None = None


class AlreadyPublishedError(OutputError):
    """Another run published the same batch first."""


class Sink(Protocol):
    """One output table.

    The order of calls: ``recover``, ``find``, ``check``, ``stage``, then ``publish`` or ``discard``.
    """

    location: str

    def recover(self, spark: SparkSession | None) -> None:
        """Finish or undo what a crashed run of this batch left half-published."""

    def find(self, spark: SparkSession | None) -> bool | None:
        """Whether this batch is published; None when a session is needed to tell."""

    def rows_of(self, spark: SparkSession | None, run_id: str) -> PublishedRows | None:
        """What a run has published of this batch; None where it has published nothing."""

    def check(self, spark: SparkSession | None, schema: T.StructType) -> None:
        """Refuse, before anything is scored, what could not be written.

        Raises:
            NeedsSparkError: there is no session, and this table cannot be written without.
        """

    def stage(self, df: DataFrame) -> Staged:
        """Run the job and write its rows where no reader looks."""

    def publish(self, spark: SparkSession | None, staged: Staged) -> Published:
        """Make the staged batch visible in one atomic step."""

    def discard(self, staged: Staged | None) -> None:
        """Remove what was staged."""

    def delete(self, spark: Callable[[], SparkSession]) -> int | None:
        """Take exactly this batch out, in one atomic step; ``find`` does not find it then, and it may be published again.

        Args:
            spark: opens a session, for tables that only Spark changes.

        Returns:
            The table's version after it, where the format has versions.

        Raises:
            OutputError: the batch is not there, or another process replaces or deletes it at the same time.
        """


@runtime_checkable
class FileSink(Sink, Protocol):
    """A table of files, which others than Spark may write too."""

    def stage_files(self, schema: T.StructType, write: Callable[[Layout], Collection[str]]) -> Staged:
        """Have workers write a batch's files where no reader looks.

        Args:
            schema: of the rows, partition columns included.
            write: given where the files go; returns the names of those that count.
        """


class PathSink:
    """What all outputs by path share: their place, and how Spark is told of it."""

    def __init__(self, config: OutputConfig, batch: Batch) -> None:
        self._config = config
        self._batch = batch
        self.location = storage.absolute(config.path or "")
        root = Location.of(self.location)
        if root is None:
            raise OutputError(f"output.path: {self.location} is on a file system that this process cannot reach; use output.table")
        self._root = root
        root.require_writer()
        try:
            root.exists()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise OutputError(f"output.path: {self.location[:200]!r} is no path that can be written to: {error}") from error

    def _path_of(self, place: Location) -> str:
        """A place in the table as users write it, scheme and all."""
        return self.location.rstrip("/") + place.path.removeprefix(self._root.path.rstrip("/"))

    def _refuse_file(self) -> None:
        if self._root.exists() and not self._root.is_dir():
            raise OutputError(f"output.path: {self.location} is a file; give a folder")
        above = self._root.nearest_above() if self._root.is_local else None
        if above is not None and not above.is_dir():
            raise OutputError(f"output.path: {above.path} is a file, so there can be no folder {self.location}")
        there = self._root if self._root.is_local and self._root.exists() else above
        if there is not None and not os.access(there.path, os.W_OK | os.X_OK):
            raise OutputError(f"output.path: {there.path} may not be written to; check its permissions, and how it is mounted")

    def _remove_attempt(self, folder: Location, *parents: Location) -> None:
        """Remove a staged attempt, and the folders above it that it leaves empty."""
        with interruption.held():
            try:
                folder.remove()
                for parent in parents:
                    parent.remove_if_empty()
            except OSError as error:
                log.warning("output: the staged files in %s could not be removed: %s", folder.path, redact(str(error)))

    def _beaten(self) -> AlreadyPublishedError:
        return beaten("output.path", self._batch)


@dataclass(frozen=True)
class Layout:
    """Where the files of a batch go: a folder on this machine, and the columns that it stands for, which are not in the files."""

    folder: str
    partition: tuple[str, ...]


def keep_only(folder: Location, names: Collection[str], batch: Batch) -> None:
    """Remove what tasks that failed, or were tried twice, left beside the files that count.

    Raises:
        AlreadyPublishedError: files are gone; a run of the same batch that was faster clears other attempts away.
    """
    there = {file.path.rsplit("/", 1)[-1]: file.path for file in folder.files()}
    for name, path in there.items():
        if name not in names:
            Location(folder.fs, path).remove()
    if not set(names) <= set(there):
        raise AlreadyPublishedError(f"output.path: another run of the batch {batch.batch_id} cleared this one's staged files")


def beaten(key: str, batch: Batch) -> AlreadyPublishedError:
    """The error of a run that comes second."""
    return AlreadyPublishedError(f"{key}: the batch {batch.batch_id} was published by another run meanwhile")


def gone(key: str, batch: Batch) -> OutputError:
    """The error of a deletion where there is nothing to delete."""
    return OutputError(f"{key}: the batch {batch.batch_id} is not there (any more)")


def changed(key: str, batch: Batch, location: str) -> OutputError:
    """The error of a deletion while another process changes the same batch."""
    return OutputError(
        f"{key}: another process has replaced or deleted the batch {batch.batch_id} of {location} meanwhile; look what is there, and "
        "delete it again if it is still to go"
    )


def batch_prefix(batch_id: str) -> str:
    """What the folders of all attempts at a batch begin with: readable, unique, and safe in every store's paths."""
    slug = re.sub(r"[^A-Za-z0-9_]", "-", batch_id)[:40]
    return f"{slug}-{hashlib.sha256(batch_id.encode()).hexdigest()[:10]}-"


def attempt_name(batch_id: str) -> str:
    """A folder for one attempt at a batch."""
    return batch_prefix(batch_id) + uuid.uuid4().hex[:12]


def attempts(folder: Location, batch_id: str) -> Iterator[Location]:
    """The folders that attempts at this batch left."""
    prefix = batch_prefix(batch_id)
    return (child for child in folder.children() if child.name.startswith(prefix))


def write_parquet(df: DataFrame, target: str, partition_by: list[str]) -> None:
    """Write staged files to a path; no ``_SUCCESS`` marker, since what makes them count comes later."""
    with session.interruptible(df.sparkSession):
        df.write.mode("error").options(**_NO_SUCCESS_FILE).partitionBy(*partition_by).parquet(storage.for_spark(target))


@dataclass(frozen=True)
class StagedFile:
    """One staged Parquet file: its path below the staging folder, its partition values as text, its size and footer."""

    path: str
    partition: Mapping[str, str]
    size: int
    modified_ms: int
    footer: Any


def staged_files(folder: Location) -> list[StagedFile]:
    """The files below a staging folder with their footers, read in parallel."""
    root = folder.path.rstrip("/") + "/"
    files = [file for file in folder.files() if file.path.endswith(".parquet")]

    def load(index: int) -> StagedFile:
        file = files[index]
        with folder.fs.open_input_file(file.path) as stream:
            footer = pq.read_metadata(stream)
        relative = file.path.removeprefix(root)
        partition = dict(part.split("=", 1) for part in relative.split("/")[:-1])
        return StagedFile(relative, {k: unquote(v) for k, v in partition.items()}, file.size, file.modified_ms, footer)

    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(load, range(len(files))))


def only_text(footer: Any, name: str) -> str | None:
    """The text that a column has in all rows of a file, by the footer's statistics; None where they do not tell."""
    found: set[str] = set()
    for group in range(footer.num_row_groups):
        for index in range(footer.num_columns):
            chunk = footer.row_group(group).column(index)
            if chunk.path_in_schema == name:
                known = chunk.statistics is not None and chunk.statistics.has_min_max
                found |= {chunk.statistics.min, chunk.statistics.max} if known else {"", "unknown"}
    return found.pop() if len(found) == 1 else None


def file_statistics(footer: Any) -> str:
    """A Delta add action's statistics from a Parquet footer: rows, and min, max and null counts of flat columns.

    A column is left out of min and max where its footer has none, or where they would not be exact as JSON (NaN, binary).
    """
    names = {footer.schema.column(i).path: i for i in range(footer.num_columns)}
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for path, index in names.items():
        column = footer.schema.column(index)
        if column.max_repetition_level or column.path != column.name or "." in path:
            continue
        chunks = [footer.row_group(g).column(index).statistics for g in range(footer.num_row_groups)]
        if any(chunk is None for chunk in chunks):
            continue
        if all(chunk.has_null_count for chunk in chunks):
            nulls[path] = sum(chunk.null_count for chunk in chunks)
        bounds = _bounds([chunk for chunk in chunks if chunk.has_min_max], len(chunks))
        if bounds is not None:
            low[path], high[path] = bounds
    return json.dumps({"numRecords": footer.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls})


def _bounds(chunks: list[Any], wanted: int) -> tuple[Any, Any] | None:
    if len(chunks) != wanted or not chunks:
        return None
    try:
        least, most = _json_bound(min(chunk.min for chunk in chunks)), _json_bound(max(chunk.max for chunk in chunks))
    except (OverflowError, ValueError):
        return None  # Spark's years go beyond Python's 1 to 9999
    return (least, most) if least is not None and most is not None else None


def _json_bound(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value
    if isinstance(value, datetime):
        return None  # JSON statistics keep milliseconds: a rounded maximum would hide rows
    if isinstance(value, date):
        return value.isoformat()
    # Long texts are cut by some writers without saying so; short ones are exact.
    return value if isinstance(value, str) and len(value) <= 32 else None


def refuse_schema(schema: T.StructType, where: str) -> None:
    """Delta tells names apart regardless of case, whatever Spark is set to, inside columns too; and some types it cannot hold.

    Raises:
        OutputError: naming the two names, or the column and its type.
    """
    refuse_alike(schema, where, "which Delta does not allow")
    _refuse_types(schema, where)


def refuse_alike(schema: T.StructType, where: str, why: str) -> None:
    """Names that differ only by case, inside columns too.

    Raises:
        OutputError: naming the two names, and ``why`` they are refused.
    """
    seen: dict[str, str] = {}
    for field in schema.fields:
        other = seen.setdefault(field.name.casefold(), field.name)
        if other != field.name:
            raise OutputError(f"{where}: the columns {other!r} and {field.name!r} differ only by case, {why}; rename one")
        for inside in _types_inside(field.dataType):
            if isinstance(inside, T.StructType):
                refuse_alike(inside, f"{where}: column {field.name!r}", why)


def _refuse_types(schema: T.StructType, where: str) -> None:
    for field in schema.fields:
        for inside in _types_inside(field.dataType):
            if isinstance(inside, T.StructType):
                _refuse_types(inside, f"{where}: column {field.name!r}")
            elif not isinstance(inside, _DELTA_TYPES):
                raise OutputError(
                    f"{where}: column {field.name!r} is {inside.simpleString()}, which Delta cannot hold; cast it (columns.cast) or drop it"
                )


def _types_inside(kind: T.DataType) -> list[T.DataType]:
    """The types at the leaves of arrays and maps; structs as they are."""
    if isinstance(kind, T.ArrayType):
        return _types_inside(kind.elementType)
    if isinstance(kind, T.MapType):
        return [*_types_inside(kind.keyType), *_types_inside(kind.valueType)]
    return [kind]


def compare_schemas(existing: T.StructType, new: T.StructType, merge: bool, where: str) -> bool:
    """Whether the batch brings columns that the table has not (allowed with ``merge``).

    Raises:
        OutputError: naming the first column that differs, with both types.
    """
    there = {field.name.casefold(): field for field in existing.fields}
    here = {field.name.casefold(): field for field in new.fields}
    for key, field in here.items():
        other = there.get(key)
        if other is not None and other.dataType.simpleString() != field.dataType.simpleString():
            raise OutputError(
                f"{where}: column {field.name!r} is {other.dataType.simpleString()} in the table and {field.dataType.simpleString()} in "
                "this batch; cast it (columns.cast; a prediction: model.result_type) or write to another table"
            )
        if other is not None and other.name != field.name:
            raise OutputError(f"{where}: the table calls the column {other.name!r} and this batch {field.name!r}; rename it")
    added = [field for key, field in here.items() if key not in there]
    missing = [field for key, field in there.items() if key not in here]
    if not merge:
        for field in added:
            raise OutputError(
                f"{where}: column {field.name!r} ({field.dataType.simpleString()}) is in this batch and absent in the table; {MERGE_HINT}"
            )
        for field in missing:
            raise OutputError(
                f"{where}: column {field.name!r} ({field.dataType.simpleString()}) is in the table and absent in this batch; keep it in "
                "output.columns, or set output.merge_schema=true to leave it null"
            )
    return bool(added)
