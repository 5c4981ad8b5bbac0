"""An experiment in, its runs that concern an output out: those that have scored a batch of it, and those that may still be at it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.exceptions import MlflowException

from lakescore.redact import redact

log = logging.getLogger(__name__)

# Of a run whose batch was deleted: when, and from where.
DELETED_TAG = "lakescore.deleted"
BATCH_TAG = "lakescore.batch_id"
_OUTPUT_TAG = "lakescore.output"
_PAGE = 1_000


@dataclass(frozen=True)
class Runs:
    """Runs of an experiment.

    Attributes:
        experiment_id: None where there is no such experiment.
        scored: the finished ones that have published a batch of the output, by batch, the newest first.
        running: those that say RUNNING, and write to the output or have not told yet where.
        elsewhere: the batches of those that write to other outputs.
    """

    client: MlflowClient
    experiment_id: str | None
    scored: dict[str, list[Run]]
    running: list[Run]
    elsewhere: set[str]


def of_output(client: MlflowClient, experiment: str, has: Callable[[Run], bool | None], batch_id: str | None = None) -> Runs:
    """Ask for the runs of an output.

    Args:
        client: of the tracking server.
        experiment: its name.
        has: whether a run writes to the output; None where it has not told.
        batch_id: those of this batch only.
    """
    found = client.get_experiment_by_name(experiment)
    runs = Runs(client, None if found is None else str(found.experiment_id), {}, [], set())
    if runs.experiment_id is None:
        return runs
    of_batch = "" if batch_id is None else f" and tags.`{BATCH_TAG}` = '{batch_id}'"
    wanted = f"attributes.status = 'FINISHED' and tags.`lakescore.outcome` = 'scored'{of_batch}"
    for run in _search(client, runs.experiment_id, wanted):
        if has(run) and run.data.params.get("output.format") != "summary_only":
            runs.scored.setdefault(run.data.params["batch_id"], []).append(run)
    at_it = _search(client, runs.experiment_id, f"attributes.status = 'RUNNING' and tags.`{BATCH_TAG}` LIKE '%'{of_batch}")
    for run in at_it:
        if has(run) is False:
            runs.elsewhere.add(run.data.tags[BATCH_TAG])
        else:
            runs.running.append(run)
    return runs


def written_to(run: Run) -> str | None:
    """A run says at its start where it means to write, and with its plan where that is; None where it has not told."""
    found: str | None = run.data.params.get("output") or run.data.tags.get(_OUTPUT_TAG)
    return found


def output_of(client: MlflowClient, run_id: str) -> str | None:
    """Where a run has written to; None where MLflow does not know it, or it has not told."""
    if not run_id or state_of(client, run_id) == "unknown":
        return None
    return written_to(client.get_run(run_id))


def wrote_last(client: MlflowClient, run: Run) -> bool:
    """Whether no other run has published this one's batch in the same output since, and nobody has deleted it."""
    location, batch_id = run.data.params["output"], run.data.params["batch_id"]
    wanted = f"attributes.status = 'FINISHED' and tags.`lakescore.outcome` = 'scored' and tags.`{BATCH_TAG}` = '{batch_id}'"
    same = [one for one in _search(client, run.info.experiment_id, wanted) if one.data.params.get("output") == location]
    return DELETED_TAG not in run.data.tags and all(one.info.end_time <= run.info.end_time for one in same)


def _search(client: MlflowClient, experiment_id: str, wanted: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment_id], wanted, max_results=_PAGE, order_by=["attributes.start_time DESC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def state_of(client: MlflowClient, run_id: str) -> str:
    """What MLflow knows of a run, in whatever experiment: its status, ``deleted``, or ``unknown``."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return "unknown"
        raise
    return str(run.info.status) if run.info.lifecycle_stage == LifecycleStage.ACTIVE else "deleted"


def tag_deleted(client: MlflowClient, run_ids: list[str], location: str) -> None:
    """Say of runs that their batch was deleted; a run that MLflow does not know is passed over."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    for run_id in run_ids:
        try:
            client.set_tag(run_id, DELETED_TAG, f"{now} from {redact(location)}")
        except Exception as error:
            log.warning("tracking: the run %s could not be tagged %s: %s", run_id, DELETED_TAG, redact(str(error).splitlines()[0]))
