"""Runs on executors, in Spark's Python worker: Arrow batches in, the same with the entry script's results out.

The script runs in a process of its own (``script_process.py``), so that a call that hangs, in C code too, can be ended. One process
serves a worker for as long as it has tasks: ``init()`` runs once in it. The standard library carries it (``subprocess`` and
``multiprocessing.connection``), because executors need nothing else then; ``multiprocessing.Process`` would start Spark's own worker
module again in every child. This file is shipped with the script, so it imports nothing of Lakescore.

Nothing that the script does fails the task, because Spark would run it again: what went wrong stands in the rows.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

# Seconds that import and init() may take.
INIT_TIMEOUT = 600.0
# Seconds for which a process waits for the next task, alone on its host and where another waits for its place.
IDLE = 10.0
IDLE_WANTED = 1.0
# Seconds for shutdown() when a process is sent away.
SHUTDOWN = 5.0
NOT_RUN = "NotRun: the job was stopping"
TOO_MANY = "TooManyResults"
FAILURE_TYPE = pa.struct([("file", pa.string()), ("line", pa.int32()), ("items", pa.int32()), ("trace", pa.string())])


class NotStartedError(RuntimeError):
    """The script cannot be imported or initialised; ``reply`` says why as ``script_process.failure`` does."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(f"{reply['class']}: {reply['message']}")
        self.reply = reply


class EndedError(RuntimeError):
    """The process ended or was ended in the middle of a call."""


class Worker:
    """The script's process of this Spark worker, started when it is needed and sent away when it is not.

    Args:
        job: what ``entry_script.ship`` made, with ``root`` resolved.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._users = 0
        self._idle_since = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._place: Place | None = None
        self._calls = 0
        self._has_pandas = False
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Worker]:
        """Keep the process while a task has mini-batches."""
        with self._lock:
            self._users += 1
        try:
            yield self
        finally:
            with self._lock:
                self._users -= 1
                self._idle_since = time.monotonic()

    def next_index(self) -> int:
        """A number for a mini-batch that no other one of the job has: no two workers have the same task."""
        from pyspark import TaskContext

        context = TaskContext.get()
        self._calls += 1
        return ((context.partitionId() if context is not None else 0) << 33) + self._calls - 1

    def start(self) -> None:
        """Start the process unless it runs; wait for a place on this host first.

        Raises:
            NotStartedError: the import or ``init()`` failed or took too long.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self._forget()
        if self._place is None and self._job["processes"] is not None:
            self._place = Place.take(self._job["token"], self._job["processes"])
        ours, theirs = multiprocessing.Pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-u", os.path.join(self._job["root"], "script_process.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                stdout=2,  # a Spark worker's own output goes to the log of its executor by its standard error
                start_new_session=True,
            )
        finally:
            theirs.close()
        self._connection = ours
        try:
            reply = self._ask(_for_process(self._job), INIT_TIMEOUT)
        except TimeoutError:
            self.kill()
            reply = {"class": "TimeoutError", "message": f"import and init() took longer than {INIT_TIMEOUT:g} s"}
        except EndedError as error:
            reply = {"class": "ProcessEnded", "message": str(error)}
        if "ready" not in reply:
            self.kill()
            raise NotStartedError({"file": None, "line": None, "trace": None, **reply})

    def call(self, request: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """One mini-batch.

        Raises:
            NotStartedError: as ``start``.
            TimeoutError: it took too long; the process was killed.
            EndedError: the process ended by itself.
        """
        self.start()
        if request["rows"] is not None and not self._has_pandas:
            # Their import, which takes a second or two, is none of run()'s time.
            try:
                self._ask({"import": ["pandas", "pyarrow"]}, INIT_TIMEOUT)
            except TimeoutError:
                self.kill()
                said = {"class": "TimeoutError", "message": f"the import of pandas took longer than {INIT_TIMEOUT:g} s"}
                raise NotStartedError({"file": None, "line": None, "trace": None, **said}) from None
            self._has_pandas = True
        try:
            return self._ask(request, timeout)
        except TimeoutError:
            self.kill()
            raise

    def _ask(self, message: Any, timeout: float | None) -> dict[str, Any]:
        assert self._connection is not None
        try:
            self._connection.send(message)
            if not self._connection.poll(timeout):
                raise TimeoutError
            reply: dict[str, Any] = self._connection.recv()
        except TimeoutError:
            raise
        except (EOFError, OSError) as error:
            raise EndedError(self._how_it_ended()) from error
        return reply

    def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(SHUTDOWN)
        except subprocess.TimeoutExpired:
            self.kill()
            return "the script's process closed its connection"
        if code >= 0:
            return f"the script's process ended with exit code {code}"
        hint = " (is there enough memory?)" if code == -signal.SIGKILL else ""
        return f"the script's process was ended by {signal.Signals(-code).name}{hint}"

    def kill(self) -> None:
        """End the process and its children at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._forget()

    def close(self) -> None:
        """Let the process end in order (``shutdown()``), and give its place to others."""
        if self._process is not None and self._connection is not None and self._process.poll() is None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._connection.send(None)
                self._process.wait(SHUTDOWN)
        self.kill()
        if self._place is not None:
            self._place.leave()
            self._place = None

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait()
        self._process = self._connection = None
        self._has_pandas = False

    def _watch(self) -> None:
        """Send the process away when no task has come for a while."""
        while True:
            time.sleep(0.25)
            with self._lock:
                if self._users or self._process is None:
                    continue
                wanted = self._place is not None and self._place.is_wanted()
                if time.monotonic() - self._idle_since > (IDLE_WANTED if wanted else IDLE):
                    self.close()


class Place:
    """One of the places that ``scoring.processes`` gives on a host: a locked file, which the system unlocks if its holder dies."""

    def __init__(self, descriptor: int, path: str, waiting: str) -> None:
        self._descriptor, self._path, self._waiting = descriptor, path, waiting

    @classmethod
    def take(cls, token: str, places: int) -> Place:
        """Wait for a place."""
        stem = os.path.join(tempfile.gettempdir(), f"lakescore-{token}")
        waiting = os.open(f"{stem}-waiting", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            while True:
                for i in range(places):
                    path = f"{stem}-{i}"
                    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
                    if _lock(descriptor, fcntl.LOCK_EX) and _is_at(descriptor, path):
                        return cls(descriptor, path, f"{stem}-waiting")
                    os.close(descriptor)
                _lock(waiting, fcntl.LOCK_SH)
                time.sleep(0.1)
        finally:
            os.close(waiting)

    def is_wanted(self) -> bool:
        """Whether another worker waits for a place."""
        try:
            descriptor = os.open(self._waiting, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not _lock(descriptor, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)

    def leave(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # under the lock: whoever has it open meanwhile sees that it is gone
        if not self.is_wanted():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._waiting)
        os.close(self._descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.fstat(descriptor).st_ino == os.stat(path).st_ino
    except FileNotFoundError:
        return False


# The process-wide state: Spark reuses its Python workers, and init() runs once per worker, not once per task. Each job loads this
# file as a module of its own, so there is one job in it.
_workers: list[Worker] = []


def _worker(job: dict[str, Any]) -> Worker:
    if not _workers:
        _workers.append(Worker(job))
    return _workers[0]


def _for_process(job: dict[str, Any]) -> dict[str, Any]:
    """What the script's process must know: paths are those of this host."""

    def here(path: str) -> str:
        return os.path.join(job["root"], path.removeprefix("shipped:")) if path.startswith("shipped:") else path

    inputs = {name: here(path) for name, path in job["side_inputs"].items()}
    arguments = list(job["arguments"])
    environment = {}
    for name, path in inputs.items():
        arguments += [f"--{name}", path]
        environment[f"LAKESCORE_INPUT_{name.upper().replace('-', '_')}"] = path
    if job["model"] is not None:
        environment["LAKESCORE_MODEL_DIR"] = environment["AZUREML_MODEL_DIR"] = here(job["model"])
    return {
        "parent": os.getpid(),
        "folder": os.path.join(job["root"], "script"),
        "script": job["script"],
        "arguments": arguments,
        "environment": environment,
        "logging_level": job["logging_level"],
    }


def try_out(job: dict[str, Any]) -> dict[str, Any] | None:
    """Import and initialise the script; the failure, or None. The process stays for the tasks that follow."""
    with _worker(job).in_use() as worker:
        try:
            worker.start()
        except NotStartedError as error:
            return error.reply
    return None


def map_batches(batches: Iterator[pa.RecordBatch], job: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    """The rows of one task with their results, one mini-batch after the other."""
    runner = Runner(job)
    # A worker without rows does not start the script.
    first = next((batch for batch in batches if batch.num_rows), None)
    if first is None:
        return
    with _worker(job).in_use() as worker:
        for table in cut(_chain(first, batches), job):
            yield from runner.with_results(worker, table, {}).combine_chunks().to_batches()


def map_group(key: Sequence[pa.Scalar], table: pa.Table, job: dict[str, Any]) -> pa.Table:
    """All rows of one key, as one mini-batch."""
    names = job["partition_keys"]
    with _worker(job).in_use() as worker:
        answered = Runner(job).with_results(worker, table, dict(zip(names, [value.as_py() for value in key], strict=True)))
    # Spark gives times in the session's zone, and takes them back in UTC alone.
    return answered.cast(pa.schema([field.with_type(_in_utc(field.type)) for field in answered.schema]))


def _in_utc(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz is not None else kind


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def cut(batches: Iterator[pa.RecordBatch], job: dict[str, Any]) -> Iterator[pa.Table]:
    """Mini-batches of exactly the configured size; the last one of a task has the rest."""
    waiting: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        waiting = table if waiting is None else pa.concat_tables([waiting, table])
        while (rows := _next(waiting, job)) is not None:
            yield waiting.slice(0, rows)
            waiting = waiting.slice(rows)
    if waiting is not None and waiting.num_rows:
        yield waiting


def _next(table: pa.Table, job: dict[str, Any]) -> int | None:
    """How many rows the next mini-batch has; None where more must be awaited to know."""
    if job["items"] is not None:
        return job["items"] if table.num_rows >= job["items"] else None
    if not table.num_rows:
        return None
    limit: int = job["bytes"]
    if job["path"] is None:
        features = table.select(job["features"])
        rows = max(1, int(limit * table.num_rows / max(1, features.nbytes)))
        return rows if table.num_rows >= rows else None
    total = 0
    for i, path in enumerate(table.column(job["path"]).to_pylist()):
        total += _size(path, job["base"])
        if total > limit:
            return max(1, i)
    return None


@functools.lru_cache(maxsize=65_536)
def _size(path: str, base: str) -> int:
    """A file's bytes; 0 where it cannot be found, which its mini-batch will say."""
    try:
        local = local_path(path, base)
        if local is not None:
            return os.path.getsize(local)
        fs, inner = _remote(path)
        return int(fs.get_file_info(inner).size or 0)
    except Exception:
        return 0


def local_path(path: str, base: str) -> str | None:
    """A path of the local disk as such, absolute; None for a URI of another store."""
    if "://" in path[:12] and not path.startswith("file:"):
        return None
    if path.startswith("file:"):
        plain = "/" + path.removeprefix("file:").lstrip("/")
        # Spark writes some of its URIs with %20 for a space, and some with the space.
        return plain if os.path.exists(plain) else unquote(plain)
    return os.path.join(base, path)


def _remote(path: str) -> tuple[Any, str]:
    import pyarrow.fs as pafs

    scheme, rest = path.split("://", 1)
    fs, inner = pafs.FileSystem.from_uri(f"{'s3' if scheme in ('s3a', 's3n') else scheme}://{rest}")
    return fs, inner


class Runner:
    """Calls the script for mini-batches and puts what comes of it into columns."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job

    def with_results(self, worker: Worker, table: pa.Table, key: dict[str, Any]) -> pa.Table:
        """A mini-batch with the columns result, error and failure."""
        count = table.num_rows
        outcome = Outcome(count)
        if self._stopping():
            outcome.fail_all(NOT_RUN, None)
        else:
            with tempfile.TemporaryDirectory(prefix="lakescore-") if self._job["path"] else contextlib.nullcontext("") as folder:
                items, request = self._request(table, key, outcome, folder)
                request["index"] = worker.next_index()
                if items:
                    self._run(worker, request, items, outcome)
            if outcome.failed and (self._job["stop"] or outcome.is_fatal):
                self._stop()
        job = self._job
        results = self._results(outcome)
        for name, column in ((job["result"], results), (job["error"], pa.array(outcome.errors, pa.string()))):
            table = table.append_column(name, column)
        return table.append_column(job["failure"], pa.array(outcome.failures, FAILURE_TYPE))

    def _request(self, table: pa.Table, key: dict[str, Any], outcome: Outcome, folder: str) -> tuple[list[int], dict[str, Any]]:
        """What ``run`` is given: the positions of the items, and the message."""
        request: dict[str, Any] = {"key": key, "shape": self._job["shape"], "paths": None, "rows": None}
        if self._job["path"] is None:
            items = list(range(table.num_rows))
            sink = pa.BufferOutputStream()
            features = table.select(self._job["features"])
            with pa.ipc.new_stream(sink, features.schema) as writer:
                writer.write_table(features)
            request["rows"] = sink.getvalue().to_pybytes()
        else:
            items, paths = [], []
            for i, path in enumerate(table.column(self._job["path"]).to_pylist()):
                try:
                    paths.append(self._fetch(path, folder, i))
                    items.append(i)
                except Exception as error:
                    outcome.fail([i], f"{type(error).__name__}: {error}", None)
            request["paths"] = paths
        request["count"] = len(items)
        return items, request

    def _fetch(self, path: str, folder: str, index: int) -> str:
        local = local_path(path, self._job["base"])
        if local is not None:
            if not os.path.isfile(local):
                raise FileNotFoundError(f"there is no file {local} on this host")
            return local
        fs, inner = _remote(path)
        os.mkdir(os.path.join(folder, str(index)))  # the script may look at the name, so it stays as it is
        target = os.path.join(folder, str(index), os.path.basename(inner))
        with fs.open_input_stream(inner) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
        return target

    def _run(self, worker: Worker, request: dict[str, Any], items: list[int], outcome: Outcome) -> None:
        """Call ``run``, again after an exception, a timeout or the end of the process, as often as configured."""
        timeout, reply = self._job["timeout"], {}
        for _ in range(self._job["max_try"]):
            try:
                reply = worker.call(request, timeout)
            except TimeoutError:
                reply = {"class": "TimeoutError", "message": f"run took longer than {timeout:g} s"}
            except EndedError as error:
                reply = {"class": "ProcessEnded", "message": str(error)}
            except NotStartedError as error:
                # It did start when it was tried out, so another try by Spark, on another host, may help.
                raise RuntimeError(f"[lakescore:model] {say(self._job, error.reply)} [/lakescore]") from error
            if "values" in reply or reply["class"] == "WrongResult":
                break
        if "values" not in reply:
            outcome.fail(items, f"{reply['class']}: {' '.join(reply['message'].split())}", reply)
        elif reply["returned"] > len(items):
            outcome.fail(items, f"{TOO_MANY}: run returned {reply['returned']} result(s) for {len(items)} item(s)", None)
            outcome.is_fatal = True
        elif reply["unsure"] and not self._job["in_order"]:
            # Given to the first items, results would stand beside rows that they are not of.
            too_few = f"TooFewResults: run returned {reply['returned']} result(s) for {len(items)} items, and nothing tells for which"
            outcome.fail(items, too_few, None)
        else:
            outcome.values = {items[position]: value for position, value in zip(reply["positions"], reply["values"], strict=True)}
            missing = [i for i in items if i not in outcome.values]
            if missing:
                outcome.fail(missing, f"TooFewResults: run returned {reply['returned']} result(s) for {len(items)} item(s)", None)

    def _results(self, outcome: Outcome) -> pa.Array:
        kind = self._job["result_type"]
        values = [outcome.values.get(i) for i in range(len(outcome.errors))]
        try:
            return _array(values, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            pass
        # One by one, to know which.
        for i, value in list(outcome.values.items()):
            try:
                _array([value], kind)
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                shown = f"{type(value).__name__} {value!r}"
                text = f"WrongResult: run returned {shown[:80]}, which is no {self._job['result_name']} (model.result_type)"
                outcome.fail([i], text, None)
                values[i] = None
        return _array(values, kind)

    def _stopping(self) -> bool:
        return os.path.exists(self._stop_file)

    def _stop(self) -> None:
        """Have the other tasks on this host do nothing more: the run has failed already."""
        with contextlib.suppress(OSError):
            open(self._stop_file, "x").close()

    @property
    def _stop_file(self) -> str:
        return os.path.join(self._job["root"], "stop")


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_struct(kind):
        names = {kind.field(i).name for i in range(kind.num_fields)}
        odd = next((value for value in values if value is not None and (not isinstance(value, dict) or set(value) != names)), None)
        if odd is not None:
            raise TypeError(f"{odd!r} has not exactly the fields {', '.join(sorted(names))}")
    odd = next((value for value in values if _would_change(value, kind)), None)
    if odd is not None:
        raise TypeError(f"{odd!r} is no {kind}")
    return pa.array(values, kind)


def _would_change(value: Any, kind: pa.DataType) -> bool:
    """Whether Arrow would take a value for another one: 1.5 for 1, True for 1, a time for its date."""
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return any(_would_change(value.get(kind.field(i).name), kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_list(kind) and isinstance(value, list):
        return any(_would_change(item, kind.value_type) for item in value)
    if pa.types.is_boolean(kind) or pa.types.is_floating(kind) or pa.types.is_integer(kind):
        is_fraction = pa.types.is_integer(kind) and isinstance(value, float) and not value.is_integer()
        return value is not None and (isinstance(value, bool) != pa.types.is_boolean(kind) or is_fraction)
    return pa.types.is_date(kind) and isinstance(value, datetime)


class Outcome:
    """What came of the items of one mini-batch."""

    def __init__(self, count: int) -> None:
        self.values: dict[int, Any] = {}
        self.errors: list[str | None] = [None] * count
        self.failures: list[dict[str, Any] | None] = [None] * count
        self.is_fatal = False

    @property
    def failed(self) -> bool:
        return any(self.errors)

    def fail_all(self, text: str, reply: dict[str, Any] | None) -> None:
        self.fail(list(range(len(self.errors))), text, reply)

    def fail(self, items: list[int], text: str, reply: dict[str, Any] | None) -> None:
        """Count items as failed; the traceback goes with the first of them."""
        reply = reply or {}
        for i in items:
            self.errors[i] = text
            trace = reply.get("trace") if i == items[0] else None
            self.failures[i] = {"file": reply.get("file"), "line": reply.get("line"), "items": len(items), "trace": trace}


def say(job: dict[str, Any], reply: dict[str, Any]) -> str:
    """A failure of the import or of ``init()`` in one line."""
    where = f"{reply['file']} line {reply['line']}" if reply.get("line") else job["script"]
    return f"model.entry_script: {where}: {reply['class']}: {' '.join(str(reply['message']).split())}"
