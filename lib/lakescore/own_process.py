"""What tells this process from all others, as tags of its MLflow run; and from such tags, whether a process is surely gone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

HOST = "lakescore.host"
MACHINE = "lakescore.machine"
PID = "lakescore.pid"
STARTED = "lakescore.process_started"
ENDED = "ended"


def tags() -> dict[str, str]:
    """This process's: host, machine (containers of one host differ), pid and start."""
    found = {HOST: socket.gethostname(), MACHINE: _machine(), PID: str(os.getpid())}
    began = started(os.getpid())
    return found if began is None else {**found, STARTED: began}


def is_gone(found: Mapping[str, str]) -> bool:
    """Whether the process of these tags was one of this machine, and has ended; False where that is not certain."""
    return _is_running(found) is False


def is_alive(found: Mapping[str, str]) -> bool:
    """Whether the process of these tags is one of this machine, and runs; False where that is not certain."""
    return _is_running(found) is True


def _is_running(found: Mapping[str, str]) -> bool | None:
    if found.get(HOST) != socket.gethostname() or found.get(MACHINE) != _machine() or not found.get(PID, "").isdigit():
        return None
    pid = int(found[PID])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    began = started(pid)
    return None if began is None or STARTED not in found else began == found[STARTED]


def _machine() -> str:
    """Tells machines of one name, and containers with process tables of their own, apart."""
    parts = []
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        with contextlib.suppress(OSError):
            parts.append(Path(path).read_text(encoding="ascii").strip())
        if any(parts):
            break
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def started(pid: int) -> str | None:
    """When a process began, exactly: clock ticks since the boot, and which boot it was; ``ENDED`` of one that only waits to be taken
    notice of. None where there is none, or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _started_by_ps(pid)
    # One that has ended stays in the table until its parent has taken notice.
    return ENDED if fields[0] in "ZX" else f"{fields[19]} ticks after boot {boot}"


def _started_by_ps(pid: int) -> str | None:
    if os.path.isdir("/proc/self"):
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        # One process is the same to a terminal, a service and cron.
        same = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
        answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=5, check=False, env=same)
        return answer.stdout.strip() or None
    return None
