"""A signal ends a command in order: once, not in the middle of what must not be torn apart, and only where the process is ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lakescore import interruption
from lakescore.interruption import Interrupted, ends_by_signals, held
from lakescore.session import interruptible


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_is_raised_with_its_exit_code(name: str) -> None:
    before = signal.getsignal(signal.Signals[name])
    with pytest.raises(Interrupted) as caught, ends_by_signals():
        os.kill(os.getpid(), signal.Signals[name])

    assert str(caught.value) == f"ended by {name}"
    assert caught.value.exit_code == 128 + signal.Signals[name]
    assert signal.getsignal(signal.Signals[name]) is before


def test_a_signal_waits_for_the_end_of_what_is_held() -> None:
    done = []

    def work() -> None:
        with held():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("all of it")
        done.append("more")

    with pytest.raises(Interrupted), ends_by_signals():
        work()

    assert done == ["all of it"]


def test_a_signal_that_comes_while_the_last_thing_is_done_stops_nothing() -> None:
    with ends_by_signals():
        with held(last=True):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_after_the_one_that_was_done_can_be_stopped() -> None:
    done = []

    def work() -> None:
        interruption.begin()
        with held(last=True):
            done.append("first")
        interruption.begin()
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"^ended by SIGTERM; nothing more was published$"), ends_by_signals():
        work()
    assert done == ["first"]


def test_a_signal_that_came_too_late_for_one_run_stops_the_next() -> None:
    done = []

    def work() -> None:
        interruption.begin()
        with held(last=True):
            os.kill(os.getpid(), signal.SIGINT)
            done.append("first")
        interruption.begin()
        done.append("second")

    with pytest.raises(Interrupted, match=r"^ended by SIGINT; nothing more was published$"), ends_by_signals():
        work()
    assert done == ["first"]


def test_before_anything_is_published_that_is_said() -> None:
    def work() -> None:
        interruption.begin()
        os.kill(os.getpid(), signal.SIGHUP)

    with pytest.raises(Interrupted, match=r"^ended by SIGHUP; nothing was published$"), ends_by_signals():
        work()


def test_a_last_thing_that_fails_leaves_its_own_error() -> None:
    def fail() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("disk")

    with pytest.raises(ValueError, match="disk"), ends_by_signals(), held(last=True):
        fail()


def _end_twice(cleaned: list[str]) -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        cleaned.append("up")


def test_a_second_signal_does_not_interrupt_the_clean_up() -> None:
    cleaned: list[str] = []
    with pytest.raises(Interrupted, match="SIGTERM"), ends_by_signals():
        _end_twice(cleaned)

    assert cleaned == ["up"]


def test_a_clean_up_that_hangs_can_be_interrupted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_AGAIN_SECONDS", 0.0)
    with pytest.raises(Interrupted, match="SIGINT"), ends_by_signals():
        _end_twice([])


def test_signals_that_are_ignored_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ends_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_a_thread_and_without_handlers_nothing_changes() -> None:
    found = []

    def work() -> None:
        with ends_by_signals(), held():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with held():
        found.append(signal.getsignal(signal.SIGTERM))

    assert found == [before, before]


def test_a_process_ends_with_its_parent() -> None:
    child = """
import sys, time
from lakescore.interruption import Interrupted, ends_by_signals
try:
    with ends_by_signals(with_parent=True):
        print("ready", flush=True)
        time.sleep(30)
except Interrupted as interrupted:
    print(interrupted, flush=True)
"""
    parent = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(30)"
    started = subprocess.Popen([sys.executable, "-c", parent, child], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    began = time.monotonic()

    started.kill()

    assert started.stdout.read() == "ended because spark-submit has ended\n"
    assert time.monotonic() - began < 5
    started.wait()


def _swallow() -> None:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except BaseException as error:
        raise RuntimeError("a library makes an error of its own of everything") from error


def test_a_failure_of_what_has_swallowed_the_signal_is_its_end() -> None:
    with pytest.raises(Interrupted, match="ended by SIGTERM"), ends_by_signals(), interruptible():
        _swallow()


_ORPHAN = """
import os, sys, time
from lakescore import interruption
from lakescore.session import interruptible

interruption._PARENT_SECONDS = 60  # who looks from time to time does not
try:
    with interruption.ends_by_signals(with_parent=True), interruptible():
        interruption.begin()
        print("ready", flush=True)
        sys.stdin.read()
        while os.getppid() == {parent}:
            time.sleep(0.01)
        raise ConnectionError("the JVM is gone")
except BaseException as error:
    open(sys.argv[1], "w").write(f"{type(error).__name__}: {error}")
"""


def test_a_failure_after_the_parents_end_is_its_end(tmp_path: Path) -> None:
    """The error of what needed the parent may come before anybody has looked for it."""
    code = _ORPHAN.replace("{parent}", "int(sys.argv[2])")
    starter = "import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:], str(os.getpid())]).wait()"
    parent = subprocess.Popen([sys.executable, "-c", starter, code, str(tmp_path / "said")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"

    parent.kill()
    parent.wait()
    parent.stdin.close()

    until = time.monotonic() + 30
    said = tmp_path / "said"
    while time.monotonic() < until and not (said.exists() and said.read_text()):
        time.sleep(0.05)
    assert said.read_text() == "Interrupted: ended because spark-submit has ended; nothing was published"
