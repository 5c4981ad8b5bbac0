"""A process that outlives the service: started, found again and ended by its number and its start time, which nobody else has."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lakescore import own_process

LOG, PROCESS, EXIT = "log.txt", "process.json", "exit.json"


@dataclass(frozen=True)
class Process:
    """A process: its number comes again, and its start time with it does not."""

    pid: int
    started: str

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return own_process.started(self.pid) == self.started

    def end(self) -> None:
        """Ask it to end."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


def leave(folder: Path) -> bool:
    """Write down in a folder that this process is at work there; False where another one was first."""
    me = Process(os.getpid(), own_process.started(os.getpid()) or "")
    beside = folder / f".{PROCESS}.{me.pid}"
    beside.write_text(json.dumps(asdict(me)), encoding="utf-8")
    try:
        # Not by rename: of two, the second one must fail.
        os.link(beside, folder / PROCESS)
    except FileExistsError:
        return False
    finally:
        beside.unlink()
    return True


def at_work(folder: Path) -> Process | None:
    """The process that has begun in a folder, whether it still runs or not; None where none has."""
    found = read_json(folder / PROCESS)
    return None if found is None else Process(**found)


def read_json(file: Path) -> dict[str, Any] | None:
    """A small file that is there complete, or not at all."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def start(folder: Path, command: Sequence[str], timeout: float | None, grace: float) -> subprocess.Popen[bytes]:
    """Start a command under a keeper (``keeper.py``) that writes down in the folder how it ends, whether the service is there or not."""
    keeper = [sys.executable, "-m", "lakescore.service.keeper", str(folder), str(timeout or 0), str(grace), *command]
    return subprocess.Popen(
        keeper, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, close_fds=True
    )
