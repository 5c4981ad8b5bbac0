"""The configuration of a run that counts a training set."""

from __future__ import annotations

from pathlib import Path

from lakescore import training


def test_columns_that_are_left_out_keep_names_that_look_like_lists_or_values() -> None:
    config = training.configured((), (), "models:/m/1", "data/train", ["y"], ["a,b", "null", "[c]", "0"])

    assert (config.columns.labels, config.columns.drop) == (("y",), ("a,b", "null", "[c]", "0"))


def test_overrides_win_over_options_and_options_over_files(tmp_path: Path) -> None:
    file = tmp_path / "score.yaml"
    file.write_text("model: {uri: other}\ncolumns: {labels: [old], drop: [old]}\noutput: {path: out}\n", encoding="utf-8")

    config = training.configured([str(file)], ["columns.drop=[z]"], "models:/m/1", "data/train", ["y"], ["x"])

    assert (config.model.uri, config.columns.labels, config.columns.drop) == ("models:/m/1", ("y",), ("z",))
    assert (config.output.format, config.drift.enabled) == ("summary_only", False)
