"""A folder of named configurations in; what may be asked of each, and what a run of it is, out."""

from __future__ import annotations

import logging
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from lakescore.compose import compose, read_file
from lakescore.config import ScoreConfig
from lakescore.errors import ConfigError, LakescoreError
from lakescore.recurrence import Recurrence
from lakescore.redact import is_secret_key
from lakescore.service.store import Run, Trigger, new_id, text_of
from lakescore.strict_yaml import parse_value

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEY = re.compile(r"[A-Za-z_][^=\s]{0,255}")


class NotAllowedError(Exception):
    """The pipeline does not let callers set a key; its text is one line that names it."""


@dataclass(frozen=True)
class Pipeline:
    """One file. ``config`` is None and ``error`` says why where it cannot be read."""

    name: str
    file: Path
    config: ScoreConfig | None
    error: str | None = None

    @property
    def recurrence(self) -> Recurrence | None:
        """When it runs by itself."""
        if self.config is None or self.config.service.schedule is None:
            return None
        return self.config.service.schedule.recurrence(self.config.run.timezone)

    @property
    def schedule(self) -> str | None:
        """The same for people."""
        if self.config is None or (schedule := self.config.service.schedule) is None:
            return None
        if schedule.every is None:
            words = " and ".join(schedule.cron)
        else:
            words = f"every {schedule.every}"
            words += f" on {', '.join(schedule.on)}" if schedule.on else ""
            words += f" at {', '.join(schedule.at)}" if schedule.at else ""
            words += f" from {schedule.start}" if schedule.start else ""
        return f"{words} ({self.config.run.timezone})"

    @property
    def allow(self) -> tuple[str, ...]:
        """The keys, and sections of keys, that a caller may set."""
        return self.config.service.allow if self.config is not None else ()

    def run(
        self,
        overrides: Mapping[str, Any],
        trigger: Trigger,
        caller: str,
        now: datetime,
        *,
        tick: datetime | None = None,
        key: str | None = None,
        digest: str | None = None,
    ) -> Run:
        """A run to be queued. Its batch and its date are fixed now: a second try is the same batch.

        Args:
            overrides: a caller's values by key.
            trigger, caller: what and who asks.
            now: the time.
            tick: the scheduled time, which then is the batch (unless the file names one) and gives the date.
            key, digest: the idempotency key and the body's digest.

        Raises:
            NotAllowedError: callers may not set a key.
            ConfigError: the pipeline or a value is wrong.
        """
        if self.config is None:
            raise ConfigError(f"the pipeline {self.name} cannot be run: {self.error}")
        for name in overrides:
            self._check(name)
        given = [as_override(name, value) for name, value in overrides.items()]
        config = compose([self.file], [*given, *(self._of_tick(tick) if tick is not None else [])], now=now)
        return Run(
            id=new_id(now),
            pipeline=self.name,
            status="queued",
            trigger=trigger,
            caller=caller,
            overrides=dict(overrides),
            batch_id=str(config.run.batch_id),
            score_date=str(config.run.date),
            created_at=text_of(now),
            scheduled_at=None if tick is None else text_of(tick),
            idempotency_key=key,
            body_digest=digest,
        )

    def _check(self, key: str) -> None:
        if any(key == one or key.startswith(f"{one}.") for one in self.allow):
            return
        may = ", ".join(self.allow) or "none"
        raise NotAllowedError(f"{key}: callers of the pipeline {self.name} may not set it; service.allow has {may}")

    def _of_tick(self, tick: datetime) -> list[str]:
        recurrence, config = self.recurrence, self.config
        assert recurrence is not None and config is not None, "it ticks"
        day: date = tick.astimezone(recurrence.zone).date()
        # One that the file names is kept: flights-${run.date}, for example; and with source.incremental a batch is what is new. With the
        # pipeline's name, as others may write to the same output at the same time.
        names_batch = _batch_in(self.file) is not None or config.source.incremental is not None
        return [f"run.date={day}", *([] if names_batch else [f"run.batch_id={self.name}-{tick:%Y%m%dT%H%M%SZ}"])]


def _batch_in(file: Path) -> Any:
    """``run.batch_id`` as a file has it; None where it names none."""
    run = read_file(file).get("run")
    return run.get("batch_id") if isinstance(run, dict) else None


def as_override(key: str, value: Any) -> str:
    """A value of JSON as an override has it, ``key=value``.

    Raises:
        ConfigError: it would be interpolated, with the service's environment for example; or it is a secret, which would stand in the
            list of processes.
    """
    if not _KEY.fullmatch(key):
        raise ConfigError(f"{key[:80]!r}: is no key such as run.date")
    if (secret := next(filter(is_secret_key, [key, *_names(value)]), None)) is not None:
        raise ConfigError(f"{secret} is a secret and no caller's value; the pipeline's file has it from the environment: ${{oc.env:NAME}}")
    text = _as_yaml(value, key)
    if "${" in text or "${" in key:
        raise ConfigError(f"{key}: a caller's value must not hold ${{")
    return f"{key}={text}"


def _names(value: Any) -> Iterator[str]:
    """The names in a value of JSON, at any depth."""
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(item)


def _as_yaml(value: Any, key: str) -> str:
    """JSON as YAML that gives the same value: JSON's escapes of letters beyond 16 bits mean others there."""
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ConfigError(f"{key}: holds half of a letter")
        return f'"{"".join(map(_escaped, value))}"'
    if isinstance(value, list):
        return f"[{', '.join(_as_yaml(one, key) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_as_yaml(name, key)}: {_as_yaml(one, key)}' for name, one in value.items())}}}"
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if " " <= letter <= "~" else f"\\U{ord(letter):08x}"


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """``key=value`` as a person types them, with the types of the command line.

    Raises:
        ConfigError: one is none.
    """
    found = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"{pair!r}: expected section.key=value")
        found[key.strip()] = parse_value(value.strip(), key.strip(), key.strip().split("."))
    return found


class Pipelines:
    """The folder as it is now: a file is read again when it has changed."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"--pipelines: {folder} is no folder")
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[tuple[int, int], Pipeline]] = {}

    def all(self) -> dict[str, Pipeline]:
        """All pipelines by name, in the order of their names."""
        files = [file for file in self._folder.glob("*.y*ml") if file.suffix in (".yaml", ".yml") and _NAME.fullmatch(file.stem)]
        with self._lock:
            found: dict[str, Pipeline] = {}
            for file in sorted(files, key=lambda file: (file.stem, file.suffix)):
                pipeline = self._read(file)
                if pipeline is not None:
                    twice = found.get(file.stem)
                    error = f"{twice.file.name} and {file.name} have the same name" if twice is not None else None
                    found[file.stem] = Pipeline(file.stem, file, None, error) if error else pipeline
            return found

    def get(self, name: str) -> Pipeline | None:
        return self.all().get(name)

    def _read(self, file: Path) -> Pipeline | None:
        try:
            state = file.stat()
        except OSError:
            return None
        if not stat.S_ISREG(state.st_mode):  # who reads a pipe waits for its other end
            return None
        seen = (state.st_mtime_ns, state.st_size)
        known = self._known.get(file)
        if known is None or known[0] != seen:
            try:
                pipeline = Pipeline(file.stem, file, compose([file]))
            except LakescoreError as error:
                log.warning("the pipeline %s cannot be run: %s", file.stem, error)
                pipeline = Pipeline(file.stem, file, None, str(error))
            known = self._known[file] = seen, pipeline
        return known[1]
