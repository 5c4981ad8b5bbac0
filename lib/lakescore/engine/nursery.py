"""The process behind ``pool.py``: imports what a model needs, loads the model once, and forks the workers that share it.

It speaks with the driver through one pipe. In: ``("load", folder, processes)``, then ``("run", job, tasks)``. Out: ``("loaded", seconds)``,
``("done", number, answer)`` for each task, or ``("failed", text)``. It ends when the driver closes the pipe, however the driver ends.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
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
            if what == "load":
                _load(driver, *given)
            else:
                _run(driver, *given)
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
    # A fork has only the thread that forks: a model that has started others could wait for them for ever.
    is_alone = len(os.listdir("/proc/self/task")) == 1 if os.path.isdir("/proc/self/task") else False
    context: Any = multiprocessing.get_context("fork" if is_alone else "spawn")
    gc.collect()
    gc.freeze()  # or the next collection would write to all that is shared
    waiting = list(enumerate(tasks))[::-1]
    workers: dict[Any, Any] = {}
    for _ in range(min(processes, len(tasks))):
        mine, its = context.Pipe()
        inherited = [driver, mine, *workers] if is_alone else []
        worker = context.Process(target=_work, args=(its, job, inherited), daemon=True)
        worker.start()
        its.close()
        workers[mine] = worker
        mine.send(waiting.pop())
    try:
        while workers:
            ready: list[Any] = wait([driver, *workers])
            for pipe in ready:
                if pipe is driver:
                    driver.recv()  # raises: it speaks only before and after
                try:
                    answer = pipe.recv()
                except EOFError:
                    worker = workers[pipe]
                    worker.join()
                    driver.send(("failed", _death(worker.exitcode)))
                    return
                driver.send(answer)
                if answer[0] == "failed":
                    return
                if waiting:
                    pipe.send(waiting.pop())
                else:
                    workers.pop(pipe).join()
    finally:
        for worker in workers.values():
            worker.kill()
            worker.join()


def _work(pipe: Connection[Any, Any], job: Any, inherited: Sequence[Connection[Any, Any]]) -> None:
    """One worker: tasks in, answers out."""
    from lakescore.engine import direct

    for other in inherited:  # or nobody would notice when who it belongs to is gone
        other.close()

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


if __name__ == "__main__":
    main(int(sys.argv[1]))
