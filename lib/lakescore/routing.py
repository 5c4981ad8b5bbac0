"""Where the rows go: through Spark, or straight from files to files by workers; and whether Spark is started at all.

``backend`` tells what the configuration wants, ``direct`` what the plan allows; here both are asked, and what is needed is begun.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pyspark.sql import SparkSession

from lakescore import backend, console, direct, job, progress, session, warmup
from lakescore.config import ScoreConfig
from lakescore.direct import Route
from lakescore.errors import NeedsSparkError
from lakescore.monitoring import Monitor
from lakescore.planning import Plan
from lakescore.source import Inspection
from lakescore.tracking import Record

log = logging.getLogger(__name__)


def before_spark(
    config: ScoreConfig,
    inspection: Inspection,
    spark: SparkSession | None,
    record: Record,
    scratch: Path,
    stack: ExitStack,
    prepare: Callable[[SparkSession | None], tuple[Plan, Monitor | None]],
) -> tuple[Plan, Monitor | None, Route] | None:
    """The plan of a run whose rows do not pass Spark, made without it, while it starts; None where they do.

    Raises:
        ConfigError: ``spark.backend`` is embedded, and the run needs Spark.
    """
    spark = spark or session.existing()
    planned = without_spark(config, inspection, spark, prepare)
    if planned is None:
        warmup.drop_pool()
        return None
    plan, monitor, embedded = planned
    workers = stack.enter_context(warmup.take_pool())
    route = Route(direct.this_machine(config.spark.master), workers, job.guarded(plan, scratch))
    workers.load(route.guarded)
    if embedded is None:
        return plan, monitor, route
    log.debug("spark: it runs the tasks, because %s", embedded)
    with record.stage("session"), progress.doing("starting Spark", console.terminal()):
        if spark is None and config.drift.table is None:
            context = warmup.take_context(config)
        else:
            spark = spark or open_session(config)
            context = spark.sparkContext
    settings = direct.settings_of(spark or context)
    if settings is None:
        workers.close()
    return None if settings is None else (replace(plan, session=spark), monitor, replace(route, settings=settings, context=context))


def without_spark(
    config: ScoreConfig,
    inspection: Inspection,
    spark: SparkSession | None,
    prepare: Callable[[SparkSession | None], tuple[Plan, Monitor | None]],
) -> tuple[Plan, Monitor | None, str | None] | None:
    """What ``prepare`` gives without Spark, and why Spark is to run the tasks (None: it is not); None where the rows pass Spark.

    Raises:
        ConfigError: as ``before_spark``.
    """
    reason = backend.why_spark_reads(config) if spark is None or direct.settings_of(spark) else "the session is another than ours"
    if reason is None and spark is None and session.is_submitted_elsewhere(config.spark):
        reason = "spark-submit runs the tasks on other machines"
    if reason is None:
        try:
            plan, monitor = prepare(None)
            reason = direct.refusal(plan, inspection.parquet, inspection.only_spark, monitor)
        except NeedsSparkError as needed:
            reason = str(needed)
    embedded = "there is a session already" if spark is not None else backend.why_spark(config)
    if (needed_for := reason or embedded) is not None:
        backend.refuse(config, needed_for)
    if reason is not None:
        log.debug("score: the rows pass Spark, because %s", reason)
        return None
    return plan, monitor, embedded


def after_planning(plan: Plan, inspection: Inspection, monitor: Monitor | None, scratch: Path, stack: ExitStack) -> Route | None:
    """The same for a plan that could not be made without Spark."""
    if backend.why_spark_reads(plan.config) is not None:
        return None
    settings = direct.settings_of(plan.spark)
    reason = direct.refusal(plan, inspection.parquet, inspection.only_spark, monitor)
    if settings is None or reason is not None:
        log.debug("score: the rows pass Spark, because %s", reason or "the session is another than ours, or has other machines")
        return None
    return Route(settings, stack.enter_context(warmup.take_pool()), job.guarded(plan, scratch), plan.spark.sparkContext)


def open_session(config: ScoreConfig) -> SparkSession:
    """The session that is there, or a new one as the configuration has it."""
    return warmup.take_session(config)


def backend_of(plan: Plan, route: Route | None) -> str:
    """What runs the tasks: ``spark`` or ``embedded``."""
    return "embedded" if plan.session is None and (route is None or route.context is None) else "spark"
