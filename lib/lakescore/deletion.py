"""An output and a batch's ID in, the output without that batch out; the batch may then be scored again."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date

from mlflow import MlflowClient
from pyspark.sql import SparkSession

from lakescore import runs, session, storage, targets, tracking
from lakescore.config import OutputConfig, is_batch_id
from lakescore.errors import ConfigError, LakescoreError, OutputError, listing
from lakescore.redact import redact
from lakescore.sinks import Batch, open_sink, quarantine, rows
from lakescore.sinks.contents import Contents, contents
from lakescore.storage import Location
from lakescore.targets import Config, Target

log = logging.getLogger(__name__)

_NEAREST = 3


@dataclass(frozen=True)
class Deletion:
    """What was, or with ``dry_run`` would be, deleted.

    Attributes:
        location: the output; version: its Delta version after the commit, None for other formats and in a dry run.
        rows: of the batch; dates: its partitions (ISO); run_ids: the MLflow runs that wrote it, tagged ``lakescore.deleted``.
        beside: what of it was deleted beside the output: the quarantine's rows, the drift table's, the folder of its reports.
    """

    batch_id: str
    location: str
    rows: int
    dates: tuple[str, ...]
    run_ids: tuple[str, ...]
    version: int | None = None
    beside: tuple[str, ...] = ()


def delete_batch(
    output: str | None,
    batch_id: str,
    *,
    config: Config | None = None,
    overrides: Sequence[str] = (),
    quarantined: bool = False,
    drift: bool = False,
    dry_run: bool = False,
    spark: SparkSession | None = None,
) -> Deletion:
    """Delete exactly one batch, in one atomic step; other batches are not touched, and a later run of the same ``batch_id`` makes it anew.

    A Delta table shows it in its older versions until VACUUM; from Parquet and files of rows it is gone at once.

    Args:
        output: a path (with a slash in it, or that is there) or a table's name; None: the configuration's.
        batch_id: the batch.
        config: as for ``score``; says where quarantine, drift table and MLflow are, where they are not where they are by default.
        overrides: ``section.key=value``.
        quarantined: delete its quarantined rows too.
        drift: delete its rows of the drift table, and its reports, too.
        dry_run: delete nothing.
        spark: the session to use, where one is needed (tables of the catalog, Delta files that hold other batches too).

    Raises:
        OutputError: the batch is not there, its quarantined rows were replayed, or another process changes it at the same time.
        ConfigError, InputError: the output is none.
    """
    if isinstance(batch_id, int):
        batch_id = str(batch_id)  # as a configuration has it
    if not isinstance(batch_id, str):
        raise ConfigError(f"batch_id: got {batch_id!r}; expected a batch's ID")
    target = targets.resolve(output, config, overrides)
    open_spark = session_for(target, spark)
    with storage.scratch_folder() as scratch, tracking.quiet_mlflow():
        client = tracking.client_for_looking(target.tracking, scratch)
        found, where, unknown = _find(target, batch_id, open_spark, client)
        targeted = {name: one for name, one in target.beside.items() if (quarantined if name == "quarantine" else drift)}
        also = {name: one for name, one in targeted.items() if contents(one, open_spark, batch_id).is_published(batch_id)}
        folder = Location.of(storage.absolute(f"{target.drift_folder}/{batch_id}")) if drift and target.drift_folder else None
        reports = folder if folder is not None and folder.exists() else None
        found = replace(found, beside=(*also, *(("reports",) if reports else ())))
        if dry_run:
            return found
        version = _delete(where, batch_id, open_spark)
        runs.tag_deleted(client, list(found.run_ids), target.location)
        # Last: a batch that cannot be deleted needs what stands beside it. What a crash in between leaves there, the doctor finds.
        try:
            for one in also.values():
                _delete(one, batch_id, open_spark)
            if reports is not None:
                reports.remove()
        except (LakescoreError, OSError) as error:
            raise OutputError(f"{error}; the batch {batch_id} itself is deleted from {found.location}") from error
    if unknown:
        server = redact(tracking.server_of(target.tracking))
        log.warning("tracking: %s does not know the run %s, so it is not tagged %s", server, unknown, runs.DELETED_TAG)
    log.info("output: the batch %s is deleted from %s", batch_id, found.location)
    return replace(found, version=version)


def session_for(target: Target, spark: SparkSession | None) -> Callable[[], SparkSession]:
    """Opens a session when it is needed."""
    return lambda: spark or session.open_session(target.spark, "lakescore", tables=target.output.table is not None)


def _find(target: Target, batch_id: str, spark: Callable[[], SparkSession], client: MlflowClient) -> tuple[Deletion, OutputConfig, str]:
    """What there is of the batch, the output that has it (of a folder of files, the one file), and runs of it that MLflow does not know."""
    output = target.output
    if output.is_row_file and output.file is None:
        output = _file_of(output, batch_id)
    held = contents(output, spark, batch_id)
    if not is_batch_id(batch_id) or (batch_id not in held.batches and not held.is_published(batch_id)):
        raise OutputError(
            f"BATCH_ID: the batch {batch_id!r} is not in {target.location}.{_nearest(batch_id, contents(target.output, spark))}"
        )
    replayed = quarantine.replay_of(batch_id)
    if not output.is_row_file and contents(output, spark, replayed).is_published(replayed):
        raise OutputError(
            f"BATCH_ID: the quarantined rows of the batch {batch_id} were replayed as {replayed}, and would be there twice if it were "
            f"scored again; delete {replayed} first"
        )
    there = held.of(batch_id)
    known = runs.of_output(client, target.tracking.experiment, target.has, batch_id).scored.get(batch_id, [])
    # The rows of a quarantine or a drift table name the run of the batch that they stand beside, which is not deleted.
    own = [run_id for run_id in there.rows if run_id and _wrote(client, run_id, target)]
    run_ids = sorted({*own, *(run.info.run_id for run in known)})
    where = redact(open_sink(output, _batch(batch_id)).location)
    unknown = ", ".join(run_id for run_id in there.rows if run_id and runs.state_of(client, run_id) == "unknown")
    return Deletion(batch_id, where, sum(there.rows.values()), tuple(sorted(there.dates)), tuple(run_ids)), output, unknown


def _wrote(client: MlflowClient, run_id: str, target: Target) -> bool:
    try:
        return bool(target.has(client.get_run(run_id)))
    except Exception:
        return False  # a run that MLflow does not know has no tags


def _file_of(output: OutputConfig, batch_id: str) -> OutputConfig:
    folder = Location.of(storage.absolute(output.path or ""))
    for file in rows.recorded_files(folder) if folder is not None else ():
        record = rows.read_record(file) if file.exists() else None
        if record is not None and record["batch_id"] == batch_id:
            return output.model_copy(update={"file": file.name, "format": record["format"]})
    return output


def _nearest(batch_id: str, there: Contents) -> str:
    if not there.batches:
        return " There is no batch in it."
    near = difflib.get_close_matches(batch_id, there.batches, n=_NEAREST, cutoff=0.5)
    return f" The nearest: {listing(near)}." if near else f" There are {listing(sorted(there.batches, reverse=True))}."


def _delete(output: OutputConfig, batch_id: str, spark: Callable[[], SparkSession]) -> int | None:
    return open_sink(output, _batch(batch_id)).delete(spark)


def _batch(batch_id: str) -> Batch:
    return Batch(batch_id, "", date.min, "replace")
