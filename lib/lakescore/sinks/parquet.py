"""A Parquet table by path: staged in a hidden folder, published as ``score_date=D/batch_id=B/`` (``journal.py`` tells how)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from lakescore import session, storage
from lakescore.config import OutputConfig
from lakescore.errors import NeedsSparkError, OutputError, listing
from lakescore.failures import translated
from lakescore.parquet_files import written_schema
from lakescore.schema import BATCH, PARTITION, RUN
from lakescore.sinks import journal
from lakescore.sinks.base import (
    AlreadyPublishedError,
    Batch,
    Layout,
    PathSink,
    Published,
    PublishedRows,
    Staged,
    attempt_name,
    compare_schemas,
    gone,
    keep_only,
    only_text,
    refuse_alike,
    staged_files,
    write_parquet,
)

log = logging.getLogger(__name__)

# What Java takes for a double beyond Python: 7d, 0x1p3.
_JAVA_NUMBER = re.compile(r"(?:\d+\.?\d*(?:[eE][+-]?\d+)?[dDfF]|0[xX][0-9a-fA-F]*\.?[0-9a-fA-F]*[pP][+-]?\d+[dDfF]?)")
# A month is its first day to Spark, and what stands behind a day and a T is left out.
_LOOSE_DATE = re.compile(r"\d{4,7}-(?P<month>\d{1,2})(?:-(?P<day>\d{1,2})(?:T.*)?)?")
# Runs of one batch that replace each other at once; each turn is lost to another of them.
_TURNS = 10


@dataclass
class _Handle:
    """A staged attempt: its folder, and the files in it relative to it."""

    folder: storage.Location
    files: tuple[str, ...]


class ParquetSink(PathSink):
    """See the module."""

    def __init__(self, config: OutputConfig, batch: Batch) -> None:
        super().__init__(config, batch)
        if changed := _as_partition(batch.batch_id):
            raise OutputError(
                f"run.batch_id: {batch.batch_id!r} would be read back from a Parquet table's folder name as another {changed}; put a "
                "letter in front of it, or use output.format=delta"
            )

    def recover(self, spark: SparkSession | None) -> None:
        if journal.read(self._root, self._batch.batch_id) is None:
            return
        with translated(f"output.path: {self.location} cannot be published to", OutputError), journal.locked(self._root):
            self._finish_another()

    def _finish_another(self) -> None:
        """Finish what another run of this batch has decided, and was interrupted in."""
        found = journal.read(self._root, self._batch.batch_id)
        if found is not None:
            log.info("output: finishing the interrupted publication of batch %s (%d files)", self._batch.batch_id, len(found.add))
            journal.finish(self._root, found)

    def find(self, spark: SparkSession | None) -> bool | None:
        return bool(journal.files_of(self._root, self._batch.batch_id))

    def rows_of(self, spark: SparkSession | None, run_id: str) -> PublishedRows | None:
        folders = {name.rpartition("/")[0] for name in journal.files_of(self._root, self._batch.batch_id)}
        files = [file for folder in sorted(folders) for file in staged_files(self._root / folder)]
        if not files or any(only_text(file.footer, RUN) != run_id for file in files):
            return None
        return PublishedRows(sum(int(file.footer.num_rows) for file in files))

    def check(self, spark: SparkSession | None, schema: T.StructType) -> None:
        if (self._root / "_delta_log").is_dir():
            raise OutputError(f"output.format: {self.location} is a Delta table; set output.format=delta, or give another path")
        self._refuse_file()
        foreign = [c.name for c in self._root.children() if not storage.is_hidden(c.name) and not c.name.startswith(f"{PARTITION}=")]
        if foreign:
            raise OutputError(f"output.path: {self.location} holds what Lakescore did not write ({listing(foreign)}); give another path")
        if spark is None or not session.is_case_sensitive(spark):
            refuse_alike(schema, f"output.path: {self.location}", "and Spark could not read the table")
        # Without merge_schema all batches have the same columns, so that one file tells them.
        files = self._batch_files(None if self._config.merge_schema else 1)
        if not files:
            return
        with translated(f"output.path: {self.location} cannot be read", OutputError):
            existing = self._schema_in(files) if spark is None else _schema_of(spark, files)
        inside = T.StructType([field for field in schema.fields if field.name not in (PARTITION, BATCH)])
        compare_schemas(existing, inside, self._config.merge_schema, f"output.path: {self.location}")

    def _schema_in(self, files: list[str]) -> T.StructType:
        """What the files' footers say of themselves."""
        if self._config.merge_schema:
            raise NeedsSparkError("output.merge_schema is set")
        location = storage.Location.of(files[0])
        assert location is not None, "the table is there too"
        with location.fs.open_input_file(location.path) as stream:
            found = written_schema(pq.read_metadata(stream))
        if found is None:
            raise NeedsSparkError("the output has files that Lakescore did not write")
        return found

    def stage(self, df: DataFrame) -> Staged:
        def fill(folder: storage.Location) -> None:
            write_parquet(df, self._path_of(folder), [PARTITION, BATCH])
            if not any(file.path.endswith(".parquet") for file in folder.files()):
                self._fill_empty(df, folder)

        return self._stage(fill)

    def stage_files(self, schema: T.StructType, write: Callable[[Layout], Collection[str]]) -> Staged:
        def fill(folder: storage.Location) -> None:
            inside = self._own_partition(folder)
            keep_only(inside, write(Layout(inside.path, (PARTITION, BATCH))), self._batch)

        return self._stage(fill)

    def _stage(self, fill: Callable[[storage.Location], None]) -> Staged:
        folder = self._root / journal.STAGING / attempt_name(self._batch.batch_id)
        try:
            fill(folder)
            files = staged_files(folder)
        except BaseException:
            self._remove(folder)
            raise
        return Staged(
            rows=sum(int(file.footer.num_rows) for file in files),
            files=len(files),
            size=sum(file.size for file in files),
            handle=_Handle(folder, tuple(file.path for file in files)),
        )

    def publish(self, spark: SparkSession | None, staged: Staged) -> Published:
        handle: _Handle = staged.handle
        with translated(f"output.path: {self.location} cannot be published to", OutputError), journal.locked(self._root):
            for _ in range(_TURNS):
                self._finish_another()
                if self._decide(handle):
                    return Published(self.location, None)
        raise OutputError(f"output.path: other runs keep replacing the batch {self._batch.batch_id} in {self.location}; run it again")

    def _decide(self, handle: _Handle) -> bool:
        """Publish, unless another run is before; False where it has to be tried again.

        Raises:
            AlreadyPublishedError: another run was before, and is not to be replaced.
        """
        old = journal.files_of(self._root, self._batch.batch_id)
        if old and self._batch.on_rerun != "replace":
            raise self._beaten()
        found = journal.Journal(self._batch.batch_id, handle.folder.name, handle.files, tuple(old))
        if not journal.create(self._root, found):
            return False
        if journal.finish(self._root, found):
            return True
        if sum(1 for _ in handle.folder.files()) < len(handle.files):
            raise AlreadyPublishedError(f"output.path: another run of the batch {self._batch.batch_id} cleared this one's staged files")
        return False

    def delete(self, spark: Callable[[], SparkSession]) -> int | None:
        """The publication of nothing in the batch's place, so that a crash in between is finished by whoever comes by."""
        self.recover(None)
        if not self.find(None):
            self._remove_emptied()
            return None
        attempt = self._root / journal.STAGING / attempt_name(self._batch.batch_id)
        self.publish(None, Staged(rows=0, files=0, size=0, handle=_Handle(attempt, ())))
        return None

    def _remove_emptied(self) -> None:
        """Remove the batch's folders where somebody has taken its files out of them.

        Raises:
            OutputError: there is none.
        """
        days = [day for day in self._root.children() if day.name.startswith(f"{PARTITION}=")]
        found = [(day, folder) for day in days for folder in day.children() if unquote(folder.name) == f"{BATCH}={self._batch.batch_id}"]
        if not found:
            raise gone("output.path", self._batch)
        for day, folder in found:
            folder.remove_if_empty()
            day.remove_if_empty()

    def discard(self, staged: Staged | None) -> None:
        if staged is None:
            return
        handle: _Handle = staged.handle
        found = journal.read(self._root, self._batch.batch_id)
        # Once its journal is written the batch is decided: the next run of it finishes it.
        if found is None or found.attempt != handle.folder.name:
            self._remove(handle.folder)

    def _batch_files(self, most: int | None) -> list[str]:
        """One file of each batch that readers see, the newest dates first."""
        found: list[str] = []
        for day in reversed([child for child in self._root.children() if child.name.startswith(f"{PARTITION}=")]):
            for batch in day.children():
                file = next((file for file in batch.files() if file.path.endswith(".parquet")), None)
                if file is not None:
                    found.append(self._path_of(storage.Location(self._root.fs, file.path)))
                if len(found) == most:
                    return found
        return found

    def _fill_empty(self, df: DataFrame, folder: storage.Location) -> None:
        """A batch without rows leaves its folder too, with one empty file: a rerun finds it, and a reader has columns."""
        inside = T.StructType([field for field in df.schema.fields if field.name not in (PARTITION, BATCH)])
        write_parquet(df.sparkSession.createDataFrame([], inside).coalesce(1), self._path_of(self._own_partition(folder)), [])

    def _own_partition(self, folder: storage.Location) -> storage.Location:
        """The folder of this batch under the run's date, named as Spark names it."""
        escaped = self._batch.batch_id.replace(":", "%3A").replace("=", "%3D")
        return folder / f"{PARTITION}={self._batch.score_date.isoformat()}" / f"{BATCH}={escaped}"

    def _remove(self, folder: storage.Location) -> None:
        made = (self._root / name for name in (journal.STAGING, journal.JOURNAL, journal.HIDDEN))
        self._remove_attempt(folder, *made, self._root)


def _schema_of(spark: SparkSession, files: list[str]) -> T.StructType:
    return spark.read.option("mergeSchema", "true").parquet(*map(storage.for_spark_reader, files)).schema


def _as_partition(batch_id: str) -> str | None:
    """What Spark, which guesses the type of a partition folder's value, would change the ID to; None where it gives it back."""
    if _JAVA_NUMBER.fullmatch(batch_id):
        return "number"
    if day := _LOOSE_DATE.fullmatch(batch_id):
        is_date = 1 <= int(day["month"]) <= 12 and 1 <= int(day["day"] or 1) <= 31
        return "date" if is_date and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", batch_id) else None
    try:
        number = float(batch_id)
    except ValueError:
        return None
    if number.is_integer():
        return None if str(int(number)) == batch_id else "number"
    # Beyond these Java writes an exponent.
    return None if repr(number) == batch_id and 1e-3 <= abs(number) < 1e7 else "number"
