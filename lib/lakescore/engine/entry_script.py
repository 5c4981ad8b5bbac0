"""A DataFrame and an entry script in, the DataFrame with each item's result or error out. ``script_runner`` is what runs on executors.

The script's folder, the runner, and on a cluster the model and local side inputs, travel as one archive (``SparkSession.addArtifacts``,
on Spark Connect too); on one machine the workers read them where they are. Executors need pyarrow and pandas, which every pandas
function of Spark needs, and what the script imports; not Lakescore.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lakescore import session, storage
from lakescore.engine import script_runner, shipping
from lakescore.errors import InputError, ModelError, did_you_mean, listing
from lakescore.failures import translated
from lakescore.schema import column

ERROR = "__lakescore_error"
FAILURE = "__lakescore_failure"
# Azure's defaults of mini_batch_size.
DEFAULT_FILES = 10
DEFAULT_BYTES = 1_000_000
_FAILURE_TYPE = "file string, line int, items int, trace string"
_RUNNER_FILES = ("script_runner.py", "script_process.py")
# What `summary` counts and `refuse` judges.
SUMMARY = "failed", "fatal", "first"


@dataclass(frozen=True)
class Settings:
    """How a script is run.

    Attributes:
        script: its file, relative to the folder that is shipped.
        files: what is shipped: path relative to the folder -> file on this machine.
        model: the model's folder on this machine; None without a model.
        arguments: ``sys.argv[1:]``.
        side_inputs: name -> absolute local path, or URI that the workers reach themselves.
        mini_batch: items, or bytes, of one call; (None, None): 10 files, or 1 MB of rows.
        partition_keys: columns whose rows of one value are one mini-batch.
        processes: at the same time on each host; None: as many as Spark runs tasks.
        timeout: seconds for one ``run``; None: any time.
        max_try: tries of a mini-batch.
        logging_level: of the script's root logger.
        stop: whether the first failed item means that the rest need not run.
        in_order: whether results are all that is kept, so that nobody asks which item one is of.
    """

    script: str
    files: Mapping[str, Path]
    model: Path | None = None
    arguments: tuple[str, ...] = ()
    side_inputs: Mapping[str, str] = field(default_factory=dict)
    mini_batch: tuple[int | None, int | None] = (None, None)
    partition_keys: tuple[str, ...] = ()
    processes: int | None = None
    timeout: float | None = 60.0
    max_try: int = 3
    logging_level: str = "INFO"
    stop: bool = False
    in_order: bool = False


@dataclass(frozen=True)
class Shipped:
    """A script where the workers find it: ``job`` is what they are told."""

    settings: Settings
    job: Mapping[str, Any]


def ship(spark: SparkSession, settings: Settings, folder: Path) -> Shipped:
    """Bring the script, and all that it needs, to where the workers are.

    Args:
        spark: the session.
        settings: what to ship.
        folder: an empty folder of this run, which must stay until its last job is done.

    Raises:
        InputError: a side input is not there.
        PlatformError: Spark refuses the archive.
    """
    token = uuid.uuid4().hex[:12]
    root = folder / f"lakescore-script-{token}"
    for relative, file in settings.files.items():
        target = root / "script" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)  # a copy, not a link: the script may write into its folder
    for name in _RUNNER_FILES:
        # By importlib: the package may lie in a zip that --py-files brought.
        (root / name).write_bytes(resources.files("lakescore.engine").joinpath(name).read_bytes())
    here = {name: path for name, path in settings.side_inputs.items() if storage.scheme_of(path) == "file"}
    for name, path in here.items():
        if not os.path.exists(path):
            raise InputError(f"model.side_inputs.{name}: {path} does not exist")
    job = {
        "token": token,
        "script": settings.script,
        "arguments": list(settings.arguments),
        "logging_level": settings.logging_level,
        "processes": settings.processes,
        "timeout": settings.timeout,
        "max_try": settings.max_try,
        "partition_keys": list(settings.partition_keys),
        "stop": settings.stop,
        "in_order": settings.in_order,
        "base": os.getcwd(),
        "local": None,
        "archive": None,
    }
    if session.is_one_machine(spark):
        model = str(settings.model) if settings.model is not None else None
        return Shipped(settings, {**job, "local": str(root), "model": model, "side_inputs": dict(settings.side_inputs)})
    inputs = {name: f"shipped:inputs/{name}/{os.path.basename(path.rstrip('/'))}" for name, path in here.items()}
    archive = folder / f"{root.name}.zip"
    parts = {"": root, **{inputs[name].removeprefix("shipped:"): Path(path) for name, path in here.items()}}
    if settings.model is not None:
        parts["model"] = settings.model
    shipping.ship(spark, archive, parts, "model.entry_script: Spark cannot ship the script's archive")
    return Shipped(
        settings,
        {
            **job,
            "archive": archive.name,
            "model": "shipped:model" if settings.model is not None else None,
            "side_inputs": {**settings.side_inputs, **inputs},
        },
    )


def try_out(spark: SparkSession, shipped: Shipped) -> None:
    """Import the script and call its ``init()`` on one worker, which keeps the process for the tasks that follow.

    Raises:
        ModelError: it fails, in one line with the script's own line; the cause has the script's traceback.
    """
    task = _on_worker(shipped.job, "try_out")
    with translated("model.entry_script: the script cannot be tried out on a worker", ModelError):
        rows = spark.range(1).coalesce(1).mapInArrow(task, "reply string").collect()
    if rows and rows[0]["reply"] is not None:
        reply = json.loads(rows[0]["reply"])
        raise ModelError(script_runner.say({"script": shipped.settings.script}, reply)) from _as_cause(reply.get("trace"))


def with_results(df: DataFrame, shipped: Shipped, features: Sequence[str] | str, result: T.DataType, name: str) -> DataFrame:
    """The rows with what the script returned for each.

    Args:
        df: rows; with ``scoring.partition_keys`` they are shuffled.
        shipped: the script.
        features: the columns of the DataFrame that ``run`` gets; or the one column (not in a list) with the path of a file for each
            row, of which ``run`` gets a list.
        result: the type of one item's result; text takes whatever there is.
        name: the new column.

    Returns:
        The same columns, then ``name``, ``__lakescore_error`` (string, ``Class: message``, null where the item succeeded) and
        ``__lakescore_failure`` (struct: the script's file and line, how many items the mini-batch's failure took, and on the first of
        them the script's traceback).

    Raises:
        ModelError: a partition key is no column.
    """
    settings = shipped.settings
    for key in settings.partition_keys:
        if key not in df.columns:
            hint = did_you_mean(key, df.columns) or f" There are {listing(df.columns, 12)}."
            raise ModelError(f"scoring.partition_keys: there is no column {key!r}.{hint}")
    is_files = isinstance(features, str)
    items, size = settings.mini_batch
    if (items, size) == (None, None):
        items, size = (DEFAULT_FILES, None) if is_files else (None, DEFAULT_BYTES)
    job = {
        **shipped.job,
        "path": features if is_files else None,
        "features": None if is_files else list(features),
        "items": items,
        "bytes": size,
        "names": df.columns,
        "result": name,
        "error": ERROR,
        "failure": FAILURE,
        "shape": _shape(result),
        "result_name": result.simpleString(),
        "result_type": df.sparkSession.createDataFrame([], T.StructType([T.StructField("_", result)])).toArrow().schema.field(0).type,
    }
    schema = T.StructType(
        [
            *df.schema.fields,
            T.StructField(name, result),
            T.StructField(ERROR, T.StringType()),
            T.StructField(FAILURE, T.StructType.fromDDL(_FAILURE_TYPE)),
        ]
    )
    # mapInArrow and applyInArrow look columns up by name, and take the dot in `petal.width` for a field's; the workers put the names back.
    safe = [f"c{i}" for i in range(len(df.columns))]
    positions = [df.columns.index(key) for key in settings.partition_keys]
    df = df.toDF(*safe)
    if settings.partition_keys:
        keys = [column(safe[i]) for i in positions]
        return df.groupBy(*keys).applyInArrow(_on_group(job), schema)
    return df.mapInArrow(_on_worker(job, "map_batches"), schema)


def _shape(result: T.DataType) -> str:
    if isinstance(result, T.StringType):
        return "text"
    return {T.StructType: "struct", T.ArrayType: "array"}.get(type(result), "scalar")


def _on_worker(job: Mapping[str, Any], function: str) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """A function that Spark pickles by value, because it is nested: it may name nothing of this module."""

    def task(batches: Iterator[Any]) -> Iterator[Any]:
        import importlib.util
        import json
        import os
        import sys

        import pyarrow as pa

        here = dict(job)
        if here["local"] is None:
            from pyspark import SparkFiles

            here["root"] = SparkFiles.get(here["archive"])
        else:
            here["root"] = here["local"]
        name = f"lakescore_script_runner_{here['token']}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, os.path.join(here["root"], "script_runner.py"))
            sys.modules[name] = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            spec.loader.exec_module(sys.modules[name])  # type: ignore[union-attr]
        runner = sys.modules[name]
        if function == "try_out":
            for _ in batches:
                pass
            reply = runner.try_out(here)
            yield pa.RecordBatch.from_pydict({"reply": pa.array([json.dumps(reply) if reply else None], pa.string())})
        elif function == "map_group":
            key, table = batches
            yield runner.map_group(key, table.rename_columns(here["names"]), here)
        else:
            yield from runner.map_batches((batch.rename_columns(here["names"]) for batch in batches), here)

    return task


def _on_group(job: Mapping[str, Any]) -> Callable[[Any, Any], Any]:
    task = _on_worker(job, "map_group")

    def group(key: Any, table: Any) -> Any:
        return next(task(iter((key, table))))

    return group


def summary(df: DataFrame, items: Sequence[str]) -> list[Column]:
    """Aggregates over ``with_results`` for ``DataFrame.observe``: ``failed``, ``fatal`` and ``first``, which ``refuse`` understands.

    Args:
        df: what ``with_results`` returned, with its two last columns.
        items: the columns that name an item: its path, or its keys.
    """
    error, failure = column(ERROR), column(FAILURE)
    item = F.concat_ws(", ", *[F.concat(F.lit(f"{name}="), column(name).cast("string")) for name in items])
    if len(items) == 1 and isinstance(df.schema[items[0]].dataType, T.StringType):
        item = column(items[0])
    facts = F.struct(
        (~error.startswith(script_runner.TOO_MANY)).alias("ordinary"),
        error.startswith(script_runner.NOT_RUN).alias("skipped"),
        F.isnull(failure.getField("trace")).alias("traceless"),
        item.alias("item"),
        error.alias("error"),
        failure.alias("failure"),
    )
    return [
        F.count(error).alias(SUMMARY[0]),
        F.count_if(error.startswith(script_runner.TOO_MANY)).alias(SUMMARY[1]),
        F.to_json(F.min(F.when(error.isNotNull(), facts))).alias(SUMMARY[2]),
    ]


def refuse(found: Mapping[str, Any], script: str, allowed: int | None = 0) -> None:
    """Stop where more items have failed than may.

    Args:
        found: the values of ``summary``.
        script: the script, as the message names it.
        allowed: how many items may fail; None: any number. A ``run`` that returns too many results is refused in any case.

    Raises:
        ModelError: one line with the script's line, its own exception, and the item; the cause has the script's traceback.
    """
    if not found:
        return
    failed = int(found[SUMMARY[0]] or 0)
    if not found[SUMMARY[1]] and (allowed is None or failed <= allowed):
        return
    first = json.loads(found[SUMMARY[2]])
    failure = first.get("failure") or {}
    where = f"{failure['file']} line {failure['line']}" if failure.get("line") else script
    item = f" ({first['item']}" if first.get("item") else " (an item"
    others = int(failure.get("items") or 1) - 1
    item += f" and {others} more in its mini-batch)" if others > 0 else ")"
    raise ModelError(f"model.entry_script: {where}: {first['error']}{item}") from _as_cause(failure.get("trace"))


class ScriptTraceback(Exception):  # noqa: N818  it is shown as the cause of an error, and its text is the script's own traceback
    """The script's own traceback, as text."""


def _as_cause(trace: str | None) -> ScriptTraceback | None:
    return ScriptTraceback(f"on the worker:\n{trace}") if trace else None
