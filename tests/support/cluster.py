"""A Spark standalone cluster on this machine: a master, workers and jobs, each a process of its own, on loopback only.

::

    with Cluster(folder) as cluster:
        answer = cluster.submit(["jobs/score.py", "run.batch_id=a"], cwd=folder)      # to its end
        job = cluster.start_job(["jobs/score.py", "run.batch_id=b"], cwd=folder)      # and go on
        os.kill(cluster.executor_pids()[0], signal.SIGKILL)
        answer = job.wait(300)

It is made of the installed pyspark. Each process of ours leads a session (setsid), and whatever it starts stays in it: executors,
Python daemons and their workers. So what is to be ended is found by the session, also when its parent is gone. Linux only (/proc).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.request import ProxyHandler, build_opener

import pyspark

SPARK_HOME = Path(pyspark.__file__).parent
SPARK_SUBMIT = Path(sys.executable).parent / "spark-submit"
# Small processes start faster without the second compiler.
_QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_LOOPBACK = "127.0.0.1"
_START_SECONDS = 60.0
_END_SECONDS = 20.0
_EXECUTOR = "org.apache.spark.executor.CoarseGrainedExecutorBackend"
_DAEMON = "pyspark.daemon"
_LOG4J = """
rootLogger.level = info
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n%ex
"""
# What a job is submitted with, unless its own arguments say otherwise.
_CONF = {
    "spark.driver.host": _LOOPBACK,
    "spark.driver.bindAddress": _LOOPBACK,
    "spark.ui.enabled": "false",
    "spark.driver.extraJavaOptions": _QUICK_JAVA,
    "spark.executor.extraJavaOptions": _QUICK_JAVA,
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "2",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """One line of the process table."""

    pid: int
    parent: int
    session: int
    command: tuple[str, ...]


def process_table() -> dict[int, Process]:
    """The processes that run, by pid; without those that have ended and whom nobody has asked yet."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            state, parent, _, session = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()[:4]
            command = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace").split("\0")
            if state not in (b"Z", b"X"):
                found[int(entry)] = Process(int(entry), int(parent), int(session), tuple(command))
    return found


def ancestors(pid: int) -> list[Process]:
    """A process and those above it, nearest first."""
    table, found = process_table(), []
    while (process := table.get(pid)) is not None and process.pid > 1:
        found.append(process)
        pid = process.parent
    return found


def session_of(leader: int) -> list[int]:
    """The pids of all processes that a session leader has started, itself included."""
    return [process.pid for process in process_table().values() if process.session == leader]


def end_session(leader: int) -> None:
    """SIGKILL to all of a session; returns when there is none left.

    Args:
        leader: its pid, of a child of ours that was not waited for, so that nobody else can have the number.
    """

    def is_empty() -> bool:
        left = session_of(leader)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_for(is_empty, f"the processes of session {leader} to end", _END_SECONDS)


def wait_for(found: Callable[[], T | None], what: str, seconds: float) -> T:
    """Ask until there is an answer that is true.

    Raises:
        TimeoutError: there was none in time.
    """
    until = time.monotonic() + seconds
    while not (answer := found()):
        if time.monotonic() > until:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)
    return answer


class Job:
    """A job that was submitted: spark-submit's JVM, which is the driver's, and its child, the driver's Python.

    Attributes:
        process: spark-submit, which becomes the JVM.
        stdout, stderr: files.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path | None, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.stdout, self.stderr = log.with_suffix(".out"), log.with_suffix(".err")
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def jvm_pid(self) -> int:
        """The driver's JVM."""
        return self.process.pid

    @property
    def python_pid(self) -> int | None:
        """The driver's Python; None before it has started, and when it has ended."""
        return next((one.pid for one in process_table().values() if one.parent == self.process.pid), None)

    def wait(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Wait for the end.

        Args:
            timeout: seconds, after which all its processes are killed.

        Raises:
            TimeoutError: it took longer; with the end of what it said.
        """
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            said = "".join(file.read_text(errors="replace")[-2_000:] for file in (self.stdout, self.stderr))
            raise TimeoutError(f"the job took longer than {timeout:g} s: {said}") from None
        return self._answer()

    def kill(self) -> subprocess.CompletedProcess[str]:
        """SIGKILL to the JVM, the Python and all that they have started; at once, as when a host loses its power."""
        if self.process.returncode is None:
            end_session(self.process.pid)
            self.process.wait()
        return self._answer()

    def _answer(self) -> subprocess.CompletedProcess[str]:
        said = [file.read_text(encoding="utf-8", errors="replace") for file in (self.stdout, self.stderr)]
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, *said)


class Cluster:
    """Master and workers.

    Args:
        folder: of the cluster's own, for logs, the workers' folders and their temporary files; nothing of it is needed afterwards.
        workers: how many.
        cores, memory: of each worker; one executor of a job takes all cores and 1 GB of it, unless the job says otherwise.
        environment: added to that of master, workers and executors: ``PATH``, whose ``python3`` runs Python workers unless a job says
            otherwise; ``SPARK_LOCAL_DIRS``, where they spill.

    Attributes:
        url: of the master, for ``--master``.
        web_url: of its pages.
    """

    def __init__(
        self, folder: Path, workers: int = 2, cores: int = 1, memory: str = "1g", environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.url = self.web_url = ""
        self._count, self._cores, self._memory = workers, cores, memory
        self._environment = dict(environment or {})
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._jobs: list[Job] = []

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the processes; returns when all workers are registered.

        Raises:
            TimeoutError: they are not, after a minute; the logs are in ``folder``.
        """
        conf = self.folder / "conf"
        conf.mkdir(parents=True)
        (conf / "log4j2.properties").write_text(_LOG4J, encoding="utf-8")
        bound = ["--host", _LOOPBACK, "--port", "0", "--webui-port", "0"]
        self._start("master", "org.apache.spark.deploy.master.Master", *bound)
        self.url = self._logged(r"Starting Spark master at (spark://\S+)")
        self.web_url = self._logged(r"Bound MasterWebUI to .* started at (http://\S+)")
        for i in range(self._count):
            given = [*bound, "--cores", str(self._cores), "--memory", self._memory, "--work-dir", str(self.worker_folder(i) / "work")]
            self._start(f"worker-{i}", "org.apache.spark.deploy.worker.Worker", *given, self.url)
        wait_for(lambda: self.state()["aliveworkers"] == self._count, f"{self._count} workers to register (logs: {self.folder})", 60.0)

    def _start(self, name: str, class_: str, *arguments: str) -> None:
        home = self.folder / name
        (home / "tmp").mkdir(parents=True)
        own = {
            "SPARK_HOME": str(SPARK_HOME),
            "SPARK_CONF_DIR": str(self.folder / "conf"),
            "SPARK_LOCAL_IP": _LOOPBACK,
            "SPARK_LOCAL_DIRS": str(home / "tmp"),
            "TMPDIR": str(home / "tmp"),
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": _QUICK_JAVA,
            "SPARK_LAUNCHER_OPTS": _QUICK_JAVA,
        }
        command = [str(SPARK_HOME / "bin" / "spark-class"), class_, *arguments]
        with self._log(name).open("wb") as log:
            daemon = subprocess.Popen(
                command,
                cwd=home,
                env={**clean_environment(), **own, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._daemons.append(daemon)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _logged(self, pattern: str) -> str:
        """What the master's log says, once it does."""
        log = self._log("master")

        def found() -> str | None:
            match = re.search(pattern, log.read_text(encoding="utf-8", errors="replace"))
            if match is None and self._daemons[0].poll() is not None:
                raise RuntimeError(f"the master has ended; see {log}:\n{log.read_text(errors='replace')[-2_000:]}")
            return match.group(1) if match else None

        return wait_for(found, f"{pattern} in {log}", _START_SECONDS)

    def stop(self) -> None:
        """End all jobs, the master, the workers and what they have started."""
        for job in self._jobs:
            job.kill()
        for daemon in self._daemons:
            end_session(daemon.pid)
            daemon.wait()
        self._jobs, self._daemons = [], []

    def state(self) -> dict[str, Any]:
        """What the master's JSON page says: ``workers``, ``aliveworkers``, ``activeapps``, ``completedapps``, ..."""
        with build_opener(ProxyHandler({})).open(f"{self.web_url}/json/", timeout=10) as answer:
            return dict(json.load(answer))

    def worker_folder(self, number: int) -> Path:
        """Where a worker has its executors' folders (``work``) and temporary files (``tmp``)."""
        return self.folder / f"worker-{number}"

    def executor_logs(self, application: str | None = None) -> str:
        """What the executors have logged, and their Python workers."""
        files = sorted(self.folder.glob(f"worker-*/work/{application or '*'}/*/stderr"))
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)

    @property
    def master_pid(self) -> int:
        return self._daemons[0].pid

    @property
    def worker_pids(self) -> list[int]:
        """The workers, not the executors that they have started."""
        return [daemon.pid for daemon in self._daemons[1:]]

    @property
    def applications(self) -> list[str]:
        """The ids of the jobs that run."""
        return [str(app["id"]) for app in self.state()["activeapps"]]

    def executor_pids(self, application: str | None = None) -> list[int]:
        """The executors' JVMs, of all jobs or of one."""
        return [one.pid for one in self._processes() if _EXECUTOR in one.command and application in (None, _option(one, "--app-id"))]

    def python_pids(self, application: str | None = None) -> list[int]:
        """The Python processes that run tasks, of all jobs or of one."""
        table = process_table()
        executors = set(self.executor_pids(application))
        daemons = {pid for pid, one in table.items() if one.parent in executors and _DAEMON in one.command}
        return [pid for pid, one in table.items() if one.parent in daemons]

    def executor_of(self, pid: int) -> int | None:
        """The executor below which a process runs."""
        return next((one.pid for one in ancestors(pid) if _EXECUTOR in one.command), None)

    def _processes(self) -> list[Process]:
        ours = set(self.worker_pids)
        return [one for one in process_table().values() if one.session in ours]

    def submit(
        self, arguments: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Submit a job and wait for its end; see ``start_job`` and ``Job.wait``."""
        return self.start_job(arguments, env, cwd).wait(timeout)

    def start_job(self, arguments: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Job:
        """Submit a job to this cluster, unless ``--master`` says otherwise.

        Args:
            arguments: of spark-submit: its options, the file, the file's arguments.
            env: added to this process's environment, of which what is Spark's, MLflow's and Python's own is left out.
            cwd: where it runs.
        """
        conf = [part for key, value in _CONF.items() for part in ("--conf", f"{key}={value}")]
        command = [str(SPARK_SUBMIT), "--master", self.url, *conf, *map(str, arguments)]
        own = {"SPARK_LOCAL_IP": _LOOPBACK, "SPARK_LAUNCHER_OPTS": _QUICK_JAVA}
        job = Job(command, {**clean_environment(), **own, **(env or {})}, cwd, self.folder / "jobs" / str(len(self._jobs)))
        self._jobs.append(job)
        return job


def clean_environment() -> dict[str, str]:
    """This process's environment as another user's would be: nothing of Spark's, of MLflow's, or about what Python finds."""
    theirs = ("SPARK_", "PYSPARK_", "MLFLOW_", "PYTHONPATH", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(theirs)}
    return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true"}


def _option(process: Process, name: str) -> str | None:
    """The value of a command's option."""
    with contextlib.suppress(ValueError, IndexError):
        return process.command[process.command.index(name) + 1]
    return None
