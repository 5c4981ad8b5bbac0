"""Starts queued runs, sees how running ones end, and looks at the schedules: one thread, and all it knows is in the store.

So it may die at any moment: the next one finds the processes by their folders (``processes.py``), and starts what was not started.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from lakescore import answer
from lakescore.errors import LakescoreError, PlatformError
from lakescore.redact import redact
from lakescore.service import logs, processes
from lakescore.service.pipelines import Pipeline, Pipelines, as_override
from lakescore.service.schedule import BY_SCHEDULE, Schedule
from lakescore.service.store import Run, Status, Store

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_SCHEDULE_EVERY = timedelta(seconds=0.5)
_FORGET_EVERY = timedelta(hours=1)
# Of several tries, each waits twice as long as the one before, up to this.
_LONGEST_DELAY = timedelta(hours=1)


@dataclass(frozen=True)
class Limits:
    """How much is done at once, and for how long.

    Attributes:
        concurrency: runs at once; queue: runs that may wait.
        grace: seconds that a run has to end when it is asked to.
        keep_days: days after which an ended run is forgotten.
    """

    concurrency: int = 1
    queue: int = 100
    grace: float = 30.0
    keep_days: float = 90.0


class Supervisor:
    """Keeps the runs going.

    Args:
        pipelines: what can be run.
        store: what is to be run.
        folder: a folder for each run goes in there.
        limits: how much at once.
        job: the file for spark-submit.
        link: gives the address of an MLflow run's page.
        clock: the time (aware).
    """

    def __init__(
        self,
        pipelines: Pipelines,
        store: Store,
        folder: Path,
        limits: Limits,
        job: Path,
        link: Callable[[Pipeline | None, dict[str, Any]], str | None],
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._pipelines = pipelines
        self._store = store
        self._folder = folder
        self._limits = limits
        self._job = job
        self._link = link
        self._clock = clock
        self._schedule = Schedule(pipelines, store, limits.queue)
        self._own: dict[str, subprocess.Popen[bytes]] = {}
        self._scheduled: datetime | None = None
        self._forgotten: datetime | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="supervisor", daemon=True)

    def begin(self) -> None:
        """Work in a thread until ``finish``."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def finish(self, end_runs: bool = False) -> None:
        """Start nothing more; running runs go on, or are ended."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        if end_runs:
            for run in self._store.running():
                self._store.cancel(run.id, "the service, which ended", self._clock())
            patience = threading.Event()
            deadline = self._clock() + timedelta(seconds=self._limits.grace + 5)
            while self._store.running() and self._clock() < deadline:
                self._look_at_running()
                patience.wait(_LOOK_SECONDS)

    def folder_of(self, run: Run) -> Path:
        """Where the files of a run's latest try are."""
        return self._folder / run.id / str(run.attempt)

    def look(self) -> None:
        """One round of work."""
        now = self._clock()
        self._look_at_running()
        if self._scheduled is None or not timedelta(0) <= now - self._scheduled < _SCHEDULE_EVERY:
            self._scheduled = now
            self._schedule.look(now)
        self._start_queued(now)
        if self._forgotten is None or now - self._forgotten > _FORGET_EVERY:
            self._forgotten = now
            for run_id in self._store.forget(now - timedelta(days=self._limits.keep_days)):
                shutil.rmtree(self._folder / run_id, ignore_errors=True)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception as error:
                # A full disk, for example: the next round may do better.
                log.exception("the service's own work failed: %s", error)
                self._stop.wait(1)
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()

    # --- running runs

    def _look_at_running(self) -> None:
        for run in self._store.running():
            folder, own = self.folder_of(run), self._own.get(run.id)
            own_ended = own is not None and own.poll() is not None
            # In this order: a process writes down that it is there, then how it ended, and then is gone.
            process = processes.at_work(folder)
            alive = process is not None and process.is_alive()
            if (left := processes.read_json(folder / processes.EXIT)) is not None:
                self._ended(run, folder, left)
            elif process is None and own is None:
                self._start_process(run, folder)
            elif process is None and own_ended:
                self._end(run, "failed", self._clock(), None, f"no process could be started with {sys.executable}", None, None)
            elif process is not None and not alive:
                self._lost(run)
            elif process is not None and run.cancelled_by is not None:
                process.end()

    def _ended(self, run: Run, folder: Path, left: dict[str, Any]) -> None:
        code, ended_at = int(left["code"]), datetime.fromisoformat(left["ended_at"])
        told = processes.read_json(folder / answer.RESULT) or {}
        result = {**logs.mlflow_run(folder / processes.LOG), **{key: value for key, value in told.items() if value is not None}}
        pipeline = self._pipelines.get(run.pipeline)
        url = self._link(pipeline, result)
        if code == 0:
            status: Status = "skipped" if result.get("outcome") in ("skipped", "reused") else "succeeded"
            self._end(run, status, ended_at, 0, None, result, url)
        elif run.cancelled_by is not None:
            self._end(run, "cancelled", ended_at, code, f"cancelled by {run.cancelled_by}", result, url)
        else:
            timed_out = bool(left.get("timed_out"))
            error = self._why(pipeline, code, timed_out, result, folder)
            # Only what may be different the next time: not a wrong configuration, model or input.
            if (timed_out or code < 0 or code == 1 or code > 128) and self._again(run, pipeline, error):
                return
            self._end(run, "failed", ended_at, code, error, result, url)

    def _end(self, run: Run, status: Status, *what: Any) -> None:
        self._own.pop(run.id, None)
        self._store.end(run, status, *what)
        log.info("run %s of %s: %s", run.id, run.pipeline, status)

    def _lost(self, run: Run) -> None:
        error = "the process is gone, and nothing tells how it ended: the machine was restarted, or somebody ended it"
        if run.cancelled_by is not None:
            self._end(run, "cancelled", self._clock(), None, f"cancelled by {run.cancelled_by}", None, None)
        elif not self._again(run, self._pipelines.get(run.pipeline), error):
            self._end(run, "lost", self._clock(), None, error, None, None)

    def _again(self, run: Run, pipeline: Pipeline | None, error: str) -> bool:
        """Queue another try, where there is to be one."""
        service = pipeline.config.service if pipeline is not None and pipeline.config is not None else None
        if service is None or run.attempt > service.retries or run.cancelled_by is not None:
            return False
        delay = min(timedelta(seconds=service.retry_delay) * 2 ** (run.attempt - 1), _LONGEST_DELAY)
        if not self._store.again(run, error, self._clock() + delay):
            return False
        self._own.pop(run.id, None)
        log.warning("run %s of %s is tried again in %.0f s: %s", run.id, run.pipeline, delay.total_seconds(), error)
        return True

    def _why(self, pipeline: Pipeline | None, code: int, timed_out: bool, result: dict[str, Any], folder: Path) -> str:
        if timed_out:
            timeout = pipeline.config.service.timeout if pipeline is not None and pipeline.config is not None else None
            return f"service.timeout: the run took longer than {timeout or 0:g} s and was ended"
        if error := result.get("error"):
            return redact(str(error))
        if line := logs.error_line(folder / processes.LOG):
            return line
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            return f"ended by the signal {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
        return f"the process ended with {code}; its log may tell more"

    # --- queued runs

    def _start_queued(self, now: datetime) -> None:
        running = self._store.running()
        free, busy = self._limits.concurrency - len(running), {run.pipeline for run in running}
        for run in self._store.startable(now):
            if free <= 0 or self._stop.is_set():
                return
            # A tick waits for the pipeline's other runs; what callers ask for may run side by side.
            if run.trigger == BY_SCHEDULE and run.pipeline in busy:
                continue
            if self._store.start(run, now):
                self._start_process(run, self.folder_of(run))
                busy.add(run.pipeline)
                free -= 1

    def _start_process(self, run: Run, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pipeline = self._pipelines.get(run.pipeline)
            if pipeline is None or pipeline.config is None:
                raise PlatformError(f"the pipeline {run.pipeline} cannot be run: {pipeline.error if pipeline else 'its file is gone'}")
            command = self._command(run, pipeline, folder)
            self._own[run.id] = processes.start(folder, command, pipeline.config.service.timeout, self._limits.grace)
        except (LakescoreError, OSError) as error:
            self._end(run, "failed", self._clock(), None, redact(str(error)), None, None)
            return
        log.info("run %s of %s: started", run.id, run.pipeline)

    def _command(self, run: Run, pipeline: Pipeline, folder: Path) -> list[str]:
        assert pipeline.config is not None, "it can be run"
        service = pipeline.config.service
        if service.command == "spark-submit":
            begin = [spark_submit(), *service.submit_options, str(self._job)]
        else:
            begin = [sys.executable, "-m", "lakescore", "score"]
        values = {**run.overrides, "run.batch_id": run.batch_id, "run.date": run.score_date}
        options = ["--config", str(pipeline.file), "--result", str(folder)]
        return [*begin, *options, *(as_override(key, value) for key, value in values.items())]


def spark_submit() -> str:
    """The one of this environment, else the one on the PATH.

    Raises:
        PlatformError: there is none.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("spark-submit", path=places)
    if found is None:
        raise PlatformError("service.command: spark-submit is not on the PATH; install lakescore[spark], or set command: lakescore")
    return found
