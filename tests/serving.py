"""A service for tests: the real application behind a real port, asked with the standard library's client."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn

from lakescore.service import server, tokens
from lakescore.service.center import Center
from lakescore.service.pipelines import Pipelines
from lakescore.service.tokens import Tokens

ENDED = ("succeeded", "skipped", "failed", "cancelled", "lost")


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Site:
    """A service's address, and the token to ask with."""

    port: int
    token: str | None = None
    cookie: str | None = None
    center: Center | None = None
    close: Callable[[], None] = field(default=lambda: None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask once; redirects are not followed. Bytes are sent as they are, everything else as JSON."""
        sent = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        sent |= {"Cookie": self.cookie} if self.cookie else {}
        if body is not None and not isinstance(body, bytes):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read().decode())

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def form(self, path: str, values: Mapping[str, str], **headers: str) -> Answer:
        """Send a form as a browser does."""
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.url}
        return self.ask("POST", path, urlencode(values).encode(), {**kind, **headers})

    def run(self, pipeline: str, overrides: Any = None, **headers: str) -> Answer:
        return self.ask("POST", f"/pipelines/{pipeline}/runs", {"overrides": overrides or {}}, headers)

    def until_ended(self, run_id: str, seconds: float = 180) -> dict[str, Any]:
        """Poll a run."""
        return self.until(run_id, lambda run: run["status"] in ENDED, seconds)

    def until(self, run_id: str, wanted: Callable[[dict[str, Any]], bool], seconds: float = 180) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            answer = self.get(f"/runs/{run_id}")
            if answer.status != 429 and wanted(answer.json):
                return dict(answer.json)
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.15)


def open_site(folder: Path, pipelines: Mapping[str, str], token: bool = True, **settings: Any) -> Site:
    """Start a service in a thread.

    Args:
        folder: for its state; pipelines go in there, too.
        pipelines: YAML by name.
        token: whether tokens are asked for; the site has one with the role run.
        settings: of ``server.Settings``, and ``clock``.
    """
    (folder / "pipelines").mkdir(exist_ok=True)
    for name, text in pipelines.items():
        (folder / "pipelines" / f"{name}.yaml").write_text(text, encoding="utf-8")
    clock = settings.pop("clock", lambda: datetime.now(timezone.utc))
    given = tokens.add(folder / "tokens", f"tester-{time.monotonic_ns()}", "run") if token else None
    made = server.Settings(folder / "pipelines", folder, folder / "tokens" if token else None, **settings)
    center = server.make_center(made, Pipelines(made.pipelines), Tokens(folder / "tokens") if token else None, clock)
    listening = server._listen(server.Settings(folder, folder, None, port=0))
    running = uvicorn.Server(server._uvicorn(made, center))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()

    def close(end_runs: bool = True) -> None:
        running.should_exit = True
        thread.join(20)
        center.supervisor.finish(end_runs)
        center.store.close()

    return Site(listening.getsockname()[1], given, center=center, close=close)
