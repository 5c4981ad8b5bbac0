"""A configuration, a model and a source in, the plan of a run out: what will be written where, decided before the first task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import classes, columns, inline_rows, session, source, storage, tensors
from lakescore.columns import Alignment
from lakescore.config import ALL_FEATURES, ColumnsConfig, OutputConfig, ScoreConfig
from lakescore.engine import entry_script, fast, guard
from lakescore.errors import ConfigError, InputError, NeedsSparkError, OutputError, did_you_mean, listing
from lakescore.lineage import Lineage, check_partition_by, lineage_columns, lineage_types
from lakescore.models import resolve
from lakescore.models.resolve import ResolvedModel
from lakescore.schema import LINEAGE_COLUMNS, PARTITION, TIMESTAMPS, UNREADABLE, Tensor, column
from lakescore.sinks import Batch, Sink, open_sink, quarantine
from lakescore.source import Inspection, Source

log = logging.getLogger(__name__)

OWN = "__lakescore_"
PREDICTION = f"{OWN}prediction"
ROW = f"{OWN}row"


@dataclass(frozen=True)
class Plan:
    """What a run would do, decided on the driver before the first task.

    Attributes:
        engine: ``fast``, ``spark_udf`` or ``entry_script``: what calls the model where rows pass Spark.
    """

    config: ScoreConfig
    session: SparkSession | None
    model: ResolvedModel
    result_type: T.DataType
    source: Source
    alignment: Alignment
    prediction: tuple[str, ...]
    kept: tuple[str, ...]
    sink: Sink
    published: bool
    engine: str
    quarantine: Sink | None = None
    tensor: Tensor | None = None
    script: entry_script.Settings | None = None
    digests: tuple[str, ...] = ()

    @property
    def spark(self) -> SparkSession:
        """The session.

        Raises:
            NeedsSparkError: there is none.
        """
        if self.session is None:
            raise NeedsSparkError("a session is wanted")
        return self.session

    def lineage(self, run_id: str, started: datetime) -> Lineage:
        run = self.config.run
        assert run.batch_id is not None and run.date is not None, "compose fixes both"
        return Lineage(self.model.uri, self.model.version, run_id, run.batch_id, started, run.date, self.config.output.partition_by)


def make(
    config: ScoreConfig,
    spark: SparkSession | None,
    model: ResolvedModel,
    inspection: Inspection,
    sink: Sink,
    run_id: str,
    published: bool,
    data: Any,
    settings: entry_script.Settings | None,
    digests: tuple[str, ...],
) -> Plan:
    """Decide everything that can be decided on the driver.

    Args:
        config: the configuration.
        spark: the session; None where the run is to do without.
        model: the model, resolved.
        inspection: what is known of the source's files.
        sink: the output.
        run_id: the MLflow run; empty in a dry run.
        published: whether the batch is in the output already.
        data: a DataFrame given in Python instead of a source.
        settings: how an entry script is run; None for a model.
        digests: of all that scores, for ``scoring.allow_reuse``.

    Raises:
        LakescoreError: something does not fit.
        NeedsSparkError: there is no session, and the run cannot do without.
    """
    _refuse_self_overwrite(config)
    if config.model.device is not None and model.flavor != "pytorch":
        raise ConfigError(f"model.device: is for PyTorch models, and {model.uri} is {model.flavor}; leave it out")
    text_of_a_script = settings is not None and config.model.result_type is None
    result_type = T.StringType() if text_of_a_script else resolve.result_type(config.model, model.signature)
    names = [feature.name for feature in model.signature.features or ()] or model.signature.names
    chosen = config.columns
    if not chosen.rename:  # which speaks of _c0, _c1, ...
        names = inline_rows.names_of(config.source.rows, names, chosen.select or chosen.drop, bool(chosen.select))
    if spark is None:
        found, case_sensitive = source.of_files(config.source, inspection), False
        if len({name.casefold() for name in found.schema.names}) < len(found.schema.names):
            raise NeedsSparkError("columns of the source differ by case only")
    else:
        found = source.read(spark, config.source, inspection, names, data, tolerant=quarantines(config) and settings is None)
        case_sensitive = session.is_case_sensitive(spark)
    if settings is not None:
        # A script opens the files itself: their content need not be read.
        found = _without_content(found)
        chosen = _cast_by_name(_all_columns(config.columns, found.schema.names), found.schema.names)
    given = T.StructType([one for one in found.schema.fields if one.name != UNREADABLE])
    # A script's columns have names, whatever it makes of their order.
    in_order = settings is not None or inspection.format != "json" or config.source.ddl is not None
    alignment = columns.plan(given, chosen, model.signature, case_sensitive, found.content, in_order)
    features, image = [one.feature for one in alignment.inputs], config.source.image
    if image is not None and settings is None:
        tensors.check_image([one.feature for one in alignment.inputs if one.column == alignment.content], image)
    kept = () if settings is not None and is_lines_alone(config.output) else _kept(config.output, alignment)
    prediction = _prediction_names(config.output, result_type)
    _refuse_own_names(alignment.kept)
    _refuse_clashes(kept, prediction, case_sensitive)
    if config.output.partition_by != PARTITION:
        check_partition_by(columns.transform(found.df, alignment), config.output.partition_by)
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
        "entry_script" if settings is not None else _engine(config, spark, result_type),
        tensor=tensor,
        script=settings,
        digests=digests,
    )
    sink.check(spark, output_schema(plan))
    if published and config.run.on_rerun == "replace":
        if plan.session is None:
            raise NeedsSparkError("a batch is replaced")
        quarantine.refuse_replayed(plan.session, config.output, batch_of(config, run_id))
    return replace(plan, quarantine=_open_quarantine(plan, run_id)) if quarantines(config) else plan


def _without_content(found: Source) -> Source:
    if found.content is None:
        return found
    df = found.df.drop(found.content)
    return replace(found, schema=df.schema, rows=df, content=None)


def _engine(config: ScoreConfig, spark: SparkSession | None, result: T.DataType) -> str:
    """What ``scoring.engine`` comes to for this model and session."""
    wanted = config.scoring.engine
    reason = None if wanted == "spark_udf" or spark is None else fast.unproven(spark, config.model.env_manager, result)
    if reason is None:
        return "spark_udf" if wanted == "spark_udf" else "fast"
    if wanted == "fast":
        raise ConfigError(f"scoring.engine: fast is not possible: {reason}; leave it at auto")
    log.info("engine: spark_udf, because %s", reason)
    return "spark_udf"


def quarantines(config: ScoreConfig) -> bool:
    """Whether a row that cannot be scored is set aside."""
    return config.errors.on_row_error == "quarantine"


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
    quarantine.refuse_overlap("errors.quarantine", output, config.output, config.source)
    sink = open_sink(output, quarantine.batch_of(batch_of(config, run_id)))
    sink.recover(plan.spark)
    empty = columns.transform(plan.source.df, plan.alignment, (ROW, guard.PROBLEM))
    sink.check(plan.spark, quarantined(plan, empty, guard.PROBLEM, plan.lineage("", datetime.now(timezone.utc))).schema)
    return sink


def quarantined(plan: Plan, failed: DataFrame, error: str, lineage: Lineage) -> DataFrame:
    """The quarantine's rows; they are in the partition of the run's date, because theirs may be what is wrong."""
    return quarantine.rows(failed, plan.alignment.keys, ROW, error, lineage_columns(replace(lineage, partition_by=PARTITION)))


def _all_columns(config: ColumnsConfig, names: Sequence[str]) -> ColumnsConfig:
    """An entry script says nothing of its inputs: it gets all columns but keys, labels and dropped ones, unless some are selected."""
    if config.select:
        return config
    apart = {*config.drop, *config.keys, *config.labels}
    return config.model_copy(
        update={"select": tuple(i for i, name in enumerate(names) if i not in apart and config.rename.get(name, name) not in apart)}
    )


def _cast_by_name(config: ColumnsConfig, names: Sequence[str]) -> ColumnsConfig:
    """A cast of all features, for each by its name: a script has no types of its own that they could be compared with."""
    if ALL_FEATURES not in config.cast:
        return config
    renamed = [config.rename.get(name, name) for name in names]
    chosen = [renamed[one] if isinstance(one, int) and one < len(renamed) else one for one in config.select]
    cast = {str(name): config.cast[ALL_FEATURES] for name in chosen if name not in (*config.keys, *config.labels)}
    return config.model_copy(update={"cast": cast | {name: kind for name, kind in config.cast.items() if name != ALL_FEATURES}})


def output_schema(plan: Plan) -> T.StructType:
    """The columns that the run writes, without running anything."""
    if plan.source.rows is None:
        return _written_schema(plan)
    aligned = columns.transform(plan.source.df, plan.alignment)
    predicted = aligned.select("*", F.lit(None).cast(plan.result_type).alias(PREDICTION))
    return finished(plan, predicted, plan.lineage("", datetime.now(timezone.utc))).schema


def _written_schema(plan: Plan) -> T.StructType:
    """The same where there is no Spark: kept columns, the prediction as it is or its fields, and the lineage."""
    output, result = plan.config.output, plan.result_type
    if output.classes.labels:
        raise NeedsSparkError("output.classes is set")
    inside = {one.name: one.dataType for one in result.fields} if isinstance(result, T.StructType) else {}
    types = [result if field is None else inside[field] for field in fields_of(plan).values()]
    fields = {name: plan.alignment.types[name] for name in plan.kept} | dict(zip(plan.prediction, types, strict=True)) | lineage_types()
    return T.StructType([T.StructField(name, kind, True) for name, kind in fields.items()])


def fields_of(plan: Plan) -> dict[str, str | None]:
    """The prediction columns, and the model's output that each shows; None: the prediction as it is."""
    result = plan.result_type
    if isinstance(result, T.StructType) and not isinstance(plan.config.output.prediction, str):
        return dict(zip(plan.prediction, result.names, strict=True))
    return dict.fromkeys(plan.prediction)


def _refuse_self_overwrite(config: ScoreConfig) -> None:
    """A folder of files has no snapshot to read while it is written; a Delta table has, and is pinned.

    In another's folder a table is read with it by the next run, or removed by that one's VACUUM.
    """
    if config.output.path is None or config.output.format == "summary_only":
        return
    for path in config.source.path or ():
        if config.output.format == "delta" and storage.is_same(config.output.path, path):
            continue
        if storage.overlap(config.output.path, path):
            raise OutputError(
                f"output.path: {storage.absolute(config.output.path)} overlaps source.path {path}; a run cannot write to what it reads"
            )


def is_lines_alone(config: OutputConfig) -> bool:
    """Whether an entry script's results are the lines of the file, as Azure's append_row has them."""
    return config.format == "append_row" and config.columns == "all"


def _kept(config: OutputConfig, alignment: Alignment) -> tuple[str, ...]:
    if config.columns == "all":
        # Whole images and texts in the table would be a second copy of the folder: they are kept where they are listed.
        return tuple(name for name in alignment.kept if name != alignment.content)
    if config.columns == "keys":
        return tuple(name for name in alignment.kept if name in alignment.keys)
    twice = next((name for name in config.columns if config.columns.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"output.columns: {twice!r} is listed twice")
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
        if name.casefold().startswith(OWN):
            raise InputError(f"the source: the column {name!r} has a name that Lakescore uses itself; rename (columns.rename) or drop it")


def _refuse_clashes(kept: Sequence[str], prediction: Sequence[str], case_sensitive: bool) -> None:
    taken: dict[str, tuple[str, str]] = {}
    for what, names in (("a source column", kept), ("a prediction", prediction), ("a column of the run's record", LINEAGE_COLUMNS)):
        for name in names:
            key = name if case_sensitive else name.casefold()
            if key in taken:
                other, first = taken[key]
                if first not in kept:
                    raise OutputError(
                        f"output: the column {first!r} would be both {other} and {what}; give it another name by output.prediction or "
                        "output.classes"
                    )
                drop = [one for one in kept if one.casefold() in {name.casefold() for name in (*prediction, *LINEAGE_COLUMNS)}]
                raise OutputError(
                    f"output: the column {first!r} would be both {other} and {what}; rename the source's column (columns.rename)"
                    f"{',' if what == 'a prediction' else ' or'} drop it (columns.drop=[{','.join(drop)}])"
                    f"{', or set output.prediction' if what == 'a prediction' else ''}"
                )
            taken[key] = (what, name)


def finished(plan: Plan, df: DataFrame, lineage: Lineage) -> DataFrame:
    """Kept columns, predictions, lineage; the partition's expression sees all kept columns, written or not."""
    chosen: list[Column] = [column(name) for name in plan.kept]
    return df.select(*chosen, *outputs(plan), *lineage_columns(lineage))


def outputs(plan: Plan) -> list[Column]:
    """The prediction as the columns that are written."""
    output = plan.config.output
    if output.classes.labels:
        return classes.columns(output.classes, F.col(PREDICTION), plan.result_type)
    whole = F.col(PREDICTION)
    return [(whole if field is None else whole.getField(field)).alias(name) for name, field in fields_of(plan).items()]


def output_sink(config: ScoreConfig, run_id: str) -> Sink:
    """The output; nothing is read or written yet."""
    return open_sink(config.output, batch_of(config, run_id), config.columns.keys)


def batch_of(config: ScoreConfig, run_id: str) -> Batch:
    """The batch that the run makes."""
    run = config.run
    assert run.batch_id is not None and run.date is not None, "compose fixes both"
    return Batch(run.batch_id, run_id, run.date, run.on_rerun)
