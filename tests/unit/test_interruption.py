"""A signal ends a command in order: once, not in the middle of what must not be torn apart, and only where the process is ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lakescore import interruption
from lakescore.interruption import Interrupted, ends_by_signals, held


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_is_raised_with_its_exit_code(name: str) -> None:
    before = signal.getsignal(signal.Signals[name])
    with pytest.raises(Interrupted) as caught, ends_by_signals():
        os.kill(os.getpid(), signal.Signals[name])

    assert str(caught.value) == f"ended by {name}; nothing was published"
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

    assert started.stdout.read() == "ended because spark-submit has ended; nothing was published\n"
    assert time.monotonic() - began < 5
    started.wait()
