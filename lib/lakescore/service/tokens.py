"""Who may do what: a file of token hashes in, the name and role behind a presented token out.

A token is 256 random bits, so its SHA-256 is as good as the token is: nobody guesses either, and no slow hash is needed. A line of the
file is ``HASH ROLE NAME``; taking a line out revokes the token at once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lakescore.errors import ConfigError

Role = Literal["read", "run"]
PREFIX = "lks_"
_LINE = re.compile(r"(?P<hash>[0-9a-f]{64}) (?P<role>read|run) (?P<name>[A-Za-z0-9_.@-]{1,64})")


@dataclass(frozen=True)
class Caller:
    """Who asks; ``role`` run includes read."""

    name: str
    role: Role
    digest: str = ""

    def may(self, role: Role) -> bool:
        """Whether the caller has the role."""
        return get_args(Role).index(self.role) >= get_args(Role).index(role)


# With --no-auth, who can reach the loopback address may do all.
ANYBODY = Caller("anybody", "run")


def digest_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def add(file: Path, name: str, role: Role) -> str:
    """Make a token and keep its hash; returns the token, which is told nowhere else.

    Raises:
        ConfigError: the name is taken or is none.
    """
    token = PREFIX + secrets.token_urlsafe(32)
    line = f"{digest_of(token)} {role} {name}"
    if not _LINE.fullmatch(line):
        raise ConfigError(f"--name: got {name!r}; expected up to 64 letters, digits or any of _ . @ -")
    if file.exists() and any(caller.name == name for caller in read(file)):
        raise ConfigError(f"--name: {file} has a token of {name} already; take its line out to revoke it, or give another name")
    # An editor may have left the last line without its end.
    before = "\n" if file.exists() and file.read_bytes()[-1:] not in (b"", b"\n") else ""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w", encoding="utf-8") as out:
            out.write(f"{before}{line}\n")
    except OSError as error:
        raise ConfigError(f"--tokens: got {file}, which cannot be written: {error.strerror or error}") from error
    return token


def read(file: Path) -> list[Caller]:
    """All that have a token.

    Raises:
        ConfigError: the file is not there, is broken, or others may write it.
    """
    try:
        text, mode = file.read_text(encoding="utf-8"), file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--tokens: got {file}, which cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"--tokens: got {file}, which others may write, who could let themselves in; chmod 600 {file}")
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = _LINE.fullmatch(line.strip())
        if parts is None:
            raise ConfigError(f"--tokens: got {file}, in which line {number} is not HASH ROLE NAME, as lakescore serve token writes it")
        found.append(Caller(parts["name"], "run" if parts["role"] == "run" else "read", parts["hash"]))
    return found


class Tokens:
    """The file as it is now: it is read again when it has changed."""

    def __init__(self, file: Path) -> None:
        """Read it.

        Raises:
            ConfigError: as ``read``, or nobody has a token.
        """
        self._file = file
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._callers: list[Caller] = []
        if not file.exists() or not self._now():
            raise ConfigError(
                f"--tokens: got {file}, which has none; make one with lakescore serve token --name NAME --role run, or give "
                "--no-auth, on a loopback address only"
            )

    def of(self, token: str) -> Caller | None:
        """Who has this token; in a time that does not tell how much of it is right."""
        return self.of_digest(digest_of(token))

    def of_digest(self, digest: str) -> Caller | None:
        """Who has the token of this hash."""
        found = None
        for caller in self._now():
            if hmac.compare_digest(caller.digest, digest):
                found = caller
        return found

    def _now(self) -> list[Caller]:
        with self._lock:
            try:
                state = self._file.stat()
                seen = (state.st_mtime_ns, state.st_size)
                if seen != self._seen:
                    self._callers, self._seen = read(self._file), seen
            except (OSError, ConfigError):
                if self._seen is None:
                    raise
                # Nobody is let in by a file that is not as it was left.
                self._callers, self._seen = [], (0, 0)
            return self._callers
