"""Tasks in, their answers out, by processes of this machine that share one model.

Without Spark, ``run`` deals them out. With Spark on this machine, its tasks ask for theirs one by one (``served``): Spark decides what runs
when, and its own Python workers load neither the model nor what it needs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakescore.engine.direct import Answer, Job, Piece

    Ask = Callable[[int], bytes]

# One thread for each worker, as Spark's have it: BLAS, OpenMP, and what joblib takes for the number of cores.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), "1")
_SHORT_PATH = 70
# The modules that this process would find, and no others: first of all Python would look into the current folder.
_START = """
import os, sys
sys.path[:] = sys.argv.pop().split(os.pathsep)
from lakescore.engine.nursery import main
main(int(sys.argv.pop()))
"""


class Pool:
    """The workers. They are told what to import before it is known what they will do.

    Attributes:
        load_seconds: what loading the model took, once it is loaded.
    """

    def __init__(self) -> None:
        self.load_seconds = 0.0
        self._loading: str | None = None
        self._pipe, its = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(its.fileno()), os.pathsep.join(path or os.getcwd() for path in sys.path)],
            env={**os.environ, **_ONE_THREAD},
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=_stderr(),  # what a model prints is no part of the summary
            start_new_session=True,  # a group of their own, to be ended together
        )
        its.close()

    def load(self, folder: Path) -> None:
        """Have the model loaded, and do not wait for it.

        Args:
            folder: of the model behind its guard.
        """
        self._loading = str(folder)
        self._send("load", self._loading)

    def run(
        self, job: Job, tasks: Sequence[Sequence[Piece]], processes: int, done: Callable[[Answer], None] = lambda answer: None
    ) -> list[Answer]:
        """Run all tasks.

        Args:
            job, tasks: as ``direct.run`` has them.
            processes: workers at most.
            done: called for each task that is done.

        Raises:
            RuntimeError: a task failed, or a worker died; with the worker's traceback.
        """
        self._wait_for(job)
        self._send("run", job, tasks, processes)
        answers: dict[int, Answer] = {}
        while len(answers) < len(tasks):
            _, number, answer = self._expect("done")
            answers[number] = answer
            done(answer)
        return [answers[number] for number in range(len(tasks))]

    @contextmanager
    def served(self, job: Job, tasks: Sequence[Sequence[Piece]]) -> Iterator[Ask]:
        """Have tasks done as they are asked for: gives a function, the number of a task in, its pickled answer out.

        Args:
            job, tasks: as ``direct.run`` has them.

        Raises:
            RuntimeError: the model cannot be loaded.
        """
        self._wait_for(job)
        from lakescore import storage  # pyarrow comes with it, and the workers are begun before that

        # A socket in a folder that nobody else may enter, and a key besides; its path may have 100 characters or so.
        within = None if len(tempfile.gettempdir()) < _SHORT_PATH else "/tmp"
        with storage.scratch_folder(within) as folder:
            address, key = str(folder / "tasks"), os.urandom(32)
            self._send("serve", job, tasks, address, key)
            self._expect("serving")
            yield _asking(address, key)

    def close(self) -> None:
        """End all workers, whatever they are at: none of them has anything left to say."""
        if self._pipe.closed:
            return
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _wait_for(self, job: Job) -> None:
        if self._loading != job.guarded:
            self.load(Path(job.guarded))
        _, self.load_seconds = self._expect("loaded")

    def _send(self, *message: Any) -> None:
        with contextlib.suppress(ConnectionError):  # who is gone is noticed when an answer is wanted
            self._pipe.send(message)

    def _expect(self, wanted: str) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            code = self._process.wait()
            raise RuntimeError(f"Python worker exited unexpectedly (crashed): it ended with {code}") from None
        if answer[0] != wanted:
            raise RuntimeError(answer[1])
        return answer


def _asking(address: str, key: bytes) -> Ask:
    """Nested, so that Spark pickles it by value: its Python workers need not have Lakescore."""

    def ask(number: int) -> bytes:
        from multiprocessing.connection import Client

        with Client(address, "AF_UNIX", key) as pipe:
            pipe.send(number)
            try:
                what, answer = pipe.recv()
            except EOFError:
                raise RuntimeError("Python worker exited unexpectedly (crashed)") from None
        if what != "done":
            raise RuntimeError(answer)
        return bytes(answer)

    return ask


def _stderr() -> int | None:
    """The descriptor of stderr; None where there is none that a process could have, as in some notebooks."""
    try:
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else None
    except (OSError, ValueError):
        return None
