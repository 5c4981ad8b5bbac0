"""Where a person looks: the terminal to draw on, and the stderr for the one line of an error.

spark-submit runs Python as a child and pours its stderr into its own stdout; both are found again here.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TextIO

_last = ""


def under_spark_submit() -> bool:
    """Whether spark-submit started this process."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def on_databricks() -> bool:
    """Whether this process runs on Databricks, in a cluster or serverless, where a session is there and shipping has ways of its own."""
    return "DATABRICKS_RUNTIME_VERSION" in os.environ


def terminal() -> TextIO | None:
    """The terminal that a person watches, or None (a log, a pipe, a scheduler)."""
    if sys.stderr.isatty():
        return sys.stderr
    if under_spark_submit():
        # The bar is drawn on the terminal of spark-submit itself, where there is one (Linux).
        parent = f"/proc/{os.getppid()}/fd/2"
        with contextlib.suppress(OSError):
            # Only a terminal is opened: opening the file that a log is redirected to could cut it off.
            if stat.S_ISCHR(os.stat(parent).st_mode):
                descriptor = os.open(parent, os.O_WRONLY | os.O_NOCTTY)
                if os.isatty(descriptor):
                    return os.fdopen(descriptor, "w", encoding="utf-8")
                os.close(descriptor)
    return None


def complaint() -> str:
    """What this process has complained of last."""
    return _last


def complain(line: str) -> None:
    """Print one line on the stderr that the caller of the job sees."""
    global _last  # the one that a caller may be told who sees no stderr
    _last = line
    if under_spark_submit() and not on_databricks():
        with contextlib.suppress(Exception):
            from lakescore.session import print_on_jvm_stderr

            sys.stdout.flush()
            print_on_jvm_stderr(line)
            return
    with contextlib.suppress(OSError):  # spark-submit, which read it, is gone
        print(line, file=sys.stderr, flush=True)
