"""The script in its own process: started once, ended when it hangs, crashes or is done; without Spark."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakescore.engine import script_runner
from lakescore.engine.script_runner import NotStartedError, Place, Runner, Worker, cut, local_path, map_batches

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def job(tmp_path: Path) -> Make:
    """A job as `entry_script` would ship it, of a script's text; items are rows with the feature `x`."""

    def make(text: str, **keys: Any) -> dict[str, Any]:
        root = tmp_path / f"root-{uuid.uuid4().hex[:6]}"
        (root / "script").mkdir(parents=True)
        (root / "script" / "score.py").write_text(text, encoding="utf-8")
        shutil.copy(Path(script_runner.__file__).with_name("script_process.py"), root)
        return {
            "token": uuid.uuid4().hex[:12], "root": str(root), "script": "score.py", "arguments": [], "side_inputs": {}, "model": None,
            "logging_level": "INFO", "processes": None, "timeout": 20.0, "max_try": 3, "partition_keys": [], "stop": False,
            "in_order": False, "base": str(tmp_path), "path": None, "features": ["x"], "items": 2, "bytes": None, "result": "r",
            "error": "e", "failure": "f", "shape": "scalar", "result_name": "bigint", "result_type": pa.int64(), **keys,
        }  # fmt: skip

    return make


@pytest.fixture(autouse=True)
def own_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a worker of its own, and leaves no process."""
    workers: list[Worker] = []
    monkeypatch.setattr(script_runner, "_workers", workers)
    yield
    for worker in workers:
        worker.close()


def batches(*values: list[int]) -> Iterator[pa.RecordBatch]:
    return iter([pa.RecordBatch.from_pydict({"x": part, "id": part}) for part in values])


def run(job: dict[str, Any], *values: list[int]) -> list[dict[str, Any]]:
    return [row for batch in map_batches(batches(*values), job) for row in batch.to_pylist()]


def pids(folder: str) -> list[int]:
    return [int(line) for line in Path(folder, "script", "init.txt").read_text().split()]


INIT = "import os\ndef init():\n    print(os.getpid(), file=open('init.txt', 'a'))\n"
DOUBLE = INIT + "def run(batch):\n    return [2 * x for x in batch['x']]\n"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z" if Path("/proc").exists() else True


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(pid)


# --- mini-batches


@pytest.mark.parametrize(
    ("items", "sizes"), [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (7, [7]), (100, [7])], ids=["1", "2", "3", "7", "100"]
)
def test_mini_batches_have_exactly_the_size_over_sparks_batches(items: int, sizes: list[int]) -> None:
    tables = list(cut(batches([1, 2], [3, 4, 5, 6], [7]), {"items": items}))

    assert [table.num_rows for table in tables] == sizes
    assert [x for table in tables for x in table["x"].to_pylist()] == [1, 2, 3, 4, 5, 6, 7]


def test_mini_batches_of_rows_have_about_the_bytes() -> None:
    job = {"items": None, "bytes": 80, "path": None, "features": ["x"]}  # eight bytes a row

    assert [table.num_rows for table in cut(batches(list(range(25))), job)] == [10, 10, 5]


def test_mini_batches_of_files_have_at_most_the_bytes_and_one_file_at_least(tmp_path: Path) -> None:
    for name, size in (("a", 40), ("b", 60), ("c", 10), ("d", 500), ("e", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
    rows = iter([pa.RecordBatch.from_pydict({"path": [str(tmp_path / name) for name in "abcde"]})])

    tables = cut(rows, {"items": None, "bytes": 100, "path": "path", "base": ""})

    assert ["".join(Path(p).name for p in table["path"].to_pylist()) for table in tables] == ["ab", "c", "d", "e"]


@pytest.mark.parametrize(
    ("path", "local"),
    [("/a/b", "/a/b"), ("b c", "/base/b c"), ("file:/a/b%20c", "/a/b c"), ("file:///a/b", "/a/b"), ("s3://b/k", None), ("s3a://b/k", None)],
)
def test_local_paths_are_told_from_other_stores(path: str, local: str | None) -> None:
    assert local_path(path, "/base") == local


def test_a_name_with_a_percent_sign_is_found_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a%20b").touch()

    assert local_path(f"file:{tmp_path}/a%20b", "") == f"{tmp_path}/a%20b"


# --- the process


def test_one_process_is_initialised_once_for_all_mini_batches_and_tasks(job: Make) -> None:
    made = job(DOUBLE)

    rows = run(made, [1, 2, 3], [4, 5]) + run(made, [6])

    assert [(row["id"], row["r"], row["e"]) for row in rows] == [(i, 2 * i, None) for i in range(1, 7)]
    assert len(pids(made["root"])) == 1


def test_a_task_without_rows_starts_no_process(job: Make) -> None:
    made = job(DOUBLE)

    assert run(made, []) == []
    assert not Path(made["root"], "script", "init.txt").exists()


def test_an_idle_process_ends_in_order_and_its_successor_is_initialised(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_runner, "IDLE", 0.1)
    made = job(DOUBLE + "def shutdown():\n    open('done.txt', 'w').close()\n")
    run(made, [1])

    assert gone(pids(made["root"])[0])
    assert Path(made["root"], "script", "done.txt").exists()
    run(made, [2])
    assert len(pids(made["root"])) == 2


def test_a_hung_run_in_c_code_is_ended_and_tried_again(job: Make) -> None:
    text = INIT + "import ctypes\ndef run(batch):\n    if 3 in set(batch['x']): ctypes.PyDLL(None).sleep(60)\n    return list(batch['x'])\n"
    made = job(text, timeout=0.5, max_try=2)
    started = time.monotonic()

    rows = run(made, [1, 2, 3, 4, 5])

    assert time.monotonic() - started < 15
    assert [row["e"] for row in rows] == [None, None, *["TimeoutError: run took longer than 0.5 s"] * 2, None]
    found = pids(made["root"])
    assert len(found) == 3
    assert all(gone(pid) for pid in found[:2])


def test_a_crash_is_tried_again_and_then_said(job: Make) -> None:
    made = job(INIT + "def run(batch):\n    os.kill(os.getpid(), 11)\n", max_try=2)

    rows = run(made, [1])

    assert rows[0]["e"] == "ProcessEnded: the script's process was ended by SIGSEGV"
    assert len(pids(made["root"])) == 2


def test_an_exit_code_is_said(job: Make) -> None:
    assert run(job("import os\ndef run(b):\n    os._exit(7)\n", max_try=1), [1])[0]["e"] == (
        "ProcessEnded: the script's process ended with exit code 7"
    )


def test_sys_exit_fails_the_mini_batch_only(job: Make) -> None:
    rows = run(job("import sys\ndef run(b):\n    if 3 in set(b['x']): sys.exit('no more')\n    return list(b['x'])\n"), [1, 2, 3])

    assert [row["e"] for row in rows] == [None, None, "SystemExit: no more"]


def test_an_exception_is_tried_as_often_as_configured_and_then_counted_for_each_item(job: Make) -> None:
    text = (
        "def run(batch):\n    open('tries.txt', 'a').write('x')\n"
        "    if 3 in set(batch['x']): raise ValueError('no\\nthree')\n    return [1, 1]\n"
    )
    made = job(text, max_try=4)

    rows = run(made, [1, 2, 3, 4])

    assert [row["e"] for row in rows] == [None, None, "ValueError: no three", "ValueError: no three"]
    assert Path(made["root"], "script", "tries.txt").read_text() == "xxxxx"
    assert [(row["f"] or {}).get("line") for row in rows] == [None, None, 3, 3]
    assert [bool((row["f"] or {}).get("trace")) for row in rows] == [False, False, True, False]


def test_a_failure_that_passes_leaves_no_trace(job: Make) -> None:
    text = "n = 0\ndef run(batch):\n    global n\n    n += 1\n    if n == 1: raise OSError('busy')\n    return list(batch['x'])\n"

    assert [(row["r"], row["e"], row["f"]) for row in run(job(text), [5, 6])] == [(5, None, None), (6, None, None)]


def test_too_few_results_are_given_to_no_row(job: Make) -> None:
    rows = run(job("def run(batch):\n    return list(batch['x'])[2:]\n", items=5), [1, 2, 3, 4, 5])

    assert [row["r"] for row in rows] == [None] * 5
    assert [row["e"] for row in rows] == ["TooFewResults: run returned 3 result(s) for 5 items, and nothing tells for which"] * 5


def test_of_too_few_lines_each_missing_one_is_counted(job: Make) -> None:
    rows = run(job("def run(batch):\n    return list(batch['x'])[:3]\n", items=5, in_order=True), [1, 2, 3, 4, 5])

    assert [row["r"] for row in rows] == [1, 2, 3, None, None]
    assert [row["e"] for row in rows] == [None] * 3 + ["TooFewResults: run returned 3 result(s) for 5 item(s)"] * 2


def test_too_many_results_fail_the_mini_batch_and_stop_the_rest(job: Make) -> None:
    rows = run(job("def run(batch):\n    return [0] * 4\n", items=3), [1, 2, 3, 4])

    assert [row["e"] for row in rows] == ["TooManyResults: run returned 4 result(s) for 3 item(s)"] * 3 + [script_runner.NOT_RUN]


def test_after_a_failure_nothing_more_runs_where_none_is_allowed(job: Make) -> None:
    made = job("def run(batch):\n    raise ValueError('no')\n", stop=True)

    assert [row["e"] for row in run(made, [1, 2, 3])] == ["ValueError: no"] * 2 + [script_runner.NOT_RUN]


def test_a_result_of_another_type_is_its_items_failure(job: Make) -> None:
    rows = run(job("def run(batch):\n    return [1, 'two']\n"), [1, 2])

    assert [row["r"] for row in rows] == [1, None]
    assert rows[1]["e"] == "WrongResult: run returned str 'two', which is no bigint (model.result_type)"


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        (pa.int64(), "1.5", 2.0),
        (pa.int64(), "True", 2),
        (pa.date32(), "datetime.datetime(2026, 1, 31, 12)", datetime.date(2026, 1, 31)),
        (pa.list_(pa.int64()), "[1, 2.5]", [1, 2.0]),
        (pa.struct([("n", pa.int32())]), "{'n': 0.5}", {"n": 5.0}),
    ],
)
def test_a_result_that_would_become_another_value_is_its_items_failure(job: Make, kind: pa.DataType, given: str, kept: Any) -> None:
    shape = {"list": "array", "struct": "struct"}.get(str(kind).partition("<")[0], "scalar")
    made = job(f"import datetime\ndef run(batch):\n    return [{given}, {kept!r}]\n", result_type=kind, shape=shape)

    rows = run(made, [1, 2])

    assert [row["r"] for row in rows] == [None, kept]
    assert rows[0]["e"].startswith("WrongResult: run returned ")
    assert rows[1]["e"] is None


def test_an_exception_may_name_a_file_that_is_no_utf8(job: Make) -> None:
    made = job("import os\ndef run(batch):\n    open(os.fsdecode(b'caf\\xe9.txt'))\n")

    assert run(made, [1])[0]["e"] == "FileNotFoundError: [Errno 2] No such file or directory: 'caf\\udce9.txt'"


def test_a_script_may_close_its_standard_output(job: Make) -> None:
    made = job("import sys\nsys.stdout.close()\ndef run(batch):\n    return [7]\n")

    assert run(made, [1])[0]["r"] == 7


def test_results_of_wrong_type_are_not_tried_again(job: Make) -> None:
    made = job("def run(batch):\n    open('tries.txt', 'a').write('x')\n")

    assert run(made, [1])[0]["e"].startswith("WrongResult: run returned NoneType; it must return a list")
    assert Path(made["root"], "script", "tries.txt").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_like_it\ndef run(x): pass\n", "score.py line 1: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def init():\n    open('missing.pkl')\ndef run(x): pass\n", "score.py line 2: FileNotFoundError: "),
        (
            "import os\ndef init():\n    os._exit(3)\ndef run(x): pass\n",
            "score.py: ProcessEnded: the script's process ended with exit code 3",
        ),
        ("run = 5\n", "score.py: TypeError: the script has no function run"),
    ],
)
def test_a_script_that_does_not_start_is_said_with_its_own_line(job: Make, text: str, message: str) -> None:
    made = job(text)
    worker = Worker(made)

    with pytest.raises(NotStartedError) as caught:
        worker.start()

    assert script_runner.say(made, caught.value.reply).startswith(f"model.entry_script: {message}")


def test_an_init_that_hangs_is_ended(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_runner, "INIT_TIMEOUT", 0.5)

    with pytest.raises(NotStartedError, match=r"TimeoutError: import and init\(\) took longer than 0.5 s"):
        Worker(job("import time\ndef init():\n    time.sleep(60)\ndef run(x): pass\n")).start()


@pytest.mark.parametrize("busy", ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)"])
def test_the_process_ends_when_its_spark_worker_is_killed(job: Make, tmp_path: Path, busy: str) -> None:
    made = job(INIT + f"import ctypes, time\ndef run(batch):\n    open('running', 'w').close()\n    {busy}\n")
    made["result_type"] = None
    code = (
        f"import sys; sys.path.insert(0, {str(Path(script_runner.__file__).parent)!r})\nimport pyarrow as pa, script_runner\n"
        f"job = {made!r}\njob['result_type'] = pa.int64()\n"
        "list(script_runner.map_batches(iter([pa.RecordBatch.from_pydict({'x': [1], 'id': [1]})]), job))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 30
    while not Path(made["root"], "script", "running").exists() and time.monotonic() < end:
        time.sleep(0.05)

    parent.send_signal(signal.SIGKILL)
    parent.wait()

    assert gone(pids(made["root"])[0])


def test_the_script_has_its_arguments_inputs_model_and_folder(job: Make, tmp_path: Path) -> None:
    text = (
        "import json, logging, os, sys\nimport helper\n"
        "def run(batch):\n"
        "    return [json.dumps([sys.argv[1:], os.getcwd(), os.environ['AZUREML_MODEL_DIR'], os.environ['LAKESCORE_MODEL_DIR'],\n"
        "        os.environ['LAKESCORE_INPUT_REF_TABLE'], helper.NAME, logging.getLogger().level, __name__])] * len(batch)\n"
    )
    made = job(
        text, shape="text", result_type=pa.string(), arguments=["--rate", "0.5"], side_inputs={"ref-table": "shipped:inputs/ref.csv"},
        model="/models/m", logging_level="DEBUG",
    )  # fmt: skip
    Path(made["root"], "script", "helper.py").write_text("NAME = 'helper'\n")

    (row,) = run(made, [1])

    folder = os.path.join(made["root"], "script")
    reference = os.path.join(made["root"], "inputs/ref.csv")
    assert pa.array([row["r"]]).to_pylist() == [
        json.dumps([["--rate", "0.5", "--ref-table", reference], folder, "/models/m", "/models/m", reference, "helper", 10, "score"])
    ]


def test_what_the_script_prints_and_logs_reaches_the_workers_standard_error(job: Make, capfd: pytest.CaptureFixture[str]) -> None:
    run(
        job(
            "import logging\ndef run(b):\n    print('printed')\n    logging.info('logged')\n    logging.debug('hidden')\n"
            "    return list(b['x'])\n"
        ),
        [1],
    )

    shown = capfd.readouterr().err
    assert "printed\n" in shown
    assert "INFO root: logged" in shown
    assert "hidden" not in shown


def test_a_file_that_is_not_there_fails_alone(job: Make, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "c").write_text("3")
    made = job("def run(paths):\n    return [int(open(p).read()) for p in paths]\n", path="path", items=3)
    rows = pa.RecordBatch.from_pydict({"path": ["a", f"file:{tmp_path}/b", str(tmp_path / "c")]})

    found = [row for batch in map_batches(iter([rows]), made) for row in batch.to_pylist()]

    assert [row["r"] for row in found] == [1, None, 3]
    assert found[1]["e"] == f"FileNotFoundError: there is no file {tmp_path}/b on this host"


# --- places


def test_no_more_places_are_given_than_there_are(tmp_path: Path) -> None:
    token = uuid.uuid4().hex
    code = (
        f"import sys; sys.path.insert(0, {str(Path(script_runner.__file__).parent)!r})\n"
        f"import script_runner; script_runner.Place.take({token!r}, 1); print('taken', flush=True)\n"
    )
    mine = Place.take(token, 1)
    assert not mine.is_wanted()

    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 20
    while not mine.is_wanted() and time.monotonic() < end:
        time.sleep(0.05)
    assert mine.is_wanted()
    assert other.poll() is None
    mine.leave()

    assert other.stdout is not None
    assert other.stdout.read() == "taken\n"
    other.wait()
    # The other one is dead, so its place is free though it never left.
    Place.take(token, 1).leave()


def test_an_idle_process_makes_way_for_one_that_waits(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_runner, "IDLE_WANTED", 0.2)
    made = job(DOUBLE, processes=1)
    first, second = Worker(made), Worker(made)
    with first.in_use():
        first.start()

    with second.in_use():
        second.start()  # waits until the first one has been sent away

    assert gone(pids(made["root"])[0])
    second.close()


def test_the_runner_names_each_mini_batch_otherwise(job: Make) -> None:
    made = job("def run(batch, context):\n    return [context.minibatch_index] * len(batch)\n", items=1)

    assert len({row["r"] for row in run(made, [1, 2, 3])}) == 3
    assert Runner(made)
