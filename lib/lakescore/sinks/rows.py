"""A batch as one text file in a folder: JSON lines, or ``File: Prediction`` lines; or nothing but its counts.

::

    FOLDER/batch-infer-res.jsonl                  the batch, complete or not there
    FOLDER/.batch-infer-res.jsonl.RUN_ID.json     whose it is: batch, run, rows, bytes, digest, columns
    FOLDER/.lakescore/ATTEMPT/                    what Spark's tasks write
    FOLDER/.lakescore/ATTEMPT.tmp                 the same as one file, until it gets its name

The tasks write the lines, each into a file of its own, as for the tables: one job, whose counters are final when it ends, and whose
retried tasks leave no line twice. (``DataFrame.toLocalIterator`` runs a job per partition, one after the other.) The driver then copies
these files one behind the other, a megabyte at a time, in the order of the partitions, and counts the lines.

The rename decides: the record of whose the file is was written before, and says nothing until a file of its size and digest is there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import session, storage
from lakescore.config import ROW_FILES, OutputConfig
from lakescore.errors import ConfigError, OutputError, did_you_mean, listing
from lakescore.failures import translated
from lakescore.observing import Observed
from lakescore.redact import redact
from lakescore.schema import LINEAGE_COLUMNS
from lakescore.sinks.base import Batch, PathSink, Published, PublishedRows, Staged, attempt_name, attempts, gone
from lakescore.sinks.row_text import TIME, json_line, plain_line
from lakescore.storage import Location
from lakescore.version import __version__

log = logging.getLogger(__name__)

HIDDEN = ".lakescore"
_PATH = "path"
_RECORD = re.compile(r"\.(?P<name>.+)\.[0-9A-Za-z_-]+\.json")
_TASK = re.compile(r"part-(\d+)")


@dataclass
class _Handle:
    """A staged attempt: the complete file under its hidden name, and what will say whose it is."""

    file: Location
    record: dict[str, Any]


class RowsSink(PathSink):
    """See the module."""

    def __init__(self, config: OutputConfig, batch: Batch, keys: Sequence[str]) -> None:
        super().__init__(config, batch)
        self._folder, self._keys = self.location, tuple(keys)
        self._name = config.file or ROW_FILES[config.format] or ""
        self._file = self._root / self._name
        self.location = f"{self._folder.rstrip('/')}/{self._name}"

    def recover(self, spark: SparkSession | None) -> None:
        """Nothing: the file has its name or it has not."""

    def find(self, spark: SparkSession | None) -> bool | None:
        """Whether the file is there and this batch's.

        Raises:
            OutputError: it is another batch's, or not ours at all.
        """
        if self._root.exists() and not self._root.is_dir():
            raise OutputError(f"output.path: {self._folder} is a file; give a folder, and the file's name as output.file")
        if (self._root / "_delta_log").is_dir():
            raise OutputError(
                f"output.path: {self._folder} is a Delta table; give another folder, or output.path=null for outputs/DATE/TIME"
            )
        if not self._file.exists():
            return False
        record = read_record(self._file)
        if record is None:
            raise OutputError(
                f"output.file: {self.location} is there already, and not as Lakescore wrote it; move it away, or give another output.path"
            )
        if record["batch_id"] != self._batch.batch_id:
            raise OutputError(
                f"output.path: {self.location} holds the batch {record['batch_id']}; a file holds one batch, so give each a folder of its "
                "own, for example output.path=outputs/${run.batch_id}"
            )
        return True

    def rows_of(self, spark: SparkSession | None, run_id: str) -> PublishedRows | None:
        record = read_record(self._file) if self._file.exists() else None
        return PublishedRows(int(record["rows"])) if record is not None and record["run_id"] == run_id else None

    def check(self, spark: SparkSession | None, schema: T.StructType) -> None:
        if self._config.format == "append_row":
            self._plain(schema)
        else:
            self._check_fields(schema)

    def stage(self, df: DataFrame) -> Staged:
        attempt = attempt_name(self._batch.batch_id)
        parts, whole = self._root / HIDDEN / attempt, self._root / HIDDEN / f"{attempt}.tmp"
        self._made = [folder for folder in _upwards(self._root) if not folder.exists()]
        try:
            target = storage.for_spark(f"{self._folder.rstrip('/')}/{HIDDEN}/{attempt}")
            with session.interruptible(df.sparkSession):
                self._lines(df).write.mode("error").option("compression", "none").text(target)
            handle, rows = self._concatenate(df.schema, parts, whole)
        except BaseException:
            self._remove(parts, whole)
            raise
        self._remove_attempt(parts)
        return Staged(rows=rows, files=1, size=handle.record["bytes"], handle=handle)

    def publish(self, spark: SparkSession | None, staged: Staged) -> Published:
        handle: _Handle = staged.handle
        replace = bool(self.find(spark))
        if replace and self._batch.on_rerun != "replace":
            raise self._beaten()
        own = record_of(self._file, self._batch.run_id)
        with translated(f"output.path: {self.location} cannot be written", OutputError):
            own.write_text(json.dumps(handle.record, ensure_ascii=False))
            try:
                handle.file.publish_as(self._file, replace=replace)
            except FileExistsError:
                raise self._beaten() from None
        # The batch is published: nothing that fails from here on may look like a failed run.
        try:
            if not own.exists():  # another run of the batch has tidied up meanwhile
                own.write_text(json.dumps(handle.record, ensure_ascii=False))
            self._tidy(own)
        except OSError as error:
            log.warning("output: the batch is published; tidying up failed: %s", redact(str(error)))
        return Published(self.location, None)

    def delete(self, spark: Callable[[], SparkSession]) -> int | None:
        if not self.find(None):
            raise gone("output.path", self._batch)
        out_of_sight = self._root / HIDDEN / f"{attempt_name(self._batch.batch_id)}.tmp"
        with translated(f"output.path: {self.location} could not be deleted", OutputError):
            self._file.move_to(out_of_sight)
            for record in _records(self._file):
                record.remove()
            self._remove_attempt(out_of_sight, self._root / HIDDEN)
        return None

    def discard(self, staged: Staged | None) -> None:
        if staged is None:
            return
        own = record_of(self._file, self._batch.run_id)
        if own.exists() and not _is_of(staged.handle.record, self._file):
            own.remove()
        self._remove(staged.handle.file)

    def _lines(self, df: DataFrame) -> DataFrame:
        if self._config.format == "append_row":
            line = plain_line([(name, df.schema[name].dataType) for name in self._plain(df.schema)])
        else:
            line = json_line(self._written(df.schema), self._config.fields, "scored_at")
        return df.select(line.alias("value"))

    def _written(self, schema: T.StructType) -> list[str]:
        own = LINEAGE_COLUMNS if self._config.lineage else ()
        return [name for name in schema.names if name not in LINEAGE_COLUMNS or name in own]

    def _check_fields(self, schema: T.StructType) -> None:
        names, fields = self._written(schema), self._config.fields
        for name in fields:
            if name not in names:
                raise ConfigError(
                    f"output.fields: no column {name!r} is written.{did_you_mean(name, names)} Written are {listing(names, 12)}"
                )
        written = [TIME, *[fields.get(name, name) for name in names]]
        for name, field in zip(names, written[1:], strict=True):
            if written.count(field) > 1:
                raise ConfigError(
                    f"output.fields: two fields of a line would be called {field!r}; give the column {name!r} another name: "
                    f"output.fields={{{name}: NAME}}"
                )

    def _plain(self, schema: T.StructType) -> list[str]:
        """The columns of a plain line: the one before the colon, where one is kept, and those behind it."""
        names = [name for name in schema.names if name not in LINEAGE_COLUMNS]
        predictions = [name for name in self._config.prediction_names if name in names]
        kept = [name for name in names if name not in predictions]
        lineage = list(LINEAGE_COLUMNS) if self._config.lineage else []
        keys = [name for name in self._keys if name in kept] or ([_PATH] if _PATH in kept else kept)
        if len(keys) > 1:
            raise ConfigError(
                f"output.columns: append_row writes one column before the prediction, and {len(keys)} are kept ({listing(keys)}); choose "
                "one: output.columns=[NAME], or columns.keys=[NAME]"
            )
        return [*keys, *predictions, *lineage]

    def _concatenate(self, schema: T.StructType, parts: Location, whole: Location) -> tuple[_Handle, int]:
        """Make one file of the tasks' files; rows are its lines."""
        digest, rows, size = hashlib.sha256(), 0, 0

        def pieces() -> Iterator[bytes]:
            nonlocal rows, size
            for file in sorted(parts.files(), key=lambda file: (_task(file.path), file.path)):
                for chunk in Location(parts.fs, file.path).chunks():
                    rows, size = rows + chunk.count(b"\n"), size + len(chunk)
                    digest.update(chunk)
                    yield chunk

        whole.write_chunks(pieces())
        columns = self._plain(schema) if self._config.format == "append_row" else self._written(schema)
        types = {field.name: field.dataType for field in schema.fields}
        record = {
            "batch_id": self._batch.batch_id,
            "run_id": self._batch.run_id,
            "score_date": self._batch.score_date.isoformat(),
            "format": self._config.format,
            "rows": rows,
            "bytes": size,
            "sha256": digest.hexdigest(),
            "schema": T.StructType([T.StructField(self._config.fields.get(name, name), types[name]) for name in columns]).jsonValue(),
            "lakescore": __version__,
        }
        return _Handle(whole, record), rows

    def _tidy(self, own: Location) -> None:
        """Remove what other attempts at this batch left: it is published, they cannot be."""
        for other in _records(self._file):
            if other.name != own.name:
                other.remove()
        for left in attempts(self._root / HIDDEN, self._batch.batch_id):
            left.remove()
        (self._root / HIDDEN).remove_if_empty()

    def _remove(self, *places: Location) -> None:
        """Remove a failed attempt, and the folders that were made for it."""
        for place in places:
            self._remove_attempt(place, self._root / HIDDEN, *self._made)


class CountSink:
    """``summary_only``: every row is scored and counted, none is written; each run is a batch of its own."""

    location = "nowhere (output.format=summary_only)"

    def recover(self, spark: SparkSession | None) -> None:
        """Nothing is ever left."""

    def find(self, spark: SparkSession | None) -> bool | None:
        return False

    def rows_of(self, spark: SparkSession | None, run_id: str) -> PublishedRows | None:
        return None

    def check(self, spark: SparkSession | None, schema: T.StructType) -> None:
        """Everything can be counted."""

    def stage(self, df: DataFrame) -> Staged:
        arrived = Observed()
        # `noop` computes every column, as a file would have it; a count would let Spark leave the model out.
        arrived.watch(df, F.count(F.lit(1)).alias("rows")).write.format("noop").mode("overwrite").save()
        return Staged(rows=int(arrived.get()["rows"]), files=0, size=0, handle=None, written=0)

    def publish(self, spark: SparkSession | None, staged: Staged) -> Published:
        return Published(self.location, None)

    def discard(self, staged: Staged | None) -> None:
        """Nothing was staged."""

    def delete(self, spark: Callable[[], SparkSession]) -> int | None:
        raise OutputError("output.format: summary_only writes no rows, so there are none to delete")


def read_record(file: Location) -> dict[str, Any] | None:
    """What a file's record says of it (see the module); None for a file that Lakescore did not write, or that was changed since."""
    found = []
    for place in _records(file):
        try:
            record = json.loads(place.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and {"batch_id", "run_id", "bytes", "sha256"} <= set(record) and record["bytes"] == file.size():
            found.append(record)
    if len(found) > 1:
        found = [record for record in found if _is_of(record, file)]
    return found[-1] if found else None


def recorded_files(folder: Location) -> list[Location]:
    """The files of a folder that a record speaks of, whether they are there or not."""
    names = {found["name"] for child in folder.children() if (found := _RECORD.fullmatch(child.name))}
    return [folder / name for name in sorted(names)]


def stray_records(file: Location) -> list[Location]:
    """The records that speak of a file that is gone, or that is another run's by now."""
    if not file.exists():
        return _records(file)
    own = read_record(file)
    return [place for place in _records(file) if own is not None and place.name != record_of(file, str(own["run_id"])).name]


def record_of(file: Location, run_id: str) -> Location:
    """Where a run says that a file is its own."""
    return _beside(file, f".{file.name}.{run_id}.json")


def _beside(file: Location, name: str) -> Location:
    return file.parent / name


def _records(file: Location) -> list[Location]:
    pattern = re.compile(re.escape(f".{file.name}.") + r"[0-9A-Za-z_-]+\.json")
    return [child for child in file.parent.children() if pattern.fullmatch(child.name)]


def _is_of(record: dict[str, Any], file: Location) -> bool:
    if not file.exists() or record["bytes"] != file.size():
        return False
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    return digest.hexdigest() == str(record["sha256"])


def _task(path: str) -> int:
    number = _TASK.search(path.rsplit("/", 1)[-1])
    return int(number.group(1)) if number else 0


def _upwards(folder: Location) -> Iterator[Location]:
    """A folder and those above it, from below."""
    while folder.path.strip("/"):
        yield folder
        folder = Location(folder.fs, folder.path.rstrip("/").rpartition("/")[0])
