"""``lakescore doctor`` and ``lakescore delete-batch``: what crashes left in an output, and one batch out of it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from lakescore.commands import Parser, run_command
from lakescore.config import ScoreConfig, keys_of
from lakescore.errors import ConfigError, OutputError
from lakescore.redact import redact

if TYPE_CHECKING:
    from lakescore.checkup import Checkup
    from lakescore.deletion import Deletion

_DOCTOR_HELP = """Look for what crashed or killed runs have left in an output and in MLflow, and mend it with --fix.

  lakescore doctor data/predictions                    look: nothing is changed
  lakescore doctor data/predictions --fix              mend what can be mended without losing a row
  lakescore doctor --config conf/score.yaml --json     the output, quarantine, drift table and tracking of a configuration

Stale staging, replaced leftovers and orphaned files are removed, unfinished publications are finished, and runs that say RUNNING and
are dead are ended. What was changed within --older-than, or belongs to a live run, is left alone. Of what it cannot mend (a damaged
batch, a batch without a run, a run without a batch, a quarantine without a batch) it shows the command that does.

Exit codes: 0 nothing found, or all of it mended; 1 the tracking server does not answer, 2 usage, 4 there is no such output,
5 something is left."""

_DELETE_HELP = """Delete one batch from an output: in one step, and no row of another batch. A later run of the same batch ID makes it anew.

  lakescore delete-batch data/predictions 2026-01-31             asks first
  lakescore delete-batch data/predictions 2026-01-31 --yes       does not
  lakescore delete-batch --config conf/score.yaml 2026-01-31     the output, quarantine, drift table and tracking of a configuration

A Delta table shows the batch in its older versions until VACUUM. Its MLflow runs are tagged lakescore.deleted.

Exit codes: 0 done, 1 the tracking server does not answer, 2 usage, 4 there is no such output, 5 the batch is not there, or is being
changed by another process."""

_OVERRIDE = re.compile(rf"(?:{'|'.join(keys_of(ScoreConfig))})(?:\.[^./=\s]+)+=.*", re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=36_500)


def doctor_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore doctor``; returns the exit code."""
    return run_command(_doctor_options, _doctor, argv)


def delete_main(argv: Sequence[str] | None = None) -> int:
    """Run ``lakescore delete-batch``; returns the exit code."""
    return run_command(_delete_options, _delete, argv)


def _doctor_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore doctor", _DOCTOR_HELP)
    add = parser.add_argument
    add("arguments", nargs="*", metavar="OUTPUT", help="a path (with a / in it, or that is there) or a table's name; section.key=value")
    add("--config", action="append", metavar="FILE", help="YAML file, as for score; its output, where no OUTPUT is given")
    add("--fix", action="store_true", help="mend what can be mended without losing a row")
    add("--older-than", default="24h", metavar="TIME", help="what was changed since is left alone: 90m, 24h, 7d (default: 24h)")
    add("--json", action="store_true", help="print the findings as JSON")
    add("--verbose", action="store_true", help="log more, and show the traceback of an error")
    options = parser.parse_intermixed_args(argv)
    options.names, options.overrides = _split(options.arguments)
    return options


def _doctor(options: argparse.Namespace) -> int:
    output = _only_output(options, len(options.names))
    duration = _DURATION.fullmatch(options.older_than)
    if duration is None:
        raise ConfigError(f"--older-than: got {options.older_than!r}; expected a number and s, m, h or d, for example 24h")
    if float(duration[1]) > _LONGEST / timedelta(**{_UNITS[duration[2]]: 1}):
        raise ConfigError(f"--older-than: got {options.older_than!r}; expected at most {_LONGEST.days}d")
    older_than = timedelta(**{_UNITS[duration[2]]: float(duration[1])})
    from lakescore import checkup

    found = checkup.doctor(output, config=options.config, overrides=options.overrides, fix=options.fix, older_than=older_than)
    print(redact(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) if options.json else describe(found)))
    return OutputError.exit_code if found.left else 0


def _delete_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("lakescore delete-batch", _DELETE_HELP)
    add = parser.add_argument
    add("arguments", nargs="*", metavar="OUTPUT BATCH_ID", help="a path or a table's name, and the batch; section.key=value")
    add("--config", action="append", metavar="FILE", help="YAML file, as for score; its output, where no OUTPUT is given")
    add("--quarantine", action="store_true", help="delete the batch's quarantined rows too")
    add("--drift", action="store_true", help="delete the batch's rows of the drift table (drift.table), and its reports, too")
    add("--yes", action="store_true", help="do not ask")
    add("--verbose", action="store_true", help="log more, and show the traceback of an error")
    options = parser.parse_intermixed_args(argv)
    options.names, options.overrides = _split(options.arguments)
    return options


def _delete(options: argparse.Namespace) -> int:
    if not options.names:
        raise ConfigError("delete-batch: give OUTPUT and BATCH_ID, or --config and BATCH_ID; see lakescore delete-batch --help")
    *outputs, batch_id = options.names
    output = _only_output(options, len(outputs))
    from lakescore import deletion

    asked = {"config": options.config, "overrides": options.overrides, "quarantined": options.quarantine, "drift": options.drift}
    if not options.yes:
        found = deletion.delete_batch(output, batch_id, dry_run=True, **asked)
        if not _agrees(found):
            print("nothing was deleted")
            return 0
    done = deletion.delete_batch(output, batch_id, **asked)
    version = "" if done.version is None else f" (version {done.version}; older versions show it until VACUUM)"
    print(redact(f"deleted {_what(done)}{version}"))
    return 0


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names, and ``section.key=value``."""
    overrides = [one for one in arguments if _OVERRIDE.fullmatch(one)]
    return [one for one in arguments if one not in overrides], overrides


def _only_output(options: argparse.Namespace, outputs: int) -> str | None:
    if outputs > 1:
        raise ConfigError(f"OUTPUT: got {', '.join(map(repr, options.names[:outputs]))}; give one")
    if outputs == 0 and not options.config:
        raise ConfigError("OUTPUT: is required without --config: a path (with a / in it, or that is there) or a table's name")
    return str(options.names[0]) if outputs else None


def _agrees(found: Deletion) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(f"--yes: is required where nobody can be asked; it would delete {_what(found)}")
    return input(redact(f"delete {_what(found)}? [y/N] ")).strip().lower() in ("y", "yes")


def _what(found: Deletion) -> str:
    dates = found.dates[0] if len(found.dates) == 1 else f"{len(found.dates)} dates"
    beside = f", with its {' and '.join(found.beside)}" if found.beside else ""
    return f"the batch {found.batch_id} ({found.rows:,} rows, {dates}) of {found.location}{beside}"


def describe(found: Checkup) -> str:
    """The findings as a table, and what they come to."""
    lines = [f"note: {note}" for note in found.notes]
    if not found.findings:
        return "\n".join([*lines, f"{found.location}: nothing found"])
    rows = [("finding", "where", "what", "to mend" if found.findings[0].state == "found" else "now")]
    for one in found.findings:
        now = {"found": one.remedy, "mended": "mended", "left": f"left: {one.remedy}"}[one.state]
        rows.append((one.kind, one.place.removeprefix(f"{found.location}/"), one.detail, now))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines += ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows]
    mended = sum(one.state == "mended" for one in found.findings)
    lines.append(f"{found.location}: {len(found.findings)} found, {mended} mended, {len(found.left)} left")
    return "\n".join(lines)
