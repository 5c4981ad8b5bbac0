"""Tasks in, their answers out, by processes of this machine that share one model: what Spark does elsewhere, without a JVM."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakescore.engine.direct import Answer, Job, Piece

# One thread for each worker, as Spark's have it: BLAS, OpenMP, and what joblib takes for the number of cores.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), "1")


class Pool:
    """The workers. They are told what to import before it is known what they will do."""

    def __init__(self) -> None:
        self._pipe, its = multiprocessing.Pipe()
        environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join([_root(), *filter(None, [os.environ.get("PYTHONPATH")])])}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lakescore.engine.nursery", str(its.fileno())],
            env=environment,
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a group of their own, to be ended together
        )
        its.close()

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
        self._send("load", job.guarded)
        self._expect("loaded")
        self._send("run", job, tasks, processes)
        answers: dict[int, Answer] = {}
        while len(answers) < len(tasks):
            _, number, answer = self._expect("done")
            answers[number] = answer
            done(answer)
        return [answers[number] for number in range(len(tasks))]

    def close(self) -> None:
        """End all workers, whatever they are at: none of them has anything left to say."""
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _send(self, *message: Any) -> None:
        with contextlib.suppress(ConnectionError):  # who is gone is noticed when an answer is wanted
            self._pipe.send(message)

    def _expect(self, wanted: str) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            code = self._process.wait()
            raise RuntimeError(f"Python worker exited unexpectedly (crashed): it ended with {code} while the model was loaded") from None
        if answer[0] != wanted:
            raise RuntimeError(answer[1])
        return answer


def _root() -> str:
    """The folder that the package is imported from, which need not be installed."""
    return str(Path(__file__).parents[2])
