"""An MLflow server of one case, over the case's own store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chaos import world
from chaos.case import Case

_START_SECONDS = 180.0


@dataclass
class Server:
    """One that runs."""

    process: subprocess.Popen[bytes]
    uri: str

    def kill(self) -> bool:
        """End it, and its workers, at once."""
        if self.process.poll() is not None:
            return False
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return True


@contextmanager
def running(case: Case) -> Iterator[Server]:
    """Start it, and end it with the block if nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = world.environment(case.folder, case.mark)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", environment["MLFLOW_TRACKING_URI"]]
    with (case.folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=case.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        _wait_for(server)
        yield server
    finally:
        server.kill()


def _wait_for(server: Server) -> None:
    until = time.monotonic() + _START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            opener.open(f"{server.uri}/health", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until or server.process.poll() is not None:
                raise RuntimeError("the tracking server does not start") from None
            time.sleep(0.1)
