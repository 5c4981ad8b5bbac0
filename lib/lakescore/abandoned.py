"""MLflow runs that say RUNNING and whose process is gone in (a kill -9, a power failure), runs that say what became of them out."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import datetime, timezone

from mlflow import MlflowClient
from mlflow.entities import Run

from lakescore import own_process, timing, tracking
from lakescore.redact import redact
from lakescore.sinks import PublishedRows
from lakescore.tracking import Record

log = logging.getLogger(__name__)

MOST = 100
# As ``compose`` makes one where none is given.
_MADE_ID = re.compile(r"(\d{8}T\d{6})Z-[0-9a-f]{8}")


def find(client: MlflowClient, experiment_id: str, batch_id: str | None = None, output: str | None = None) -> list[Run]:
    """The runs that say RUNNING, and whose process was one of this machine and is gone.

    Args:
        client: of the tracking server.
        experiment_id: where to look.
        batch_id: of this batch only; output: of this output only, as ``tracking.output_of`` has it. None: of all.
    """
    wanted = "attributes.status = 'RUNNING'"
    if batch_id is not None:
        wanted += f" and tags.`{tracking.BATCH_TAG}` = '{batch_id}'"
    runs = client.search_runs([experiment_id], wanted, max_results=MOST)
    return [
        run for run in runs if own_process.is_gone(run.data.tags) and (output is None or run.data.tags.get(tracking.OUTPUT_TAG) == output)
    ]


def end(client: MlflowClient, run: Run, published: PublishedRows | None, ended: str | None = None) -> str:
    """End such a run.

    Args:
        client: of the tracking server.
        run: one that says RUNNING, and does not.
        published: the rows that it has published; None: it has published none.
        ended: how that is known; None: its process is gone.

    Returns:
        The status: FINISHED with its counts where it has published its batch, else KILLED.
    """
    run_id, tags = run.info.run_id, run.data.tags
    ended = ended or f"the process {tags.get(own_process.PID)} on {tags.get(own_process.HOST)} ended without a word"
    record = Record(client, run_id, run.info.experiment_id)
    if published is None:
        record.finish("KILLED", {}, {"lakescore.error": f"{ended}; nothing was published"})
        return "KILLED"
    metrics: dict[str, float] = {"rows_scored": published.rows, "rows_written": published.rows}
    if published.version is not None:
        metrics["output_version"] = published.version
    record.finish("FINISHED", metrics, {"lakescore.outcome": "scored", "lakescore.ended": f"{ended}, after its batch was published"})
    return "FINISHED"


def end_earlier(record: Record, batch_id: str, output: str, published: Callable[[str], PublishedRows | None]) -> None:
    """End the runs of this batch and output that a crash left RUNNING. What fails here stops no run.

    Args:
        record: of the run that looks; one search is all that it costs, and nothing where the batch is its own invention.
        batch_id, output: the run's.
        published: what the run of an ID has published of this batch.
    """
    if _is_own_invention(batch_id):
        return
    try:
        with tracking.impatient():
            for run in find(record.client, record.experiment_id, batch_id, output):
                status = end(record.client, run, published(run.info.run_id))
                log.info("tracking: the run %s of this batch had ended without a word; it is %s now", run.info.run_id, status)
    except Exception as error:
        log.warning("tracking: runs of this batch that a crash left RUNNING could not be ended: %s", redact(str(error)))


def _is_own_invention(batch_id: str) -> bool:
    """Whether the ID is one that this process has made, as a run without ``run.batch_id`` does: nobody can have used it before."""
    made = _MADE_ID.fullmatch(batch_id)
    if made is None:
        return False
    at = datetime.strptime(made.group(1), "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
    age = timing.since_start()
    # The ID's time is cut off at whole seconds.
    return (datetime.now(timezone.utc) - at).total_seconds() <= age + 1
