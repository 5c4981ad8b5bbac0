"""A configuration in, a published batch out: the whole story of a scoring run, stage by stage."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import date, datetime, timezone
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow import MlflowClient
from pyspark.sql import SparkSession

from lakescore import (
    abandoned,
    console,
    frames,
    increments,
    interruption,
    job,
    monitoring,
    planning,
    progress,
    reuse,
    routing,
    runs,
    session,
    sharing,
    source,
    storage,
    timing,
    tracking,
    verdict,
    warmup,
)
from lakescore.compose import compose
from lakescore.config import ROW_FILES, ROW_PER_FILE, ScoreConfig, mini_batch_limit
from lakescore.direct import Route
from lakescore.engine import entry_script
from lakescore.errors import ConfigError, LakescoreError, NeedsSparkError, OutputError
from lakescore.lineage import Lineage
from lakescore.models import resolve, script
from lakescore.models.resolve import ResolvedModel
from lakescore.monitoring import Monitor
from lakescore.offsets import Window
from lakescore.planning import Plan
from lakescore.redact import redact
from lakescore.result import ScoreResult
from lakescore.sinks import Batch, Published, Sink, Staged, open_sink, quarantine
from lakescore.sinks.base import AlreadyPublishedError, beaten
from lakescore.source import Inspection
from lakescore.tracking import Record
from lakescore.verdict import DriftTable, Verdict

log = logging.getLogger(__name__)


def score(
    config: ScoreConfig | Mapping[str, Any] | str | Path | Sequence[str | Path] | None = None,
    *,
    overrides: Sequence[str] = (),
    spark: SparkSession | None = None,
    data: Any = None,
) -> ScoreResult:
    """Score a source with a model and publish the predictions as one batch.

    Args:
        config: a composed configuration, a mapping of sections, or the path of a YAML file, or several of which a later one wins.
        overrides: ``section.key=value``, as on the command line.
        spark: the session to use; default: the one that is active, else a new one.
        data: rows to score in place of the configured source: a pandas, Arrow or Spark DataFrame (the index of a pandas one is left
            out), or anything that Arrow can read as a table.

    Returns:
        What was done, and where the predictions are.

    Raises:
        LakescoreError: one line that says what is wrong; nothing is published then.
    """
    config = _composed(config, overrides, data)
    spark = _session_of(data, spark)
    if config.source.incremental is not None:
        return _score_what_is_new(config, spark)
    return _score_one(config, spark, data)


def _score_what_is_new(config: ScoreConfig, spark: SparkSession | None) -> ScoreResult:
    """Score what an earlier run has begun and not published, then what is new; the result is the last one's."""
    result = None
    with warmup.begun(None), tracking.quiet_mlflow():
        while (taken := _take(config, spark)) is not None:
            result = _score_one(taken.config, spark, None, taken.window)
            if not taken.is_left:
                return result
            log.warning("source: the batch %s, which another run had begun, is %s; looking for more", result.batch_id, result.outcome)
    if result is not None:
        return result
    last = increments.newest(config)
    log.info("source: %s; nothing to do", increments.nothing_new(last))
    location = planning.output_sink(config, "").location
    batch, day = ("", str(config.run.date)) if last is None else (last.batch_id or "", last.score_date)
    return ScoreResult("nothing_new", "", "", batch, day, location, config.output.format)


def _take(config: ScoreConfig, spark: SparkSession | None) -> increments.Taken | None:
    try:
        return increments.take(config, spark, partial(routing.open_session, config))
    except LakescoreError:
        with tracking.open_record(tracking.client_for(config.tracking), config):
            raise


def _score_one(config: ScoreConfig, spark: SparkSession | None, data: Any, window: Window | None = None) -> ScoreResult:
    """One batch; of an incremental source, what is in the window."""
    interruption.begin()
    started = datetime.now(timezone.utc)
    with (
        warmup.begun(config if spark is None and session.existing() is None else None),
        storage.scratch_folder() as scratch,
        tracking.quiet_mlflow(),
        tracking.open_record(tracking.client_for(config.tracking), config) as record,
        session.interruptible(),
    ):
        try:
            return _run(config, record, scratch, started, spark, data, window)
        finally:
            _remove_scratch(window)


def _remove_scratch(window: Window | None) -> None:
    """What was left for Spark to read; the next run removes what cannot be removed now."""
    place = storage.Location.of(window.scratch) if window is not None and window.scratch is not None else None
    if place is not None:
        with suppress(OSError):
            place.remove()
            storage.Location(place.fs, str(PurePosixPath(place.path).parent)).remove_if_empty()


def replay(
    config: ScoreConfig | Mapping[str, Any] | str | Path | Sequence[str | Path] | None = None,
    *,
    overrides: Sequence[str] = (),
    spark: SparkSession | None = None,
) -> ScoreResult:
    """Score the quarantined rows of the batch ``run.batch_id`` again, after what was wrong is mended.

    The rows are the source's as they were read; the source section is not used. Where each is a file, the same files are read again, as
    that section says. They become the batch ``BATCH.replay``, in the partition of the batch's date: a second replay of the same batch is
    skipped, and what fails again is quarantined under that name. A file of rows gets another one beside it: ``NAME.replay.jsonl``.

    Args:
        config: as for ``score``, with the same output and ``errors`` as the run that quarantined the rows.
        overrides: ``section.key=value``.
        spark: the session to use.

    Raises:
        InputError: nothing of the batch was quarantined.
        LakescoreError: as ``score`` would.
    """
    composed = _composed_of(config, overrides)
    spark = spark or routing.open_session(composed)
    rows, day = quarantine.source_rows(spark, quarantine.output_of(composed.output, composed.errors), str(composed.run.batch_id))
    sections = composed.to_dict()
    sections["run"] = {**sections["run"], "batch_id": quarantine.replay_of(str(composed.run.batch_id)), "date": day}
    if name := composed.output.file or ROW_FILES.get(composed.output.format):  # which holds one batch
        path = PurePosixPath(name)
        sections["output"] = {**sections["output"], "file": f"{path.stem}.replay{path.suffix}"}
    given = sections.pop("source")
    if composed.source.format not in ROW_PER_FILE:
        return score(sections, spark=spark, data=rows)
    # A file is mended on the disk, and an entry script wants its path.
    paths = [row["path"] for row in rows.select("path").sort("path").collect()]
    return score({**sections, "source": {**given, "path": paths, "incremental": None}}, spark=spark)


def dry_run(
    config: ScoreConfig | Mapping[str, Any] | str | Path | Sequence[str | Path] | None = None,
    *,
    overrides: Sequence[str] = (),
    spark: SparkSession | None = None,
    data: Any = None,
) -> Plan:
    """Do all of a run that writes nothing: resolve the model, read the source's schema, align the columns, check the output, find
    what drift is measured from.

    Raises:
        LakescoreError: as ``score`` would before its first task.
    """
    config = _composed(config, overrides, data)
    spark = _session_of(data, spark)
    with storage.scratch_folder() as scratch:
        client = tracking.client_for_looking(config.tracking, scratch)
        with tracking.quiet_mlflow():
            model, settings, digests = resolve_model(config, client, scratch)
        window = None
        if config.source.incremental is not None:
            config, window = increments.preview(config, spark, partial(routing.open_session, config))
        inspection = source.inspect(config.source, data, planning.quarantines(config), window)
        sink = planning.output_sink(config, run_id="")

        def prepare(spark: SparkSession | None) -> tuple[Plan, Monitor | None]:
            published = sink.find(spark)
            if published is None and spark is None:
                raise NeedsSparkError("only Spark can tell whether the batch is published")
            plan = planning.make(config, spark, model, inspection, sink, "", bool(published), data, settings, digests)
            with tracking.quiet_mlflow():
                monitoring.find(plan, client, config.tracking.registry_uri, scratch)
            return plan, None

        planned = routing.without_spark(config, inspection, spark or session.existing(), prepare)
        return planned[0] if planned is not None else prepare(spark or routing.open_session(config))[0]


def _composed(config: Any, overrides: Sequence[str], data: Any) -> ScoreConfig:
    if data is not None:
        overrides = [*overrides, f"source.data={frames.kind_of(data)}"]
    composed = _composed_of(config, overrides)
    if composed.source.data is not None and data is None:
        raise ConfigError(
            "source.data: says what score(..., data=...) was given in Python, and nothing was; set path, table, query or rows"
        )
    return composed


def _composed_of(config: Any, overrides: Sequence[str]) -> ScoreConfig:
    if isinstance(config, ScoreConfig):
        if not overrides and config.run.batch_id is not None and config.run.date is not None:
            return config
        return compose((), overrides, config.to_dict(rows=config.source.rows))
    if isinstance(config, (str, Path)):
        return compose([config], overrides)
    if isinstance(config, (list, tuple)):
        return compose(config, overrides)
    return compose((), overrides, {} if config is None else config)


def _session_of(data: Any, spark: SparkSession | None) -> SparkSession | None:
    """The session to use: a Spark DataFrame brings its own."""
    own = frames.session_of(data)
    if own is None:
        return spark
    if spark is not None and spark is not own:
        raise ConfigError("data: the DataFrame is of another Spark session than the one given as spark=; leave spark= out")
    return own


def _run(
    config: ScoreConfig,
    record: Record,
    scratch: Path,
    started: datetime,
    spark: SparkSession | None,
    data: Any,
    window: Window | None,
) -> ScoreResult:
    if (seconds := warmup.start_seconds()) is not None:
        record.seconds["start"] = seconds
    sink = planning.output_sink(config, record.run_id)
    sink.recover(spark)
    published = _find(sink, spark, config)
    if published is not None:
        _end_abandoned(config, record, sink, spark)
    if published and config.run.on_rerun != "replace":
        return _already_there(config, record, sink)
    screen = console.terminal()
    with record.stage("model"), progress.doing("fetching the model", screen):
        model, settings, digests = resolve_model(config, record.client, scratch)
    log.info("model: %s (%s), %.1f s", model.uri, model.flavor, record.seconds["model"])
    inspection = source.inspect(config.source, data, planning.quarantines(config), window)

    def prepare(spark: SparkSession | None) -> tuple[Plan, Monitor | None]:
        with record.stage("plan"), progress.doing("checking source and output", screen):
            plan = planning.make(config, spark, model, inspection, sink, record.run_id, bool(published), data, settings, digests)
            return plan, monitoring.prepare(plan, record.client, config.tracking.registry_uri, scratch)

    with ExitStack() as stack:
        chosen = routing.before_spark(config, inspection, spark, record, scratch, stack, prepare) if published is not None else None
        if chosen is None:
            with record.stage("session"), progress.doing("starting Spark", screen):
                spark = spark or routing.open_session(config)
            if published is None:
                published = _find(sink, spark, config)
                _end_abandoned(config, record, sink, spark)
                if published and config.run.on_rerun != "replace":
                    return _already_there(config, record, sink)
            plan, monitor = prepare(spark)
            route = routing.after_planning(plan, inspection, monitor, scratch, stack)
        else:
            plan, monitor, route = chosen
        drift_table = verdict.open_table(plan, record.run_id) if monitor is not None else None
        _refuse_shared(plan, drift_table, record)
        record.params(_parameters(plan, inspection))
        if config.scoring.allow_reuse and (earlier := _reused(plan, record)) is not None:
            return earlier
        if published is None:
            sink.find(plan.session)
        log.info("source: %s, %d columns, %d features", plan.source.description, len(plan.alignment.kept), len(plan.alignment.inputs))
        if plan.session is not None:
            stack.enter_context(session.runtime_conf(plan.session, **runtime_conf(config)))
        return _score(plan, route, monitor, drift_table, record, scratch, started, inspection)


def _end_abandoned(config: ScoreConfig, record: Record, sink: Sink, spark: SparkSession | None) -> None:
    """Runs of this batch that a crash left RUNNING say now what became of them."""
    abandoned.end_earlier(record, str(config.run.batch_id), tracking.output_of(config), lambda run_id: sink.rows_of(spark, run_id))


def _find(sink: Sink, spark: SparkSession | None, config: ScoreConfig) -> bool | None:
    """Whether the batch is published; None where that is to be asked later: what is in the way may be what ``allow_reuse`` returns."""
    try:
        return sink.find(spark)
    except OutputError:
        if config.scoring.allow_reuse:
            return None
        raise


def runtime_conf(config: ScoreConfig) -> dict[str, str]:
    """What Spark is told for this job alone; the configuration's own settings win."""
    rows = job.rows_per_call(config)
    batch = {"spark__sql__execution__arrow__maxRecordsPerBatch": str(rows)} if rows else {}
    return batch | {
        key: value for key, value in source.runtime_conf(config.source).items() if key.replace("__", ".") not in config.spark.conf
    }


def resolve_model(
    config: ScoreConfig, client: MlflowClient, scratch: Path
) -> tuple[ResolvedModel, entry_script.Settings | None, tuple[str, ...]]:
    """The model; with an entry script also how it is run, and the rows are stamped with the script where it has no model."""
    if config.model.entry_script is None:
        model = resolve.resolve(config.model, client, config.tracking.registry_uri, scratch / "model")
        return model, None, (model.digest,)
    found = script.load(config.model)
    (scratch / "model").mkdir()
    model, folder = script.resolve_with_model(config.model, found, client, config.tracking.registry_uri, scratch / "model")
    scoring = config.scoring
    settings = entry_script.Settings(
        script=found.name,
        files=found.files,
        model=folder,
        arguments=config.model.arguments,
        side_inputs={name: storage.absolute(path) for name, path in config.model.side_inputs.items()},
        mini_batch=mini_batch_limit(scoring.mini_batch_size) if scoring.mini_batch_size else (None, None),
        partition_keys=scoring.partition_keys,
        processes=scoring.processes,
        timeout=scoring.run_timeout,
        max_try=scoring.run_max_try,
        logging_level=scoring.logging_level,
        stop=config.errors.on_row_error == "fail",
        in_order=planning.is_lines_alone(config.output),
    )
    return model, settings, (model.digest, found.digest)


def _reused(plan: Plan, record: Record) -> ScoreResult | None:
    """The result of an earlier run with the same input, model or script, and settings, whose output is still there."""
    digest = reuse.key(plan.config, plan.source.version, list(plan.digests))
    if digest is None:
        log.info("scoring.allow_reuse: %s cannot be known again, so it is scored", plan.source.description)
        return None
    record.client.set_tag(record.run_id, reuse.TAG, digest)
    for run in reuse.find(record.client, record.experiment_id, digest):
        params, metrics = run.data.params, run.data.metrics
        batch = Batch(params["batch_id"], run.info.run_id, date.fromisoformat(params["score_date"]), "skip")
        sink = open_sink(reuse.output_of(plan.config.output, params["output"]), batch, plan.config.columns.keys)
        # A run that was ended by a later one does not tell all that it counted.
        if "rows_read" not in metrics or not sink.find(plan.session) or not runs.wrote_last(record.client, run):
            continue
        log.info("output: the run %s made it already of the same input and settings (scoring.allow_reuse)", run.info.run_id)
        record.finish("FINISHED", {"rows_written": 0}, {"lakescore.outcome": "reused", "lakescore.reused_run": run.info.run_id})
        version = metrics.get("output_version")
        return ScoreResult(
            outcome="reused",
            run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            batch_id=params["batch_id"],
            score_date=params["score_date"],
            location=sink.location,
            output_format=plan.config.output.format,
            model_uri=params["model.pinned_uri"],
            model_version=params["model.version"],
            version=None if version is None else int(version),
            rows_read=int(metrics["rows_read"]),
            rows_scored=int(metrics["rows_scored"]),
            rows_written=int(metrics["rows_written"]),
            rows_quarantined=int(metrics.get("rows_quarantined", 0)),
            seconds=dict(record.seconds),
        )
    return None


def _already_there(config: ScoreConfig, record: Record, sink: Sink) -> ScoreResult:
    if config.run.on_rerun == "fail":
        raise OutputError(
            f"run.batch_id: the batch {config.run.batch_id} is in {sink.location} already; set run.on_rerun=skip or replace, or give "
            "another batch_id"
        )
    log.info("output: the batch %s is in %s already; nothing to do (run.on_rerun=skip)", config.run.batch_id, sink.location)
    record.params(_whereabouts(config, sink))
    record.finish("FINISHED", {"rows_read": 0, "rows_scored": 0, "rows_written": 0}, {"lakescore.outcome": "skipped"})
    return ScoreResult(
        outcome="skipped",
        run_id=record.run_id,
        experiment_id=record.experiment_id,
        batch_id=str(config.run.batch_id),
        score_date=str(config.run.date),
        location=sink.location,
        output_format=config.output.format,
        seconds=dict(record.seconds),
    )


def _whereabouts(config: ScoreConfig, sink: Sink) -> dict[str, Any]:
    """What finds the batch again."""
    return {
        "output": sink.location,
        "output.format": config.output.format,
        "batch_id": config.run.batch_id,
        "score_date": config.run.date,
    }


def _parameters(plan: Plan, inspection: Inspection) -> dict[str, Any]:
    config = plan.config
    return {
        "model.uri": config.model.uri,
        "model.pinned_uri": plan.model.uri,
        "model.version": plan.model.version,
        "model.digest": plan.model.digest,
        "model.flavor": plan.model.flavor,
        "source": plan.source.description,
        "source.format": inspection.format,
        "source.version": plan.source.version,
        "source.files": inspection.files,
        "source.bytes": inspection.size,
        "source.rows": inspection.rows,
        **(inspection.window.parameters() if inspection.window is not None else {}),
        **_whereabouts(config, plan.sink),
        **tracking.package_versions(),
    }


def _score(
    plan: Plan,
    route: Route | None,
    monitor: Monitor | None,
    drift_table: DriftTable | None,
    record: Record,
    scratch: Path,
    started: datetime,
    inspection: Inspection,
) -> ScoreResult:
    config, spark, lineage = plan.config, plan.session, plan.lineage(record.run_id, started)
    try:
        work = _stage(plan, route, monitor, record, scratch, lineage, inspection)
    except LakescoreError:
        if _is_beaten(plan, spark):
            return _already_there(config, record, plan.sink)
        raise
    try:
        log.info("score: %d rows, %d files, %.1f s (%s)", work.staged.rows, work.staged.files, record.seconds["score"], work.engine)
        if plan.script is not None:
            entry_script.refuse(work.failures, plan.script.script, allowed=0 if plan.quarantine is None else None)
        job.audit(work)
        job.refuse_too_many(work, config.errors)
        judged = verdict.judge(plan, monitor, work) if monitor is not None else None
        if judged is not None:
            verdict.refuse(plan, judged, drift_table, record, lineage)
        # From here on a signal comes too late to stop anything: the run says what it has done.
        with interruption.held(last=True):
            published = _publish(plan, work, record)
            if judged is not None:
                with record.stage("report"):
                    verdict.leave(plan, judged, drift_table, record, lineage)
            _say_where_time_went(record, work, inspection, route)
            return _finish(plan, route, record, work, published, judged)
    except BaseException as error:
        with interruption.held():
            job.discard(plan, work)
        if isinstance(error, AlreadyPublishedError) and config.run.on_rerun != "replace":
            return _already_there(config, record, plan.sink)
        if isinstance(error, job.UnreconciledError) and _is_beaten(plan, spark):
            return _already_there(config, record, plan.sink)
        raise


def _refuse_shared(plan: Plan, drift_table: DriftTable | None, record: Record) -> None:
    """Raise OutputError where this batch would replace one of another output in a table beside it."""
    config = plan.config
    if plan.quarantine is not None and plan.quarantine.find(plan.spark):
        place = quarantine.output_of(config.output, config.errors)
        sharing.refuse_shared(record.client, plan.spark, config, "errors.quarantine", place)
    if drift_table is not None and drift_table.has_batch:
        sharing.refuse_shared(record.client, plan.spark, config, "drift.table", drift_table.place)


def _is_beaten(plan: Plan, spark: SparkSession | None) -> bool:
    """Whether a run of the same batch has published it meanwhile, and has cleared away what this one has staged, all or a part."""
    return not plan.published and bool(plan.sink.find(spark))


def _publish(plan: Plan, work: job.Work, record: Record) -> Published:
    with record.stage("publish"):
        if plan.quarantine is not None and plan.config.run.on_rerun != "replace" and plan.sink.find(plan.session):
            # The quarantine is that of the run that was faster: its rows must not be replaced.
            raise beaten("output", planning.batch_of(plan.config, record.run_id))
        job.publish_quarantine(plan, work)
        published = plan.sink.publish(plan.session, work.staged)
    log.info(
        "output: %s%s, %.1f s",
        published.location,
        f" version {published.version}" if published.version is not None else "",
        record.seconds["publish"],
    )
    return published


def _say_where_time_went(record: Record, work: job.Work, inspection: Inspection, route: Route | None) -> None:
    log.info("time: %s", timing.breakdown(record.seconds, work.workers))
    parts = sum(len(file.groups) for file in inspection.parquet.files) if inspection.parquet is not None else None
    hint = timing.advice(work.workers, inspection.files, inspection.size, parts, route.settings.cores if route is not None else 1)
    if hint is not None:
        log.info("time: %s", hint)


def _stage(
    plan: Plan, route: Route | None, monitor: Monitor | None, record: Record, scratch: Path, lineage: Lineage, inspection: Inspection
) -> job.Work:
    """Score and stage the rows."""
    if route is not None and inspection.parquet is not None:
        return job.stage_direct(plan, route, inspection.parquet, monitor, record, lineage)
    scorer = job.scorer(plan, monitor, record, scratch)
    return job.stage(plan, monitor, record, scorer, lineage, inspection.rows)


def _written(staged: Staged) -> int:
    return staged.rows if staged.written is None else staged.written


def _finish(plan: Plan, route: Route | None, record: Record, work: job.Work, published: Published, judged: Verdict | None) -> ScoreResult:
    metrics: dict[str, float] = {
        "rows_read": work.read,
        "rows_scored": work.scored,
        "rows_written": _written(work.staged),
        "rows_quarantined": work.quarantined,
        "files_written": work.staged.files,
        "bytes_written": work.staged.size,
        **{f"worker_seconds.{what}": round(seconds, 3) for what, seconds in work.workers.items()},
    }
    metrics.update({f"predictions_{name}": value for name, value in work.counts.items()})
    if judged is not None:
        metrics.update(judged.metrics)
    if not work.read:
        log.warning("source: there are no rows; the batch is published without any")
    if published.version is not None:
        metrics["output_version"] = published.version
    try:
        record.params({"scoring.engine": work.engine, "spark.backend": routing.backend_of(plan, route)})
        record.finish("FINISHED", metrics, {"lakescore.outcome": "scored"})
    except Exception as error:
        # The batch is published: failing now would make a scheduler run it again.
        log.warning("tracking: the batch is published, and its run %s could not be completed: %s", record.run_id, redact(str(error)))
    return ScoreResult(
        outcome="scored",
        run_id=record.run_id,
        experiment_id=record.experiment_id,
        batch_id=str(plan.config.run.batch_id),
        score_date=str(plan.config.run.date),
        location=published.location,
        output_format=plan.config.output.format,
        model_uri=plan.model.uri,
        model_version=plan.model.version,
        version=published.version,
        rows_read=work.read,
        rows_scored=work.scored,
        rows_written=_written(work.staged),
        rows_quarantined=work.quarantined,
        quarantine=plan.quarantine.location if plan.quarantine is not None and work.failed is not None else None,
        counts=work.counts,
        seconds=dict(record.seconds),
        drift=verdict.as_result(judged),
        worker_seconds=dict(work.workers),
        engine=work.engine,
        backend=routing.backend_of(plan, route),
    )
