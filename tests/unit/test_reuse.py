"""The digest by which an earlier run is found: the same for the same, another for anything that the output depends on."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from lakescore import reuse
from lakescore.compose import compose


def key(tmp_path: Path, *overrides: str, version: int | None = None, digests: tuple[str, ...] = ("m",), **source: Any) -> str | None:
    given = {"model": {"uri": "m"}, "source": source or {"path": str(tmp_path)}, "output": {"path": "out"}}
    return reuse.key(compose((), list(overrides), given), version, list(digests))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "a.csv").write_text("x\n1\n")
    return tmp_path


def test_the_same_is_known_again_whatever_the_run_is_called(data: Path) -> None:
    assert key(data) == key(data, "run.batch_id=b", "run.name=n", "tracking.experiment=e", "spark.master=yarn", "scoring.allow_reuse=true")


def test_a_file_in_the_runs_own_folder_is_the_same_output(data: Path) -> None:
    given = {"model": {"uri": "m"}, "source": {"path": str(data)}, "output": {"format": "append_row"}}
    times = [datetime(2026, 1, 31, hour, tzinfo=timezone.utc) for hour in (1, 2)]
    first, second = (compose((), (), given, now=now) for now in times)

    assert first.output.path == "outputs/2026-01-31/01-00-00"
    assert reuse.key(first, None, ["m"]) == reuse.key(second, None, ["m"])
    assert (
        reuse.output_of(second.output, "/home/outputs/2026-01-31/01-00-00/parallel_run_step.txt").path
        == "/home/outputs/2026-01-31/01-00-00"
    )
    chosen = compose((), ["output.path=results"], given).output
    assert reuse.output_of(chosen, "/elsewhere/parallel_run_step.txt") == chosen


@pytest.mark.parametrize("override", ["output.path=other", "source.filter=x", "scoring.run_max_try=5", "columns.drop=[a]"])
def test_another_setting_is_another_output(data: Path, override: str) -> None:
    assert key(data) != key(data, override)


def test_another_model_or_file_is_another_output(data: Path) -> None:
    before = key(data)
    assert key(data, digests=("n",)) != before

    os.utime(data / "a.csv", (1, 1))
    touched = key(data)
    (data / "b.csv").write_text("")

    assert len({before, touched, key(data)}) == 3


def test_a_side_input_that_changes_is_another_output(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    side = tmp_path_factory.mktemp("side") / "ref.txt"
    side.write_text("1")
    overrides = ("model.entry_script=s.py", f"model.side_inputs.ref={side}")
    before = key(data, *overrides)

    side.write_text("22")

    assert before is not None
    assert key(data, *overrides) != before


def test_a_version_stands_for_a_tables_files(tmp_path: Path) -> None:
    assert key(tmp_path, table="t", version=1) == key(tmp_path, table="t", version=1) != key(tmp_path, table="t", version=2)


@pytest.mark.parametrize("source", [{"query": "SELECT 1"}, {"table": "t"}, {"path": "dbfs:/a/b"}])
def test_what_cannot_be_known_again_has_no_digest(tmp_path: Path, source: dict[str, Any]) -> None:
    assert key(tmp_path, **source) is None


def test_inline_rows_are_known_by_their_values(tmp_path: Path) -> None:
    assert key(tmp_path, rows=[{"a": 1}]) == key(tmp_path, rows=[{"a": 1}]) != key(tmp_path, rows=[{"a": 2}])
