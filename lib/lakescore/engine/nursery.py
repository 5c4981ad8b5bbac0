"""The process behind ``pool.py``: imports what a model needs, loads the model once, and forks the workers that share it.

It speaks with the driver through one pipe. In: ``("load", folder)``, then ``("run", job, tasks, processes)`` or ``("serve", job, tasks,
address, key)``. Out: ``("loaded", seconds)``, ``("done", number, answer)`` for each task or ``("serving",)``, or ``("failed", text)``.
It ends when the driver closes the pipe, however the driver ends.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path
from typing import Any


def main(descriptor: int) -> None:
    """Serve the driver until it is gone.

    Args:
        descriptor: of the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which closes the pipe
    driver: Connection[Any, Any] = Connection(descriptor)
    _import()
    try:
        while True:
            what, *given = driver.recv()
            _COMMANDS[what](driver, *given)
    except (EOFError, ConnectionError):
        pass


def _import() -> None:
    """What every model needs, before it is known which one it is."""
    import lakescore.engine.direct  # pandas, pyarrow and MLflow come with it
    import lakescore.engine.guard  # noqa: F401


def _load(driver: Connection[Any, Any], folder: str) -> None:
    from lakescore.engine import guard

    # What the model leaves behind goes with the run's other files.
    os.environ["TMPDIR"] = tempfile.tempdir = os.path.dirname(folder)
    start = time.monotonic()
    try:
        guard._load_pyfunc(folder)
    except BaseException as error:
        driver.send(("failed", _text(error)))
        return
    driver.send(("loaded", time.monotonic() - start))


def _run(driver: Connection[Any, Any], job: Any, tasks: Sequence[Any], processes: int) -> None:
    """Give the tasks to workers, one after the other, until all are done or one has failed."""
    context, is_fork = _context()
    waiting = list(enumerate(tasks))[::-1]
    workers: dict[Any, Any] = {}
    for _ in range(min(processes, len(tasks))):
        mine, its = context.Pipe()
        inherited = [driver, mine, *workers] if is_fork else []
        worker = context.Process(target=_work, args=(its, job, inherited), daemon=True)
        worker.start()
        its.close()
        workers[mine] = worker
        with contextlib.suppress(ConnectionError):  # it has died, which is noticed below
            mine.send(waiting.pop())
    try:
        while workers:
            ready: list[Any] = wait([driver, *workers])
            for pipe in ready:
                if pipe is driver:
                    driver.recv()  # raises: it speaks only before and after
                try:
                    answer = pipe.recv()
                except (EOFError, ConnectionError):
                    worker = workers[pipe]
                    worker.join()
                    driver.send(("failed", _death(worker.exitcode)))
                    return
                driver.send(answer)
                if answer[0] == "failed":
                    return
                if waiting:
                    with contextlib.suppress(ConnectionError):
                        pipe.send(waiting.pop())
                else:
                    worker = workers.pop(pipe)
                    pipe.close()  # which is how it knows that there is no more
                    worker.join()
    finally:
        for worker in workers.values():
            worker.kill()
            worker.join()


def _context() -> tuple[Any, bool]:
    """How workers are made, and whether they are forks, which share all that is loaded."""
    is_alone = _is_alone()
    gc.collect()
    gc.freeze()  # or the next collection would write to all that is shared
    return multiprocessing.get_context("fork" if is_alone else "spawn"), is_alone


def _is_alone() -> bool:
    """Whether this process has one thread. A fork has only the one that forks: a model could wait for the others for ever."""
    try:
        threads = [Path("/proc/self/task", one, "comm").read_text().strip() for one in os.listdir("/proc/self/task")]
    except OSError:
        return False
    # The memory allocator that pyarrow brings has one of its own, and knows of forks.
    return sum(name != "jemalloc_bg_thd" for name in threads) == 1


def _serve(driver: Connection[Any, Any], job: Any, tasks: Sequence[Any], address: str, key: bytes) -> None:
    """Give each task that is asked for to a worker of its own, which answers who has asked, until the driver is gone."""
    context, is_fork = _context()
    try:
        listener = Listener(address, "AF_UNIX", backlog=max(len(tasks), 1), authkey=key)
    except OSError as error:
        driver.send(("failed", _text(error)))
        return
    # The driver may have removed the folder with the socket in it by the time that this process sees that the driver is gone.
    with contextlib.suppress(FileNotFoundError), listener:
        driver.send(("serving",))
        knocking: Any = listener._listener._socket  # type: ignore[attr-defined]
        while True:
            if driver in wait([driver, knocking]):
                driver.recv()  # raises: it is gone
            with contextlib.suppress(AuthenticationError, EOFError, OSError), listener.accept() as pipe:
                number = pipe.recv()
                inherited = [driver] if is_fork else []
                context.Process(target=_answer, args=(pipe, job, number, tasks[number], inherited), daemon=True).start()
            multiprocessing.active_children()  # takes leave of those that have ended


def _answer(pipe: Connection[Any, Any], job: Any, number: int, pieces: Any, inherited: Sequence[Connection[Any, Any]]) -> None:
    """One worker for one task."""
    from lakescore.engine import direct

    _part_from(inherited)
    with pipe:
        try:
            # As bytes, which who has asked passes on: to know the class it would have to import all that the workers have.
            pipe.send(("done", pickle.dumps(direct.run(job, pieces, number))))
        except BaseException as error:
            pipe.send(("failed", _text(error)))


def _part_from(inherited: Sequence[Connection[Any, Any]]) -> None:
    """What a fork must not share: pipes, or nobody would notice when who they belong to is gone; and where random numbers stand."""
    for other in inherited:
        other.close()
    random.seed()
    sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def _work(pipe: Connection[Any, Any], job: Any, inherited: Sequence[Connection[Any, Any]]) -> None:
    """One worker: tasks in, answers out."""
    from lakescore.engine import direct

    _part_from(inherited)

    with pipe:
        while True:
            try:
                number, pieces = pipe.recv()
            except EOFError:
                return
            try:
                pipe.send(("done", number, direct.run(job, pieces, number)))
            except BaseException as error:
                pipe.send(("failed", _text(error)))
                return


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _death(code: int | None) -> str:
    how = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code and code < 0 else f"ended with {code}"
    return f"Python worker exited unexpectedly (crashed): it {how}"


_COMMANDS: dict[str, Callable[..., None]] = {"load": _load, "run": _run, "serve": _serve}
