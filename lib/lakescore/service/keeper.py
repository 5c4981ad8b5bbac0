"""Keeps one run's process: ``python -m lakescore.service.keeper FOLDER TIMEOUT GRACE COMMAND...``.

It outlives the service, pours the command's output into the folder's log, ends the command on SIGTERM or after its time, and writes down
how it ended. Of several keepers of one folder only the first one does anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from lakescore.service import processes

_LOOK_SECONDS = 0.2
_LEFTOVER_SECONDS = 1.0


def main(argv: list[str]) -> int:
    """Run the command until it ends."""
    folder, timeout, grace, command = Path(argv[0]), float(argv[1]), float(argv[2]), argv[3:]
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    # A terminal's Ctrl-C is meant for the service.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not processes.leave(folder):
        return 0
    with open(folder / processes.LOG, "ab") as log:
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        except OSError as error:
            log.write(f"lakescore: {command[0]} cannot be started: {error.strerror}\n".encode())
            _write_down(folder, 127, False)
            return 0
    timed_out = _wait(child, asked, timeout, grace)
    _write_down(folder, child.returncode, timed_out)
    return 0


def _wait(child: subprocess.Popen[bytes], asked: list[int], timeout: float, grace: float) -> bool:
    """Wait for the child, and end it when asked or when its time is over; returns whether it was that."""
    began, ending, timed_out = time.monotonic(), 0.0, False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_LOOK_SECONDS)
            break
        now = time.monotonic()
        if not ending and (asked or (timeout and now - began > timeout)):
            ending, timed_out = now, not asked
            _signal(child, signal.SIGTERM)
        elif ending and now - ending > grace:
            _signal(child, signal.SIGKILL)
    # What the command has left behind, workers for example, is of no use to anybody.
    if _signal(child, signal.SIGTERM):
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while time.monotonic() < deadline and _signal(child, 0):
            time.sleep(0.05)
        _signal(child, signal.SIGKILL)
    return timed_out


def _signal(child: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the child and all that it has started; False where there is nobody."""
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _write_down(folder: Path, code: int, timed_out: bool) -> None:
    beside = folder / f".{processes.EXIT}"
    ended = datetime.now(timezone.utc).isoformat()
    beside.write_text(json.dumps({"code": code, "timed_out": timed_out, "ended_at": ended}), encoding="utf-8")
    os.replace(beside, folder / processes.EXIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
