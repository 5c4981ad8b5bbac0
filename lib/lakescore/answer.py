"""What a run answers, as files in a folder for the program that started it (``lakescore score --result FOLDER``).

| file                    | what                                                                                              |
| ----------------------- | ------------------------------------------------------------------------------------------------- |
| `result.json`           | the ``ScoreResult``, `exit_code` and `error`; and, of a run that failed, only these and `run_id`   |
| `first_rows.json`       | the first rows that were written, as text, for people (``service.first_rows``)                    |
| `drift_table_plot.html` | the drift report, of a refused batch too                                                          |
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakescore.errors import ConfigError, LakescoreError
from lakescore.redact import redact

if TYPE_CHECKING:
    from lakescore.config import ScoreConfig
    from lakescore.result import ScoreResult

log = logging.getLogger(__name__)

RESULT, FIRST_ROWS, REPORT = "result.json", "first_rows.json", "drift_table_plot.html"
# Of a value and of a row: what is left is for people to look at.
_MOST_LETTERS = 200
_MOST_COLUMNS = 100


class Answer:
    """A folder that is to be told how a run ends."""

    def __init__(self, folder: str | None) -> None:
        """Nothing is left where there is no folder.

        Raises:
            ConfigError: there is none of that name.
        """
        self._folder = None if folder is None else Path(folder)
        self._config: ScoreConfig | None = None
        if self._folder is not None and not self._folder.is_dir():
            raise ConfigError(f"--result: {folder} is no folder that exists")

    @contextlib.contextmanager
    def told(self) -> Iterator[Answer]:
        """Around a run: an error is left as its one line, and goes on."""
        try:
            yield self
        except Exception as error:
            known = error if isinstance(error, LakescoreError) else LakescoreError(f"{type(error).__name__}: {error}")
            self._write(RESULT, {"exit_code": known.exit_code, "error": str(known), "run_id": known.run_id})
            self._leave_report(known.run_id)
            raise

    def of(self, config: ScoreConfig) -> None:
        """Take note of what is run."""
        self._config = config

    def leave(self, result: ScoreResult) -> None:
        """Leave what a run did, and then what is only to be looked at."""
        if self._folder is None or self._config is None:
            return
        self._write(RESULT, {"exit_code": 0, "error": None, **asdict(result), "total_seconds": result.total_seconds})
        if result.drift is not None:
            self._leave_report(result.run_id)
        if result.rows_written and (count := self._config.service.first_rows):
            from lakescore import results

            with _warned("the first rows cannot be shown"):
                rows = results.read(result, limit=count, tracking_uri=self._config.tracking.tracking_uri)
                self._write(FIRST_ROWS, _as_text(rows))

    def _leave_report(self, run_id: str | None) -> None:
        if self._folder is None or self._config is None or run_id is None:
            return
        from lakescore import tracking
        from lakescore.drift.files import PLOT

        with _warned("the drift report cannot be shown"):
            client = tracking.client_for(self._config.tracking)
            if any(file.path == PLOT for file in client.list_artifacts(run_id)):
                os.replace(client.download_artifacts(run_id, PLOT, str(self._folder)), self._folder / REPORT)

    def _write(self, name: str, value: Any) -> None:
        """The file appears complete or not at all: who waits for it may read it at any time."""
        if self._folder is None:
            return
        beside = self._folder / f".{name}"
        beside.write_text(json.dumps(value, ensure_ascii=False, default=str), encoding="utf-8")
        os.replace(beside, self._folder / name)


def _as_text(frame: Any) -> dict[str, Any]:
    names = [str(name) for name in frame.columns[:_MOST_COLUMNS]]
    rows = [[_shown(value) for value in row] for row in frame.iloc[:, :_MOST_COLUMNS].itertuples(index=False, name=None)]
    return {"columns": names, "rows": rows}


def _shown(value: Any) -> str:
    text = redact(f"{value:.6g}" if isinstance(value, float) else str(value))
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"


@contextlib.contextmanager
def _warned(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("--result: %s: %s", what, error)
