"""A configuration in, what runs it out: Spark, or processes of this machine without Spark. Light: decided before anything is imported."""

from __future__ import annotations

import os
import shutil
import sys

from lakescore.config import ALL_FEATURES, PARTITION, ScoreConfig
from lakescore.console import on_databricks, under_spark_submit
from lakescore.errors import ConfigError
from lakescore.storage import scheme_of

# Settings of a session under which Spark may read, name or write something else than workers do.
_OF_FILES = (
    "spark.sql.caseSensitive", "spark.sql.parquet.", "spark.sql.files.", "spark.sql.legacy.", "spark.hadoop.parquet.", "spark.pyspark.",
)  # fmt: skip


def why_spark_reads(config: ScoreConfig) -> str | None:
    """Why the configuration wants the rows to pass Spark; None where workers may read and write files on their own."""
    source, output, model, master = config.source, config.output, config.model, config.spark.master
    reasons = {
        "it runs on Databricks": on_databricks(),
        "it runs over Spark Connect": is_remote(config),
        f"spark.master is {master}": master is not None and (not master.startswith("local") or "cluster" in master),
        "model.entry_script is set": model.entry_script is not None,
        f"model.env_manager is {model.env_manager}": model.env_manager != "local",
        "scoring.engine is spark_udf": config.scoring.engine == "spark_udf",
        "scoring.partitions is set": config.scoring.partitions is not None,
        "errors.on_row_error is quarantine": config.errors.on_row_error == "quarantine",
        "the source is no path of Parquet files": source.path is None or source.format not in (None, "parquet", "delta"),
        "source.filter is set": source.filter is not None,
        "source.limit is set": source.limit is not None,
        "source.schema is set": source.ddl is not None,
        "source.timestamp is set": source.timestamp is not None,
        "source.incremental.by is changes or column": source.incremental is not None and source.incremental.by in ("changes", "column"),
        "the output is not on this machine": output.path is not None and scheme_of(output.path) != "file",
        "PYSPARK_PYTHON is another Python": is_other_python(os.environ.get("PYSPARK_PYTHON")),
        "this system has no pipes that a process can hand on": os.name != "posix",
        "spark.conf says how files are read or written": any(key.startswith(_OF_FILES) for key in config.spark.conf),
        "source.options are set": bool(source.options),
        "columns.cast is set": bool(set(config.columns.cast) - {ALL_FEATURES}),
        f"output.format is {output.format}": output.format not in ("delta", "parquet"),
        "the output is a table of the catalog": output.table is not None,
        "output.partition_by is an expression": output.partition_by != PARTITION,
        "output.classes is set": bool(output.classes.labels),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def is_other_python(given: str | None) -> bool:
    """Whether a Python for Spark's workers is of another environment: the link in its folder is what tells, not the binary behind it."""
    found = os.path.abspath(shutil.which(given) or given) if given else sys.executable
    return os.path.dirname(found) != os.path.dirname(os.path.abspath(sys.executable))


def is_remote(config: ScoreConfig) -> bool:
    """Whether the session is to be Spark Connect's."""
    return "SPARK_REMOTE" in os.environ or (config.spark.master or "").startswith("sc://")


def why_spark(config: ScoreConfig) -> str | None:
    """Why the run needs Spark, as far as the configuration and the environment tell; None where it may do without.

    Raises:
        ConfigError: ``spark.backend`` is embedded, and it needs Spark.
    """
    spark = config.spark
    if spark.backend == "spark":
        return "spark.backend is spark"
    reasons = {
        "spark-submit started it": under_spark_submit(),
        "spark.conf is set": bool(spark.conf),
        "drift.table is set": config.drift.table is not None,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None) or why_spark_reads(config)
    if reason is not None:
        refuse(config, reason)
    return reason


def refuse(config: ScoreConfig, reason: str) -> None:
    """Raise ConfigError where the run is to do without Spark, and cannot."""
    if config.spark.backend == "embedded":
        raise ConfigError(f"spark.backend: embedded is not possible, because {reason}; leave that out, or set spark.backend=auto")
