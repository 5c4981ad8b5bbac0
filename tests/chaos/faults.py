"""The kinds of faults: each starts jobs of a case and injects its fault; all is then run again, and checked."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from chaos import checking, disks, reading, tracking_server
from chaos.case import BATCH, STAGES, Case
from chaos.jobs import Job, kill
from chaos.world import ROW_BYTES

_NURSERY, _DAEMON, _JVM = r"lakescore\.engine\.nursery", r"pyspark\.daemon", r"^\S*java .*org\.apache\.spark"
_WORKERS = {"embedded": _NURSERY, "spark": f"{_NURSERY}|{_DAEMON}", "udf": _DAEMON, "submit": _DAEMON}
# A run that is asked to end does so within this, on a machine that is busy with others too.
_ORDERLY_SECONDS = 60.0
_SIGNALS = (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        about: for people.
        inject: starts the jobs and hits them; returns when they have ended.
        backends: on which it may happen, with how often it is to be on each.
        formats: of the output.
        tidy: whether the jobs tidy up after themselves: no run stays RUNNING, and no process, even before the next run.
    """

    about: str
    inject: Callable[[Case], None]
    backends: dict[str, int]
    formats: tuple[str, ...] = ("delta", "parquet")
    tidy: bool = True
    needs_mounts: bool = False


def run(case: Case, before: dict[str, str]) -> None:
    """Inject the fault, run the same batches again, and note what does not hold.

    Args:
        case: the fault's.
        before: digests of the table's batches before it.
    """
    kind = KINDS[case.fault.kind]
    with ExitStack() as stack:
        case.stack = stack
        case.begin_reading()
        try:
            kind.inject(case)
            if kind.tidy:
                _check_tidy(case)
            case.mend()
            _run_again(case)
        finally:
            case.end_reading()
        checking.check(case, before)


def _run_again(case: Case) -> None:
    for batch in case.batches:
        job = case.start(*case.overrides, batch=batch)
        code = job.end()
        if code:
            case.note("unrecovered", f"the next run of batch {batch} ended with {code}: {job.last_line}")


def _count(case: Case, batch: str) -> int:
    """The rows of a batch that any reader finds now."""
    look = reading.delta if case.fault.format == "delta" else reading.parquet
    return look(str(case.table), {}).get(batch, 0)


def _check_ends(case: Case, job: Job, batch: str = BATCH) -> None:
    """A job's exit code says whether its batch is there."""
    code = job.process.returncode
    is_there = _count(case, batch) == case.world.rows
    if code == 0 and not is_there:
        case.note("lost", f"a job of batch {batch} ended with 0, and the batch is not there: {job.last_line}")
    if 0 < code < 128 and is_there:
        case.note("other", f"a job of batch {batch} has published it and ended with {code}: {job.last_line}")
    if 0 < code < 128 and not job.last_line.startswith("lakescore: "):
        case.note("other", f"a job ended with {code} without its one line: {job.last_line[:200]}")


def _check_tidy(case: Case) -> None:
    checking.check_processes(case)
    for run_id, run in checking.runs_of(case).items():
        if run["status"] == "RUNNING":
            case.note("running", f"the run {run_id} is RUNNING after its job has ended by itself")


def _kill_driver(case: Case) -> None:
    """SIGKILL to the driver's Python; under spark-submit, or to its JVM."""
    job = case.start()
    is_jvm = case.fault.backend in ("submit", "cluster") and case.random.random() < 0.5
    case.at(job, case.random.choice(STAGES), lambda: kill(pid) if (pid := job.pid if is_jvm else case.driver(job)) else False)
    case.said += ", the JVM" if is_jvm else ""
    if case.random.random() < 0.5:
        job.process.wait()  # the next run may meet what is left of this one
    else:
        job.end()
        checking.check_processes(case)
    _check_ends(case, job)


def _signal_driver(case: Case) -> None:
    """SIGTERM, SIGINT or SIGHUP to the command; under spark-submit to its JVM."""
    number = case.random.choice(_SIGNALS)
    job = case.start()
    is_submit = case.fault.backend in ("submit", "cluster")
    number = signal.SIGTERM if is_submit else number
    case.at(job, case.random.choice(STAGES), lambda: kill(job.pid, number))
    case.said = f"{number.name} {case.said}"
    start = time.monotonic()
    code = job.end()
    took = time.monotonic() - start
    if case.hit and took > _ORDERLY_SECONDS:
        case.note("other", f"it took {took:.0f} s to end")
    checking.check_processes(case)
    runs = [run for run in checking.runs_of(case).values() if run["tags"].get("lakescore.batch_id") == BATCH]
    is_there, statuses = _count(case, BATCH) == case.world.rows, [run["status"] for run in runs]
    # Published, it may be hit on its way out, when all is said.
    allowed = {0: ["FINISHED"], -number: ["FINISHED"]} if is_there else {128 + number: ["KILLED"]}
    if not runs and not is_there:
        allowed = {128 + number: [], -number: []}  # it had hardly begun
    if is_submit:
        allowed = {128 + number: ["FINISHED"] if is_there else ["KILLED"] if runs else [], **allowed}
    if case.hit and (code not in allowed or statuses != allowed[code]):
        case.note("other", f"{number.name}: exit code {code}, runs {statuses}, published: {is_there}: {job.last_line}")
    if code == 128 + number and not is_there and not is_submit and f"ended by {number.name}; nothing was published" not in job.last_line:
        case.note("other", f"{number.name}: the last line is {job.last_line!r}")
    if not is_there:
        checking.check_staging(case, f"after {number.name}")


def _kill_worker(case: Case) -> None:
    """SIGKILL to one of the Python processes that score."""
    job = case.start()
    _hit_while_scoring(case, job, lambda: [one.pid for one in job.processes(_WORKERS[case.fault.backend])])
    job.end()
    _check_ends(case, job)


def _hit_while_scoring(case: Case, job: Job, find: Callable[[], list[int]]) -> None:
    job.wait_for(r" source: .* features")
    delay = case.random.uniform(0.0, 0.3 if case.fault.backend in ("embedded", "spark") else 3.0)
    case.said = f"scoring + {delay:.3f} s"
    time.sleep(delay)
    while not job.is_over and not case.hit:
        pids = find()
        case.hit = bool(pids) and kill(case.random.choice(pids))
        time.sleep(0.01)


def _kill_jvm(case: Case) -> None:
    """SIGKILL to Spark's JVM, which is the driver's child or, under spark-submit, its parent."""
    job = case.start()

    def hit() -> bool:
        pids = [job.pid] if case.fault.backend == "submit" else [one.pid for one in job.processes(_JVM)]
        return bool(pids) and kill(pids[0])

    case.at(job, case.random.choice(STAGES[:3]), hit)
    job.end()
    _check_ends(case, job)


def _kill_executor(case: Case) -> None:
    """SIGKILL to an executor's JVM, or to one of its Python workers."""
    assert case.cluster is not None, "its only backend"
    cluster, job = case.cluster(), case.start()
    is_jvm = case.random.random() < 0.75
    _hit_while_scoring(case, job, cluster.executor_pids if is_jvm else cluster.python_pids)
    case.said += ", the JVM" if is_jvm else ", a Python worker"
    job.end()
    _check_ends(case, job)


def _fill_output(case: Case) -> None:
    """The output's disk has room for a part of the batch, or for all of it and not for its commit."""
    case.stack.enter_context(disks.small_disk(case.table))
    case.read_anew()
    size = case.world.rows * ROW_BYTES
    free = int(case.random.choice((case.random.uniform(0, size), size + case.random.uniform(-120_000, 60_000))))
    _fill(case, case.table, max(free, 0))


def _fill_temporary(case: Case) -> None:
    """The disk of temporary files is full."""
    case.stack.enter_context(disks.small_disk(case.folder / "tmp"))
    _fill(case, case.folder / "tmp", int(case.random.uniform(0, 60_000)))


def _fill_local(case: Case) -> None:
    """The disk on which Spark keeps what does not go into memory is full."""
    case.stack.enter_context(disks.small_disk(case.folder / "local"))
    # Where rows may be quarantined, Spark keeps them on its disk.
    case.overrides = ("errors.on_row_error=quarantine",)
    _fill(case, case.folder / "local", int(case.random.uniform(0, 4 << 20)))


def _fill(case: Case, folder: Path, free: int) -> None:
    filler = disks.fill(folder, free)
    case.said, case.hit = f"{free:,} bytes free", True
    job = case.start(*case.overrides)
    job.end()
    case.mend = filler.unlink
    _check_ends(case, job)


def _turn_read_only(case: Case) -> None:
    """The output turns read-only before the job or while it runs."""
    case.stack.enter_context(disks.may_turn_read_only(case.table))
    case.read_anew()
    case.mend = lambda: disks.turn(case.table, "rw")
    if case.random.random() < 0.3:
        case.said, case.hit = "from the start", disks.turn(case.table, "ro")
        job = case.start()
    else:
        job = case.start()
        case.at(job, case.random.choice(STAGES[:4]), lambda: disks.turn(case.table, "ro"))
    job.end()
    _check_ends(case, job)


def _kill_tracking_server(case: Case) -> None:
    """SIGKILL to the tracking server."""
    with tracking_server.running(case) as server:
        job = case.start(f"tracking.tracking_uri={server.uri}")
        case.at(job, case.random.choice(("before", "scoring", "staged", "published")), server.kill)
        job.end()
    _check_ends(case, job)


def _append(count: int) -> Callable[[Case], None]:
    def inject(case: Case) -> None:
        case.batches = [f"{BATCH}-{i}" for i in range(count)]
        _race(case, case.batches)

    inject.__doc__ = f"{count} jobs append to one table and date at once; sometimes one is killed."
    return inject


def _same_batch(case: Case) -> None:
    """Two or three jobs of one batch at once."""
    _race(case, [BATCH] * case.random.choice((2, 2, 3)))


def _race(case: Case, batches: list[str]) -> None:
    if case.random.random() < 0.3:
        case.without_table()
    is_aligned, is_killed = case.random.random() < 0.6, case.random.random() < 0.25
    jobs = [case.start(batch=batch) for batch in batches]
    case.hit = True
    case.said = f"{len(jobs)} jobs" + (", all publish at once" if is_aligned else "") + (", one is killed" if is_killed else "")
    if is_aligned:
        _align(case, jobs)
    if is_killed:
        stage, hit = case.random.choice(STAGES[1:]), case.said
        case.at(jobs[0], stage, lambda: kill(jobs[0].pid))
        case.said, case.hit = f"{hit}, {case.said}", True
    for job in jobs:
        job.end()
    for job, batch in zip(jobs, batches, strict=True):
        _check_ends(case, job, batch)
        if job.process.returncode > 0 or (job.process.returncode < 0 and not is_killed):
            case.note("other", f"a job of batch {batch} ended with {job.process.returncode}: {job.last_line}")


def _align(case: Case, jobs: list[Job]) -> None:
    """Stop each when it has staged its rows, and let all go on together."""
    for job in jobs:
        job.when(r" score: \d+ rows", lambda job=job: kill(job.pid, signal.SIGSTOP))
    for job in jobs:
        job.wait_for(r" score: \d+ rows")
    time.sleep(0.05)
    for job in jobs:
        kill(job.pid, signal.SIGCONT)


def _kill_replacing(case: Case) -> None:
    """SIGKILL to a driver that puts a batch in another's place."""
    case.batches, case.overrides = ["earlier-2"], ("run.on_rerun=replace",)
    case.replaces("earlier-2")
    job = case.start(*case.overrides, batch="earlier-2")
    case.at(job, case.random.choice(("staged", "publishing", "publishing", "published")), lambda: kill(job.pid))
    job.end()


_ANY = {"embedded": 8, "spark": 1, "udf": 2, "submit": 1}
KINDS: dict[str, Kind] = {
    "kill-driver": Kind("kill -9 of the driver", _kill_driver, {**_ANY, "cluster": 1}, tidy=False),
    "signal": Kind("SIGTERM, SIGINT, SIGHUP to the driver", _signal_driver, _ANY),
    "kill-worker": Kind("kill -9 of a Python worker", _kill_worker, {"embedded": 3, "spark": 1, "udf": 2}),
    "kill-jvm": Kind("kill -9 of Spark's JVM", _kill_jvm, {"spark": 1, "udf": 2, "submit": 2}),
    "kill-executor": Kind("kill -9 of an executor, or its worker", _kill_executor, {"cluster": 1}),
    "full-output": Kind("a full disk as output", _fill_output, {"embedded": 5, "udf": 1}, needs_mounts=True),
    "full-temp": Kind("a full disk for temporary files", _fill_temporary, {"embedded": 1}, needs_mounts=True),
    "full-local": Kind("a full disk as spark.local.dir", _fill_local, {"udf": 1}, needs_mounts=True),
    "read-only": Kind("an output that turns read-only", _turn_read_only, {"embedded": 6, "udf": 1}, needs_mounts=True),
    "tracking": Kind("kill -9 of the tracking server", _kill_tracking_server, {"embedded": 1}, tidy=False),
    "append-2": Kind("two jobs append to one date", _append(2), {"embedded": 5, "udf": 1}, tidy=False),
    "append-4": Kind("four jobs append to one date", _append(4), {"embedded": 1}, tidy=False),
    "same-batch": Kind("two or three jobs of one batch", _same_batch, {"embedded": 7, "udf": 1}, tidy=False),
    "replace": Kind("kill -9 of a driver that replaces", _kill_replacing, {"spark": 1}, tidy=False),
}
# How often each, of 200.
WEIGHTS = {
    "kill-driver": 52, "signal": 42, "kill-worker": 20, "kill-jvm": 9, "kill-executor": 10, "full-output": 14, "full-temp": 5,
    "full-local": 3, "read-only": 9, "tracking": 6, "append-2": 8, "append-4": 4, "same-batch": 10, "replace": 8,
}  # fmt: skip
