"""The MLflow run of a scoring run: parameters, counts, seconds per stage, versions; FINISHED, or FAILED with the one line."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.environment_variables import (
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException

from lakescore import frames, interruption, mlflow_defaults, own_process, storage
from lakescore.config import ROW_FILES, ScoreConfig, TrackingConfig
from lakescore.errors import LakescoreError, PlatformError
from lakescore.redact import redact, redact_tree
from lakescore.version import __version__

log = logging.getLogger(__name__)

REQUEST_SECONDS = 15
REQUEST_RETRIES = 1
_MAX_TEXT = 5_000
_SQLITE = "sqlite:///"
BATCH_TAG = "lakescore.batch_id"
OUTPUT_TAG = "lakescore.output"
_VERSIONS = ("pyspark", "mlflow-skinny", "pandas", "pyarrow", "deltalake", "scikit-learn", "xgboost", "xgboost-cpu", "lightgbm", "torch")


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage; in a run's record its seconds become the metric ``seconds.NAME``."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start


@dataclass
class Record(Stopwatch):
    """What is known of a run so far; ``run_id`` is the MLflow run's."""

    client: MlflowClient
    run_id: str
    experiment_id: str
    seconds: dict[str, float] = field(default_factory=dict)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; secrets are taken out, long ones are cut."""
        params = [Param(key, redact(str(value))[:_MAX_TEXT]) for key, value in values.items() if value is not None]
        self.client.log_batch(self.run_id, params=params)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics."""
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(key, float(value), now, 0) for key, value in values.items()])

    def finish(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """End the run: FINISHED or FAILED."""
        self.metrics({**metrics, **{f"seconds.{name}": round(value, 3) for name, value in self.seconds.items()}})
        self.client.log_batch(self.run_id, tags=[RunTag(key, redact(value)[:_MAX_TEXT]) for key, value in tags.items()])
        self.client.set_terminated(self.run_id, status)


def server_of(config: TrackingConfig) -> str:
    """The tracking server that is meant."""
    return config.tracking_uri or mlflow_defaults.tracking_uri()


def client_for(config: TrackingConfig) -> MlflowClient:
    """A client for the configured servers (default: MLflow's own, ``MLFLOW_TRACKING_URI``), reached in bounded time.

    Raises:
        PlatformError: a server does not answer, or the store's packages are missing.
    """
    tracking_uri = server_of(config)
    mlflow_defaults.require_answer("tracking.tracking_uri", tracking_uri)
    _require_folder(tracking_uri)
    if config.registry_uri:
        mlflow_defaults.require_answer("tracking.registry_uri", config.registry_uri)
    try:
        return MlflowClient(tracking_uri=tracking_uri, registry_uri=config.registry_uri)
    except Exception as error:
        if "unsupported URI" in str(error) and "sqlite" in tracking_uri:
            raise PlatformError(
                f"tracking.tracking_uri: {tracking_uri} needs the whole MLflow: pip install 'lakescore[mlflow]', or give a server"
            ) from error
        raise PlatformError(f"tracking.tracking_uri: {tracking_uri} cannot be used: {error}") from error


def client_for_looking(config: TrackingConfig, scratch: Path) -> MlflowClient:
    """A client that leaves nothing behind: MLflow makes a local store when it is asked, so an empty one in ``scratch`` stands for it."""
    uri = server_of(config)
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).exists():
        config = config.model_copy(update={"tracking_uri": f"{_SQLITE}{scratch}/empty.db"})
    return client_for(config)


@contextmanager
def open_record(client: MlflowClient, config: ScoreConfig) -> Iterator[Record]:
    """Start the MLflow run of a scoring run and log the resolved configuration.

    An exception inside ends the run as FAILED with its one line as the tag ``lakescore.error``. The caller ends a good run.

    Raises:
        PlatformError: the tracking server refuses or does not answer.
    """
    record: Record | None = None
    try:
        with interruption.held():
            record = _start(client, config)
        yield record
    except BaseException as error:
        if record is not None:
            if isinstance(error, LakescoreError):
                error.run_id = record.run_id
            with interruption.held():
                _end(record, error)
        raise


def _end(record: Record, error: BaseException) -> None:
    line = redact(" ".join(str(error).split())) or type(error).__name__
    status = "FAILED" if isinstance(error, Exception) else "KILLED"
    try:
        with impatient():
            record.finish(status, {}, {"lakescore.error": line})
    except Exception as failure:
        log.warning("tracking: the run %s could not be marked %s: %s", record.run_id, status, redact(str(failure)))


def _start(client: MlflowClient, config: ScoreConfig) -> Record:
    record = None
    try:
        with impatient():
            experiment_id = ensure_experiment(client, config.tracking.experiment)
            run = client.create_run(experiment_id, run_name=redact(config.run.name), tags=_tags(config))
            record = Record(client, run.info.run_id, experiment_id)
            client.log_text(run.info.run_id, as_yaml(config), "config.yaml")
        log.info("run: %s, experiment %s (%s)", record.run_id, experiment_id, config.tracking.experiment)
    except Exception as error:
        # MLflow writes what it logs to a temporary file first.
        where = f" (there, or in {tempfile.gettempdir()})" if isinstance(error, OSError) and error.errno == errno.ENOSPC else ""
        raised = PlatformError(f"tracking.tracking_uri: {client.tracking_uri} cannot record the run: {error}{where}")
        if record is not None:
            _end(record, raised)
        raise raised from error
    return record


def ensure_experiment(client: MlflowClient, name: str) -> str:
    """The ID of an experiment, which is made when it is not there."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            # Two first runs at once: the other one made it.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return str(experiment.experiment_id)


def as_yaml(config: ScoreConfig) -> str:
    """The resolved configuration as YAML, without secrets and without inline rows; columns may be called what they like."""
    rows = config.source.rows
    tree = config.to_dict(rows=None if rows is None else f"<{frames.count(rows)} inline>")
    shown = {name: section if name == "columns" else redact_tree(section) for name, section in tree.items()}
    return str(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))


def output_of(config: ScoreConfig) -> str:
    """The output as a run's tag has it, by which runs of one output are found."""
    output = config.output
    if output.path is None:
        return output.table or output.format
    return redact("/".join([storage.absolute(output.path), *filter(None, [output.file or ROW_FILES.get(output.format)])]))


def _tags(config: ScoreConfig) -> dict[str, str]:
    tags = {
        "lakescore.version": __version__,
        BATCH_TAG: str(config.run.batch_id),
        OUTPUT_TAG: output_of(config),
        **own_process.tags(),
    }
    commit = _git_commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    active = mlflow.active_run()
    if active is not None:
        tags["mlflow.parentRunId"] = active.info.run_id
    tags["mlflow.source.name"] = os.path.basename(sys.argv[0]) or "python"
    tags["mlflow.source.type"] = "JOB"
    return {**tags, **redact_tree(config.tracking.tags)}


def package_versions() -> dict[str, str]:
    """The versions that a prediction depends on, as parameters of the run."""
    versions = {"version.python": platform.python_version(), "version.lakescore": __version__}
    for name in _VERSIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[f"version.{name}"] = metadata.version(name)
    return versions


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def _require_folder(uri: str) -> None:
    """Look where a store's file is or will be: MLflow itself would try for minutes."""
    if uri.startswith(_SQLITE):
        folder = Path(uri.removeprefix(_SQLITE).partition("?")[0]).parent
        if not folder.is_dir():
            raise PlatformError(f"tracking.tracking_uri: {uri}: there is no folder {folder}")


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Leave out what MLflow says of what is done on purpose: bars for each copied file, advice about env_manager."""
    if log.isEnabledFor(logging.DEBUG):
        yield
        return
    logger, level = logging.getLogger("mlflow"), logging.getLogger("mlflow").level
    logger.setLevel(max(level, logging.ERROR))
    try:
        with _settings({MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR: False}):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def impatient() -> Iterator[None]:
    """Short timeouts for the first requests: a server that hangs must not hold the job for an hour."""
    with _settings({MLFLOW_HTTP_REQUEST_TIMEOUT: REQUEST_SECONDS, MLFLOW_HTTP_REQUEST_MAX_RETRIES: REQUEST_RETRIES}):
        yield


@contextmanager
def _settings(values: dict[Any, Any]) -> Iterator[None]:
    """Set MLflow's environment variables, and put back what was there."""
    before = {variable: variable.get_raw() for variable in values}
    for variable, value in values.items():
        variable.set(value)
    try:
        yield
    finally:
        for variable, old in before.items():
            if old is None:
                variable.unset()
            else:
                variable.set(old)
