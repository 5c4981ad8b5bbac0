"""Workers that have imported already what takes seconds: a suite starts hundreds of them, which differ in nothing but their model.

``Template`` is a process that has imported what a pool's nursery imports, and is forked for each that is wanted; a fork leads a session of
its own, with the environment, folder, streams and pipe that ``subprocess.Popen`` would give it. As a module it is PySpark's daemon, which
forks Spark's workers, with the same imports.

What only a process that starts anew can show (what it finds on its path, what its command line says) is for tests that start one.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from lakescore.engine import pool

# What the models of most tests are made with. None of them starts a thread, so that a fork is whole.
MODULES = ("lakescore.engine.direct", "lakescore.engine.guard", "mlflow.pyfunc.model", "mlflow.sklearn", "sklearn.linear_model")
_START = "import sys; sys.path[:] = sys.argv[2:]; from support.warm import serve; serve(int(sys.argv[1]))"
_FDS = 4
_REQUEST_BYTES = 1 << 20


@contextmanager
def forked_pools() -> Iterator[None]:
    """While the block runs, pools of this process get forks; commands that it starts do not."""
    made: list[Template] = []
    lock = threading.Lock()

    def start(command: list[str], **options: Any) -> Fork:
        with lock:
            if not made:
                made.append(Template(pool._ONE_THREAD))
        return made[0].fork(command[-1], int(command[-2]), options["env"], options["stdout"])

    with mock.patch.object(pool, "subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)):
        try:
            yield
        finally:
            for one in made:
                one.close()


class Template:
    """The process that is forked.

    Args:
        environment: that its libraries read when they are imported.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(its.fileno()), *(path or os.getcwd() for path in sys.path)],
            env={**os.environ, **environment},
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        its.close()

    def fork(self, path: str, descriptor: int, environment: dict[str, str], stdout: int | None) -> Fork:
        """A nursery.

        Args:
            path: its ``sys.path``, as one text.
            descriptor: of its pipe.
            environment: all of it.
            stdout: its standard output; None: this process's.
        """
        answers, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps([path, os.getcwd(), environment]).encode()
        with its, self._lock:
            fds = array("i", [descriptor, 1 if stdout is None else stdout, 2, its.fileno()])
            self._mine.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        return Fork(answers)

    def close(self) -> None:
        """End the template; forks go on."""
        self._mine.close()
        self._process.wait()


class Fork:
    """What a pool asks of ``subprocess.Popen``."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers, self._code, self._lock = answers, None, threading.Lock()
        self.pid = int(answers.recv(32))  # once it leads its session

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        with self._lock:
            if self._code is None:
                with self._answers:
                    self._code = int(self._answers.recv(32))
        return self._code


def serve(descriptor: int) -> None:
    """Be the template until the suite has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as requests:
        while True:
            request, fds, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, _FDS)
            if not request:
                return
            if os.fork() == 0:
                requests.close()
                _keep(request.decode(), *fds)
            for fd in fds:
                os.close(fd)


def warm_up() -> None:
    """Import, and leave alone what is there from now on: a fork that collects garbage would write to all of it."""
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _keep(request: str, pipe: int, stdout: int, stderr: int, answers: int) -> None:
    """Fork once more, and say of the second fork who it is and how it has ended: who has asked is not its parent, and could not wait."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ready, its = os.pipe()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            os.setsid()
            os.close(its)
            os.close(ready)
            os.close(answers)
            _become(request, pipe, stdout, stderr)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for fd in (its, pipe, stdout, stderr):
        os.close(fd)
    select.select([ready], [], [])  # its end closes once it leads its session
    os.write(answers, str(pid).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        os.write(answers, str(code).encode())
    finally:
        os._exit(0)


def _become(request: str, pipe: int, stdout: int, stderr: int) -> None:
    path, folder, environment = json.loads(request)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:], sys.argv[:] = path.split(os.pathsep), ["-c"]
    random.seed()
    numpy: Any = sys.modules["numpy"]
    numpy.random.seed()
    from lakescore.engine.nursery import main

    main(pipe)


if __name__ == "__main__":
    from pyspark import daemon

    warm_up()
    daemon.manager()
