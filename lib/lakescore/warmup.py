"""What takes seconds and hangs on the configuration alone is begun while the rest is imported: workers, or Spark.

``begin`` may be called or not, once or twice: ``take_pool``, ``take_session`` and ``take_context`` give what was begun, or make it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lakescore import backend, timing
from lakescore.config import ScoreConfig
from lakescore.errors import LakescoreError

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    from lakescore.engine.pool import Pool


@dataclass
class _Starting:
    """A session that another thread starts."""

    thread: threading.Thread
    found: list[Any] = field(default_factory=list)


class _Begun:
    """The one process-wide state of its kind: what the command line has begun before the pipeline was there."""

    def __init__(self) -> None:
        # Of several threads that score at once, each takes what is there once.
        self.lock = threading.Lock()
        self.pool: Pool | None = None
        self.starting: _Starting | None = None
        self.by_command = False


_begun = _Begun()


def begin(config: ScoreConfig, by_command: bool = False) -> None:
    """Begin what the run will most likely need. Errors are for who takes it.

    Args:
        config: the run's.
        by_command: whether this process is there for the run alone, so that its start is a part of it.
    """
    from lakescore.engine.pool import Pool

    with _begun.lock:
        _begun.by_command = _begun.by_command or by_command
        if _begun.pool is not None or _begun.starting is not None:
            return
        try:
            reason = backend.why_spark(config)
        except LakescoreError:
            return
        is_direct = backend.why_spark_reads(config) is None
        if is_direct:
            _begun.pool = Pool()
        # Starting a Connect server of its own, PySpark takes SPARK_REMOTE out of the environment for a while: not beside others.
        if reason is not None and not backend.is_remote(config):
            from lakescore import session

            if _begun.pool is not None and session.is_submitted_elsewhere(config.spark):
                # Known only now, as it is the JVM that knows; workers that were begun in vain have hardly begun.
                _begun.pool.close()
                _begun.pool, is_direct = None, False
            _begun.starting = _start(config, is_direct and config.drift.table is None)


def _start(config: ScoreConfig, context_alone: bool) -> _Starting | None:
    # Imported here and not by the thread: two threads that import the same packages may get half of one.
    from lakescore import session

    if session.existing() is not None:
        return None
    found: list[Any] = []

    def start() -> None:
        try:
            if context_alone:
                found.append(session.open_context(config.spark, config.run.name))
            else:
                found.append(session.open_session(config.spark, config.run.name, session.wants_tables(config)))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=start, name="lakescore-session", daemon=True)
    thread.start()
    return _Starting(thread, found)


def start_seconds() -> float | None:
    """What the process took until now, imports above all, where it is there for the run alone."""
    return timing.since_start() if _begun.by_command else None


def take_session(config: ScoreConfig) -> SparkSession:
    """The session that was begun, when it is there, or a new one.

    Raises:
        PlatformError: it does not start.
    """
    from lakescore import session

    found = _take()
    # Of a context that was begun, a session is made now.
    return found if _is_session(found) else session.open_session(config.spark, config.run.name, session.wants_tables(config))


def take_context(config: ScoreConfig) -> SparkContext:
    """The same for a context without a session."""
    from lakescore import session

    found = _take()
    if found is None:
        return session.open_context(config.spark, config.run.name)
    context: SparkContext = found.sparkContext if _is_session(found) else found
    return context


def _is_session(found: Any) -> bool:
    return found is not None and hasattr(found, "sql")


def _take() -> Any:
    """What a thread has begun to start; None where none has."""
    with _begun.lock:
        starting, _begun.starting = _begun.starting, None
    if starting is None:
        return None
    starting.thread.join()
    (found,) = starting.found
    if isinstance(found, BaseException):
        raise found
    return found


@contextmanager
def take_pool() -> Iterator[Pool]:
    """The workers that were begun, or new ones; ended with the block."""
    from lakescore.engine.pool import Pool

    with _begun.lock:
        pool, _begun.pool = _begun.pool or Pool(), None
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def begun(config: ScoreConfig | None) -> Iterator[None]:
    """Begin for one run, unless it is begun or there is nothing to begin (None); what nobody took ends with the block."""
    if config is not None:
        begin(config)
    wait = True
    try:
        yield
    except BaseException as error:
        wait = isinstance(error, Exception)  # who is interrupted has no next run
        raise
    finally:
        drop_pool()
        with _begun.lock:
            starting, _begun.starting, _begun.by_command = _begun.starting, None, False
        if starting is not None and wait:
            # What it has started is there for the next run to find; what has failed is forgotten.
            starting.thread.join()


def drop_pool() -> None:
    """End workers that were begun, and are not wanted."""
    with _begun.lock:
        pool, _begun.pool = _begun.pool, None
    if pool is not None:
        pool.close()
