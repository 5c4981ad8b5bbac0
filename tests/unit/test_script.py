"""The entry script, found and checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lakescore.config import ModelConfig
from lakescore.errors import ModelError
from lakescore.models import script
from lakescore.models.script import Script, load

GOOD = "def init():\n    pass\n\ndef run(mini_batch):\n    return list(mini_batch)\n"
Load = Callable[..., Script]


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    def make(text: str = GOOD, **keys: str) -> Script:
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "code" / "score.py").write_text(text, encoding="utf-8")
        return load(ModelConfig(**{"entry_script": str(tmp_path / "code" / "score.py"), **keys}))

    return make


def refused(loaded: Load, text: str) -> str:
    with pytest.raises(ModelError) as caught:
        loaded(text)
    return str(caught.value)


def test_the_whole_folder_goes_with_the_script_but_what_is_hidden_or_made(loaded: Load, tmp_path: Path) -> None:
    for name in ("lib/helper.py", "labels.txt", ".git/config", "__pycache__/x.pyc", "venv/pyvenv.cfg", "venv/lib/a.py", ".env"):
        file = tmp_path / "code" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")

    found = loaded()

    assert sorted(found.files) == ["labels.txt", "lib/helper.py", "score.py"]
    assert found.name == "score.py"


def test_the_script_is_found_in_the_source_directory(loaded: Load, tmp_path: Path) -> None:
    loaded()
    (tmp_path / "helper.py").write_text("")

    found = load(ModelConfig(entry_script="code/score.py", source_directory=str(tmp_path)))

    assert found.name == "code/score.py"
    assert sorted(found.files) == ["code/score.py", "helper.py"]


def test_the_digest_is_that_of_the_folders_content(loaded: Load, tmp_path: Path) -> None:
    first, again = loaded().digest, loaded().digest
    (tmp_path / "code" / "helper.py").write_text("x = 1")

    assert first == again != loaded().digest


@pytest.mark.parametrize(
    "text",
    [
        "def run(mini_batch): pass",
        "def run(mini_batch, mini_batch_context): pass",
        "def run(data, context=None): pass",
        "def run(*args): pass",
        "def run(data, /, *, deep=False): pass",
        "from impl import init, run",
        "from impl import *",
        "run = make()",
        "try:\n    from impl import run\nexcept ImportError:\n    def run(x): pass",
        "if True:\n    def run(x): pass",
    ],
)
def test_every_way_to_have_a_run_is_accepted(loaded: Load, text: str) -> None:
    assert loaded(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def init(): pass\ndef runs(x): pass", "model.entry_script: score.py has no function run(mini_batch). Did you mean 'runs'?"),
        ("x = 1", "model.entry_script: score.py has no function run(mini_batch). It has none."),
        ("class A:\n    def run(self, x): pass", "model.entry_script: score.py has no function run(mini_batch). It has none."),
        (
            "def run(): pass",
            "model.entry_script: score.py line 1: run() must be run(mini_batch) or run(mini_batch, mini_batch_context)",
        ),
        (
            "\ndef run(a, b, c): pass",
            "model.entry_script: score.py line 2: run(a, b, c) must be run(mini_batch) or run(mini_batch, mini_batch_context)",
        ),
        ("async def run(x): pass", "model.entry_script: score.py line 1: run(x) is a coroutine; write def, not async def"),
        ("def run(x): pass\ndef init(y): pass", "model.entry_script: score.py line 2: init(y) must be init()"),
        ("def run(x): pass\0", "model.entry_script: score.py: source code string cannot contain null bytes"),
        ("def run(x):\n  return [\n", "model.entry_script: score.py line 2: '[' was never closed"),
    ],
)
def test_what_cannot_run_is_refused_with_its_line(loaded: Load, text: str, message: str) -> None:
    assert refused(loaded, text) == message


def test_a_missing_script_is_refused_with_the_nearest(loaded: Load, tmp_path: Path) -> None:
    loaded()

    with pytest.raises(ModelError, match=r"scoer\.py does not exist \(looked for .*\)\. Did you mean 'score\.py'\?"):
        load(ModelConfig(entry_script=str(tmp_path / "code" / "scoer.py")))


def test_a_folder_is_no_script(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder; give the Python file in it"):
        load(ModelConfig(entry_script=str(tmp_path)))


def test_a_script_outside_its_source_directory_is_refused(loaded: Load, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()

    with pytest.raises(ModelError, match=r"is not in model\.source_directory"):
        loaded(source_directory=str(tmp_path / "other"))


def test_a_folder_full_of_data_is_refused_with_the_largest_file(loaded: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded()
    (tmp_path / "code" / "data.bin").write_bytes(b"x" * 2_000)
    monkeypatch.setattr(script, "MAX_BYTES", 1_000)

    with pytest.raises(ModelError, match=r"the largest file is data\.bin"):
        loaded()
