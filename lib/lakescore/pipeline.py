"""A configuration in, a published batch out: the whole story of a scoring run, stage by stage."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import columns, console, progress, reuse, session, source, storage, tracking
from lakescore.columns import Alignment
from lakescore.compose import compose
from lakescore.config import ColumnsConfig, OutputConfig, ScoreConfig, mini_batch_limit
from lakescore.engine import bundle, entry_script, spark_udf
from lakescore.errors import ConfigError, InputError, LakescoreError, ModelError, OutputError, listing
from lakescore.failures import translated
from lakescore.lineage import Lineage, check_partition_by, lineage_columns
from lakescore.models import resolve, script
from lakescore.models.resolve import ResolvedModel
from lakescore.schema import LINEAGE_COLUMNS, column
from lakescore.sinks import Batch, Published, Sink, Staged, open_sink
from lakescore.sinks.base import AlreadyPublishedError
from lakescore.source import Inspection, Source
from lakescore.tracking import Record

log = logging.getLogger(__name__)

_OWN = "__lakescore_"
_PREDICTION = f"{_OWN}prediction"
_FEATURES = f"{_OWN}features"
# Sources whose rows are files: an entry script gets their paths.
_FILE_FORMATS = ("images", "text_files", "binary")


@dataclass(frozen=True)
class ScoreResult:
    """What a run did.

    Attributes:
        outcome: ``scored``, ``skipped`` where the batch was published already, or ``reused`` (``scoring.allow_reuse``): the rest then
            describes the earlier run whose output it is.
        run_id: the MLflow run; experiment_id: the experiment it is in.
        batch_id, score_date: the batch, and the run's date (ISO).
        model_uri, model_version: the pinned model; empty when skipped.
        location: the output path or table; version: its Delta version after the commit.
        output_format: ``delta`` or ``parquet``.
        rows_read, rows_scored, rows_written: rows; they are equal.
        counts: null, NaN and infinite predictions.
        seconds: by stage; total_seconds: in all.
    """

    outcome: str
    run_id: str
    experiment_id: str
    batch_id: str
    score_date: str
    location: str
    output_format: str
    model_uri: str = ""
    model_version: str = ""
    version: int | None = None
    rows_read: int = 0
    rows_scored: int = 0
    rows_written: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Plan:
    """What a run would do, decided on the driver before the first task."""

    config: ScoreConfig
    spark: SparkSession
    model: ResolvedModel
    result_type: T.DataType
    source: Source
    alignment: Alignment
    prediction: tuple[str, ...]
    kept: tuple[str, ...]
    sink: Sink
    published: bool
    script: entry_script.Settings | None = None
    digests: tuple[str, ...] = ()

    def lineage(self, run_id: str, started: datetime) -> Lineage:
        run = self.config.run
        assert run.batch_id is not None and run.date is not None, "compose fixes both"
        return Lineage(self.model.uri, self.model.version, run_id, run.batch_id, started, run.date, self.config.output.partition_by)


def score(
    config: ScoreConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    spark: SparkSession | None = None,
) -> ScoreResult:
    """Score a source with a model and publish the predictions as one batch.

    Args:
        config: a composed configuration, a mapping of sections, or the path of a YAML file.
        overrides: ``section.key=value``, as on the command line.
        spark: the session to use; default: the one that is active, else a new one.

    Returns:
        What was done, and where the predictions are.

    Raises:
        LakescoreError: one line that says what is wrong; nothing is published then.
    """
    config = _composed(config, overrides)
    started = datetime.now(timezone.utc)
    client = tracking.client_for(config.tracking)
    scratch = Path(tempfile.mkdtemp(prefix="lakescore-"))
    try:
        with tracking.open_record(client, config) as record:
            return _run(config, client, record, scratch, started, spark)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def dry_run(
    config: ScoreConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    spark: SparkSession | None = None,
) -> Plan:
    """Do all of a run that writes nothing: resolve the model, read the source's schema, align the columns, check the output.

    Raises:
        LakescoreError: as ``score`` would before its first task.
    """
    config = _composed(config, overrides)
    scratch = Path(tempfile.mkdtemp(prefix="lakescore-"))
    try:
        client = tracking.client_for_looking(config.tracking, scratch)
        model, settings, digests = _resolve(config, client, scratch)
        inspection = source.inspect(config.source)
        sink = _open_sink(config, run_id="")
        spark = spark or session.open_session(config.spark, config.run.name)
        return _plan(config, spark, model, inspection, sink, bool(sink.find(spark)), settings, digests)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _composed(config: Any, overrides: Sequence[str]) -> ScoreConfig:
    if isinstance(config, ScoreConfig):
        if not overrides and config.run.batch_id is not None and config.run.date is not None:
            return config
        return compose((), overrides, config.model_dump(mode="json", by_alias=True))
    if isinstance(config, (str, Path)):
        return compose([config], overrides)
    return compose((), overrides, config or {})


def _run(
    config: ScoreConfig, client: MlflowClient, record: Record, scratch: Path, started: datetime, spark: SparkSession | None
) -> ScoreResult:
    sink = _open_sink(config, record.run_id)
    sink.recover(spark)
    published = sink.find(spark)
    if published and config.run.on_rerun != "replace":
        return _already_there(config, record, sink)
    with record.stage("model"):
        model, settings, digests = _resolve(config, client, scratch)
    log.info("model: %s (%s), %.1f s", model.uri, model.flavor, record.seconds["model"])
    inspection = source.inspect(config.source)
    with record.stage("session"):
        spark = spark or session.open_session(config.spark, config.run.name)
    if published is None:
        published = sink.find(spark)
        if published and config.run.on_rerun != "replace":
            return _already_there(config, record, sink)
    with record.stage("plan"):
        plan = _plan(config, spark, model, inspection, sink, bool(published), settings, digests)
    record.params(_parameters(plan, inspection))
    if config.scoring.allow_reuse and (earlier := _reused(plan, record)) is not None:
        return earlier
    log.info("source: %s, %d columns, %d features", plan.source.description, len(plan.alignment.kept), len(plan.alignment.inputs))
    with session.runtime_conf(spark, spark__sql__execution__arrow__maxRecordsPerBatch=_batch_size(config)):
        return _score(plan, record, scratch, started, inspection)


def _resolve(
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
        stop=True,
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
        if not open_sink(plan.config.output, batch).find(plan.spark):
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
            location=plan.sink.location,
            output_format=plan.config.output.format,
            model_uri=params["model.pinned_uri"],
            model_version=params["model.version"],
            version=None if version is None else int(version),
            rows_read=int(metrics["rows_read"]),
            rows_scored=int(metrics["rows_scored"]),
            rows_written=int(metrics["rows_written"]),
            seconds=dict(record.seconds),
        )
    return None


def _batch_size(config: ScoreConfig) -> str | None:
    return str(config.scoring.batch_size) if config.scoring.batch_size else None


def _open_sink(config: ScoreConfig, run_id: str) -> Sink:
    run = config.run
    assert run.batch_id is not None and run.date is not None, "compose fixes both"
    return open_sink(config.output, Batch(run.batch_id, run_id, run.date, run.on_rerun))


def _already_there(config: ScoreConfig, record: Record, sink: Sink) -> ScoreResult:
    if config.run.on_rerun == "fail":
        raise OutputError(
            f"run.batch_id: the batch {config.run.batch_id} is in {sink.location} already; set run.on_rerun=skip or replace, or give "
            "another batch_id"
        )
    log.info("output: the batch %s is in %s already; nothing to do (run.on_rerun=skip)", config.run.batch_id, sink.location)
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


def _plan(
    config: ScoreConfig,
    spark: SparkSession,
    model: ResolvedModel,
    inspection: Inspection,
    sink: Sink,
    published: bool,
    settings: entry_script.Settings | None,
    digests: tuple[str, ...],
) -> Plan:
    _refuse_self_overwrite(config)
    text_of_a_script = settings is not None and config.model.result_type is None
    result_type = T.StringType() if text_of_a_script else resolve.result_type(config.model, model.signature)
    names = [feature.name for feature in model.signature.features or ()]
    data = source.read(spark, config.source, inspection, names)
    chosen = config.columns if settings is None else _all_columns(config.columns, data.df.columns)
    alignment = columns.plan(data.df.schema, chosen, model.signature, session.is_case_sensitive(spark))
    kept = _kept(config.output, alignment)
    prediction = _prediction_names(config.output, result_type)
    _refuse_own_names(alignment.kept)
    _refuse_clashes(kept, prediction, session.is_case_sensitive(spark))
    aligned = columns.transform(data.df, alignment)
    check_partition_by(aligned, config.output.partition_by)
    plan = Plan(config, spark, model, result_type, data, alignment, prediction, kept, sink, published, settings, digests)
    sink.check(spark, output_schema(plan))
    return plan


def _all_columns(config: ColumnsConfig, names: Sequence[str]) -> ColumnsConfig:
    """An entry script says nothing of its inputs: it gets all columns but keys, labels and dropped ones, unless some are selected."""
    if config.select:
        return config
    apart = {*config.drop, *config.keys, *config.labels}
    return config.model_copy(
        update={"select": tuple(i for i, name in enumerate(names) if i not in apart and config.rename.get(name, name) not in apart)}
    )


def output_schema(plan: Plan) -> T.StructType:
    """The columns that the run writes, without running anything."""
    aligned = columns.transform(plan.source.df, plan.alignment)
    predicted = aligned.select("*", F.lit(None).cast(plan.result_type).alias(_PREDICTION))
    return _finished(plan, predicted, plan.lineage("", datetime.now(timezone.utc))).schema


def _refuse_self_overwrite(config: ScoreConfig) -> None:
    """A Parquet folder has no snapshot to read while it is written; a Delta table has, and is pinned."""
    if config.output.path is None or config.output.format != "parquet":
        return
    for path in config.source.path or ():
        if storage.overlap(config.output.path, path):
            raise OutputError(
                f"output.path: {storage.absolute(config.output.path)} overlaps source.path {path}; a run cannot write to what it reads"
            )


def _kept(config: OutputConfig, alignment: Alignment) -> tuple[str, ...]:
    if config.columns == "all":
        return alignment.kept
    if config.columns == "keys":
        if not alignment.keys:
            raise ConfigError("output.columns: keys needs columns.keys, which is empty")
        return tuple(name for name in alignment.kept if name in alignment.keys)
    unknown = [name for name in config.columns if name not in alignment.kept]
    if unknown:
        raise InputError(f"output.columns: there is no column {unknown[0]!r}; the kept columns are {listing(alignment.kept, 12)}")
    return tuple(config.columns)


def _prediction_names(config: OutputConfig, result: T.DataType) -> tuple[str, ...]:
    if isinstance(config.prediction, str):
        return (config.prediction,)
    fields = len(result.fields) if isinstance(result, T.StructType) else 1
    if len(config.prediction) != fields:
        raise ConfigError(
            f"output.prediction: lists {len(config.prediction)} name(s), and the model has {fields} output(s)"
            + (f" ({listing(result.names)})" if isinstance(result, T.StructType) else "")
        )
    return config.prediction


def _refuse_own_names(names: Sequence[str]) -> None:
    for name in names:
        if name.casefold().startswith(_OWN):
            raise InputError(f"the source: the column {name!r} has a name that Lakescore uses itself; rename (columns.rename) or drop it")


def _refuse_clashes(kept: Sequence[str], prediction: Sequence[str], case_sensitive: bool) -> None:
    taken: dict[str, tuple[str, str]] = {}
    for what, names in (("a source column", kept), ("a prediction", prediction), ("a column of the run's record", LINEAGE_COLUMNS)):
        for name in names:
            key = name if case_sensitive else name.casefold()
            if key in taken:
                other, first = taken[key]
                raise OutputError(
                    f"output: the column {first!r} would be both {other} and {what}; rename (columns.rename) or drop the source "
                    "column, or set output.prediction"
                )
            taken[key] = (what, name)


def _finished(plan: Plan, df: DataFrame, lineage: Lineage) -> DataFrame:
    """Kept columns, predictions, lineage; the partition's expression sees all kept columns, written or not."""
    chosen: list[Column] = [column(name) for name in plan.kept]
    if isinstance(plan.config.output.prediction, str) or not isinstance(plan.result_type, T.StructType):
        chosen.append(F.col(_PREDICTION).alias(plan.prediction[0]))
    else:
        fields = zip(plan.result_type.names, plan.prediction, strict=True)
        chosen += [F.col(_PREDICTION).getField(name).alias(alias) for name, alias in fields]
    return df.select(*chosen, *lineage_columns(lineage))


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
        "output": plan.sink.location,
        "output.format": config.output.format,
        "batch_id": config.run.batch_id,
        "score_date": config.run.date,
        **tracking.package_versions(),
    }


def _scorer(plan: Plan, record: Record, scratch: Path) -> Callable[[DataFrame], DataFrame]:
    """What adds the predictions to the aligned rows, tried out on a worker; a script's failed items have columns of their own."""
    if plan.script is not None:
        settings, alignment = plan.script, plan.alignment
        with record.stage("probe"):
            runner = entry_script.ship(plan.spark, settings, scratch)
            entry_script.try_out(plan.spark, runner)
        log.info("probe: %s imported and initialised on a worker, %.1f s", settings.script, record.seconds["probe"])
        is_files = plan.config.source.format in _FILE_FORMATS
        features: Sequence[str] | str = "path" if is_files else [one.feature.name for one in alignment.inputs]
        return lambda df: entry_script.with_results(df, runner, features, plan.result_type, _PREDICTION)
    config, model = plan.config, plan.model
    isolated = config.model.env_manager != "local"
    shipped = bundle.build(
        model.path,
        plan.result_type,
        config.model.predict_method,
        plan.alignment.integers,
        plan.alignment.absent,
        isolated,
        scratch / "bundle",
    )
    with record.stage("probe"), translated("model: the worker's test row failed", ModelError):
        predict = spark_udf.predictor(plan.spark, shipped, config.model.env_manager, config.model.params)
        _probe(plan, predict)
    log.info("probe: one row scored on a worker, %.1f s", record.seconds["probe"])
    return lambda df: spark_udf.with_predictions(df, predict, columns.features(plan.alignment), _PREDICTION, plan.result_type)


def _items(plan: Plan) -> tuple[str, ...]:
    """The columns that tell a person which row is meant."""
    return plan.alignment.keys or (("path",) if "path" in plan.alignment.kept else plan.alignment.kept[:4])


def _score(plan: Plan, record: Record, scratch: Path, started: datetime, inspection: Inspection) -> ScoreResult:
    config, spark = plan.config, plan.spark
    predict = _scorer(plan, record, scratch)
    read, scored = Observation(), Observation()
    try:
        staged = _stage(plan, record, predict, read, scored, plan.lineage(record.run_id, started), inspection.rows)
    except LakescoreError:
        # A run of the same batch that came first has cleared this one's staged files away.
        if not plan.published and plan.sink.find(spark):
            return _already_there(config, record, plan.sink)
        raise
    rows = int(read.get["rows"])
    log.info("score: %d rows, %d files, %.1f s", staged.rows, staged.files, record.seconds["score"])
    try:
        found = dict(scored.get)
        if plan.script is not None:
            entry_script.refuse({name: found.pop(name) for name in entry_script.SUMMARY}, plan.script.script)
        counts = {name: int(value) for name, value in found.items()}
        _audit(rows, counts.pop("rows"), staged)
        with record.stage("publish"):
            published = plan.sink.publish(spark, staged)
    except AlreadyPublishedError:
        plan.sink.discard(staged)
        if config.run.on_rerun == "replace":
            raise
        return _already_there(config, record, plan.sink)
    except BaseException:
        plan.sink.discard(staged)
        raise
    log.info(
        "output: %s%s, %.1f s",
        published.location,
        f" version {published.version}" if published.version is not None else "",
        record.seconds["publish"],
    )
    return _finish(plan, record, rows, staged, counts, published)


def _probe(plan: Plan, predict: Any) -> None:
    """Score one row on a worker first: a broken environment shows in seconds, and its message is the worker's own.

    The row goes through the driver: a limit below a Python UDF makes Spark throw the worker away, with all that it has loaded.
    """
    features = columns.transform(plan.source.df, plan.alignment).select(columns.features(plan.alignment).alias(_FEATURES)).limit(1)
    rows = features.collect()
    if rows:
        one = plan.spark.createDataFrame(rows, features.schema).coalesce(1)
        spark_udf.with_predictions(one, predict, F.col(_FEATURES), _PREDICTION, plan.result_type).select(_PREDICTION).collect()


def _stage(
    plan: Plan, record: Record, predict: Any, read: Observation, scored: Observation, lineage: Lineage, total_rows: int | None
) -> Staged:
    """The one job: read, score, count, write."""
    df = columns.transform(plan.source.df, plan.alignment)
    if plan.config.scoring.partitions is not None:
        df = df.repartition(plan.config.scoring.partitions)
    # Both counters stand in the stage that writes: what a retried task counted is replaced, not added.
    df = df.observe(read, F.count(F.lit(1)).alias("rows"))
    df = predict(df)
    failures = entry_script.summary(df, _items(plan)) if plan.script is not None else []
    df = df.observe(scored, *spark_udf.nan_counts(df, _PREDICTION), *failures)
    bar = progress.shown(lambda: session.job_progress(plan.spark), "scoring", total_rows, console.terminal())
    with record.stage("score"), bar, translated("scoring failed", LakescoreError):
        return plan.sink.stage(_finished(plan, df, lineage))


def _audit(read: int, scored: int, staged: Staged) -> None:
    if not read == scored == staged.rows:
        raise LakescoreError(
            f"the rows do not reconcile: {read} read, {scored} scored, {staged.rows} staged; nothing was published. Run it again, and "
            "report it if it stays"
        )


def _finish(plan: Plan, record: Record, rows: int, staged: Staged, counts: Mapping[str, int], published: Published) -> ScoreResult:
    metrics = {
        "rows_read": rows,
        "rows_scored": rows,
        "rows_written": staged.rows,
        "files_written": staged.files,
        "bytes_written": staged.size,
    }
    metrics.update({f"predictions_{name}": value for name, value in counts.items()})
    if published.version is not None:
        metrics["output_version"] = published.version
    try:
        record.finish("FINISHED", metrics, {"lakescore.outcome": "scored"})
    except Exception as error:
        # The batch is published: failing now would make a scheduler run it again.
        log.warning("tracking: the batch is published, and its run %s could not be completed: %s", record.run_id, error)
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
        rows_read=rows,
        rows_scored=rows,
        rows_written=staged.rows,
        counts=counts,
        seconds=dict(record.seconds),
    )
