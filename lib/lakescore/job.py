"""A plan in, a batch that no reader sees out, counted and audited: the one job of a run, and what is tried before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import columns, console, direct, monitoring, planning, progress, session, source
from lakescore.config import ROW_PER_FILE, ErrorsConfig, ScoreConfig
from lakescore.direct import Route
from lakescore.engine import bundle, entry_script, fast, guard, spark_udf
from lakescore.engine.direct import Answer
from lakescore.engine.isolation import ERROR_FIELD
from lakescore.engine.spark_udf import Predictor
from lakescore.errors import InputError, LakescoreError, ModelError
from lakescore.failures import translated
from lakescore.lineage import Lineage
from lakescore.monitoring import Monitor
from lakescore.observing import Observed
from lakescore.parquet_files import ParquetFiles
from lakescore.planning import OWN, PREDICTION, ROW, Plan
from lakescore.schema import PARTITION, column
from lakescore.sinks import FileSink, Staged
from lakescore.sinks.base import Layout
from lakescore.tracking import Stopwatch

log = logging.getLogger(__name__)

_FEATURES = f"{OWN}features"


@dataclass(frozen=True)
class Work:
    """A batch that no reader sees yet, and what was counted while it was made.

    Attributes:
        staged: the scored rows; failed: the quarantined rows, None where there are none.
        read, scored, quarantined: rows as they were counted on the way.
        counts: null, NaN and infinite predictions.
        example: the error of one of the quarantined rows.
        failures: what an entry script's failed items were, as ``entry_script.refuse`` judges them; empty for a model.
        observed: what the tasks counted of the watched columns, as ``monitoring.statistics_of`` reads it; empty where none are.
        workers: seconds of all workers together by what they did, where they tell.
        engine: what scored: ``direct``, ``fast``, ``spark_udf`` or ``entry_script``.
    """

    staged: Staged
    failed: Staged | None
    read: int
    scored: int
    quarantined: int
    counts: Mapping[str, int]
    example: str
    failures: Mapping[str, Any]
    observed: Mapping[str, Any]
    workers: Mapping[str, float] = field(default_factory=dict)
    engine: str = ""


def scorer(plan: Plan, monitor: Monitor | None, stopwatch: Stopwatch, scratch: Path) -> Callable[[DataFrame], DataFrame]:
    """What adds the predictions to the aligned rows, tried out on a worker; and why a row has none, where that is an answer.

    With a monitor it also adds ``COUNTED_FIELD``, what each task counted of what is watched.
    """
    if plan.script is None:
        return _model_scorer(plan, monitor, stopwatch, scratch)
    score = _script_scorer(plan, plan.script, stopwatch, scratch)
    return score if monitor is None else lambda df: monitoring.beside_rows(score(df), monitor)


def _script_scorer(plan: Plan, settings: entry_script.Settings, stopwatch: Stopwatch, scratch: Path) -> Callable[[DataFrame], DataFrame]:
    with stopwatch.stage("probe"), progress.doing("trying the script on a worker", console.terminal()):
        runner = entry_script.ship(plan.spark, settings, scratch)
        entry_script.try_out(plan.spark, runner)
    log.info("probe: %s imported and initialised on a worker, %.1f s", settings.script, stopwatch.seconds["probe"])
    is_files = plan.config.source.format in ROW_PER_FILE
    features: Sequence[str] | str = "path" if is_files else [one.feature.name for one in plan.alignment.inputs]

    def score(df: DataFrame) -> DataFrame:
        answered = entry_script.with_results(df, runner, features, plan.result_type, PREDICTION)
        if plan.quarantine is None:
            return answered
        # A value that could not be cast is the row's own fault, whatever the script made of it.
        return answered.withColumn(ERROR_FIELD, F.coalesce(F.concat(F.lit("InputError: "), F.col(guard.PROBLEM)), F.col(ERROR_FIELD)))

    return score


def _model_scorer(plan: Plan, monitor: Monitor | None, stopwatch: Stopwatch, scratch: Path) -> Callable[[DataFrame], DataFrame]:
    config, watch = plan.config, None if monitor is None else monitor.watch()
    made = bundle.build(plan.model.path, _contract(plan), config.model.env_manager != "local", scratch / "bundle")
    trying = progress.doing("scoring one row on a worker", console.terminal())
    with stopwatch.stage("probe"), trying, translated("model: the worker's test row failed", ModelError):
        if plan.engine == "fast":
            predictor = fast.predictor(plan.spark, made, config.model.params, watch, rows_per_call(config), scratch)
        else:
            predictor = spark_udf.predictor(plan.spark, made, config.model.env_manager, config.model.params, watch)
        features = _features(plan, monitor)
        _probe(plan, features, predictor)
    log.info("probe: one row scored on a worker, %.1f s (engine %s)", stopwatch.seconds["probe"], plan.engine)
    return lambda df: spark_udf.with_predictions(df, predictor, features, PREDICTION, plan.result_type)


def rows_per_call(config: ScoreConfig) -> int | None:
    """The rows that a model may get at once; None: nothing limits them."""
    return config.scoring.batch_size or source.rows_per_batch(config.source)


def _contract(plan: Plan) -> bundle.Contract:
    isolates = plan.quarantine is not None
    return bundle.Contract(
        result=plan.result_type,
        method=plan.config.model.predict_method,
        device=plan.config.model.device,
        # Where rows are quarantined, a null among integers is found before it comes to pandas.
        integers=() if isolates else plan.alignment.integers,
        absent=plan.alignment.absent,
        keys=plan.alignment.keys,
        isolates=isolates,
        tensor=plan.tensor,
        threads=(fast.threads_of(plan.session) if plan.session is not None else 1) if plan.engine == "fast" else None,
    )


def _aligned(plan: Plan) -> DataFrame:
    """The source's rows with the kept columns; where rows are quarantined, with the row as it was, and what is wrong with it."""
    return columns.transform(plan.source.df, plan.alignment, None if plan.quarantine is None else (ROW, guard.PROBLEM))


def _features(plan: Plan, monitor: Monitor | None) -> Column:
    """The model's features over the aligned rows, and beside them what names a row that fails, and what is watched and no feature."""
    keys = {f"{guard.KEY}{name}": column(name) for name in plan.alignment.keys}
    beside = {**keys, **(monitor.beside if monitor is not None else {})}
    return columns.features(plan.alignment, beside, None if plan.quarantine is None else guard.PROBLEM)


def _probe(plan: Plan, features: Column, predictor: Predictor) -> None:
    """Score one row on a worker first: a broken environment shows in seconds, and its message is the worker's own.

    The row goes through the driver: a limit below a Python UDF makes Spark throw the worker away, with all that it has loaded.
    """
    with translated(doing(plan.config), InputError):
        row = _aligned(plan).select(features.alias(_FEATURES)).limit(1).toArrow()
    if not row.num_rows:
        return
    one = plan.spark.createDataFrame(row).coalesce(1)
    scored = spark_udf.with_predictions(one, predictor, F.col(_FEATURES), PREDICTION, plan.result_type)
    (scored if plan.quarantine is not None else scored.select(*planning.outputs(plan))).toArrow()


def _items(plan: Plan) -> tuple[str, ...]:
    """The columns that tell a person which row is meant."""
    return plan.alignment.keys or (("path",) if "path" in plan.alignment.kept else plan.alignment.kept[:4])


def scored(plan: Plan, scorer: Callable[[DataFrame], DataFrame], read: Observed) -> DataFrame:
    """The aligned rows with their predictions; ``read`` counts them."""
    df = _aligned(plan)
    if plan.config.scoring.partitions is not None:
        df = df.repartition(plan.config.scoring.partitions)
    return scorer(read.watch(df, F.count(F.lit(1)).alias("rows")))


def stage(
    plan: Plan,
    monitor: Monitor | None,
    stopwatch: Stopwatch,
    scorer: Callable[[DataFrame], DataFrame],
    lineage: Lineage,
    total_rows: int | None,
) -> Work:
    """The one job: read, score, count, write.

    Args:
        plan: the run; monitor: what is watched, None: nothing.
        stopwatch: takes the time of the stage ``score``.
        scorer: made by ``scorer`` with the same plan and monitor.
        lineage: the run's columns.
        total_rows: for the progress bar; None: not known.

    Raises:
        LakescoreError: a row cannot be read, scored or written.
    """
    # The counters stand in the stage that writes: what a retried task counted is replaced, not added.
    read, watched = Observed(), Observed()
    answered = scored(plan, scorer, read)
    if monitor is not None:
        answered = monitoring.observe(answered, monitor, watched)
    bar = progress.shown(lambda: session.job_progress(plan.spark), "scoring", total_rows, console.terminal())
    with stopwatch.stage("score"), bar, translated(doing(plan.config), LakescoreError):
        if plan.quarantine is None:
            work = _stage_all(plan, answered, lineage, read)
        else:
            with session.persisted(answered) as kept:
                work = _stage_apart(plan, kept, lineage, read)
    work = replace(work, engine=plan.engine)
    return work if monitor is None else replace(work, observed=watched.get())


def guarded(plan: Plan, scratch: Path) -> Path:
    """Write the model behind its guard, for workers that call it on their own; returns its folder."""
    return bundle.build(plan.model.path, _contract(plan), False, scratch / "guarded").path / "guarded"


def stage_direct(plan: Plan, route: Route, files: ParquetFiles, monitor: Monitor | None, stopwatch: Stopwatch, lineage: Lineage) -> Work:
    """The same where workers read and write the files on their own: no row passes Spark.

    Args:
        plan: of which ``direct.refusal`` has nothing to say; files, monitor: as it was told.
        route: the workers.
        stopwatch: takes the time of the stage ``score``.
        lineage: the run's columns.

    Raises:
        LakescoreError: a row cannot be read, scored or written.
    """
    assert isinstance(plan.sink, FileSink), "direct.refusal has looked"
    tasks, counting = direct.tasks_of(files, route.settings.cores), direct.Counting()
    answers: list[Answer] = []

    def write(layout: Layout) -> set[str]:
        made = direct.job_of(plan, files, route, monitor, lineage, layout)
        try:
            answers.extend(direct.run(route, made, tasks, counting))
        finally:
            # From here on nobody writes: what is listed is all, and what is removed stays away.
            route.pool.close()
        return {answer.file for answer in answers}

    total = sum(file.rows for file in files.files)
    context = route.context
    reader = counting.reader if context is None else (lambda: session.stages_of(context))
    bar = progress.shown(reader, "scoring", total, console.terminal())
    with stopwatch.stage("score"), bar, translated(doing(plan.config), LakescoreError):
        staged = plan.sink.stage_files(planning.output_schema(plan), write)
    counts = {"null": sum(one.null for one in answers)}
    if isinstance(plan.result_type, (T.FloatType, T.DoubleType)):
        counts |= {"nan": sum(one.nan for one in answers), "infinite": sum(one.infinite for one in answers)}
    scored = sum(one.rows for one in answers)
    seconds = direct.seconds_of(answers)
    seconds["load"] = seconds.get("load", 0.0) + route.pool.load_seconds
    return Work(staged, None, total, scored, 0, counts, "", {}, direct.observed(answers, monitor), seconds, "direct")


def doing(config: ScoreConfig) -> str:
    """What a failure that names nothing may come from: the expressions that are evaluated with the rows."""
    expressions = {"source.query": config.source.query, "source.filter": config.source.filter}
    given = [f"{key}: {text}" for key, text in expressions.items() if text is not None]
    if config.output.partition_by != PARTITION:
        given.append(f"output.partition_by: {config.output.partition_by}")
    return "; ".join(given) or "scoring failed"


def _stage_all(plan: Plan, df: DataFrame, lineage: Lineage, read: Observed) -> Work:
    scored = Observed()
    df = scored.watch(df, *spark_udf.nan_counts(df, PREDICTION), *_script_summary(plan, df))
    staged = plan.sink.stage(planning.finished(plan, df, lineage))
    # The outermost first: if its rows must pass again, what stands before it is counted with them.
    found = scored.get()
    failures = {name: found.pop(name) for name in entry_script.SUMMARY if name in found}
    counts = {name: int(value) for name, value in found.items()}
    return Work(staged, None, int(read.get()["rows"]), counts.pop("rows"), 0, counts, "", failures, {})


def _stage_apart(plan: Plan, df: DataFrame, lineage: Lineage, read: Observed) -> Work:
    """What was scored to the output, and what was not to the quarantine, if there is any."""
    assert plan.quarantine is not None, "asked by the caller"
    work = _stage_all(plan, df.where(F.col(ERROR_FIELD).isNull()), lineage, read)
    if work.read == work.scored:
        return work
    try:
        seen = Observed()
        failed = df.where(F.col(ERROR_FIELD).isNotNull())
        example = F.min(ERROR_FIELD).alias("example")
        failed = seen.watch(failed, F.count(F.lit(1)).alias("rows"), example, *_script_summary(plan, failed))
        staged = plan.quarantine.stage(planning.quarantined(plan, failed, ERROR_FIELD, lineage))
        found = seen.get()
        failures = {name: found[name] for name in entry_script.SUMMARY if name in found}
        return replace(work, failed=staged, quarantined=int(found["rows"]), example=str(found["example"]), failures=failures)
    except BaseException:
        plan.sink.discard(work.staged)
        raise


def _script_summary(plan: Plan, df: DataFrame) -> list[Column]:
    return [] if plan.script is None else entry_script.summary(df, _items(plan))


class UnreconciledError(LakescoreError):
    """Rows that were read are not staged."""


def audit(work: Work) -> None:
    """Raise UnreconciledError unless every row that was read is staged once, scored or quarantined."""
    quarantined = work.failed.rows if work.failed else 0
    if work.read != work.scored + work.quarantined or work.scored != work.staged.rows or work.quarantined != quarantined:
        raise UnreconciledError(
            f"the rows do not reconcile: {work.read} read, {work.scored} scored, {work.staged.rows} staged, {work.quarantined} failed, "
            f"{quarantined} quarantined; nothing was published. Run it again, and report it if it stays"
        )


def refuse_too_many(work: Work, errors: ErrorsConfig) -> None:
    """The thresholds; without one, a batch of which every row failed is no batch."""
    if errors.error_threshold is not None:
        key, most = "errors.error_threshold", work.read if errors.error_threshold < 0 else errors.error_threshold
    elif errors.max_failed_fraction is not None:
        # As a share, and not as a number of rows: 0.0003 * 10,000 is less than 3.
        within = work.quarantined <= errors.max_failed_fraction * work.read or work.quarantined / work.read <= errors.max_failed_fraction
        key, most = "errors.max_failed_fraction", work.quarantined if within else int(errors.max_failed_fraction * work.read)
    else:
        key, most = "errors.on_row_error", max(work.read - 1, 0)
    if work.quarantined > most:
        raise InputError(
            f"{key}: {work.quarantined} of {work.read} rows could not be scored, and at most {most} may be quarantined; nothing was "
            f"published. One of them: {work.example}"
        )


def publish_quarantine(plan: Plan, work: Work) -> None:
    """Before the output: a crash between the two leaves a quarantine that the rerun replaces, and never a batch that lacks its own."""
    if plan.quarantine is None:
        return
    if work.failed is not None:
        plan.quarantine.publish(plan.spark, work.failed)
    elif plan.quarantine.find(plan.spark):
        # This batch was there before with rows that are good now.
        lineage = plan.lineage("", datetime.now(timezone.utc))
        none = columns.transform(plan.source.df, plan.alignment, (ROW, guard.PROBLEM)).limit(0)
        plan.quarantine.publish(plan.spark, plan.quarantine.stage(planning.quarantined(plan, none, guard.PROBLEM, lineage)))


def discard(plan: Plan, work: Work) -> None:
    """Remove what was staged."""
    plan.sink.discard(work.staged)
    if plan.quarantine is not None:
        plan.quarantine.discard(work.failed)
