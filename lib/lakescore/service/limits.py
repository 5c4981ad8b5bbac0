"""How much a caller may ask: requests in a time, and bytes in a body."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_MOST_CALLERS = 10_000

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class RateLimit:
    """A bucket of requests for each caller, which fills again at an even rate.

    Args:
        per_minute: requests a minute; a sixth of them, at least 20, at once.
        clock: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60
        self._size = max(per_minute / 6, 20.0)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait(self, caller: str) -> int:
        """Take one request; returns 0, or the seconds after which there is one again."""
        with self._lock:
            now = self._clock()
            left, then = self._buckets.pop(caller, (self._size, now))
            left = min(self._size, left + (now - then) * self._rate)
            if len(self._buckets) >= _MOST_CALLERS:
                # The one that has asked least lately.
                del self._buckets[next(iter(self._buckets))]
            self._buckets[caller] = (left - 1 if left >= 1 else left, now)
        return 0 if left >= 1 else max(1, math.ceil((1 - left) / self._rate))


class BodyLimit:
    """An ASGI application that refuses larger bodies, announced or not, before they are read.

    Args:
        app: what it stands before.
        most: bytes.
    """

    def __init__(self, app: App, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._most:
            await self._refuse(send)
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            if len(body) > self._most:
                await self._refuse(send)
                return
            if not message.get("more_body", False):
                break
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)

    async def _refuse(self, send: Send) -> None:
        detail = f"the body is larger than {self._most:,} bytes"
        body = json.dumps({"type": "about:blank", "title": "Content Too Large", "status": 413, "detail": detail}).encode()
        # What is left of the body is not read.
        headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})
