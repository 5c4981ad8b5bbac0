"""A process is said to be gone only where that is certain."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from lakescore import own_process
from lakescore.own_process import HOST, MACHINE, PID, STARTED

TAGS = "from lakescore import own_process; import json; print(json.dumps(own_process.tags()), flush=True); input()"


def test_this_process_is_there() -> None:
    assert not own_process.is_gone(own_process.tags())


def test_a_process_is_gone_when_it_is_killed_and_before_its_parent_takes_notice() -> None:
    import json

    started = subprocess.Popen([sys.executable, "-c", TAGS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    tags = json.loads(started.stdout.readline())
    assert not own_process.is_gone(tags)

    started.kill()
    until = time.monotonic() + 5
    while not own_process.is_gone(tags) and time.monotonic() < until:
        time.sleep(0.01)

    assert own_process.is_gone(tags)
    started.wait()
    assert own_process.is_gone(tags)


def test_another_process_with_the_same_number_is_another_one() -> None:
    assert own_process.is_gone({**own_process.tags(), STARTED: "1 ticks after boot never"})


def test_what_is_not_certain_is_not_said() -> None:
    gone = {**own_process.tags(), PID: str(2**22 + 1)}
    assert own_process.is_gone(gone)

    for changed in ({HOST: "other"}, {MACHINE: "other"}, {PID: "x"}):
        assert not own_process.is_gone({**gone, **changed})
    for missing in (HOST, MACHINE, PID):
        assert not own_process.is_gone({key: value for key, value in gone.items() if key != missing})
    assert not own_process.is_gone({key: value for key, value in own_process.tags().items() if key != STARTED})
    assert own_process.tags()[PID] == str(os.getpid())
