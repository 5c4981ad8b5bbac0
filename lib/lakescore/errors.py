"""Every expected failure, as one line for a person and an exit code for a scheduler.

::

    LakescoreError          1  the run failed
    ├── PlatformError       1  Java, Spark, a Python worker, a jar or the tracking server
    ├── ConfigError         2  configuration or command line
    ├── ModelError          3  the model cannot be found, loaded or trusted
    ├── InputError          4  the input data
    ├── OutputError         5  the output table
    └── DriftError          6  drift, with on_drift: fail

This module imports nothing of the package but ``redact`` and nothing heavy at all.
"""

from __future__ import annotations

import difflib
import logging
import traceback
import unicodedata
from collections.abc import Iterable

from lakescore.redact import redact

# A model may raise megabytes; nobody reads more of a line than this.
_MOST_CHARACTERS = 4_000
_MOST_READ = 25 * _MOST_CHARACTERS


class LakescoreError(Exception):
    """The base of all expected failures; ``str(error)`` is always one line of bounded length, without secrets and control characters.

    ``run_id`` is the MLflow run that has recorded it; None where none had begun.
    """

    exit_code = 1
    run_id: str | None = None

    def __init__(self, message: str) -> None:
        line = redact(" ".join(message[:_MOST_READ].split()))
        super().__init__(_printable(line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}..."))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows (IPython asks for it): the line alone, as the command line does, or all where debug messages are logged."""
        if logging.getLogger("lakescore").isEnabledFor(logging.DEBUG):
            return redact("".join(traceback.format_exception(self))).splitlines()
        return [f"{type(self).__name__}: {self}"]


def _printable(text: str) -> str:
    """Names come from files: what a terminal would act on, and halves of characters, are shown as Python writes them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class PlatformError(LakescoreError):
    """What the job runs on is missing or broken: Java, a worker's Python, a jar, a server."""

    exit_code = 1


class ConfigError(LakescoreError):
    """A key, a value or the command line is wrong."""

    exit_code = 2


class ModelError(LakescoreError):
    """The model cannot be found, loaded, or does not do what it declares."""

    exit_code = 3


class InputError(LakescoreError):
    """The input data cannot be read, or does not fit the model."""

    exit_code = 4


class OutputError(LakescoreError):
    """The output cannot be written, or does not fit the table that is there."""

    exit_code = 5


class DriftError(LakescoreError):
    """The data has drifted from the reference and ``on_drift`` is ``fail``."""

    exit_code = 6


class NeedsSparkError(Exception):
    """What was asked for is not done without Spark; its text says why. Not a failure: Spark is started, and asked again."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``, if one is."""
    names = list(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if match:
        return match[0]
    return {candidate.casefold(): candidate for candidate in names}.get(name.casefold())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as `` Did you mean 'x'?``, or an empty string."""
    near = nearest(name, known)
    return f" Did you mean {near!r}?{look_alikes(name, near)}" if near else ""


def look_alikes(name: str, other: str) -> str:
    """How two names are written that a reader cannot tell apart, or an empty string."""
    one, two = (unicodedata.normalize("NFKC", text) for text in (name, other))
    pairs = zip(one, two, strict=True) if len(one) == len(two) and name != other else ()
    alike = [a == b or a.isascii() != b.isascii() for a, b in pairs]
    if not alike or not all(alike) or (name + other).isascii():
        return ""
    return f" They look alike, and are {name!a} and {other!a}."


def listing(names: Iterable[object], limit: int = 8) -> str:
    """Names for a message: at most ``limit`` of them, then how many more there are."""
    items = [str(name) for name in names]
    if not items:
        return "none"
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
