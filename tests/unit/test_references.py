"""What is statistics, and what is data, of the things that a person can name to compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from lakescore import references
from lakescore.drift.statistics import ColumnStatistics, Histogram, Statistics
from lakescore.errors import InputError

KEPT = Statistics(2, {"x": ColumnStatistics("feature", "double", 2, 0, histogram=Histogram((0.0, 1.0), (2,)))}, "train")


def _stored(path: Path) -> Statistics | None:
    return references.stored(str(path), MlflowClient(f"sqlite:///{path.parent}/mlflow.db"), None, path.parent / "fetched", "REFERENCE")


def test_a_file_of_statistics_is_read(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(KEPT.to_json(), encoding="utf-8")

    assert _stored(file) == KEPT


@pytest.mark.parametrize("content", [b"", b'{"x": 1}\n{"x": 2}\n', '{"x": "é"}\n'.encode("latin-1")])
def test_a_json_file_of_rows_is_data(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(content)

    assert _stored(file) is None


def test_folders_and_what_is_not_there_are_data(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()

    assert _stored(tmp_path / "folder.json") is None
    assert _stored(tmp_path / "missing.json") is None
    assert _stored(tmp_path / "table") is None


def test_malformed_statistics_are_refused_by_what_named_them(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text('{"lakescore_statistics": 2}', encoding="utf-8")

    with pytest.raises(InputError, match=r"^REFERENCE has statistics of version 2"):
        _stored(file)


def test_a_path_has_a_slash_or_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()

    assert references.source_of("data/train") == {"path": ["data/train"]}
    assert references.source_of("there") == {"path": ["there"]}
    assert references.source_of("catalog.train") == {"table": "catalog.train"}
