"""A job as a process of its own: what it says, line by line as it says it, and its processes, found by their environment."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.world import MARK

JOB_SECONDS = 300.0


@dataclass(frozen=True)
class Process:
    """One that carries a fault's mark."""

    pid: int
    parent: int
    command: str


def marked(mark: str) -> list[Process]:
    """The processes that run and carry this mark."""
    found, wanted = [], f"{MARK}={mark}\0".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if wanted in Path("/proc", entry, "environ").read_bytes() + b"\0":
                    state, parent = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                    command = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if state not in "ZX":
                        found.append(Process(int(entry), int(parent), command))
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; False where there is no such process any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Job:
    """One that runs.

    Attributes:
        mark: in the environment of all its processes.
        lines: what it has said so far, stdout and stderr.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], mark: str) -> None:
        self.mark, self.lines = mark, list[str]()
        self._said = threading.Condition()
        self._calls: list[tuple[re.Pattern[str], Callable[[], None]]] = []
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def when(self, pattern: str, call: Callable[[], None]) -> None:
        """Have a function called once, from another thread, when a line matches."""
        with self._said:
            self._calls.append((re.compile(pattern), call))

    def wait_for(self, pattern: str) -> bool:
        """Wait until a line matches; False where the job ends without."""
        wanted = re.compile(pattern)
        with self._said:
            while not any(wanted.search(line) for line in self.lines):
                self._said.wait(0.05)
                if self.is_over:
                    return any(wanted.search(line) for line in self.lines)
        return True

    def end(self) -> int:
        """Wait for its end; returns its exit code, negative for a signal. After ``JOB_SECONDS`` it is killed, with all it has started."""
        try:
            self.process.wait(max(JOB_SECONDS - (time.monotonic() - self.started), 1))
        except subprocess.TimeoutExpired:
            self.lines.append(f"chaos: killed after {JOB_SECONDS:.0f} s")
            for process in marked(self.mark):
                kill(process.pid)
            self.process.wait()
        self._reader.join(2)  # who it leaves behind may keep its output open
        return self.process.returncode

    def processes(self, pattern: str) -> list[Process]:
        """Those of its processes whose command matches, without the driver."""
        return [one for one in marked(self.mark) if one.pid != self.pid and re.search(pattern, one.command)]

    @property
    def last_line(self) -> str:
        return next((line for line in reversed(self.lines) if line.startswith("lakescore: ")), self.lines[-1] if self.lines else "")

    def _read(self) -> None:
        assert self.process.stdout is not None, "asked for above"
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip()
            with self._said:
                self.lines.append(line)
                due = [call for pattern, call in self._calls if pattern.search(line)]
                self._calls = [(pattern, call) for pattern, call in self._calls if not pattern.search(line)]
                self._said.notify_all()
            for call in due:
                call()
