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
_PAGE = 1_000


@dataclass(frozen=True)
class Runs:
    """Runs of an experiment.

    Attributes:
        experiment_id: None where there is no such experiment.
        scored: the finished ones that have published a batch of the output, by batch, the newest first.
        running: those that say RUNNING, and write to the output or have not told yet where.
    """

    client: MlflowClient
    experiment_id: str | None
    scored: dict[str, list[Run]]
    running: list[Run]


def of_output(client: MlflowClient, experiment: str, has: Callable[[Run], bool | None], batch_id: str | None = None) -> Runs:
    """Ask for the runs of an output.

    Args:
        client: of the tracking server.
        experiment: its name.
        has: whether a run writes to the output; None where it has not told.
        batch_id: those of this batch only.
    """
    found = client.get_experiment_by_name(experiment)
    runs = Runs(client, None if found is None else str(found.experiment_id), {}, [])
    if runs.experiment_id is None:
        return runs
    of_batch = "" if batch_id is None else f" and tags.`{BATCH_TAG}` = '{batch_id}'"
    wanted = f"attributes.status = 'FINISHED' and tags.`lakescore.outcome` = 'scored'{of_batch}"
    for run in _search(client, runs.experiment_id, wanted):
        if has(run) and run.data.params.get("output.format") != "summary_only":
            runs.scored.setdefault(run.data.params["batch_id"], []).append(run)
    at_it = _search(client, runs.experiment_id, f"attributes.status = 'RUNNING' and tags.`{BATCH_TAG}` LIKE '%'{of_batch}")
    runs.running.extend(run for run in at_it if has(run) is not False)
    return runs


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
