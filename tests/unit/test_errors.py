"""Expected failures: one line without secrets, and an exit code that a scheduler can act on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lakescore.errors import (
    ConfigError,
    DriftError,
    InputError,
    LakescoreError,
    ModelError,
    OutputError,
    PlatformError,
    did_you_mean,
    listing,
    nearest,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LakescoreError, 1),
        (PlatformError, 1),
        (ConfigError, 2),
        (ModelError, 3),
        (InputError, 4),
        (OutputError, 5),
        (DriftError, 6),
    ],
)
def test_each_error_has_its_exit_code(error: type[LakescoreError], code: int) -> None:
    assert error("x").exit_code == code


def test_an_error_is_one_line() -> None:
    assert str(LakescoreError("first\n\n  second\tthird\r\n")) == "first second third"


def test_an_error_hides_secrets() -> None:
    assert str(PlatformError("http://u:hunter2@h refuses password=hunter2")) == "http://***@h refuses password=***"


def test_a_secret_that_spans_lines_is_hidden_too() -> None:
    assert "hunter2" not in str(ConfigError("password:\n  hunter2"))


def test_an_error_shows_what_a_terminal_would_act_on_and_halves_of_characters() -> None:
    assert str(InputError("no column 'a\x1b[2Jb\u202ec' in x\udcff.csv, Größe")) == r"no column 'a\x1b[2Jb\u202ec' in x\udcff.csv, Größe"


def test_an_error_has_no_megabytes() -> None:
    line = str(ModelError("x" * 3_000_000))
    assert (len(line), line[-4:]) == (4_003, "x...")


_CELL = """
from lakescore.errors import ConfigError
try:
    int("x")
except ValueError as error:
    raise ConfigError("source.limit: got 'x', password=hunter2") from error
"""
_LINE = "ConfigError: source.limit: got 'x', password=***\n"


def _in_ipython(code: str, folder: Path) -> str:
    """What IPython shows of a cell, which it does like a notebook; in a process of its own, because it takes the main module over."""
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", code]
    environment = {**os.environ, "IPYTHONDIR": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout


def test_in_a_notebook_an_error_is_its_line(tmp_path: Path) -> None:
    assert _in_ipython(_CELL, tmp_path) == _LINE


def test_in_a_notebook_debugging_shows_the_traceback_and_no_secret(tmp_path: Path) -> None:
    shown = _in_ipython(f"import logging\nlogging.getLogger('lakescore').setLevel('DEBUG')\n{_CELL}", tmp_path)

    assert "ValueError: invalid literal for int() with base 10: 'x'" in shown
    assert shown.endswith(f"lakescore.errors.{_LINE}")
    assert "hunter2" not in shown


@pytest.mark.parametrize(("name", "found"), [("overwite", "overwrite"), ("APPEND", "append"), ("zzz", None), ("", None)])
def test_the_nearest_name_is_found_where_one_is_near(name: str, found: str | None) -> None:
    assert nearest(name, ["append", "overwrite"]) == found


def test_a_near_name_becomes_a_question() -> None:
    assert did_you_mean("overwite", ["append", "overwrite"]) == " Did you mean 'overwrite'?"


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("price", "pri\u0441e", " Did you mean 'pri\u0441e'? They look alike, and are 'price' and 'pri\\u0441e'."),
        ("caf\u00e9", "cafe\u0301", " Did you mean 'cafe\u0301'? They look alike, and are 'caf\\xe9' and 'cafe\\u0301'."),
        ("price", "prices", " Did you mean 'prices'?"),
        ("größe", "größen", " Did you mean 'größen'?"),
    ],
)
def test_names_that_only_look_the_same_are_told_apart(name: str, known: str, text: str) -> None:
    assert did_you_mean(name, [known]) == text


def test_no_question_is_asked_where_no_name_is_near() -> None:
    assert did_you_mean("zzz", ["append"]) == ""


@pytest.mark.parametrize(
    ("names", "text"),
    [([], "none"), (["a"], "a"), (range(8), "0, 1, 2, 3, 4, 5, 6, 7"), (range(10), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more")],
)
def test_a_long_list_is_cut_and_says_how_many_are_missing(names: list[object], text: str) -> None:
    assert listing(names) == text
