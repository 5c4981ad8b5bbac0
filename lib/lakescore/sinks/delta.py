"""A Delta table by path: Parquet files staged inside its folder, unreferenced, then one commit that adds them.

Readers see what the log names, so staged files are invisible, need no rename and are written once. The commit carries the batch
as a Delta application transaction, which makes a second commit of the same batch fail even when two runs race.

Tables that the deltalake library does not write (column mapping, constraints, ...), new columns and odd column names go through
Spark's own Delta writer in the same single commit; only there are the rows written twice.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import types as T

from lakescore import delta_rows, object_store, storage
from lakescore.config import OutputConfig
from lakescore.errors import NeedsSparkError, OutputError, listing
from lakescore.failures import translate, translated
from lakescore.redact import redact
from lakescore.schema import BATCH, PARTITION, RUN, nullable
from lakescore.sinks.base import (
    AlreadyPublishedError,
    Batch,
    Layout,
    PathSink,
    Published,
    PublishedRows,
    Staged,
    StagedFile,
    attempt_name,
    attempts,
    batch_prefix,
    changed,
    compare_schemas,
    file_statistics,
    gone,
    keep_only,
    refuse_schema,
    staged_files,
    write_parquet,
)
from lakescore.version import __version__

log = logging.getLogger(__name__)

# Not hidden (`_x`), so that VACUUM removes in time what a crashed run or a replaced batch leaves here.
STAGING = "lakescore"
_WRITABLE_FEATURES = {"appendOnly", "invariants", "timestampNtz"}
_PLAIN_WRITER = 2
_TURNS = 20
_NEEDS_MAPPING = set(" ,;{}()\n\t=")
_HALF_COMMIT = re.compile(r"/\d{20}\.json#\d+$")
_HALF_COMMIT_MS = 2_000
_FORGETTING = "delta.setTransactionRetentionDuration"
_COLUMN_MAPPING = {"delta.columnMapping.mode": "name"}


def half_commits(root: storage.Location) -> list[storage.File]:
    """Files of the log under the temporary names that the library gives them on a disk; a writer that is killed in between leaves one."""
    return [file for file in (root / "_delta_log").files() if _HALF_COMMIT.search(file.path)] if root.is_local else []


def app_id(batch_id: str) -> str:
    """The application transaction that marks a batch in a Delta table's log."""
    return f"lakescore:{batch_id}"


def deletion_id(batch_id: str) -> str:
    """The application transaction that marks a batch as deleted; its version is not below that of the batch's own one."""
    return f"lakescore-deleted:{batch_id}"


def batches_in(table: DeltaTable) -> set[str]:
    """What the names of the staged attempts begin with (``batch_prefix``) whose files are in the table."""
    inside = (uri.rpartition(f"/{STAGING}/")[2].partition("/")[0] for uri in table.file_uris() if f"/{STAGING}/" in uri)
    return {f"{attempt.rpartition('-')[0]}-" for attempt in inside}


def transaction_of(table: DeltaTable, batch_id: str, inside: Callable[[], Collection[str]]) -> tuple[int, bool]:
    """The highest version of a batch's transactions (0: none), and whether the batch is there.

    It is there unless a deletion names the version of its last publication. Files tell where transactions do not: RESTORE brings those of a
    deleted batch back, and a table may be told to forget transactions.

    Args:
        table: the table.
        batch_id: the batch.
        inside: ``batches_in`` of the table, where it is wanted.
    """
    committed = table.transaction_version(app_id(batch_id)) or 0
    deleted = table.transaction_version(deletion_id(batch_id)) or 0
    if committed > deleted:
        return committed, True
    is_sure = not deleted and _FORGETTING not in table.metadata().configuration
    return deleted, not is_sure and batch_prefix(batch_id) in inside()


def user_metadata(batch: Batch, deletes: bool = False) -> str:
    """What the commit says of itself, for ``DESCRIBE HISTORY``."""
    what: dict[str, Any] = {"deleted": True} if deletes else {"run_id": batch.run_id}
    return json.dumps({"batch_id": batch.batch_id, **what, "lakescore": __version__})


def needs_mapping(schema: T.StructType) -> bool:
    """Whether a column's name, or a field's in it, is one that Delta writes only with column mapping."""
    return any(_NEEDS_MAPPING & set(field.name) or _odd_inside(field.dataType) for field in schema.fields)


def _odd_inside(kind: T.DataType) -> bool:
    if isinstance(kind, T.StructType):
        return needs_mapping(kind)
    if isinstance(kind, T.ArrayType):
        return _odd_inside(kind.elementType)
    return isinstance(kind, T.MapType) and (_odd_inside(kind.keyType) or _odd_inside(kind.valueType))


@dataclass
class _Handle:
    """A staged attempt: its folder and files."""

    folder: storage.Location
    files: list[StagedFile]
    schema: T.StructType


class DeltaSink(PathSink):
    """See the module."""

    def __init__(self, config: OutputConfig, batch: Batch) -> None:
        super().__init__(config, batch)
        odd = storage.closed_to_delta(self.location)
        if odd is not None:
            raise OutputError(f"output.path: a Delta table cannot be at {self.location}, because of {odd!r} in it; give another path")
        self._options = storage.delta_options(self.location)
        self._through_spark = False
        self._merges = False

    def open_table(self) -> DeltaTable | None:
        """The table as it is now; None where there is none yet."""
        return self._table()

    def recover(self, spark: SparkSession | None) -> None:
        """Nothing: a Delta commit is there or it is not."""

    def find(self, spark: SparkSession | None) -> bool | None:
        table = self._table()
        if table is None or not self._state(table)[1]:
            return False
        if self._batch.on_rerun != "replace" and not self._may_have_rows(table):
            log.warning(
                "output: the batch %s was committed to %s, and none of its rows are there (there were none, or they were removed since); "
                "run.on_rerun=replace writes it again",
                self._batch.batch_id,
                self.location,
            )
        return True

    def _state(self, table: DeltaTable) -> tuple[int, bool]:
        return transaction_of(table, self._batch.batch_id, lambda: batches_in(table))

    def _may_have_rows(self, table: DeltaTable) -> bool:
        """Whether a file may hold rows of the batch: a DELETE or RESTORE takes them, and leaves the batch's transaction in the log."""
        for file in pa.table(table.get_add_actions(flatten=True)).to_pylist():
            low, high = file.get(f"min.{BATCH}"), file.get(f"max.{BATCH}")
            # In a table of others it may be no text.
            if not (isinstance(low, str) and isinstance(high, str)) or low <= self._batch.batch_id <= high:
                return True
        return False

    def rows_of(self, spark: SparkSession | None, run_id: str) -> PublishedRows | None:
        table = self._table()
        if table is None:
            return None
        version = next((entry["version"] for entry in table.history() if was_made_by(entry.get("userMetadata"), run_id)), None)
        if version is None:
            return None
        # As it was then: OPTIMIZE puts rows of several runs into one file.
        table.load_as_version(version)
        files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
        # Of renamed columns, and of those behind the first 32, deltalake tells no statistics.
        if any(not isinstance(file.get(f"min.{RUN}"), str) for file in files) and not delta_rows.refusal(table):
            return PublishedRows(delta_rows.count(table, {RUN: run_id}), version)
        rows = sum(file["num_records"] or 0 for file in files if file.get(f"min.{RUN}") == run_id == file.get(f"max.{RUN}"))
        return PublishedRows(rows, version)

    def check(self, spark: SparkSession | None, schema: T.StructType) -> None:
        refuse_schema(schema, f"output.path: {self.location}")
        table = self._table()
        if table is None:
            self._check_free()
            self._through_spark = needs_mapping(schema) or not _library_knows(schema)
            self._refuse_without(spark)
            return
        self.check_partitions(table)
        self._refuse_replacing(table)
        existing = T.StructType.fromJson(json.loads(table.schema().to_json()))
        self._merges = compare_schemas(existing, schema, self._config.merge_schema, f"output.path: {self.location}")
        self._through_spark = self._merges or not _library_writes(table, existing) or not _library_knows(schema)
        self._refuse_without(spark)
        if spark is None and self._batch.on_rerun == "replace" and self._state(table)[1]:
            raise NeedsSparkError("a batch of a Delta table is replaced")

    def _refuse_without(self, spark: SparkSession | None) -> None:
        if self._through_spark and spark is None:
            raise NeedsSparkError("the output is a Delta table that only Spark's own writer can write to")

    def stage(self, df: DataFrame) -> Staged:
        return self._stage(df.schema, lambda folder: write_parquet(df, self._path_of(folder), [PARTITION]))

    def stage_files(self, schema: T.StructType, write: Callable[[Layout], Collection[str]]) -> Staged:
        def fill(folder: storage.Location) -> None:
            inside = folder / f"{PARTITION}={self._batch.score_date.isoformat()}"
            keep_only(inside, write(Layout(inside.path, (PARTITION,))), self._batch)

        return self._stage(schema, fill)

    def _stage(self, schema: T.StructType, fill: Callable[[storage.Location], None]) -> Staged:
        folder = self._root / STAGING / attempt_name(self._batch.batch_id)
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
            handle=_Handle(folder, files, schema),
        )

    def publish(self, spark: SparkSession | None, staged: Staged) -> Published:
        handle: _Handle = staged.handle
        if self._through_spark:
            self._commit_through_spark(spark, handle)
        else:
            self._commit(spark, handle)
        # The batch is published: nothing that fails from here on may look like a failed run.
        try:
            self._clear_other_attempts(handle)
            table = self._table()
            version = int(table.version()) if table else None
        except Exception as error:
            log.warning("output: the batch is published; tidying up failed: %s", redact(str(error)))
            version = None
        return Published(self.location, version)

    def discard(self, staged: Staged | None) -> None:
        if staged is not None and not self._may_be_committed(staged.handle):
            self._remove(staged.handle.folder)

    def delete(self, spark: Callable[[], SparkSession]) -> int | None:
        table = self._table()
        state = self._state(table) if table is not None else (0, False)
        if table is None or not state[1]:
            raise gone("output.path", self._batch)
        if _is_append_only(table):
            raise OutputError(
                f"output.path: {self.location} takes appends only (delta.appendOnly=true), so the batch {self._batch.batch_id} in it "
                "cannot be deleted"
            )
        for turn in range(_TURNS):
            try:
                self._commit_deletion(spark, state[0] + 1)
                break
            except Exception as error:
                if not self._is_still(state):
                    raise changed("output.path", self._batch, self.location) from error
                # Another commit came first: then once more.
                if turn == _TURNS - 1 or not (isinstance(error, CommitFailedError) or "concurrent" in str(error).lower()):
                    doing = f"output.path: the batch {self._batch.batch_id} could not be deleted from {self.location}"
                    raise translate(error, doing, OutputError) from error
        after = self._table()
        if after is None or self._state(after) != (state[0] + 1, False):
            raise changed("output.path", self._batch, self.location)
        return int(after.version())

    def _commit_deletion(self, spark: Callable[[], SparkSession], version: int) -> None:
        """One commit without this batch's rows, marked with the version of its deletion: the next one of its transactions."""
        table = self._table()
        assert table is not None, "it was there a moment ago"
        schema = T.StructType.fromJson(json.loads(table.schema().to_json()))
        removes = self._own_files(table) if _library_writes(table, schema) else None
        if removes is None:
            self._delete_through_spark(spark(), version)
            return
        properties = CommitProperties(
            custom_metadata={"userMetadata": user_metadata(self._batch, deletes=True)},
            max_commit_retries=_tries(removes),
            app_transactions=[Transaction(deletion_id(self._batch.batch_id), version)],
        )
        table.create_write_transaction([*removes], "append", table.schema(), [PARTITION], commit_properties=properties)

    def _delete_through_spark(self, spark: SparkSession, version: int) -> None:
        """The same by Spark: files that hold other rows too are written anew without this batch's."""
        schema = spark.read.format("delta").load(storage.for_spark(self.location)).schema
        marker = {"txnAppId": deletion_id(self._batch.batch_id), "txnVersion": str(version)}
        empty_replacement(spark, schema, self._batch, **marker).save(storage.for_spark(self.location))

    def _table(self) -> DeltaTable | None:
        try:
            return DeltaTable(self.location, storage_options=self._options)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            if not (self._root / "_delta_log").is_dir():
                return None
            raise OutputError(f"output.path: the Delta table {self.location} cannot be read: {object_store.line(error)}") from error

    def _check_free(self) -> None:
        self._refuse_file()
        others = [child.name for child in self._root.children() if child.name != STAGING]
        if others:
            raise OutputError(
                f"output.path: {self.location} is no Delta table and not empty (it holds {listing(others)}); give another path, or "
                "set output.format=parquet"
            )

    def check_partitions(self, table: DeltaTable) -> None:
        """Refuse a table that Lakescore did not make, and could not write to."""
        found = list(table.metadata().partition_columns)
        if found != [PARTITION]:
            raise OutputError(
                f"output.path: {self.location} is partitioned by {listing(found)}; Lakescore writes tables partitioned by {PARTITION}"
            )

    def _refuse_replacing(self, table: DeltaTable) -> None:
        if _is_append_only(table) and self._batch.on_rerun == "replace" and self._state(table)[1]:
            raise OutputError(
                f"run.on_rerun: {self.location} takes appends only (delta.appendOnly=true), so the batch {self._batch.batch_id} in it "
                "cannot be replaced; give another batch_id"
            )

    def _remove(self, folder: storage.Location) -> None:
        self._remove_attempt(folder, self._root / STAGING, self._root)

    def _may_be_committed(self, handle: _Handle) -> bool:
        """Whether the log names this attempt's files, or cannot be asked: a commit may succeed although its answer is lost."""
        try:
            table = self._table()
            return table is not None and any(f"/{STAGING}/{handle.folder.name}/" in uri for uri in table.file_uris())
        except Exception:
            return True

    def _require_files(self, handle: _Handle) -> None:
        """A run of the same batch that was faster clears other attempts away; what is gone must not be committed."""
        if sum(1 for _ in handle.folder.files()) < len(handle.files):
            raise AlreadyPublishedError(f"output.path: another run of the batch {self._batch.batch_id} cleared this one's staged files")

    def _clear_other_attempts(self, handle: _Handle) -> None:
        """Remove what crashed or defeated attempts at this batch left.

        Only after our own commit: from now on the log refuses theirs, so no file that a commit names can be lost. Files of a batch that
        was replaced or deleted stay for time travel until VACUUM takes them.
        """
        self._clear_half_commits()
        table = self._table()
        if self._batch.on_rerun == "replace" or table is None or table.transaction_version(deletion_id(self._batch.batch_id)) is not None:
            return
        for other in attempts(self._root / STAGING, self._batch.batch_id):
            # None of another is in the table, unless it has forgotten the batch's transaction.
            if other.name != handle.folder.name and not any(f"/{STAGING}/{other.name}/" in uri for uri in table.file_uris()):
                self._remove(other)

    def _clear_half_commits(self) -> None:
        """Remove what killed runs have left of commits of this batch, and empty ones; a writer at work has its own for a moment only."""
        mark = json.dumps(app_id(self._batch.batch_id))
        for half in half_commits(self._root):
            place = storage.Location(self._root.fs, half.path)
            if time.time() * 1000 - half.modified_ms > _HALF_COMMIT_MS and (not half.size or mark in place.read_text()):
                place.remove()

    def _commit(self, spark: SparkSession | None, handle: _Handle) -> None:
        adds = [_add_action(handle, file) for file in handle.files]
        schema = Schema.from_json(nullable(handle.schema).json())
        if self._table() is None and self._create(adds, schema, handle):
            return
        for turn in range(_TURNS):
            table = self._table()
            if table is None:
                raise OutputError(f"output.path: the Delta table {self.location} could be neither created nor opened")
            current, there = self._state(table)
            if there and self._batch.on_rerun != "replace":
                raise self._beaten()
            self._require_files(handle)
            removes: list[RemoveAction] | None = self._own_files(table) if there else []
            if removes is None:
                self._commit_through_spark(spark, handle)
                return
            try:
                properties = self._properties(current + 1, _tries(removes))
                table.create_write_transaction([*removes, *adds], "append", schema, [PARTITION], commit_properties=properties)
                return
            except CommitFailedError as error:
                if handle.files and self._may_be_committed(handle):
                    return
                # Another commit came first, and this batch is as it was: then once more.
                if turn == _TURNS - 1 or not self._is_still((current, there)):
                    raise self._lost_race(error) from error
            except DeltaError as error:
                if handle.files and self._may_be_committed(handle):
                    return
                raise OutputError(f"output.path: the commit to {self.location} failed: {object_store.line(error)}") from error

    def _is_still(self, state: tuple[int, bool]) -> bool:
        """Whether nobody has changed this batch since."""
        table = self._table()
        return table is not None and self._state(table) == state

    def _create(self, adds: list[AddAction], schema: Schema, handle: _Handle) -> bool:
        """Make the table with the batch as its version 0; False where another run made the table first."""
        try:
            create_table_with_add_actions(
                self.location,
                schema,
                adds,
                mode="error",
                partition_by=[PARTITION],
                storage_options=self._options,
                commit_properties=self._properties(1, retries=0),
            )
        except (DeltaError, OSError) as error:
            if self._table() is not None:
                return bool(handle.files) and self._may_be_committed(handle)
            raise OutputError(f"output.path: the table {self.location} could not be created: {object_store.line(error)}") from error
        return True

    def _lost_race(self, error: Exception) -> OutputError:
        table = self._table()
        if table is not None and self._state(table)[1]:
            return self._beaten()
        return OutputError(f"output.path: the commit to {self.location} failed: {object_store.line(error)}; run the batch again")

    def _properties(self, version: int, retries: int) -> CommitProperties:
        """What a commit carries. One that creates the table must not be tried again: the library would append where another has created."""
        return CommitProperties(
            custom_metadata={"userMetadata": user_metadata(self._batch)},
            max_commit_retries=retries,
            app_transactions=[Transaction(app_id(self._batch.batch_id), version)],
        )

    def _own_files(self, table: DeltaTable) -> list[RemoveAction] | None:
        """The files that hold exactly this batch; None where one holds other rows too (after OPTIMIZE) or does not tell."""
        removes = []
        now = int(time.time() * 1000)
        for file in pa.table(table.get_add_actions(flatten=True)).to_pylist():
            is_own = self._is_own(file)
            if is_own is None:
                return None
            if is_own:
                values: dict[str, str | None] = {PARTITION: str(file[f"partition.{PARTITION}"])}
                removes.append(RemoveAction(file["path"], True, now, file["size_bytes"], values))
        return removes

    def _is_own(self, file: Mapping[str, Any]) -> bool | None:
        """Whether a file of the table holds this batch and nothing else; None where it holds other rows too, or does not tell."""
        if str(file["path"]).startswith(f"{STAGING}/"):  # which holds one batch, perhaps without rows
            return str(file["path"]).startswith(f"{STAGING}/{batch_prefix(self._batch.batch_id)}")
        low, high = file.get(f"min.{BATCH}"), file.get(f"max.{BATCH}")
        if low is None or high is None:
            return None
        if not low <= self._batch.batch_id <= high:
            return False
        # Another writer's rows have no batch, and count neither as least nor as most.
        return True if low == high and file.get(f"null_count.{BATCH}") == 0 else None

    def _commit_through_spark(self, spark: SparkSession | None, handle: _Handle) -> None:
        if spark is None:
            raise OutputError(
                f"output.path: {self.location} was changed meanwhile, and takes this batch only through Spark; run it again with "
                "spark.backend=spark"
            )
        table = self._table()
        current, there = self._state(table) if table else (0, False)
        if there and self._batch.on_rerun != "replace":
            raise self._beaten()
        with translated(f"output.path: the commit to {self.location} failed", OutputError):
            staged = spark.read.schema(handle.schema).parquet(storage.for_spark_reader(self._path_of(handle.folder)))
            options = spark_options(self._batch, current + 1, self._merges, replaces=there)
            if table is None and needs_mapping(handle.schema):
                options.update(_COLUMN_MAPPING)
            mode = "overwrite" if there else "append"
            staged.write.format("delta").mode(mode).options(**options).partitionBy(PARTITION).save(storage.for_spark(self.location))
        # Delta leaves out, and says nothing, what another run of the same batch has committed meanwhile.
        table = self._table()
        if table is not None and not any(was_made_by(entry.get("userMetadata"), self._batch.run_id) for entry in table.history(50)):
            raise self._beaten()
        self._remove(handle.folder)


def was_made_by(metadata: str | None, value: str | bool, key: str = "run_id") -> bool:
    """Whether a commit's ``userMetadata`` is one of ours that names this run (or, by ``key``, this batch)."""
    try:
        found = json.loads(metadata or "{}")
    except ValueError:
        return False
    return isinstance(found, dict) and "lakescore" in found and found.get(key) == value


def spark_options(batch: Batch, version: int | None, merges: bool, replaces: bool) -> dict[str, str]:
    """Options for one commit through Spark's Delta writer: the batch's transaction (None: without), and only its rows replaced."""
    options = {"userMetadata": user_metadata(batch)}
    if version is not None:
        options |= {"txnAppId": app_id(batch.batch_id), "txnVersion": str(version)}
    if merges:
        options["mergeSchema"] = "true"
    if replaces:
        options["replaceWhere"] = only_rows_of(batch)
    return options


def only_rows_of(batch: Batch) -> str:
    """The condition for a batch's rows, in SQL."""
    return f"{BATCH} = '{batch.batch_id}'"


def empty_replacement(spark: SparkSession, schema: T.StructType, batch: Batch, **options: str) -> DataFrameWriter:
    """A writer of no rows in place of a batch's, to a Delta table: its deletion in one commit, which says so."""
    rows = spark.createDataFrame([], nullable(schema)).write.format("delta").mode("overwrite")
    return rows.options(replaceWhere=only_rows_of(batch), userMetadata=user_metadata(batch, deletes=True), **options)


def _tries(removes: list[RemoveAction]) -> int:
    """How often the library may try a commit again after another one. A file that is removed may have been compacted with others meanwhile,
    which the library does not see: then the files are chosen anew first."""
    return 0 if removes else _TURNS


def _add_action(handle: _Handle, file: StagedFile) -> AddAction:
    return AddAction(
        path=f"{STAGING}/{handle.folder.name}/{file.path}",
        size=file.size,
        partition_values=dict(file.partition),
        modification_time=file.modified_ms,
        data_change=True,
        stats=file_statistics(file.footer),
    )


def _is_append_only(table: DeltaTable) -> bool:
    return str(table.metadata().configuration.get("delta.appendOnly", "")).lower() == "true"


def _library_knows(schema: T.StructType) -> bool:
    """Whether the deltalake library has all the types; variants it has not."""
    try:
        Schema.from_json(nullable(schema).json())
    except Exception:
        return False
    return True


def _library_writes(table: DeltaTable, schema: T.StructType) -> bool:
    """Whether the deltalake library writes to this table without leaving out anything that its protocol asks for."""
    protocol = table.protocol()
    features: set[str] = set(protocol.writer_features or ())
    configuration: Mapping[str, Any] = table.metadata().configuration
    plain = protocol.min_writer_version <= _PLAIN_WRITER or features <= _WRITABLE_FEATURES
    if not plain or any(key.startswith("delta.constraints.") for key in configuration):
        return False
    if nullable(schema).jsonValue() != _without_metadata(schema).jsonValue():
        return False  # NOT NULL is for the writer to check
    return not any(key.startswith("delta.") for field in schema.fields for key in (field.metadata or {}))


def _without_metadata(schema: T.StructType) -> T.StructType:
    return T.StructType([T.StructField(field.name, field.dataType, field.nullable) for field in schema.fields])
