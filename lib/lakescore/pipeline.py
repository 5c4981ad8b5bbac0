"""A configuration in, a published batch out: the whole story of a scoring run, stage by stage."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import classes, columns, console, frames, inline_rows, progress, reuse, session, source, storage, tensors, tracking
from lakescore.columns import Alignment
from lakescore.compose import compose
from lakescore.config import ROW_PER_FILE, ColumnsConfig, ErrorsConfig, OutputConfig, ScoreConfig, mini_batch_limit
from lakescore.engine import bundle, entry_script, guard, spark_udf
from lakescore.engine.isolation import ERROR_FIELD
from lakescore.errors import ConfigError, InputError, LakescoreError, ModelError, OutputError, did_you_mean, listing
from lakescore.failures import translated
from lakescore.lineage import Lineage, check_partition_by, lineage_columns
from lakescore.models import resolve, script
from lakescore.models.resolve import ResolvedModel
from lakescore.schema import LINEAGE_COLUMNS, PARTITION, TIMESTAMPS, Tensor, column
from lakescore.sinks import Batch, Published, Sink, Staged, open_sink, quarantine
from lakescore.sinks.base import AlreadyPublishedError
from lakescore.source import Inspection, Source
from lakescore.tracking import Record

log = logging.getLogger(__name__)

_OWN = "__lakescore_"
_PREDICTION = f"{_OWN}prediction"
_FEATURES = f"{_OWN}features"
_ROW = f"{_OWN}row"


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
        output_format: ``delta``, ``parquet``, ``jsonl``, ``append_row`` or ``summary_only``.
        rows_read, rows_scored, rows_written: rows; rows read = rows scored + rows quarantined, and all that are scored are written, but
            that ``summary_only`` writes none.
        rows_quarantined: rows that could not be scored; quarantine: the path or table that they are in, None where there are none.
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
    rows_quarantined: int = 0
    quarantine: str | None = None
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
    quarantine: Sink | None = None
    tensor: Tensor | None = None
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
    data: Any = None,
) -> ScoreResult:
    """Score a source with a model and publish the predictions as one batch.

    Args:
        config: a composed configuration, a mapping of sections, or the path of a YAML file.
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
    started = datetime.now(timezone.utc)
    scratch = Path(tempfile.mkdtemp(prefix="lakescore-"))
    try:
        with tracking.quiet_mlflow(), tracking.open_record(tracking.client_for(config.tracking), config) as record:
            return _run(config, record.client, record, scratch, started, spark, data)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def dry_run(
    config: ScoreConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    spark: SparkSession | None = None,
    data: Any = None,
) -> Plan:
    """Do all of a run that writes nothing: resolve the model, read the source's schema, align the columns, check the output.

    Raises:
        LakescoreError: as ``score`` would before its first task.
    """
    config = _composed(config, overrides, data)
    spark = _session_of(data, spark)
    scratch = Path(tempfile.mkdtemp(prefix="lakescore-"))
    try:
        client = tracking.client_for_looking(config.tracking, scratch)
        with tracking.quiet_mlflow():
            model, settings, digests = _resolve(config, client, scratch)
        inspection = source.inspect(config.source, data)
        sink = _open_sink(config, run_id="")
        spark = spark or _session(config)
        return _plan(config, spark, model, inspection, sink, "", bool(sink.find(spark)), data, settings, digests)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
    return compose((), overrides, config or {})


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
    client: MlflowClient,
    record: Record,
    scratch: Path,
    started: datetime,
    spark: SparkSession | None,
    data: Any,
) -> ScoreResult:
    sink = _open_sink(config, record.run_id)
    sink.recover(spark)
    published = _find(sink, spark, config)
    if published and config.run.on_rerun != "replace":
        return _already_there(config, record, sink)
    with record.stage("model"):
        model, settings, digests = _resolve(config, client, scratch)
    log.info("model: %s (%s), %.1f s", model.uri, model.flavor, record.seconds["model"])
    inspection = source.inspect(config.source, data)
    with record.stage("session"):
        spark = spark or _session(config)
    if published is None:
        published = _find(sink, spark, config)
        if published and config.run.on_rerun != "replace":
            return _already_there(config, record, sink)
    with record.stage("plan"):
        plan = _plan(config, spark, model, inspection, sink, record.run_id, bool(published), data, settings, digests)
    record.params(_parameters(plan, inspection))
    if config.scoring.allow_reuse and (earlier := _reused(plan, record)) is not None:
        return earlier
    if published is None:
        sink.find(spark)
    log.info("source: %s, %d columns, %d features", plan.source.description, len(plan.alignment.kept), len(plan.alignment.inputs))
    with session.runtime_conf(spark, **_runtime_conf(config)):
        return _score(plan, record, scratch, started, inspection)


def _find(sink: Sink, spark: SparkSession | None, config: ScoreConfig) -> bool | None:
    """Whether the batch is published; None where that is to be asked later: what is in the way may be what ``allow_reuse`` returns."""
    try:
        return sink.find(spark)
    except OutputError:
        if config.scoring.allow_reuse:
            return None
        raise


def _runtime_conf(config: ScoreConfig) -> dict[str, str]:
    """What Spark is told for this job alone; the configuration's own settings win."""
    rows = config.scoring.batch_size or source.rows_per_batch(config.source)
    batch = {"spark__sql__execution__arrow__maxRecordsPerBatch": str(rows)} if rows else {}
    return batch | {
        key: value for key, value in source.runtime_conf(config.source).items() if key.replace("__", ".") not in config.spark.conf
    }


def _session(config: ScoreConfig) -> SparkSession:
    named = (config.source.table, config.source.query, config.output.table)
    return session.open_session(config.spark, config.run.name, tables=any(named))


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
        stop=config.errors.on_row_error == "fail",
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
        if not sink.find(plan.spark):
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


def _open_sink(config: ScoreConfig, run_id: str) -> Sink:
    return open_sink(config.output, _batch(config, run_id), config.columns.keys)


def _batch(config: ScoreConfig, run_id: str) -> Batch:
    run = config.run
    assert run.batch_id is not None and run.date is not None, "compose fixes both"
    return Batch(run.batch_id, run_id, run.date, run.on_rerun)


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


def _plan(
    config: ScoreConfig,
    spark: SparkSession,
    model: ResolvedModel,
    inspection: Inspection,
    sink: Sink,
    run_id: str,
    published: bool,
    data: Any,
    settings: entry_script.Settings | None,
    digests: tuple[str, ...],
) -> Plan:
    _refuse_self_overwrite(config)
    text_of_a_script = settings is not None and config.model.result_type is None
    result_type = T.StringType() if text_of_a_script else resolve.result_type(config.model, model.signature)
    names = [feature.name for feature in model.signature.features or ()] or model.signature.names
    chosen = config.columns
    names = inline_rows.names_of(config.source.rows, names, chosen.select or chosen.drop, bool(chosen.select))
    found = source.read(spark, config.source, inspection, names, data)
    if settings is not None:
        # A script opens the files itself: their content need not be read.
        found = replace(found, df=found.df.drop(found.content), content=None) if found.content is not None else found
        chosen = _all_columns(config.columns, found.df.columns)
    alignment = columns.plan(found.df.schema, chosen, model.signature, session.is_case_sensitive(spark), found.content)
    features, image = [one.feature for one in alignment.inputs], config.source.image
    if image is not None and settings is None:
        tensors.check_image([one.feature for one in alignment.inputs if one.column == alignment.content], image)
    kept = () if settings is not None and _is_lines_alone(config.output) else _kept(config.output, alignment)
    prediction = _prediction_names(config.output, result_type)
    _refuse_own_names(alignment.kept)
    _refuse_clashes(kept, prediction, session.is_case_sensitive(spark))
    aligned = columns.transform(found.df, alignment)
    check_partition_by(aligned, config.output.partition_by)
    tensor = tensors.for_guard(features, image) if model.signature.features is None and settings is None else None
    plan = Plan(
        config,
        spark,
        model,
        result_type,
        found,
        alignment,
        prediction,
        kept,
        sink,
        published,
        tensor=tensor,
        script=settings,
        digests=digests,
    )
    sink.check(spark, output_schema(plan))
    return replace(plan, quarantine=_open_quarantine(plan, run_id)) if config.errors.on_row_error == "quarantine" else plan


def _open_quarantine(plan: Plan, run_id: str) -> Sink:
    """The table for rows that cannot be scored, checked like the output."""
    config = plan.config
    if plan.script is None and isinstance(plan.result_type, (*TIMESTAMPS, T.DateType, T.BinaryType, T.MapType)):
        raise ConfigError(
            f"errors.on_row_error: quarantine is not possible with predictions of type {plan.result_type.simpleString()}, which "
            "mlflow.pyfunc.spark_udf cannot return beside an error"
        )
    quarantine.refuse_clashes(plan.alignment.keys)
    output = quarantine.output_of(config.output, config.errors)
    quarantine.refuse_overlap(output, config.output, config.source)
    sink = open_sink(output, quarantine.batch_of(_batch(config, run_id)))
    sink.recover(plan.spark)
    empty = columns.transform(plan.source.df, plan.alignment, (_ROW, guard.PROBLEM))
    sink.check(plan.spark, _quarantined(plan, empty, guard.PROBLEM, plan.lineage("", datetime.now(timezone.utc))).schema)
    return sink


def _quarantined(plan: Plan, failed: DataFrame, error: str, lineage: Lineage) -> DataFrame:
    """The quarantine's rows; they are in the partition of the run's date, because theirs may be what is wrong."""
    return quarantine.rows(failed, plan.alignment.keys, _ROW, error, lineage_columns(replace(lineage, partition_by=PARTITION)))


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
    """A folder of files has no snapshot to read while it is written; a Delta table has, and is pinned."""
    if config.output.path is None or config.output.format in ("delta", "summary_only"):
        return
    for path in config.source.path or ():
        if storage.overlap(config.output.path, path):
            raise OutputError(
                f"output.path: {storage.absolute(config.output.path)} overlaps source.path {path}; a run cannot write to what it reads"
            )


def _is_lines_alone(config: OutputConfig) -> bool:
    """Whether an entry script's results are the lines of the file, as Azure's append_row has them."""
    return config.format == "append_row" and config.columns == "all"


def _kept(config: OutputConfig, alignment: Alignment) -> tuple[str, ...]:
    if config.columns == "all":
        # Whole images and texts in the table would be a second copy of the folder: they are kept where they are listed.
        return tuple(name for name in alignment.kept if name != alignment.content)
    if config.columns == "keys":
        return tuple(name for name in alignment.kept if name in alignment.keys)
    unknown = [name for name in config.columns if name not in alignment.kept]
    if unknown:
        known = [*alignment.kept, "all", "keys"]
        hint = did_you_mean(unknown[0], known) or f" The kept columns are {listing(alignment.kept, 12)}."
        raise InputError(f"output.columns: there is no column {unknown[0]!r}.{hint}")
    return tuple(config.columns)


def _prediction_names(config: OutputConfig, result: T.DataType) -> tuple[str, ...]:
    if config.classes.labels:
        if config.prediction != "prediction":
            raise ConfigError(
                "output.prediction and output.classes contradict each other; name the columns by output.classes.probability and label"
            )
        classes.check(config.classes, result)
        return config.prediction_names
    if isinstance(config.prediction, str):
        return (config.prediction,)
    fields = len(result.fields) if isinstance(result, T.StructType) else 1
    if len(config.prediction) != fields:
        if isinstance(result, T.StructType):
            hint = f" ({listing(result.names)})"
        elif isinstance(result, T.ArrayType):
            each = ",".join(f"{name}:{result.elementType.simpleString()}" for name in config.prediction)
            hint = f", an array; for a column for each of its elements set model.result_type='struct<{each}>'"
        else:
            hint = ""
        raise ConfigError(f"output.prediction: lists {len(config.prediction)} name(s), and the model has {fields} output(s){hint}")
    _refuse_moved(config.prediction, result)
    return config.prediction


def _refuse_moved(prediction: Sequence[str], result: T.DataType) -> None:
    """Names go by position; one that is another output's name would show that output's values under the wrong name."""
    if not isinstance(result, T.StructType):
        return
    for name, own in zip(prediction, result.names, strict=True):
        if name != own and name in result.names:
            raise ConfigError(
                f"output.prediction: {name!r} is the name of another output; list the names in the model's order: {listing(result.names)}"
            )


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
                drop = [one for one in kept if one.casefold() in {name.casefold() for name in (*prediction, *LINEAGE_COLUMNS)}]
                raise OutputError(
                    f"output: the column {first!r} would be both {other} and {what}; rename the source's column (columns.rename), drop it "
                    f"(columns.drop=[{','.join(drop)}]), or set output.prediction"
                )
            taken[key] = (what, name)


def _finished(plan: Plan, df: DataFrame, lineage: Lineage) -> DataFrame:
    """Kept columns, predictions, lineage; the partition's expression sees all kept columns, written or not."""
    chosen: list[Column] = [column(name) for name in plan.kept]
    return df.select(*chosen, *_outputs(plan), *lineage_columns(lineage))


def _outputs(plan: Plan) -> list[Column]:
    """The prediction as the columns that are written."""
    output = plan.config.output
    if output.classes.labels:
        return classes.columns(output.classes, F.col(_PREDICTION), plan.result_type)
    if isinstance(output.prediction, str) or not isinstance(plan.result_type, T.StructType):
        return [F.col(_PREDICTION).alias(plan.prediction[0])]
    fields = zip(plan.result_type.names, plan.prediction, strict=True)
    return [F.col(_PREDICTION).getField(name).alias(alias) for name, alias in fields]


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
        **_whereabouts(config, plan.sink),
        **tracking.package_versions(),
    }


@dataclass(frozen=True)
class _Work:
    """A batch that no reader sees yet, and what was counted while it was made.

    Attributes:
        staged: the scored rows; failed: the quarantined rows, None where there are none.
        read, scored, quarantined: rows as they were counted on the way.
        counts: null, NaN and infinite predictions.
        example: the error of one of the quarantined rows.
        failures: what an entry script's failed items were, as ``entry_script.refuse`` judges them; empty for a model.
    """

    staged: Staged
    failed: Staged | None
    read: int
    scored: int
    quarantined: int
    counts: Mapping[str, int]
    example: str
    failures: Mapping[str, Any]


def _scorer(plan: Plan, record: Record, scratch: Path) -> Callable[[DataFrame], DataFrame]:
    """What adds the predictions to the aligned rows, tried out on a worker; and why a row has none, where that is an answer."""
    return _model_scorer(plan, record, scratch) if plan.script is None else _script_scorer(plan, plan.script, record, scratch)


def _script_scorer(plan: Plan, settings: entry_script.Settings, record: Record, scratch: Path) -> Callable[[DataFrame], DataFrame]:
    with record.stage("probe"):
        runner = entry_script.ship(plan.spark, settings, scratch)
        entry_script.try_out(plan.spark, runner)
    log.info("probe: %s imported and initialised on a worker, %.1f s", settings.script, record.seconds["probe"])
    is_files = plan.config.source.format in ROW_PER_FILE
    features: Sequence[str] | str = "path" if is_files else [one.feature.name for one in plan.alignment.inputs]

    def score(df: DataFrame) -> DataFrame:
        answered = entry_script.with_results(df, runner, features, plan.result_type, _PREDICTION)
        if plan.quarantine is None:
            return answered
        # A value that could not be cast is the row's own fault, whatever the script made of it.
        return answered.withColumn(ERROR_FIELD, F.coalesce(F.concat(F.lit("InputError: "), F.col(guard.PROBLEM)), F.col(ERROR_FIELD)))

    return score


def _model_scorer(plan: Plan, record: Record, scratch: Path) -> Callable[[DataFrame], DataFrame]:
    config = plan.config
    shipped = bundle.build(plan.model.path, _contract(plan), config.model.env_manager != "local", scratch / "bundle")
    with record.stage("probe"), translated("model: the worker's test row failed", ModelError):
        predict = spark_udf.predictor(plan.spark, shipped, config.model.env_manager, config.model.params)
        _probe(plan, predict)
    log.info("probe: one row scored on a worker, %.1f s", record.seconds["probe"])
    features = _features(plan)
    if plan.quarantine is None:
        return lambda df: spark_udf.with_predictions(df, predict, features, _PREDICTION, plan.result_type)
    return lambda df: spark_udf.with_predictions_or_errors(df, predict, features, _PREDICTION, plan.result_type)


def _items(plan: Plan) -> tuple[str, ...]:
    """The columns that tell a person which row is meant."""
    return plan.alignment.keys or (("path",) if "path" in plan.alignment.kept else plan.alignment.kept[:4])


def _score(plan: Plan, record: Record, scratch: Path, started: datetime, inspection: Inspection) -> ScoreResult:
    config, spark = plan.config, plan.spark
    scorer = _scorer(plan, record, scratch)
    try:
        work = _stage(plan, record, scorer, plan.lineage(record.run_id, started), inspection.rows)
    except LakescoreError:
        # A run of the same batch that came first has cleared this one's staged files away.
        if not plan.published and plan.sink.find(spark):
            return _already_there(config, record, plan.sink)
        raise
    log.info("score: %d rows, %d files, %.1f s", work.staged.rows, work.staged.files, record.seconds["score"])
    try:
        if plan.script is not None:
            entry_script.refuse(work.failures, plan.script.script, allowed=0 if plan.quarantine is None else None)
        _audit(work)
        _refuse_too_many(work, config.errors)
        with record.stage("publish"):
            _publish_quarantine(plan, work)
            published = plan.sink.publish(spark, work.staged)
    except BaseException as error:
        _discard(plan, work)
        if isinstance(error, AlreadyPublishedError) and config.run.on_rerun != "replace":
            return _already_there(config, record, plan.sink)
        raise
    log.info(
        "output: %s%s, %.1f s",
        published.location,
        f" version {published.version}" if published.version is not None else "",
        record.seconds["publish"],
    )
    return _finish(plan, record, work, published)


def _contract(plan: Plan) -> bundle.Contract:
    isolates = plan.quarantine is not None
    return bundle.Contract(
        result=plan.result_type,
        method=plan.config.model.predict_method,
        # Where rows are quarantined, a null among integers is found before it comes to pandas.
        integers=() if isolates else plan.alignment.integers,
        absent=plan.alignment.absent,
        keys=plan.alignment.keys,
        isolates=isolates,
        tensor=plan.tensor,
    )


def _aligned(plan: Plan) -> DataFrame:
    """The source's rows with the kept columns; where rows are quarantined, with the row as it was, and what is wrong with it."""
    return columns.transform(plan.source.df, plan.alignment, None if plan.quarantine is None else (_ROW, guard.PROBLEM))


def _features(plan: Plan) -> Column:
    """The model's features over the aligned rows, and beside them what names a row that fails."""
    keys = {f"{guard.KEY}{name}": name for name in plan.alignment.keys}
    return columns.features(plan.alignment, keys, None if plan.quarantine is None else guard.PROBLEM)


def _probe(plan: Plan, predict: Any) -> None:
    """Score one row on a worker first: a broken environment shows in seconds, and its message is the worker's own.

    The row goes through the driver: a limit below a Python UDF makes Spark throw the worker away, with all that it has loaded.
    """
    row = _aligned(plan).select(_features(plan).alias(_FEATURES)).limit(1).toArrow()
    if not row.num_rows:
        return
    one = plan.spark.createDataFrame(row).coalesce(1)
    if plan.quarantine is None:
        spark_udf.with_predictions(one, predict, F.col(_FEATURES), _PREDICTION, plan.result_type).select(*_outputs(plan)).toArrow()
    else:
        one.select(predict(F.col(_FEATURES)).alias(_PREDICTION)).toArrow()


def _stage(plan: Plan, record: Record, scorer: Callable[[DataFrame], DataFrame], lineage: Lineage, total_rows: int | None) -> _Work:
    """The one job: read, score, count, write."""
    df = _aligned(plan)
    if plan.config.scoring.partitions is not None:
        df = df.repartition(plan.config.scoring.partitions)
    # The counters stand in the stage that writes: what a retried task counted is replaced, not added.
    read = Observation()
    answered = scorer(df.observe(read, F.count(F.lit(1)).alias("rows")))
    bar = progress.shown(lambda: session.job_progress(plan.spark), "scoring", total_rows, console.terminal())
    with record.stage("score"), bar, translated(_doing(plan.config), LakescoreError):
        if plan.quarantine is None:
            return _stage_all(plan, answered, lineage, read)
        with session.persisted(answered) as kept:
            return _stage_apart(plan, kept, lineage, read)


def _doing(config: ScoreConfig) -> str:
    """What a failure that names nothing may come from: the expressions that are evaluated with the rows."""
    expressions = {"source.query": config.source.query, "source.filter": config.source.filter}
    given = [f"{key}: {text}" for key, text in expressions.items() if text is not None]
    if config.output.partition_by != PARTITION:
        given.append(f"output.partition_by: {config.output.partition_by}")
    return "; ".join(given) or "scoring failed"


def _stage_all(plan: Plan, df: DataFrame, lineage: Lineage, read: Observation) -> _Work:
    scored = Observation()
    df = df.observe(scored, *spark_udf.nan_counts(df, _PREDICTION), *_script_summary(plan, df))
    staged = plan.sink.stage(_finished(plan, df, lineage))
    found = dict(scored.get)
    failures = {name: found.pop(name) for name in entry_script.SUMMARY if name in found}
    counts = {name: int(value) for name, value in found.items()}
    return _Work(staged, None, int(read.get["rows"]), counts.pop("rows"), 0, counts, "", failures)


def _stage_apart(plan: Plan, df: DataFrame, lineage: Lineage, read: Observation) -> _Work:
    """What was scored to the output, and what was not to the quarantine, if there is any."""
    assert plan.quarantine is not None, "asked by the caller"
    work = _stage_all(plan, df.where(F.col(ERROR_FIELD).isNull()), lineage, read)
    if work.read == work.scored:
        return work
    try:
        seen = Observation()
        failed = df.where(F.col(ERROR_FIELD).isNotNull())
        example = F.min(ERROR_FIELD).alias("example")
        failed = failed.observe(seen, F.count(F.lit(1)).alias("rows"), example, *_script_summary(plan, failed))
        staged = plan.quarantine.stage(_quarantined(plan, failed, ERROR_FIELD, lineage))
        failures = {name: seen.get[name] for name in entry_script.SUMMARY if name in seen.get}
        return replace(work, failed=staged, quarantined=int(seen.get["rows"]), example=str(seen.get["example"]), failures=failures)
    except BaseException:
        plan.sink.discard(work.staged)
        raise


def _script_summary(plan: Plan, df: DataFrame) -> list[Column]:
    return [] if plan.script is None else entry_script.summary(df, _items(plan))


def _audit(work: _Work) -> None:
    quarantined = work.failed.rows if work.failed else 0
    if work.read != work.scored + work.quarantined or work.scored != work.staged.rows or work.quarantined != quarantined:
        raise LakescoreError(
            f"the rows do not reconcile: {work.read} read, {work.scored} scored, {work.staged.rows} staged, {work.quarantined} failed, "
            f"{quarantined} quarantined; nothing was published. Run it again, and report it if it stays"
        )


def _refuse_too_many(work: _Work, errors: ErrorsConfig) -> None:
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


def _publish_quarantine(plan: Plan, work: _Work) -> None:
    """Before the output: a crash between the two leaves a quarantine that the rerun replaces, and never a batch that lacks its own."""
    if plan.quarantine is None:
        return
    if work.failed is not None:
        plan.quarantine.publish(plan.spark, work.failed)
    elif plan.quarantine.find(plan.spark):
        # This batch was there before with rows that are good now.
        lineage = plan.lineage("", datetime.now(timezone.utc))
        none = columns.transform(plan.source.df, plan.alignment, (_ROW, guard.PROBLEM)).limit(0)
        plan.quarantine.publish(plan.spark, plan.quarantine.stage(_quarantined(plan, none, guard.PROBLEM, lineage)))


def _discard(plan: Plan, work: _Work) -> None:
    plan.sink.discard(work.staged)
    if plan.quarantine is not None:
        plan.quarantine.discard(work.failed)


def _written(staged: Staged) -> int:
    return staged.rows if staged.written is None else staged.written


def _finish(plan: Plan, record: Record, work: _Work, published: Published) -> ScoreResult:
    metrics = {
        "rows_read": work.read,
        "rows_scored": work.scored,
        "rows_written": _written(work.staged),
        "rows_quarantined": work.quarantined,
        "files_written": work.staged.files,
        "bytes_written": work.staged.size,
    }
    metrics.update({f"predictions_{name}": value for name, value in work.counts.items()})
    if not work.read:
        log.warning("source: there are no rows; the batch is published without any")
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
        rows_read=work.read,
        rows_scored=work.scored,
        rows_written=_written(work.staged),
        rows_quarantined=work.quarantined,
        quarantine=plan.quarantine.location if plan.quarantine is not None and work.failed is not None else None,
        counts=work.counts,
        seconds=dict(record.seconds),
    )
