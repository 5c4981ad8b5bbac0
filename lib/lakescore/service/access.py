"""Who asks, and whether they may: a token in a header, or a browser's session that was opened with one. Nobody else gets an answer."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from lakescore.service.limits import RateLimit
from lakescore.service.store import Store
from lakescore.service.tokens import ANYBODY, Caller, Role, Tokens

if TYPE_CHECKING:
    from fastapi import Response

COOKIE = "lakescore_session"
SESSION_HOURS = 12.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SAFE_METHODS = ("GET", "HEAD")


@dataclass(frozen=True)
class Visitor:
    """A caller, and the key that the forms of their session must bring back."""

    caller: Caller
    form_key: str = ""


class Access:
    """Answers who asks.

    Args:
        tokens: who has one; None: everybody may do all, from this machine.
        store: keeps the browser sessions.
        rate: requests of each caller.
        clock: the time (aware).
    """

    def __init__(self, tokens: Tokens | None, store: Store, rate: RateLimit, clock: Callable[[], datetime]) -> None:
        self._tokens = tokens
        self._store = store
        self._rate = rate
        self._clock = clock
        # Without tokens there are no sessions, and other sites cannot read a page of this one.
        self._form_key = secrets.token_urlsafe(32)

    @property
    def is_open(self) -> bool:
        """Whether no token is asked for."""
        return self._tokens is None

    def visitor(self, request: Request, role: Role) -> Visitor:
        """Who sends a request.

        Raises:
            HTTPException: 401 nobody who is known, 403 not with this role, 429 too often.
        """
        if self._tokens is None:
            # A name that leads here may be another site's; its pages then are of the same origin as these.
            if (urlsplit(f"//{request.headers.get('host', '')}").hostname or "") not in LOOPBACK:
                raise HTTPException(403, "with --no-auth only requests to localhost are answered")
            if request.method not in _SAFE_METHODS:
                _refuse_other_sites(request)  # any page that this machine's browser shows could send it
            self._count(ANYBODY.name)
            return Visitor(ANYBODY, self._form_key)
        found = self._known(request)
        if found is None:
            self._count(f"address {request.client.host if request.client else ''}")
            raise HTTPException(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        self._count(found.caller.digest)
        if not found.caller.may(role):
            raise HTTPException(403, f"the token of {found.caller.name} has the role {found.caller.role}; this needs {role}")
        return found

    def log_in(self, request: Request, token: str) -> str | None:
        """Open a session; returns what the cookie holds, None where the token is not known."""
        self._count(f"address {request.client.host if request.client else ''}")
        caller = self._tokens.of(token.strip()) if self._tokens is not None else None
        if caller is None:
            return None
        session = secrets.token_urlsafe(32)
        self._store.open_session(_hash(session), caller.digest, secrets.token_urlsafe(32), self._clock(), SESSION_HOURS)
        return session

    def log_out(self, request: Request) -> None:
        """End the session."""
        if (session := request.cookies.get(COOKIE)) is not None:
            self._store.close_session(_hash(session))

    def check_form(self, request: Request, visitor: Visitor | None, given: str) -> None:
        """Refuse what another site sends with this browser's cookie.

        Raises:
            HTTPException: 403.
        """
        _refuse_other_sites(request)
        if visitor is not None and not hmac.compare_digest(given.encode(), visitor.form_key.encode()):
            raise HTTPException(403, "the form is too old: load the page again")

    def _known(self, request: Request) -> Visitor | None:
        assert self._tokens is not None, "asked before"
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            caller = self._tokens.of(token.strip())
            return None if caller is None else Visitor(caller)
        # Other sites can have a browser send its cookie: what changes something needs the header, or a form with its key.
        session = request.cookies.get(COOKIE)
        if session is None or not (request.method in _SAFE_METHODS or request.url.path.startswith("/ui/")):
            return None
        found = self._store.session(_hash(session), self._clock())
        if found is None:
            return None
        # A token that was revoked takes its sessions along.
        caller = self._tokens.of_digest(found[0])
        return None if caller is None else Visitor(caller, found[1])

    def _count(self, who: str) -> None:
        if wait := self._rate.wait(who):
            raise HTTPException(429, f"too many requests; again in {wait} s", {"Retry-After": str(wait)})


def _refuse_other_sites(request: Request) -> None:
    # Browsers say it themselves where they are sure; what a proxy makes of the host does not matter then.
    said, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_own = origin is None or urlsplit(origin).netloc == request.headers.get("host") if said is None else said in ("same-origin", "none")
    if not is_own:
        raise HTTPException(403, "the request was sent from another site")


def set_cookie(request: Request, response: Response, session: str) -> None:
    """Give a browser its session."""
    response.set_cookie(
        COOKIE,
        session,
        max_age=int(SESSION_HOURS * 3_600),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
        path="/",
    )


def _hash(session: str) -> str:
    return hashlib.sha256(session.encode("utf-8", "surrogateescape")).hexdigest()
