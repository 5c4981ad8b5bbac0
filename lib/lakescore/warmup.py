"""What takes seconds and hangs on the configuration alone is begun while the rest is imported: workers, or Spark.

``begin`` may be called or not, once or twice: ``take_pool`` and ``take_session`` give what was begun, or make it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lakescore import backend
from lakescore.config import ScoreConfig
from lakescore.errors import LakescoreError

if TYPE_CHECKING:
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
        self.pool: Pool | None = None
        self.starting: _Starting | None = None


_begun = _Begun()


def begin(config: ScoreConfig) -> None:
    """Begin what the run will most likely need. Errors are for who takes it.

    Args:
        config: the run's.
    """
    if _begun.pool is not None or _begun.starting is not None:
        return
    try:
        reason = backend.why_spark(config)
    except LakescoreError:
        return
    if reason is None:
        from lakescore.engine.pool import Pool

        _begun.pool = Pool()
    elif config.spark.backend != "embedded":
        _begun.starting = _start(config)


def _start(config: ScoreConfig) -> _Starting | None:
    # Imported here and not by the thread: two threads that import the same packages may get half of one.
    from lakescore import session

    if session.existing() is not None:
        return None
    found: list[Any] = []

    def start() -> None:
        try:
            found.append(session.open_session(config.spark, config.run.name, session.wants_tables(config)))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=start, name="lakescore-session", daemon=True)
    thread.start()
    return _Starting(thread, found)


def take_session(open_session: Callable[[], SparkSession]) -> SparkSession:
    """The session that was begun, when it is there, or a new one.

    Raises:
        PlatformError: it does not start.
    """
    starting, _begun.starting = _begun.starting, None
    if starting is None:
        return open_session()
    starting.thread.join()
    (found,) = starting.found
    if isinstance(found, BaseException):
        raise found
    session: SparkSession = found
    return session


@contextmanager
def take_pool() -> Iterator[Pool]:
    """The workers that were begun, or new ones; ended with the block."""
    from lakescore.engine.pool import Pool

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
    try:
        yield
    finally:
        pool, _begun.pool = _begun.pool, None
        if pool is not None:
            pool.close()
