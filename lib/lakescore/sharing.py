"""A table beside the output in, nothing out: it is refused where the batch that it would replace there is that of another output."""

from __future__ import annotations

from mlflow import MlflowClient
from pyspark.sql import SparkSession

from lakescore import runs, storage, tracking
from lakescore.config import OutputConfig, ScoreConfig
from lakescore.errors import OutputError
from lakescore.sinks.contents import contents


def refuse_shared(client: MlflowClient, spark: SparkSession, config: ScoreConfig, key: str, beside: OutputConfig) -> None:
    """Rows in a quarantine and a drift table are replaced by batch: two outputs with a batch of one ID would take each other's away.

    Args:
        client: of the tracking server.
        spark: the session.
        config: the run's.
        key: what configures the table.
        beside: the table, where the batch has rows already.

    Raises:
        OutputError: a run of another output has written them.
    """
    if config.output.is_own_folder:
        return  # each run of a batch has an output of its own
    batch_id, own = str(config.run.batch_id), tracking.output_of(config)
    there = contents(beside, lambda: spark, batch_id).batches.get(batch_id)
    for run_id in there.rows if there is not None else ():
        other = runs.output_of(client, run_id)
        if other is not None and _plain(other) != _plain(own):
            where = beside.table or storage.absolute(beside.path or "")
            raise OutputError(
                f"{key}: {where} has rows of the batch {batch_id} of another output, {other}, which would be replaced; give each output "
                f"its own {key}, or each batch an ID of its own (run.batch_id)"
            )


def _plain(output: str) -> str:
    """A path without its last slash; of a table the last name, for the catalog and the schema may be left out."""
    return output.rstrip("/") if "/" in output else output.replace("`", "").rpartition(".")[2].casefold()
