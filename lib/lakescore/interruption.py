"""A signal that asks a command to end in; an exception that lets the run tidy up on its way out.

Only commands install the handlers (``ends_by_signals``): a notebook's or a server's process belongs to others. What must not be torn
apart, a publication above all, stands in ``held()``, which does nothing where the handlers are not ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP")
_PARENT_SECONDS = 0.2
# A signal that some code has swallowed, or a clean-up that hangs: asked again after so long, the run is interrupted again.
_AGAIN_SECONDS = 5.0


class Interrupted(BaseException):
    """This process is asked to end. No ``Exception``: nothing that deals with failures may take it for one.

    Attributes:
        exit_code: 128 + the signal, as a shell has it.
    """

    def __init__(self, number: int, reason: str | None = None, left: str | None = None) -> None:
        super().__init__("; ".join(filter(None, [reason or f"ended by {signal.Signals(number).name}", left])))
        self.exit_code = 128 + number


class _Handler:
    """What the signals of a command call. It raises once: clean-up is not interrupted by a second one right behind."""

    def __init__(self, parent: int | None = None) -> None:
        self.reason: str | None = None
        self._parent = parent
        self._held = 0
        self._pending: int | None = None
        self._asked: int | None = None
        self._raised = float("-inf")
        self._is_done = False
        self._left: str | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._held or self._is_done:
            self._pending = self._pending or number
        elif time.monotonic() - self._raised > _AGAIN_SECONDS:
            self._asked, self._raised = number, time.monotonic()
            _forget_call()
            raise Interrupted(number, self.reason, self._left)

    def begin(self) -> None:
        was_done, self._is_done = self._is_done, False
        self._left = "nothing more was published" if was_done else self._left or "nothing was published"
        self._raise_pending()

    def is_orphan(self) -> bool:
        """Whether the process that this one is to end with has ended."""
        found = self._parent is not None and os.getppid() != self._parent
        if found:
            self.reason = "ended because spark-submit has ended"
        return found

    def end_if_asked(self) -> None:
        """Raise again what was raised and has not arrived; not where what was to be stopped is done."""
        number = self._asked or (signal.SIGTERM if self.is_orphan() else None)
        if number is not None and not self._is_done:
            self._asked, self._raised = number, time.monotonic()
            raise Interrupted(number, self.reason, self._left)

    @contextmanager
    def held(self, last: bool) -> Iterator[None]:
        if self._asked is not None and not self._held and sys.exc_info()[1] is None:
            # Nobody is on the way out: Python swallows what is raised in a finalizer, and imports have many.
            raise Interrupted(self._asked, self.reason, self._left)
        self._held += 1
        try:
            yield
            self._is_done = self._is_done or last
        finally:
            self._held -= 1
        self._raise_pending()

    def _raise_pending(self) -> None:
        if not self._held and not self._is_done and (pending := self._pending) is not None:
            self._pending = None
            self(pending, None)


def _forget_call() -> None:
    """Have Spark forget what it was asked, if it is there: this module is below all others, and imports none."""
    session = sys.modules.get("lakescore.session")
    if session is not None and hasattr(session, "forget_call"):
        session.forget_call()


@contextmanager
def ends_by_signals(with_parent: bool = False) -> Iterator[None]:
    """Have SIGTERM, SIGINT and SIGHUP raise ``Interrupted`` in the main thread; those that are ignored (nohup) stay so.

    Args:
        with_parent: end likewise when the parent process, spark-submit's JVM, has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; who runs the command in another one has its own
        return
    handler, before = _Handler(os.getppid() if with_parent else None), {}
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, handler)
    over = threading.Event()
    if with_parent:
        threading.Thread(target=_end_with_parent, args=(handler, over), name="lakescore-parent", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        for number, old in before.items():
            signal.signal(number, old)


def _end_with_parent(handler: _Handler, over: threading.Event) -> None:
    while not over.wait(_PARENT_SECONDS):
        if handler.is_orphan():
            os.kill(os.getpid(), signal.SIGTERM)
            return


def end_if_asked() -> None:
    """End where that was asked for: what fails meanwhile, or swallows the interruption, is no failure of the run's own.

    Raises:
        Interrupted: a signal has come, or the parent has ended, for which others look from time to time only.
    """
    handler = _handler()
    if handler is not None:
        handler.end_if_asked()


def begin() -> None:
    """Say that a run begins, which a signal stops, also one that has come too late to stop the run before it.

    Raises:
        Interrupted: one has.
    """
    handler = _handler()
    if handler is not None:
        handler.begin()


def _handler() -> _Handler | None:
    """Ours, where it is installed and this is the thread that it interrupts."""
    if threading.current_thread() is not threading.main_thread():
        return None
    found = signal.getsignal(signal.SIGTERM)
    return found if isinstance(found, _Handler) else None


@contextmanager
def held(last: bool = False) -> Iterator[None]:
    """Let signals wait until the end of the block; one that came is raised there, unless the block fails itself.

    Args:
        last: what the block does is what the run is for: once it is done, a signal has nothing left to stop, until another run begins.
    """
    handler = _handler()
    with handler.held(last) if handler is not None else contextlib.nullcontext():
        yield


@contextmanager
def kept() -> Iterator[None]:
    """Put the handlers back that the block replaces: PySpark has one of its own for Ctrl-C."""
    handler = _handler()
    yield
    if handler is not None and signal.getsignal(signal.SIGINT) not in (handler, signal.SIG_IGN):
        signal.signal(signal.SIGINT, handler)
