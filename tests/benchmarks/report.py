"""Runs in; medians, ratios and tables out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.cases import Case, Run
from benchmarks.models import MODELS


@dataclass(frozen=True)
class Summary:
    """One contender in one case: medians over its runs, and ratios of medians within the case; None where there is nothing to compare.

    Attributes:
        case: what was done.
        contender: by whom.
        runs: how many runs succeeded.
        wall_seconds: median.
        least_seconds: of all runs, wall.
        most_seconds: of all runs, wall.
        scoring_seconds: median of the scoring stage alone, where it is told.
        cpu_seconds: median.
        peak_bytes: median.
        rows_per_second: rows by the median of wall seconds.
        plain_by_this: wall seconds of the plain script by this one's: how many times faster it is.
        plain_memory_by_this: the same of the peak memory.
        this_by_limit: wall seconds by the limit's.
    """

    case: Case
    contender: str
    runs: int
    wall_seconds: float
    least_seconds: float
    most_seconds: float
    scoring_seconds: float | None
    cpu_seconds: float
    peak_bytes: float
    rows_per_second: float
    plain_by_this: float | None
    plain_memory_by_this: float | None
    this_by_limit: float | None


def summaries(runs: Sequence[Run]) -> list[Summary]:
    """One for each case and contender with a run that did not fail, in the order of the runs."""
    grouped: dict[tuple[Case, str], list[Run]] = {}
    for run in runs:
        if run.failure is None:
            grouped.setdefault((run.case, run.contender), []).append(run)
    return [_summary(case, contender, found, grouped) for (case, contender), found in grouped.items()]


def _summary(case: Case, contender: str, runs: Sequence[Run], grouped: dict[tuple[Case, str], list[Run]]) -> Summary:
    walls = [run.measured.wall_seconds for run in runs]
    wall, peak = median(walls), _median(runs, _peak)
    scoring = [run.scoring_seconds for run in runs if run.scoring_seconds is not None]
    plain, limit = grouped.get((case, "plain")), grouped.get((case, "limit"))
    return Summary(
        case=case,
        contender=contender,
        runs=len(runs),
        wall_seconds=wall,
        least_seconds=min(walls),
        most_seconds=max(walls),
        scoring_seconds=median(scoring) if scoring else None,
        cpu_seconds=_median(runs, lambda run: run.measured.cpu_seconds),
        peak_bytes=peak,
        rows_per_second=case.rows / wall,
        plain_by_this=_median(plain, _wall) / wall if plain else None,
        plain_memory_by_this=_median(plain, _peak) / peak if plain else None,
        this_by_limit=wall / _median(limit, _wall) if limit else None,
    )


def _median(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return median(value(run) for run in runs)


def _wall(run: Run) -> float:
    return run.measured.wall_seconds


def _peak(run: Run) -> float:
    return run.measured.peak_bytes


HEADER = (
    f"{'contender':<19}{'wall s':>8}{'least - most':>17}{'CPU s':>8}{'peak MB':>9}{'rows/s':>11}"
    f"{'plain/it':>10}{'memory':>8}{'it/limit':>10}  predictions"
)


def table(case: Case, runs: Sequence[Run]) -> str:
    """The contenders of a case, a line each; then where predictions differ, and the last lines of those that failed."""
    own = [run for run in runs if run.case == case]
    by_name = {summary.contender: summary for summary in summaries(own)}
    cores = "" if case.cores is None else f", {case.cores} core{'s' if case.cores > 1 else ''}"
    lines, notes = [f"{case.part}: {case.model}, {case.rows:,} rows x {case.columns} columns{cores}", HEADER], []
    for name in case.contenders:
        its_runs = [run for run in own if run.contender == name]
        if name in by_name:
            word, note = equality(its_runs)
            lines.append(f"{_line(by_name[name])}  {word}")
            notes += [f"  {name}: {note}"] if note else []
        for run in its_runs:
            if run.failure is not None:
                lines.append(f"{name:<19}failed in run {run.repeat}: {run.failure}")
                notes += [f"  {name} failed: {run.failure}; the last lines of its output:", *(f"    {line}" for line in run.output_tail)]
    return "\n".join([*lines, *notes])


def _line(summary: Summary) -> str:
    return (
        f"{summary.contender:<19}{summary.wall_seconds:>8.1f}{f'{summary.least_seconds:.1f} - {summary.most_seconds:.1f}':>17}"
        f"{summary.cpu_seconds:>8.1f}{summary.peak_bytes / 1e6:>9,.0f}{summary.rows_per_second:>11,.0f}"
        f"{_ratio(summary.plain_by_this):>10}{_ratio(summary.plain_memory_by_this):>8}{_ratio(summary.this_by_limit):>10}"
    )


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def equality(runs: Sequence[Run]) -> tuple[str, str]:
    """Whether the predictions of a contender's runs are the reference's: in few words, and by how much not."""
    compared = [(run, run.comparison) for run in runs if run.comparison is not None]
    word = "equal" if len(compared) == len(runs) else "the reference"
    if not compared:
        return word, ""
    run, worst = max(compared, key=lambda pair: (not pair[1].equal, pair[1].relative))
    if worst.rows == 0:
        return word, ""
    by = f"{worst.rows:,} rows of run {run.repeat} differ from {run.reference}'s by at most {worst.largest:.2g}, "
    by += f"{worst.relative:.2g} of the largest prediction"
    model = MODELS[run.case.model]
    if not worst.equal:
        return "NOT EQUAL", f"NOT EQUAL: {by}; allowed: {model.tolerance:.2g}"
    return f"{word}, but for rounding", f"{by}, of which up to {model.tolerance:.2g} is taken for rounding: {model.reason}"


def growth(runs: Sequence[Run]) -> list[str]:
    """What the cases of the parts `cores`, `rows` and `drift` say together, a line for each contender."""
    found = summaries(runs)
    lines = []
    for first in found:
        for second in found:
            if (first.case.part, first.case.model) == (second.case.part, second.case.model):
                lines += _grown(first, second)
    return lines


def _grown(first: Summary, second: Summary) -> list[str]:
    case, other = first.case, second.case
    wall = second.wall_seconds / first.wall_seconds
    what = f"{case.part}: {case.model}"
    if case.part == "drift" and (first.contender, second.contender) == ("drift-off", "drift-on") and case == other:
        line = f"{what}, {case.rows:,} rows: wall with drift by wall without: {wall:.3f}"
        line += f"; least of each: {second.least_seconds / first.least_seconds:.3f}"
        if first.scoring_seconds and second.scoring_seconds:
            line += f"; scoring stage alone: {second.scoring_seconds / first.scoring_seconds:.3f}"
        return [line]
    if first.contender != second.contender:
        return []
    if case.part == "cores" and case.rows == other.rows and (case.cores or 0) < (other.cores or 0):
        return [f"{what}, {case.rows:,} rows, {first.contender}: speed on {other.cores} cores by speed on {case.cores}: {1 / wall:.2f}"]
    if case.part == "rows" and case.rows < other.rows:
        per_row, memory = second.rows_per_second / first.rows_per_second, second.peak_bytes / first.peak_bytes
        return [
            f"{what}, {first.contender}: {other.rows:,} rows by {case.rows:,}: time per row {1 / per_row:.2f}, peak memory {memory:.2f}"
        ]
    return []
