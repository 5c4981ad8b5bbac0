"""An analysis in, the three files that are left for people and programs out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from lakescore.drift import report
from lakescore.drift.analysis import Analysis, to_results
from lakescore.drift.statistics import Statistics
from lakescore.errors import PlatformError

log = logging.getLogger(__name__)

PLOT, RESULTS, STATISTICS = "drift_table_plot.html", "drift_results.json", "dataset_statistics.json"


def files_of(analysis: Analysis, batch: Statistics, title: str, facts: Mapping[str, str]) -> dict[str, str]:
    """Their contents by name; the page is left out, with a warning, where the packages that draw it are missing.

    Args:
        analysis: what was found.
        batch: what was counted.
        title: of the page.
        facts: what it says of the run, by name.
    """
    files = {
        RESULTS: json.dumps(to_results(analysis), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        STATISTICS: batch.to_json(),
    }
    try:
        files[PLOT] = report.html(analysis, title, facts)
    except PlatformError as error:
        log.warning("drift: %s is left out: %s", PLOT, error)
    return files
