"""A Parquet table by path: staged in a hidden folder, published by rename as ``score_date=D/batch_id=B/``.

::

    TABLE/score_date=2026-01-31/batch_id=B/part-....parquet   what readers see
    TABLE/_lakescore/staging/ATTEMPT/...                      a batch that no reader sees
    TABLE/_lakescore/journal/BATCH.json                       the renames of a publication that takes more than one
    TABLE/_lakescore/replaced/ATTEMPT/...                     what a replacement took out, until it is complete

One rename is atomic. A batch with several partition dates, or a replacement, takes several: the journal is written first, and the
next run of that batch finishes what it lists (everything staged had passed the audit).
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from lakescore import storage
from lakescore.config import OutputConfig
from lakescore.errors import NeedsSparkError, OutputError, listing
from lakescore.failures import translated
from lakescore.parquet_files import written_schema
from lakescore.schema import BATCH, PARTITION, RUN
from lakescore.sinks.base import (
    Batch,
    Layout,
    PathSink,
    Published,
    PublishedRows,
    Staged,
    attempt_name,
    attempts,
    batch_prefix,
    compare_schemas,
    keep_only,
    only_text,
    staged_files,
    write_parquet,
)

log = logging.getLogger(__name__)

HIDDEN = "_lakescore"
# What Java takes for a double beyond Python: 7d, 0x1p3.
_JAVA_NUMBER = re.compile(r"(?:\d+\.?\d*(?:[eE][+-]?\d+)?[dDfF]|0[xX][0-9a-fA-F]*\.?[0-9a-fA-F]*[pP][+-]?\d+[dDfF]?)")
Move = tuple[str, str]  # from and to, relative to the table's folder


@dataclass
class _Handle:
    """A staged attempt: its folder, and the partition folders in it relative to it."""

    folder: storage.Location
    partitions: list[str]


class ParquetSink(PathSink):
    """See the module."""

    def __init__(self, config: OutputConfig, batch: Batch) -> None:
        super().__init__(config, batch)
        if _changes_as_partition(batch.batch_id):
            raise OutputError(
                f"run.batch_id: {batch.batch_id!r} would be read back from a Parquet table's folder name as another "
                "number; put a letter in front of it, or use output.format=delta"
            )

    def recover(self, spark: SparkSession | None) -> None:
        journal = self._journal
        replaced = list(attempts(self._root / HIDDEN / "replaced", self._batch.batch_id))
        # Looked for after what was replaced: a run that is at it has written its journal before.
        if not journal.exists():
            self._recover_tidying(replaced)
            return
        moves: list[Move] = [(source, target) for source, target in json.loads(journal.read_text())]
        log.info("output: finishing the interrupted publication of batch %s (%d renames)", self._batch.batch_id, len(moves))
        self._apply(moves, finishing=True)
        self._tidy()

    def _recover_tidying(self, replaced: list[storage.Location]) -> None:
        """Remove what a run left that was killed when it had published, and before it had tidied up."""
        staging = list(attempts(self._root / HIDDEN / "staging", self._batch.batch_id))
        if (replaced or staging) and self._published():
            for attempt in replaced:
                self._remove(attempt)
            for attempt in staging:
                attempt.remove_empty()  # one with files may be another run's, which is at work
            self._remove_hidden_if_empty()

    def find(self, spark: SparkSession | None) -> bool | None:
        return bool(self._published())

    def rows_of(self, spark: SparkSession | None, run_id: str) -> PublishedRows | None:
        files = [file for path in self._published() for file in staged_files(self._place(path))]
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
        folder = self._root / HIDDEN / "staging" / attempt_name(self._batch.batch_id)
        try:
            fill(folder)
            files = staged_files(folder)
        except BaseException:
            self._remove(folder)
            raise
        partitions = sorted({file.path.rsplit("/", 1)[0] for file in files})
        return Staged(
            rows=sum(int(file.footer.num_rows) for file in files),
            files=len(files),
            size=sum(file.size for file in files),
            handle=_Handle(folder, partitions),
        )

    def publish(self, spark: SparkSession | None, staged: Staged) -> Published:
        handle: _Handle = staged.handle
        old = self._published()
        if old and self._batch.on_rerun != "replace":
            raise self._beaten()
        attempt = f"{HIDDEN}/staging/{handle.folder.name}"
        out: list[Move] = [(path, f"{HIDDEN}/replaced/{handle.folder.name}/{path}") for path in old]
        into: list[Move] = [(f"{attempt}/{path}", path) for path in handle.partitions]
        moves = out + into
        with translated(f"output.path: {self.location} cannot be published to", OutputError):
            if len(moves) > 1:
                self._journal.write_text(json.dumps(moves))
            try:
                self._apply(moves)
            except FileExistsError:
                raise self._beaten() from None
            self._tidy()
        return Published(self.location, None)

    def discard(self, staged: Staged | None) -> None:
        # Once the journal is written the batch is decided: the next run of it finishes the renames.
        if staged is not None and not self._journal.exists():
            self._remove(staged.handle.folder)

    @property
    def _journal(self) -> storage.Location:
        return self._root / HIDDEN / "journal" / f"{batch_prefix(self._batch.batch_id).rstrip('-')}.json"

    def _published(self) -> list[str]:
        """The folders of this batch that readers see, relative to the table's."""
        found = []
        for day in self._root.children():
            if day.name.startswith(f"{PARTITION}="):
                found += [f"{day.name}/{c.name}" for c in day.children() if unquote(c.name) == f"{BATCH}={self._batch.batch_id}"]
        return found

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

    def _apply(self, moves: list[Move], finishing: bool = False) -> None:
        """Do the renames, in order; when ``finishing`` what a crashed run began, those that are done are passed over.

        Raises:
            FileExistsError: another run has published the batch.
        """
        for source, target in moves:
            start, end = self._place(source), self._place(target)
            if finishing and end.exists():
                continue
            if not start.exists():
                raise OutputError(
                    f"output.path: {start.path} is gone, which the publication of batch {self._batch.batch_id} needs; nothing was removed"
                )
            start.move_to(end)

    def _place(self, relative: str) -> storage.Location:
        place = self._root
        for part in relative.split("/"):
            place = place / part
        return place

    def _tidy(self) -> None:
        """Remove the journal, what was replaced, and what other attempts at this batch left: it is published, they cannot be."""
        self._journal.remove()
        for kind in ("staging", "replaced"):
            for attempt in attempts(self._root / HIDDEN / kind, self._batch.batch_id):
                self._remove(attempt)
        self._journal.remove_unfinished()
        self._remove_hidden_if_empty()
        for day in self._root.children():
            if day.name.startswith(f"{PARTITION}="):
                day.remove_if_empty()

    def _remove_hidden_if_empty(self) -> None:
        for kind in ("staging", "replaced", "journal"):
            (self._root / HIDDEN / kind).remove_if_empty()
        (self._root / HIDDEN).remove_if_empty()

    def _remove(self, folder: storage.Location) -> None:
        self._remove_attempt(folder, self._root / HIDDEN / "staging", self._root / HIDDEN, self._root)


def _schema_of(spark: SparkSession, files: list[str]) -> T.StructType:
    return spark.read.option("mergeSchema", "true").parquet(*map(storage.for_spark_reader, files)).schema


def _changes_as_partition(batch_id: str) -> bool:
    """Whether Spark, which guesses the type of a partition folder's value, would give back another text than the ID."""
    if _JAVA_NUMBER.fullmatch(batch_id):
        return True
    try:
        number = float(batch_id)
    except ValueError:
        return False
    if not math.isfinite(number):
        return True
    return str(int(number)) != batch_id if number.is_integer() else repr(number) != batch_id
