"""A plan in, the tasks by which workers read, score and write Parquet files on their own out; or why the rows must pass Spark.

``backend`` looks at the configuration alone, so that much is known before anything is started; ``refusal`` at the plan. Both say no
wherever it is not proven that the result is what Spark's own path gives.
"""

from __future__ import annotations

import base64
import contextlib
import math
import os
import pickle
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark import SparkContext
from pyspark import __version__ as spark_version
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from lakescore import parquet_files, planning, session
from lakescore.backend import is_other_python, why_spark_reads
from lakescore.casts import is_number_cast
from lakescore.columns import Input
from lakescore.console import on_databricks
from lakescore.engine import direct
from lakescore.engine.direct import Answer, Piece
from lakescore.engine.fast import checked_params
from lakescore.engine.pool import Pool
from lakescore.lineage import Lineage
from lakescore.monitoring import Monitor
from lakescore.parquet_files import ParquetFiles, arrow_type
from lakescore.planning import Plan
from lakescore.schema import LINEAGE_COLUMNS, is_same, nullable
from lakescore.session import JobProgress
from lakescore.sinks import FileSink
from lakescore.sinks.base import Layout

_INTEGERS = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
_FLOATS = (T.FloatType, T.DoubleType)
_SCALARS = (*_INTEGERS, *_FLOATS, T.BooleanType, T.StringType)
# Settings of a session under which Spark would read, name or write something else than workers do.
_AS_SPARK_HAS_IT = {
    "spark.sql.caseSensitive": "false",
    "spark.sql.parquet.binaryAsString": "false",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    "spark.sql.parquet.datetimeRebaseModeInRead": "corrected",
    "spark.sql.parquet.mergeSchema": "false",
    "spark.sql.parquet.writeLegacyFormat": "false",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.files.maxRecordsPerFile": "0",
    "spark.task.cpus": "1",
}
_SPARK_ROWS = 10_000
_CODECS = {"snappy": "snappy", "zstd": "zstd", "gzip": "gzip", "none": "none", "uncompressed": "none"}
# A model that is called with more rows at once is hardly faster, and takes more memory.
_BATCH_ROWS = 131_072
_BATCH_BYTES = 64 << 20
# Uncompressed: under the one a second task costs more than it saves, over the other the last task is waited for.
_LEAST_TASK_BYTES = 16 << 20
_MOST_TASK_BYTES = 512 << 20


@dataclass(frozen=True)
class Settings:
    """The codec of the files, how many tasks run at once, and rows that a model gets at once, where somebody has set Spark's batches."""

    codec: str
    cores: int
    rows: int | None = None


@dataclass(frozen=True)
class Route:
    """How rows go where they do not pass Spark.

    Attributes:
        pool: the workers; guarded: the folder of the model behind its guard.
        context: of Spark, whose tasks ask the workers; None: they are asked without Spark.
    """

    settings: Settings
    pool: Pool
    guarded: Path
    context: SparkContext | None = None


def this_machine(master: str | None) -> Settings:
    """The settings without Spark: a worker for each of the cores that ``local[N]`` asks for, else for each that this process may use."""
    inside = "1" if master == "local" else (master or "").removeprefix("local").strip("[]").split(",")[0]
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _cores_of_container())
    return Settings("snappy", int(inside) if inside.isdigit() and int(inside) else cores)


def _cores_of_container() -> int:
    """What a container may use, which the machine's number of cores does not tell."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    return sys.maxsize


def settings_of(spark: SparkSession | SparkContext) -> Settings | None:
    """The settings of a session, or of a context without one.

    Returns:
        None where workers may be on other machines, or Spark reads or writes files in ways of its own.
    """
    if not session.is_one_machine(spark):
        return None
    context = spark if isinstance(spark, SparkContext) else spark.sparkContext
    conf: Any = context.getConf() if isinstance(spark, SparkContext) else spark.conf
    for key, expected in _AS_SPARK_HAS_IT.items():
        if str(conf.get(key, expected)).lower() != expected:
            return None
    codec = _CODECS.get(str(conf.get("spark.sql.parquet.compression.codec", "snappy")).lower())
    if codec is None or _is_apart(context):
        return None
    rows = int(conf.get("spark.sql.execution.arrow.maxRecordsPerBatch", str(_SPARK_ROWS)))
    return Settings(codec, context.defaultParallelism, rows if 0 < rows != _SPARK_ROWS else None)


def _is_apart(context: SparkContext) -> bool:
    """Whether Spark's workers have what this process's do not: another Python, modules of the session, keys; or are Databricks' own."""
    conf = dict(context.getConf().getAll())
    return (
        is_other_python(conf.get("spark.pyspark.python"))
        or bool(context._python_includes)
        or any(key.startswith("spark.hadoop.parquet.") for key in conf)
        or on_databricks()
    )


def refusal(plan: Plan, files: ParquetFiles | None, reason: str, monitor: Monitor | None) -> str | None:
    """Why the plan wants the rows to pass Spark; None where it does not.

    Args:
        plan: the run.
        files: the source's; None: for this ``reason``.
        monitor: what is watched.
    """
    if (found := why_spark_reads(plan.config)) is not None:
        return found
    if files is None:
        return reason
    if not sum(file.rows for file in files.files):
        return "the source has no rows"
    if not isinstance(plan.sink, FileSink):
        return "the output is no table of files"
    given, read = ([(one.name, one.dataType) for one in schema.fields] for schema in (plan.source.schema, files.schema))
    if given != read:
        return "Spark reads the files as other types than they have"
    if not _is_plain(plan.result_type):
        return f"the prediction is {plan.result_type.simpleString()}"
    odd = next((one for one in plan.alignment.inputs if not _is_readable(one)), None)
    if odd is not None:
        return f"the model's input {odd}"
    for one in monitor.aside if monitor is not None else ():
        if one.role != "label" or not one.is_plain:
            return f"the {one.role} {one.name!r} is watched, which is {one.type.simpleString()}"
    return None


def _is_plain(result: T.DataType) -> bool:
    if isinstance(result, T.StructType):
        return all(isinstance(one.dataType, _SCALARS) for one in result.fields)
    return isinstance(result.elementType if isinstance(result, T.ArrayType) else result, _SCALARS)


def _is_readable(one: Input) -> bool:
    """Whether workers make the input of its column exactly as Spark does: the casts of ``casts`` that lose nothing, or say so."""
    found, wanted = one.found, one.feature.type
    if found is None:
        return isinstance(wanted, _SCALARS)
    if isinstance(found, T.ArrayType):
        return is_same(found, wanted) and isinstance(found.elementType, _FLOATS)
    if not isinstance(found, _SCALARS):
        return False
    return is_same(found, wanted) or is_number_cast(found, wanted, one.explicit)


def job_of(plan: Plan, files: ParquetFiles, route: Route, monitor: Monitor | None, lineage: Lineage, layout: Layout) -> direct.Job:
    """What all tasks share.

    Args:
        plan: of which ``refusal`` has nothing to say.
        files: the source's.
        route: the workers.
        monitor: what is watched.
        lineage: the run's columns.
        layout: where the files go.
    """
    config, old = plan.config, {new: old for old, new in plan.alignment.source if new is not None}
    inputs = tuple(_input(one, old) for one in plan.alignment.inputs)
    kept = {name: old[name] for name in plan.kept}
    watch, labels, floats = None, {}, {}
    if monitor is not None:
        watch = monitor.watch()
        labels = {watch.features[one.name][1]: old[one.name] for one in monitor.aside}
        floats = {name: old[column] for name, column in monitor.floats.items()}
    keys = {name: old[name] for name in plan.alignment.keys}
    schema = T.StructType([one for one in planning.output_schema(plan).fields if one.name not in layout.partition])
    seen = {one.column for one in inputs} | set(labels.values()) | set(floats.values())
    used = seen | set(kept.values()) | set(keys.values())
    passing = files.repeating - seen
    columns = [(one.name, _read_type(one, passing)) for one in files.schema.fields if one.name in used]
    numbers = [one.name for one in schema.fields if isinstance(one.dataType, (*_INTEGERS, *_FLOATS))]
    return direct.Job(
        guarded=str(route.guarded),
        params=checked_params(plan.model.path, config.model.params),
        inputs=inputs,
        keys=keys,
        kept=kept,
        constants={name: getattr(lineage, name) for name in LINEAGE_COLUMNS if name not in layout.partition},
        outputs=planning.fields_of(plan),
        schema=pa.schema([(one.name, arrow_type(one.dataType)) for one in schema.fields]),
        metadata=parquet_files.metadata_of(nullable(schema), spark_version),
        columns=pa.schema(columns),
        partition=files.partition,
        plain=tuple(name for name in numbers if kept.get(name) not in files.repeating),
        compression=route.settings.codec,
        folder=layout.folder,
        batch_rows=parquet_files.rows_at_once(files.files, config.scoring.batch_size or route.settings.rows or _BATCH_ROWS, _BATCH_BYTES),
        watch=watch,
        labels=labels,
        floats=floats,
    )


def _input(one: Input, old: Mapping[str, str]) -> direct.Input:
    column = None if one.column is None else old[one.column]
    return direct.Input(one.feature.name, column, arrow_type(one.feature.type), one.explicit)


def _read_type(one: T.StructField, repeating: Collection[str]) -> pa.DataType:
    is_text = isinstance(one.dataType, T.StringType) and one.name in repeating
    return pa.dictionary(pa.int32(), pa.string()) if is_text else arrow_type(one.dataType)


def tasks_of(files: ParquetFiles, cores: int) -> list[list[Piece]]:
    """The source's row groups, as tasks of about the same size."""
    found = parquet_files.tasks(files.files, cores, _LEAST_TASK_BYTES, _MOST_TASK_BYTES)
    return [[_piece(files, position, groups) for position, groups in task] for task in found]


def _piece(files: ParquetFiles, position: int, groups: tuple[int, ...]) -> Piece:
    file = files.files[position]
    return Piece(file.path, groups, file.values)


class Counting:
    """How far the workers of a pool are, for a progress bar."""

    def __init__(self) -> None:
        self._now: JobProgress | None = None

    def add(self, answer: Answer, total: int) -> None:
        """One of ``total`` tasks is done."""
        now = self._now or JobProgress(0, total, 0)
        self._now = JobProgress(now.done + 1, total, (now.rows or 0) + answer.rows)

    @contextmanager
    def reader(self) -> Iterator[Callable[[], JobProgress | None]]:
        """As ``progress.shown`` wants it."""
        yield lambda: self._now


def run(route: Route, job: direct.Job, tasks: Sequence[Sequence[Piece]], counting: Counting) -> list[Answer]:
    """Have all tasks done, as tasks of Spark where there is a context.

    Args:
        route: the workers.
        job, tasks: what is to be done.
        counting: told of each task that is done, where Spark does not count them.

    Raises:
        Exception: a task failed; with the worker's traceback.
    """
    if route.context is None:
        return route.pool.run(job, tasks, route.settings.cores, lambda answer: counting.add(answer, len(tasks)))
    with route.pool.served(job, tasks) as ask:
        found = session.run_tasks(route.context, len(tasks), ask)
    return [pickle.loads(answer) for answer in found]


def observed(answers: Sequence[Answer], monitor: Monitor | None) -> dict[str, Any]:
    """What the tasks counted, as ``monitoring.statistics_of`` reads it."""
    if monitor is None:
        return {}
    counted = [base64.b64encode(answer.counted).decode() for answer in answers if answer.counted]
    nulls = [sum(column) for column in zip(*(answer.nulls for answer in answers if answer.counted), strict=True)]
    return {"counted": ",".join(counted), "nulls": ",".join(map(str, nulls or [0] * len(monitor.floats)))}


def seconds_of(answers: Sequence[Answer]) -> dict[str, float]:
    """Seconds of all workers together, by what they did."""
    return {what: sum(answer.seconds[what] for answer in answers) for what in answers[0].seconds} if answers else {}
