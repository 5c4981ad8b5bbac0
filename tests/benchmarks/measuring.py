"""A command in; its wall seconds, and the CPU seconds and peak memory of its whole process tree out.

``measure`` starts this file as a process of its own, which starts the command, looks at its tree five times a second, and adopts what
the command leaves behind (a JVM that outlives its Python, for example), so that its time is counted and it is gone before the next
command starts. Linux only: it reads /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

INTERVAL = 0.2
# Reading the PSS takes 20 ms for each GB; no more of a core than this part is spent on it.
PSS_SHARE = 0.02
# What the command leaves behind may end by itself for so long.
LINGER_SECONDS = 10.0
# A shell's exit code for it.
_CANNOT_BE_STARTED = 127
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Measured:
    """What one command took.

    Attributes:
        wall_seconds: from its start to its own end, not that of what it leaves behind.
        cpu_seconds: user and system time of all its processes.
        peak_bytes: the largest sum over its processes at one time.
        memory: what was summed: PSS (shared pages are shared out, so counted once), or RSS where the kernel has no PSS.
        returncode: the command's; minus the signal that ended it.
        timed_out: whether it was ended after ``timeout`` seconds.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    memory: str
    returncode: int
    timed_out: bool


def measure(
    command: Sequence[str], log: Path, *, folder: Path, environment: Mapping[str, str], timeout: float, cores: int | None = None
) -> Measured:
    """Run a command and measure it.

    Args:
        command: the program and its arguments.
        log: file that gets its stdout and stderr.
        folder: its working folder.
        environment: its environment.
        timeout: seconds after which it and all its processes are ended.
        cores: how many of this process's cores it may use; default: all.
    """
    result = log.with_suffix(".json")
    usable = sorted(os.sched_getaffinity(0))[:cores]
    watcher = [sys.executable, __file__, str(result), str(timeout), ",".join(map(str, usable)), *command]
    with log.open("wb") as output:
        started = subprocess.Popen(watcher, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=dict(environment))
    try:
        code = started.wait()
    except BaseException:
        # It ends the command and all its processes.
        started.terminate()
        started.wait()
        raise
    if code:
        raise RuntimeError(f"{command[0]} could not be measured:\n{log.read_text(encoding='utf-8', errors='replace')}")
    return Measured(**json.loads(result.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Process:
    """One line of the process table; ``cpu_seconds`` with those of the children that it has waited for."""

    pid: int
    parent: int
    cpu_seconds: float


class Tree:
    """The processes below this one, and what is known of them so far."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._shared: dict[int, int] = {}
        self._next_pss = 0.0
        self._waited = 0.0
        self._unwaited: dict[int, float] = {}

    @property
    def cpu_seconds(self) -> float:
        return self._waited + sum(self._unwaited.values())

    def sample(self) -> list[int]:
        """Look at the tree once; returns its process ids."""
        found = descendants(os.getpid(), process_table())
        self.peak_bytes = max(self.peak_bytes, self._memory({process.pid for process in found}))
        for process in found:
            # The kernel adds a process's time to that of the parent that waits for it. Who ignores SIGCHLD, as PySpark's
            # daemon of workers does, waits for none: what was seen last is kept, at most INTERVAL old.
            if _ignores_ended_children(process.parent):
                self._unwaited[process.pid] = process.cpu_seconds
        return [process.pid for process in found]

    def _memory(self, pids: set[int]) -> int:
        """The sum of the PSS: each process's RSS now, less what of it belonged to others when the PSS was last read.

        It is read as often as PSS_SHARE allows, and when there is a new process, which may be a fork that shares all it has.
        """
        started = time.monotonic()
        if started >= self._next_pss or not pids <= self._shared.keys():
            self._shared = {pid: shared_bytes(pid) for pid in pids}
            ended = time.monotonic()
            self._next_pss = ended + (ended - started) / PSS_SHARE
        return sum(max(rss_bytes(pid) - self._shared[pid], 0) for pid in pids)

    def reap(self, pid: int, options: int = 0) -> int | None:
        """Wait for a child (-1: any) and count its time; returns its exit status, or None where no child has ended."""
        try:
            ended, status, usage = os.wait4(pid, options)
        except ChildProcessError:
            return None
        if not ended:
            return None
        self._waited += usage.ru_utime + usage.ru_stime
        self._unwaited.pop(ended, None)
        return status


def process_table() -> list[Process]:
    """All processes that /proc shows."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # The second field is the program's name in brackets, which may hold anything.
                fields = Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                found.append(Process(int(entry), int(fields[1]), sum(map(int, fields[11:15])) / _TICKS))
    return found


def descendants(root: int, processes: Iterable[Process]) -> list[Process]:
    """The processes below ``root``, without it."""
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += [process.pid for process in below]
    return found


def shared_bytes(pid: int) -> int:
    """A process's RSS less its PSS: what other processes share of it; 0 where the kernel has no PSS, or the process has ended."""
    with contextlib.suppress(OSError):
        lines = Path("/proc", str(pid), "smaps_rollup").read_text(encoding="ascii").splitlines()
        found = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("Rss:", "Pss:"))}
        return found.get("Rss:", 0) - found.get("Pss:", 0)
    return 0


def rss_bytes(pid: int) -> int:
    """A process's resident memory; 0 for one that has ended."""
    with contextlib.suppress(OSError):
        return int(Path("/proc", str(pid), "statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return 0


def _ignores_ended_children(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for line in Path("/proc", str(pid), "status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("SigIgn:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGCHLD - 1) & 1)
    return False


def _watch(command: Sequence[str], timeout: float, cores: Iterable[int]) -> Measured:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    libc = ctypes.CDLL(None)
    # Orphans of the command become children of this process and not of init.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # When the benchmark is ended, so is the command.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    memory = "PSS" if Path("/proc/self/smaps_rollup").exists() else "RSS"
    tree, start = Tree(), time.monotonic()
    try:
        main = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    except OSError as error:
        print(error)
        return Measured(0.0, 0.0, 0, memory, _CANNOT_BE_STARTED, timed_out=False)
    ended = select.poll()
    ended.register(os.pidfd_open(main.pid), select.POLLIN)
    timed_out, patience = False, 0.0
    try:
        while not ended.poll(INTERVAL * 1000):
            tree.sample()
            if time.monotonic() - start > timeout:
                timed_out = True
                _kill(main.pid)
        wall = time.monotonic() - start
        status = tree.reap(main.pid)
        assert status is not None, "it has ended, and only we wait for it"
        patience = 0.0 if timed_out else LINGER_SECONDS
    finally:
        _end_orphans(tree, patience)
    return Measured(
        wall_seconds=round(wall, 3),
        cpu_seconds=round(tree.cpu_seconds, 2),
        peak_bytes=tree.peak_bytes,
        memory=memory,
        returncode=os.waitstatus_to_exitcode(status),
        timed_out=timed_out,
    )


def _end_orphans(tree: Tree, seconds: float) -> None:
    """Give what is left of the tree some time to end, then end it."""
    until = time.monotonic() + seconds
    while left := tree.sample():
        while tree.reap(-1, os.WNOHANG) is not None:
            pass
        if time.monotonic() > until:
            for pid in left:
                _kill(pid)
        time.sleep(INTERVAL / 4)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _, result, timeout, cores, *command = sys.argv
    measured = _watch(command, float(timeout), [int(core) for core in cores.split(",")])
    Path(result).write_text(json.dumps(asdict(measured)), encoding="utf-8")
