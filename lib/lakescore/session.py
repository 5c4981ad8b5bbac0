"""Configuration in, a SparkSession out: the one place that knows platforms, the JVM and the SparkContext.

Everything else speaks the DataFrame API only, so that it runs over Spark Connect as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyspark import SparkConf, SparkContext, StorageLevel
from pyspark.errors import PySparkRuntimeError
from pyspark.logger import PySparkLogger
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T
from pyspark.sql.utils import is_remote

from lakescore import interruption, java, object_store
from lakescore.config import ScoreConfig, SparkConfig
from lakescore.console import on_databricks, under_spark_submit
from lakescore.errors import NeedsSparkError, PlatformError
from lakescore.failures import END_OF_JVM
from lakescore.redact import HIDDEN, is_secret_key, redact

log = logging.getLogger(__name__)

# Cancelled tasks, and a JVM that ends, are waited for so long.
_END_SECONDS = 10.0
_PARENT = os.getppid()
_CONNECT_SECONDS = 5
_PATIENCE_SECONDS = 15
# What a session of our own starts with; the configuration and spark-submit win over it.
_OWN_DEFAULTS = {
    # INT96, Spark's default, has no statistics in the Parquet footer and overflows other readers on far dates.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.ui.showConsoleProgress": "false",
    # The same times in the model's hands wherever the job runs.
    "spark.sql.session.timeZone": "UTC",
    # The line of Python at which each column was made, for messages that become one line without it: of the time it takes to make one, it
    # is three quarters, which shows with hundreds of columns.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
}

# Where all tasks are this machine's: of Delta's 50 for the log of a table, each takes longer to start than a usual log takes to read.
_LOCAL_DEFAULTS = {"spark.databricks.delta.snapshotPartitions": "8"}

# What Databricks' serverless compute says of most settings, whether they are read or set.
_CLOSED_SETTING = "CONFIG_NOT_AVAILABLE"

_SIMPLE_TYPES: dict[str, T.DataType] = {
    **dict.fromkeys(("double",), T.DoubleType()),
    **dict.fromkeys(("float", "real"), T.FloatType()),
    **dict.fromkeys(("byte", "tinyint"), T.ByteType()),
    **dict.fromkeys(("short", "smallint"), T.ShortType()),
    **dict.fromkeys(("int", "integer"), T.IntegerType()),
    **dict.fromkeys(("long", "bigint"), T.LongType()),
    **dict.fromkeys(("string",), T.StringType()),
    **dict.fromkeys(("boolean",), T.BooleanType()),
}
# Spark's own catalog is in memory: a table's name would end with the process. Hive's is the cluster's, or a folder `metastore_db` here.
_S3_ENDPOINT = "spark.hadoop.fs.s3a.endpoint"
_LASTING_CATALOG = {"spark.sql.catalogImplementation": "hive"}


def open_session(config: SparkConfig, name: str, tables: bool = False) -> SparkSession:
    """The session that is there already (notebook, Databricks), else a new one; with a catalog that lasts where ``tables`` are named.

    Precedence: spark-submit's ``--master`` and ``--conf``, with spark-defaults.conf > the configuration > our defaults. Without
    spark-submit, PySpark starts the JVM with the latter two, and spark-defaults.conf comes after them.

    Raises:
        PlatformError: Java is missing or too old, or Spark does not start.
    """
    active = existing()
    if active is not None:
        if config.conf or config.master:
            log.info("spark: using the session that is there; spark.master and spark.conf of the configuration are not applied")
        return active
    if on_databricks():
        # Who asks first makes it. It is the platform's: no setting of ours, no Java or Python of this process, has a say in it.
        session: SparkSession = _started(SparkSession.builder.getOrCreate, "the session of Databricks")
        return session
    builder = SparkSession.builder.appName(name)
    remote = config.master if config.master and config.master.startswith("sc://") else os.environ.get("SPARK_REMOTE")
    if remote:
        _use_own_python(remote)
        return _start(_configured(builder.remote(remote), config.conf), f"Spark Connect at {remote}")
    settings = _settings(config, tables)
    with _launching(settings):
        return _start(_configured(builder, settings), "Spark")


def open_context(config: SparkConfig, name: str) -> SparkContext:
    """A context without a session, which takes two more seconds: enough to run tasks that read no rows through Spark.

    Raises:
        PlatformError: as ``open_session``.
    """
    if SparkContext._active_spark_context is not None:
        return SparkContext._active_spark_context
    settings = {"spark.app.name": name, **_settings(config, tables=False)}
    with _launching(settings):
        context: SparkContext = _started(lambda: SparkContext.getOrCreate(SparkConf().setAll(list(settings.items()))), "Spark")
    _quiet(context)
    return context


def _settings(config: SparkConfig, tables: bool) -> dict[str, str]:
    """What a session of our own starts with."""
    given: dict[str, str] = {}
    if under_spark_submit():
        SparkContext._ensure_initialized()
        given = dict(SparkConf().getAll())
        master = _submitted_master(config, given)
    else:
        java.require_file()
        master = config.master or os.environ.get("MASTER", "local")
    _require_master(master)
    _use_own_python(master)
    defaults = {**_OWN_DEFAULTS, **(_LOCAL_DEFAULTS if _is_local(master) else {}), **(_LASTING_CATALOG if tables else {})}
    return _beside(given, config, defaults, master)


@contextmanager
def _launching(settings: Mapping[str, str]) -> Iterator[None]:
    with java.hurried(settings, _is_local(settings.get("spark.master", "local"))):
        _launch_without_secrets(settings)
        yield


def _launch_without_secrets(settings: Mapping[str, str]) -> None:
    """Start the JVM before it is told what is secret: PySpark puts all settings into its command line, which everybody on the host sees."""
    public = [(key, value) for key, value in settings.items() if not is_secret_key(key) and redact(value) == value]
    if len(public) < len(settings) and SparkContext._gateway is None:
        _started(lambda: SparkContext._ensure_initialized(conf=SparkConf().setAll(public)), "Spark")


def _object_storage(given: Mapping[str, str]) -> dict[str, str]:
    """The S3 server and region of the environment, unless somebody has said which it is to be."""
    return {} if any(key.startswith(_S3_ENDPOINT) for key in given) else object_store.spark_settings()


def is_there() -> bool:
    """Whether columns can be made: in classic Spark they belong to a session."""
    return is_remote() or existing() is not None


def parse_type(text: str) -> T.DataType:
    """A type as Spark writes it; the simplest ones are known without Spark.

    Raises:
        NeedsSparkError: only Spark can parse it, and there is no session.
        Exception: Spark cannot.
    """
    name = text.strip().lower()
    if name.startswith("array<") and name.endswith(">") and name[6:-1] in _SIMPLE_TYPES:
        return T.ArrayType(_SIMPLE_TYPES[name[6:-1]])
    if name in _SIMPLE_TYPES:
        return _SIMPLE_TYPES[name]
    if not is_there():
        raise NeedsSparkError(f"the type {text!r} is to be parsed")
    return T.DataType.fromDDL(text)


def wants_tables(config: ScoreConfig) -> bool:
    """Whether the run speaks of tables by name, so that a session of its own needs a catalog that lasts."""
    return any((config.source.table, config.source.query, config.output.table))


def existing() -> SparkSession | None:
    """The session of this thread, or the one that another thread of this process has started (a notebook's cell, a web server)."""
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    if is_remote():
        with contextlib.suppress(PySparkRuntimeError):  # there is none
            return SparkSession.active()
        return None
    started = SparkSession._instantiatedSession
    return started if started is not None and started._sc._jsc is not None else None


def _use_own_python(master: str) -> None:
    """On one machine, workers get this Python: Spark would take ``python3`` from PATH, which need not have the packages."""
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def _require_master(master: str) -> None:
    """Knock at the port of a standalone master: Spark would try for a minute, and then say that its context is null."""
    if not master.startswith("spark://"):
        return
    reasons = []
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            raise PlatformError(f"the Spark master {master} has no port; give one, as in spark://HOST:7077 (--master, spark.master)")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            reasons.append(error.strerror or str(error))
        else:
            return
    raise PlatformError(f"the Spark master {master} does not answer: {reasons[-1]}; start it, or give another (--master, spark.master)")


def _configured(builder: Any, conf: dict[str, str]) -> Any:
    for key, value in conf.items():
        builder = builder.config(key, value)
    return builder


def _start(builder: Any, what: str) -> SparkSession:
    def start() -> SparkSession:
        session: SparkSession = builder.getOrCreate()
        session.conf.get("spark.sql.session.timeZone")  # a Connect client notices an absent server only when it asks
        return session

    session: SparkSession = _started(start, what)
    if not log.isEnabledFor(logging.DEBUG):
        # Spark would print a stack trace per failed task, and PySpark one per query that it refuses; what matters is in our one line.
        for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):
            PySparkLogger.getLogger(name).disabled = True
        if not is_connect(session):
            _quiet(session.sparkContext)
    if not is_connect(session):
        _watch_for_executors(session.sparkContext)
    return session


def _quiet(context: SparkContext) -> None:
    if not log.isEnabledFor(logging.DEBUG):
        context.setLogLevel("OFF")


def _watch_for_executors(context: SparkContext) -> None:
    """Have a thread say that the job waits for a first executor, which Spark would say itself, were it not quiet."""

    def watch() -> None:
        waited, pause = 0, _PATIENCE_SECONDS
        with contextlib.suppress(Exception):  # the session has ended
            while True:
                time.sleep(pause)
                waited, pause = waited + pause, pause * 2
                if int(context._jsc.sc().getExecutorMemoryStatus().size()) > 1:  # the driver is one of them
                    return
                log.warning(
                    "spark: %s has started no executor in %d s; the job waits for one, which takes free cores and %s of memory "
                    "(spark.executor.memory)",
                    context.master,
                    waited,
                    context.getConf().get("spark.executor.memory", "1g"),
                )

    if not _is_local(str(context.master)):
        threading.Thread(target=watch, name="lakescore-executors", daemon=True).start()


def _started(start: Callable[[], Any], what: str) -> Any:
    try:
        with interruption.kept():
            return start()
    except Exception as error:
        if what == "Spark":
            java.require()
            _require_name()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "Exception" in line or "Error" in line), lines[0] if lines else "")
        raise PlatformError(f"{what} does not start: {reason or type(error).__name__}") from error


def _require_name() -> None:
    """Spark asks the system who runs it."""
    try:
        import pwd  # not on Windows

        pwd.getpwuid(os.getuid())
    except ImportError:
        return
    except KeyError:
        raise PlatformError(
            f"Spark does not start for a user without a name: there is no line for the user {os.getuid()} in /etc/passwd"
        ) from None


def _beside(given: Mapping[str, str], config: SparkConfig, defaults: Mapping[str, str], master: str) -> dict[str, str]:
    """What the settings that spark-submit was given leave to the configuration and to the defaults."""
    settings = {}
    for key, value in {**defaults, **_object_storage({**given, **config.conf}), **config.conf}.items():
        if key not in given:
            settings[key] = value
        elif key in config.conf and given[key] != value:
            shown = (HIDDEN, HIDDEN) if is_secret_key(key) else (given[key], value)
            log.info("spark: %s=%s of spark-submit wins over the configuration's %s", key, *shown)
    if config.master and config.master != given.get("spark.master"):
        if master == config.master:
            settings["spark.master"] = master
        else:
            log.info("spark: --master %s of spark-submit wins over spark.master", master)
    return settings


def is_submitted_elsewhere(config: SparkConfig) -> bool:
    """Whether spark-submit runs the job's tasks on other machines than this."""
    if not under_spark_submit():
        return False
    SparkContext._ensure_initialized()
    return not _is_local(_submitted_master(config, dict(SparkConf().getAll())))


def _submitted_master(config: SparkConfig, given: dict[str, str]) -> str:
    """The master of a job that spark-submit has started with these settings."""
    if config.master and config.master != given.get("spark.master") and not _master_was_chosen(SparkContext, given):
        return config.master
    return given.get("spark.master", "local")


def _is_local(master: str) -> bool:
    return master.startswith("local") and not master.startswith("local-cluster")


def print_on_jvm_stderr(line: str) -> None:
    """Print a line on the stderr of spark-submit's JVM, which is its parent's; Python's own becomes its stdout.

    Raises:
        PlatformError: the JVM does not answer.
    """

    def say() -> None:
        SparkContext._ensure_initialized()
        jvm = SparkContext._jvm
        assert jvm is not None, "the gateway was just started"
        jvm.java.lang.System.err.println(line)
        said.set()

    said = threading.Event()
    _apart(say)
    if not said.is_set():
        raise PlatformError("Spark's JVM does not answer")


def _apart(do: Callable[[], object]) -> None:
    """Call a function of Spark's JVM from a thread of its own, which has its own connection; who dies answers nobody, so not for long."""

    def quietly() -> None:
        with contextlib.suppress(Exception):
            do()

    thread = threading.Thread(target=quietly, name="lakescore-jvm", daemon=True)
    thread.start()
    thread.join(_END_SECONDS)


def forget_call() -> None:
    """Close this thread's connection to Spark's JVM where an answer is waited for: it would be taken for that to the next question."""
    gateway: Any = SparkContext._gateway
    with contextlib.suppress(Exception):
        client = gateway._gateway_client
        connection = client.get_thread_connection()
        if connection is not None and connection not in client.deque:
            connection.close()


@contextmanager
def interruptible(spark: SparkSession | None = None) -> Iterator[None]:
    """Leave the block only when no task of Spark's is at work any more, where it is left by an interruption or because the JVM ends.

    What the tasks have written can be removed then: they would write it again.

    Args:
        spark: whose jobs are cancelled, those of the block alone; None: there are none.
    """
    try:
        with _cancelled(spark) if spark is not None else contextlib.nullcontext():
            yield
    except Exception as error:
        if _is_end(error) or _is_gone():
            _wait_for_end()
        interruption.end_if_asked()  # under spark-submit a command ends with the JVM
        raise


@contextmanager
def _cancelled(spark: SparkSession) -> Iterator[None]:
    """Tag the jobs of the block, and cancel them where it is interrupted: others may use the same session, and the same context."""
    tag = f"lakescore-{uuid.uuid4().hex}"
    cancel: Callable[[], object]
    if is_connect(spark):
        add, remove, cancel = spark.addTag, spark.removeTag, partial(spark.interruptTag, tag)
    else:
        context = spark.sparkContext
        add, remove, cancel = context.addJobTag, context.removeJobTag, partial(_cancel, context, tag)
    add(tag)
    interrupted = False
    try:
        yield
    except BaseException as error:
        interrupted = not isinstance(error, Exception)
        if interrupted:
            _apart(cancel)
        raise
    finally:
        # Who was interrupted may be in the middle of a call: the tag, which nobody else has, stays.
        if not interrupted:
            with contextlib.suppress(Exception):  # the JVM may have ended
                remove(tag)


def _cancel(context: SparkContext, tag: str) -> None:
    context.cancelJobsWithTag(tag)
    jvm = context._jsc.sc()
    until = time.monotonic() + _END_SECONDS
    while sum(executor.numRunningTasks() for executor in jvm.statusTracker().getExecutorInfos()) and time.monotonic() < until:
        time.sleep(0.05)


def _is_end(error: BaseException | None) -> bool:
    """Whether an error is that of a JVM that has ended, or is about to."""
    while error is not None:
        if END_OF_JVM.search(str(error)):
            return SparkContext._gateway is not None
        error = error.__cause__
    return False


def _is_gone() -> bool:
    """Whether there is a JVM of ours, and it does not answer."""
    if SparkContext._gateway is None:
        return False
    try:
        SparkContext._gateway.jvm.java.lang.System.nanoTime()
    except Exception:
        return True
    return False


def _wait_for_end() -> None:
    """Wait until the JVM is gone: a child of this process, or under spark-submit its parent."""
    process = getattr(SparkContext._gateway, "proc", None)
    until = time.monotonic() + _END_SECONDS
    while time.monotonic() < until and os.getppid() == _PARENT and (process is None or process.poll() is None):
        time.sleep(0.05)


def _master_was_chosen(context: Any, given: dict[str, str]) -> bool:
    """Whether somebody gave spark-submit a master; without one it fills in ``local[*]`` as if somebody had."""
    if given.get("spark.master") != "local[*]":
        return True
    command = str(context._jvm.java.lang.System.getProperty("sun.java.command") or "")
    return "org.apache.spark.deploy.SparkSubmit" not in command or " --master" in command


def is_case_sensitive(spark: SparkSession) -> bool:
    """Whether Spark tells ``a`` from ``A`` in column names."""
    try:
        return str(spark.conf.get("spark.sql.caseSensitive", "false")).lower() == "true"
    except Exception as error:
        if _CLOSED_SETTING in str(error):
            return False
        raise


@contextmanager
def runtime_conf(spark: SparkSession, **conf: str | None) -> Iterator[None]:
    """Set runtime options for one job and put back what was there; a None is left as it is, and so is what the platform sets alone.

    Keys are given with ``__`` for the dots.
    """
    before: dict[str, str | None] = {}
    try:
        for key, value in ((key.replace("__", "."), value) for key, value in conf.items() if value is not None):
            try:
                old = spark.conf.get(key, None)
                spark.conf.set(key, value)
                before[key] = old
            except Exception as error:
                if _CLOSED_SETTING not in str(error):
                    raise
                log.info("spark: %s=%s cannot be set here", key, value)
        yield
    finally:
        with _unless_gone("its options are as the job had them"):
            for key, old in before.items():
                if old is None:
                    spark.conf.unset(key)
                else:
                    spark.conf.set(key, old)


@contextmanager
def _unless_gone(what: str) -> Iterator[None]:
    """What is put back when the work is done: a Spark that has died meanwhile has nothing to put back, and what was done is done."""
    try:
        yield
    except Exception as error:
        log.warning("spark: %s: %s", what, str(error).splitlines()[0] if str(error) else type(error).__name__)


def is_connect(spark: SparkSession) -> bool:
    """Whether the session speaks Spark Connect."""
    return type(spark).__module__.startswith("pyspark.sql.connect")


def run_tasks(context: SparkContext, count: int, task: Callable[[int], bytes]) -> list[bytes]:
    """What a function says of each number below ``count``, by a task of Spark for each.

    No DataFrame: Spark would set up its SQL engine first, for as many rows as there are tasks.
    """
    return list(context.parallelize(range(count), count).map(task).collect())


@contextmanager
def persisted(df: DataFrame) -> Iterator[DataFrame]:
    """The same rows, computed once and kept on the workers' disks while the block runs."""
    try:
        kept = df.persist(StorageLevel.DISK_ONLY)
    except Exception as error:
        # Databricks serverless has no cache.
        log.info("spark: rows cannot be kept, and are computed once for each table: %s", type(error).__name__)
        yield df
        return
    try:
        yield kept
    finally:
        with _unless_gone("rows that were kept on the workers' disks stay there"):
            kept.unpersist()


def is_one_machine(spark: SparkSession | SparkContext) -> bool:
    """Whether the workers are certain to read this process's local files: local mode, and no Connect server between."""
    if not isinstance(spark, SparkContext) and is_connect(spark):
        return False
    master = str(spark.master if isinstance(spark, SparkContext) else spark.conf.get("spark.master", ""))
    return _is_local(master)


@dataclass(frozen=True)
class JobProgress:
    """What Spark is doing: tasks done, tasks in all, and rows read so far (None where Spark does not say)."""

    done: int
    total: int
    rows: int | None


@contextmanager
def job_progress(spark: SparkSession) -> Iterator[Callable[[], JobProgress | None]]:
    """A function that tells how far the running stages are, or None while nothing runs."""
    with _connect_progress(spark) if is_connect(spark) else stages_of(spark.sparkContext) as read:
        yield read


@contextmanager
def stages_of(context: SparkContext) -> Iterator[Callable[[], JobProgress | None]]:
    """The same of a context."""
    store = context._jsc.sc().statusStore()

    def read() -> JobProgress | None:
        stages = store.activeStages()
        found = [stages.apply(i) for i in range(stages.size())]
        if not found:
            return None
        return JobProgress(
            sum(int(s.numCompleteTasks()) for s in found),
            sum(int(s.numTasks()) for s in found),
            sum(int(s.inputRecords()) for s in found),
        )

    yield read


@contextmanager
def _connect_progress(spark: Any) -> Iterator[Callable[[], JobProgress | None]]:
    latest: list[JobProgress | None] = [None]

    def handle(stages: Any = (), inflight_tasks: int = 0, operation_id: str | None = None, done: bool = False) -> None:
        tasks = [(int(s.num_completed_tasks), int(s.num_tasks)) for s in stages or ()]
        latest[0] = None if done or not tasks else JobProgress(sum(d for d, _ in tasks), sum(t for _, t in tasks), None)

    spark.registerProgressHandler(handle)
    try:
        yield lambda: latest[0]
    finally:
        spark.removeProgressHandler(handle)
