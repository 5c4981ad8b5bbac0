"""What a run's log tells while it runs: its end, its MLflow run, the stages that are done, and the line of an error."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lakescore.redact import redact

_TAIL_BYTES = 65_536
# The MLflow run is told at the beginning.
_HEAD_BYTES = 262_144
STAGES = ("model", "source", "score", "output")
_MLFLOW_RUN = re.compile(r" INFO lakescore\.tracking: run: (?P<run_id>[0-9a-f]{32}), experiment (?P<experiment_id>\S+)")
_STAGE = re.compile(rf"^(?P<time>\S+) INFO lakescore\.\w+: (?P<stage>{'|'.join(STAGES)}): (?P<text>.*)$", re.MULTILINE)
_ERROR_LINE = re.compile(r"^lakescore: (.+)$", re.MULTILINE)


def tail(file: Path, most: int = _TAIL_BYTES) -> str:
    """The end of a log without secrets, in whole lines; empty where there is none."""
    text, is_cut = _read(file, most, from_end=True)
    return redact(text.partition("\n")[2] if is_cut else text)


def mlflow_run(file: Path) -> dict[str, str]:
    """``run_id`` and ``experiment_id``, once they are known."""
    found = _MLFLOW_RUN.search(_read(file, _HEAD_BYTES)[0])
    return {} if found is None else found.groupdict()


def stages(file: Path) -> dict[str, str]:
    """The stages that are done, and what the log says of each."""
    return {found["stage"]: redact(found["text"]) for found in _STAGE.finditer(_read(file, _HEAD_BYTES)[0])}


def error_line(file: Path) -> str | None:
    """The last line in which the command said what is wrong."""
    lines = _ERROR_LINE.findall(tail(file))
    return str(lines[-1]) if lines else None


def _read(file: Path, most: int, from_end: bool = False) -> tuple[str, bool]:
    try:
        with open(file, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - most) if from_end else 0)
            return log.read(most).decode("utf-8", errors="replace"), size > most
    except OSError:
        return "", False
