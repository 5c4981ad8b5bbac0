"""A model and its training data in, the statistics that later batches are compared with out, and kept where scoring finds them.

The rows pass the same source, columns and model as those of a scoring run, so that features, labels and predictions are counted alike.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import console, job, monitoring, pipeline, planning, progress, references, routing, session, source, storage, tracking
from lakescore.compose import compose
from lakescore.config import ScoreConfig
from lakescore.drift import profile
from lakescore.drift.statistics import FILE, Statistics
from lakescore.errors import LakescoreError, ModelError
from lakescore.failures import translated
from lakescore.mlflow_defaults import as_default
from lakescore.observing import Observed
from lakescore.planning import PREDICTION, Plan
from lakescore.redact import redact
from lakescore.schema import column

# What a scoring run has and this has not: nothing is written.
_WITHOUT = (
    "output.format=summary_only", "drift.enabled=false", "run.batch_id=statistics", "errors.on_row_error=fail", "source.incremental=null",
)  # fmt: skip
_LOGGED = re.compile(r"^models:/(m-[0-9a-f]{8,})$")
_REGISTERED = re.compile(r"^models:/([^@/]+)/(\d+)$")
_RUN = re.compile(r"^runs:/([^/]+)/(.+)$")


def configured(
    files: Sequence[str], overrides: Sequence[str], model: str, data: str, labels: Sequence[str], drop: Sequence[str] = ()
) -> ScoreConfig:
    """The configuration of a run that reads the training data and writes nothing.

    Args:
        files, overrides: as for ``score``; overrides win over the rest, and the rest over files.
        model: its URI.
        data: a path (with a slash in it, or that is there) or a table's name.
        labels: columns that are known outcomes; drop: columns that are left out.

    Raises:
        ConfigError: as ``compose`` would.
    """
    columns = {key: list(names) for key, names in (("labels", labels), ("drop", drop)) if names}
    given = {"model": {"uri": model}, "source": references.source_of(data), "columns": columns}
    return compose(files, [*overrides, *_WITHOUT], given)


def statistics(config: ScoreConfig, where: str, spark: SparkSession | None = None) -> tuple[Statistics, str]:
    """Count a data set as a scoring run would see it: the model's features, the labels, and the model's predictions.

    Args:
        config: made by ``configured``.
        where: how errors name the data.
        spark: the session to use.

    Returns:
        The statistics, and the pinned URI of the model.

    Raises:
        LakescoreError: as ``score`` would.
    """
    with storage.scratch_folder() as scratch, tracking.quiet_mlflow(), references.named(where):
        return _statistics(config, tracking.client_for(config.tracking), spark, scratch)


def _statistics(config: ScoreConfig, client: MlflowClient, spark: SparkSession | None, scratch: Path) -> tuple[Statistics, str]:
    screen = console.terminal()
    with progress.doing("fetching the model", screen):
        model, settings, digests = pipeline.resolve_model(config, client, scratch)
    inspection = source.inspect(config.source)
    with progress.doing("starting Spark", screen):
        spark = spark or routing.open_session(config)
    sink = planning.output_sink(config, "")
    plan = planning.make(config, spark, model, inspection, sink, "", False, None, settings, digests)
    scorer = job.scorer(plan, None, tracking.Stopwatch(), scratch)
    counting = progress.shown(lambda: session.job_progress(plan.spark), "counting", None, screen)
    runtime_conf, doing = session.runtime_conf(spark, **pipeline.runtime_conf(config)), translated(job.doing(config), LakescoreError)
    # Counted twice, and predicted once.
    with runtime_conf, counting, doing, session.persisted(job.scored(plan, scorer, Observed())) as rows:
        monitored = monitoring.all_monitored(plan, _elements(plan, rows))
        return profile.statistics_of(rows, monitored, redact(plan.source.description)), model.uri


def _elements(plan: Plan, rows: DataFrame) -> int:
    """How long the model's arrays are; 0 where it gives none."""
    if not isinstance(plan.result_type, T.ArrayType):
        return 0
    longest = rows.agg(F.max(F.size(column(PREDICTION))).alias("longest")).toArrow().column("longest")[0].as_py()
    return int(longest or 0)


def keep(found: Statistics, pinned: str, config: ScoreConfig) -> str:
    """Put statistics where a scoring run with the same model finds them; those of before are replaced.

    Args:
        found: the statistics.
        pinned: the model's URI, as ``statistics`` returned it.
        config: for its section ``tracking``.

    Returns:
        Where they are.

    Raises:
        ModelError: the model is where nothing can be added.
    """
    client = tracking.client_for(config.tracking)
    with storage.scratch_folder() as folder, as_default(client.tracking_uri, config.tracking.registry_uri), tracking.quiet_mlflow():
        file = folder / FILE
        file.write_text(found.to_json(), encoding="utf-8")
        return _keep(file, pinned, client)


def _keep(file: Path, pinned: str, client: MlflowClient) -> str:
    registered = _REGISTERED.match(pinned)
    place = str(client.get_model_version(*registered.groups()).source) if registered else pinned
    try:
        if logged := _LOGGED.match(place):
            client.log_model_artifact(logged.group(1), str(file))
        elif run := _RUN.match(place):
            client.log_artifact(run.group(1), str(file), run.group(2))
        elif storage.scheme_of(place) == "file" and (folder := Path(storage.local_path(place))).is_dir():
            shutil.copyfile(file, folder / FILE)
        else:
            raise ModelError(f"nothing can be added to {redact(place)}")
    except Exception as error:
        raise ModelError(
            f"--model: the statistics cannot be kept with {redact(pinned)}: {error}; write them to a file (--output FILE) and set "
            "drift.reference=FILE"
        ) from error
    return f"{FILE} of {redact(pinned)}"
