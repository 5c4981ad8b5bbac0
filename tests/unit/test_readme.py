"""The README says what is so: its keys, columns, exit codes, targets and Python are the code's."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import yaml

from lakescore import errors
from lakescore.compose import compose
from lakescore.config import ScoreConfig, keys_of, section_of
from lakescore.schema import LINEAGE_COLUMNS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _rows(heading: str) -> list[list[str]]:
    """The cells of the tables below a heading."""
    below = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def _table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    return _rows(heading)[2:]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_configuration_table_names_exactly_the_keys_that_exist() -> None:
    named = {}
    for section, cell in _table("Configuration"):
        # Values stand behind a colon or in brackets; only names in backticks before are keys.
        named[section.strip("`")] = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", cell)))

    declared = {name: set(keys_of(model)) for name in keys_of(ScoreConfig) if (model := section_of(ScoreConfig, name))}

    assert named == declared


def test_the_columns_are_the_lineage_columns_in_their_order() -> None:
    assert [row[0].strip("`") for row in _table("What is written")] == list(LINEAGE_COLUMNS)


def test_the_exit_codes_are_those_of_the_errors() -> None:
    raised = {e.exit_code for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, errors.LakescoreError)}

    assert {int(row[0]) for row in _table("Exit codes")} == {0, *raised}


def test_the_keys_that_other_products_names_are_mapped_to_exist() -> None:
    here = [row[1] for row in _rows("From Kapitan Hull, MLRun and Azure")]
    named = {tuple(found) for cell in here for found in re.findall(r"`(\w+)\.(\w+)\b(?![./])", cell)}
    declared = {(name, key) for name in keys_of(ScoreConfig) for key in keys_of(section_of(ScoreConfig, name) or ScoreConfig)}

    assert len(named) > 30
    assert named <= declared


def test_every_example_is_a_configuration_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRED_MODEL_UUID", "x")
    monkeypatch.setenv("PRED_MODEL_PATH", "x")
    for file in sorted((ROOT / "conf" / "examples").iterdir()):
        assert compose([file])
        assert f"conf/examples/{file.name}" in README


def test_every_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    assert set(re.findall(r"\bmake ([a-z-]+)(?=[ `\n])", " ".join(re.findall(r"`[^`]*`", README)) + " ".join(_blocks("")))) <= targets


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"\b(?:jobs|conf|lib|tests)/[\w./-]*\w", README))

    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_overrides_in_it_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in set(re.findall(r"\$\{oc\.env:(\w+)\}", README)):
        monkeypatch.setenv(variable, "x")
    keys = r"(?<![\w-])((?:run|source|model|output|columns|drift)(?:\.\w+)+=(?:[\[{][^\]}]*[\]}]|[^\s`)\",]+))"
    overrides = set(re.findall(keys, README))
    base = {"run": {"batch_id": "b"}, "model": {"uri": "m"}, "source": {"path": "a"}, "output": {"path": "b"}}

    assert len(overrides) > 5
    for override in overrides:
        compose((), [override], base)


@pytest.mark.parametrize("block", _blocks("yaml"))
def test_its_yaml_is_a_configuration(block: str) -> None:
    assert compose((), (), yaml.safe_load(block))


@pytest.mark.parametrize("block", _blocks("python"))
def test_its_python_compiles_and_imports(block: str) -> None:
    compile(block, "README.md", "exec")
    for line in block.splitlines():
        if line.startswith("from lakescore"):
            exec(line, {})


def test_the_contents_are_the_headings_in_their_order() -> None:
    contents = README.split("\n```", 1)[0]
    text = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)

    assert re.findall(r"\[([^\]]+)\]\(#", contents) == headings
    assert re.findall(r"\(#([^)]+)\)", contents) == [re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings]
