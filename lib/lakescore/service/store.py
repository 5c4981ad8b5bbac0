"""The service's memory: runs, ticks of schedules and browser sessions, in one SQLite file. All SQL is here.

A run's way: queued -> running -> succeeded, skipped, failed, cancelled or lost; where it is tried again, running -> queued.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal, get_args

Status = Literal["queued", "running", "succeeded", "skipped", "failed", "cancelled", "lost"]
STATUSES: tuple[Status, ...] = get_args(Status)
ENDED: tuple[Status, ...] = STATUSES[2:]
Trigger = Literal["api", "page", "schedule"]
_VERSION = 1
_SCHEMA = """
CREATE TABLE runs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  pipeline TEXT NOT NULL,
  status TEXT NOT NULL,
  trigger TEXT NOT NULL,
  caller TEXT NOT NULL,
  overrides TEXT NOT NULL,
  batch_id TEXT NOT NULL,
  score_date TEXT NOT NULL,
  created_at TEXT NOT NULL,
  scheduled_at TEXT,
  idempotency_key TEXT,
  body_digest TEXT,
  attempt INTEGER NOT NULL DEFAULT 1,
  not_before TEXT,
  started_at TEXT,
  ended_at TEXT,
  cancelled_by TEXT,
  exit_code INTEGER,
  error TEXT,
  result TEXT,
  mlflow_url TEXT,
  UNIQUE (pipeline, idempotency_key),
  UNIQUE (pipeline, scheduled_at)
);
CREATE INDEX runs_by_status ON runs (status);
CREATE INDEX runs_by_pipeline ON runs (pipeline, seq);
CREATE TABLE ticks (pipeline TEXT PRIMARY KEY, schedule TEXT NOT NULL, last TEXT NOT NULL);
CREATE TABLE sessions (id TEXT PRIMARY KEY, token TEXT NOT NULL, form_key TEXT NOT NULL, until TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Run:
    """One row; times are ISO 8601 in UTC, overrides the caller's ``{key: value}``, result what ``lakescore score --result`` left."""

    id: str
    pipeline: str
    status: Status
    trigger: Trigger
    caller: str
    overrides: dict[str, Any]
    batch_id: str
    score_date: str
    created_at: str
    seq: int = 0
    scheduled_at: str | None = None
    idempotency_key: str | None = None
    body_digest: str | None = None
    attempt: int = 1
    not_before: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    cancelled_by: str | None = None
    exit_code: int | None = None
    error: str | None = None
    result: dict[str, Any] | None = None
    mlflow_url: str | None = None

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED


MOST_SEQ = 2**63 - 1  # that SQLite takes
_COLUMNS = tuple(field.name for field in fields(Run) if field.name != "seq")


class QueueFullError(Exception):
    """As many runs wait as may."""


class KeyReusedError(Exception):
    """The idempotency key was given with another body."""


def text_of(moment: datetime) -> str:
    """A moment as it is kept: of one length, so that texts are in the order of the moments."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(text: str) -> datetime:
    """The moment that ``text_of`` wrote."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def new_id(now: datetime) -> str:
    """A run's ID, which tells when it was made."""
    return f"{now.astimezone(timezone.utc):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


class Store:
    """The file. Methods may be called from any thread; each is one transaction."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(file, timeout=10, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._transaction() as execute:
            version = execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    execute(statement)
                execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _select(self, rest: str, values: Sequence[Any] = ()) -> list[Run]:
        with self._lock, closing(self._connection.execute(f"SELECT * FROM runs {rest}", tuple(values))) as cursor:
            return [_run(row) for row in cursor.fetchall()]

    # --- runs

    def add(self, run: Run, most_queued: int) -> tuple[Run, bool]:
        """Queue a run; with an idempotency key that was there, the run that it made.

        Args:
            run: to be queued.
            most_queued: runs that may wait.

        Returns:
            The run, and whether it is new.

        Raises:
            QueueFullError: as many wait.
            KeyReusedError: the key was there with another body.
        """
        with self._transaction() as execute:
            if run.idempotency_key is not None:
                known = self._select("WHERE pipeline = ? AND idempotency_key = ?", (run.pipeline, run.idempotency_key))
                if known and known[0].body_digest != run.body_digest:
                    raise KeyReusedError
                if known:
                    return known[0], False
            if execute("SELECT count(*) FROM runs WHERE status = 'queued'").fetchone()[0] >= most_queued:
                raise QueueFullError
            self._insert(execute, run)
        return run, True

    def _insert(self, execute: Any, run: Run, otherwise: str = "ABORT") -> None:
        row = {**asdict(run), "overrides": json.dumps(run.overrides), "result": None}
        names = ", ".join(_COLUMNS)
        places = ", ".join(f":{name}" for name in _COLUMNS)
        execute(f"INSERT OR {otherwise} INTO runs ({names}) VALUES ({places})", {name: row[name] for name in _COLUMNS})

    def get(self, run_id: str) -> Run | None:
        found = self._select("WHERE id = ?", (run_id,))
        return found[0] if found else None

    def newest(
        self,
        limit: int,
        pipeline: str | None = None,
        status: Sequence[str] = (),
        since: str | None = None,
        before: int | None = None,
    ) -> list[Run]:
        """The newest runs.

        Args:
            limit: at most so many.
            pipeline, status: only theirs.
            since: made at or after this time.
            before: only runs older than the one with this ``seq``.
        """
        marks = ", ".join("?" * len(status))
        wanted = [
            ("pipeline = ?", pipeline),
            ("created_at >= ?", since),
            ("seq < ?", before),
        ]
        parts = [part for part, value in wanted if value is not None] + ([f"status IN ({marks})"] if status else [])
        values = [value for _, value in wanted if value is not None] + [*status]
        where = f"WHERE {' AND '.join(parts)}" if parts else ""
        return self._select(f"{where} ORDER BY seq DESC LIMIT ?", [*values, limit])

    def running(self) -> list[Run]:
        return self._select("WHERE status = 'running' ORDER BY seq")

    def startable(self, now: datetime) -> list[Run]:
        """The queued runs whose time has come, in order."""
        return self._select("WHERE status = 'queued' AND (not_before IS NULL OR not_before <= ?) ORDER BY seq", (text_of(now),))

    def counts(self) -> dict[str, int]:
        """Runs by status, of those that have not ended."""
        with self._lock:
            rows = self._connection.execute("SELECT status, count(*) FROM runs WHERE status IN ('queued', 'running') GROUP BY status")
            return {"queued": 0, "running": 0, **{row[0]: row[1] for row in rows}}

    def start(self, run: Run, now: datetime) -> bool:
        """Mark a queued run as running; False where it is not queued any more."""
        with self._transaction() as execute:
            done = execute(
                "UPDATE runs SET status = 'running', started_at = ?, not_before = NULL WHERE id = ? AND status = 'queued'",
                (text_of(now), run.id),
            )
            return bool(done.rowcount)

    def cancel(self, run_id: str, caller: str, now: datetime) -> Run | None:
        """End a queued run, or note that a running one is to be ended; None where it has ended already, or is not there."""
        with self._transaction() as execute:
            queued = execute(
                "UPDATE runs SET status = 'cancelled', cancelled_by = ?, ended_at = ? WHERE id = ? AND status = 'queued'",
                (caller, text_of(now), run_id),
            )
            running = execute("UPDATE runs SET cancelled_by = ? WHERE id = ? AND status = 'running'", (caller, run_id))
            return self.get(run_id) if queued.rowcount or running.rowcount else None

    def end(
        self,
        run: Run,
        status: Status,
        ended_at: datetime,
        exit_code: int | None,
        error: str | None,
        result: dict[str, Any] | None,
        mlflow_url: str | None,
    ) -> None:
        """Note how a running run has ended."""
        with self._transaction() as execute:
            execute(
                "UPDATE runs SET status = ?, ended_at = ?, exit_code = ?, error = ?, result = ?, mlflow_url = ? "
                "WHERE id = ? AND status = 'running'",
                (status, text_of(ended_at), exit_code, error, None if result is None else json.dumps(result), mlflow_url, run.id),
            )

    def again(self, run: Run, error: str, not_before: datetime) -> bool:
        """Queue a running run for another try; False where it was cancelled meanwhile."""
        with self._transaction() as execute:
            done = execute(
                "UPDATE runs SET status = 'queued', attempt = attempt + 1, error = ?, not_before = ? "
                "WHERE id = ? AND status = 'running' AND cancelled_by IS NULL",
                (error, text_of(not_before), run.id),
            )
            return bool(done.rowcount)

    def forget(self, before: datetime) -> list[str]:
        """Delete the runs that had ended by then; returns their IDs."""
        with self._transaction() as execute:
            old = "FROM runs WHERE ended_at IS NOT NULL AND ended_at < ?"
            rows = execute(f"SELECT id {old}", (text_of(before),)).fetchall()
            execute(f"DELETE {old}", (text_of(before),))
            return [row[0] for row in rows]

    # --- ticks

    def last_tick(self, pipeline: str, schedule: str, now: datetime) -> datetime:
        """Up to when a pipeline's schedule has been looked at; a schedule that is new begins now."""
        with self._transaction() as execute:
            row = execute("SELECT schedule, last FROM ticks WHERE pipeline = ?", (pipeline,)).fetchone()
            if row is not None and row["schedule"] == schedule:
                return moment_of(row["last"])
            execute("INSERT OR REPLACE INTO ticks (pipeline, schedule, last) VALUES (?, ?, ?)", (pipeline, schedule, text_of(now)))
            return now

    def tick(self, pipeline: str, runs: Sequence[Run], last: datetime) -> None:
        """Note that a schedule has been looked at, with the runs that came of it; a tick that was there makes no second one."""
        with self._transaction() as execute:
            for run in runs:
                self._insert(execute, run, "IGNORE")
            execute("UPDATE ticks SET last = ? WHERE pipeline = ?", (text_of(last), pipeline))

    # --- browser sessions

    def open_session(self, session: str, token: str, form_key: str, now: datetime, hours: float) -> None:
        """Keep a session (its hash) of who has a token (its hash), and forget those that are over."""
        with self._transaction() as execute:
            execute("DELETE FROM sessions WHERE until < ?", (text_of(now),))
            until = text_of(now + timedelta(hours=hours))
            execute("INSERT INTO sessions (id, token, form_key, until) VALUES (?, ?, ?, ?)", (session, token, form_key, until))

    def session(self, session: str, now: datetime) -> tuple[str, str] | None:
        """The token's hash and the forms' key of a session."""
        with self._lock:
            row = self._connection.execute(
                "SELECT token, form_key FROM sessions WHERE id = ? AND until >= ?", (session, text_of(now))
            ).fetchone()
            return None if row is None else (row["token"], row["form_key"])

    def close_session(self, session: str) -> None:
        with self._transaction() as execute:
            execute("DELETE FROM sessions WHERE id = ?", (session,))


def _run(row: sqlite3.Row) -> Run:
    values = dict(zip(row.keys(), row, strict=True))
    result = values.pop("result")
    return Run(**{**values, "overrides": json.loads(values["overrides"]), "result": None if result is None else json.loads(result)})
