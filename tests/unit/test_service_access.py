"""Tokens, rates, and a process that is known again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lakescore import own_process
from lakescore.cli import main
from lakescore.errors import ConfigError
from lakescore.service import processes, tokens
from lakescore.service.limits import RateLimit
from lakescore.service.processes import Process
from lakescore.service.tokens import Caller, Tokens

Streams = pytest.CaptureFixture[str]


def test_a_token_is_printed_once_and_only_its_hash_is_kept(tmp_path: Path, capsys: Streams) -> None:
    file = tmp_path / "state" / "tokens"

    code = main(["serve", "token", "--name", "alice", "--role", "run", "--tokens", str(file)])

    token = capsys.readouterr().out.strip()
    assert code == 0
    assert token.startswith("lks_")
    assert len(token) == 4 + 43  # 256 bits in base64
    assert token not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    found = Tokens(file).of(token)
    assert found is not None
    assert (found.name, found.role) == ("alice", "run")


def test_what_is_no_token_is_nobodys(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    token = tokens.add(file, "alice", "read")
    known = Tokens(file)

    for wrong in ("", "lks_", token[:-1], token + "x", token.upper(), "é", tokens.digest_of(token)):
        assert known.of(wrong) is None


def test_taking_a_line_out_revokes_the_token_at_once(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    first, second = tokens.add(file, "alice", "read"), tokens.add(file, "bob", "run")
    known = Tokens(file)
    assert known.of(first)

    file.write_text(file.read_text().splitlines()[1] + "\n")

    assert known.of(first) is None
    assert known.of(second)
    file.unlink()
    assert known.of(second) is None


@pytest.mark.parametrize(("role", "may"), [("read", (True, False)), ("run", (True, True))])
def test_who_may_run_may_read_and_not_the_other_way_round(role: tokens.Role, may: tuple[bool, bool]) -> None:
    caller = Caller("alice", role)

    assert (caller.may("read"), caller.may("run")) == may


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "which has none; make one with lakescore serve token"),
        ("# nobody\n", "which has none; make one with lakescore serve token"),
        ("secret run alice\n", "in which line 1 is not HASH ROLE NAME"),
        (f"{'0' * 64} admin alice\n", "in which line 1 is not HASH ROLE NAME"),
    ],
)
def test_a_file_that_lets_nobody_in_is_refused(text: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    file.chmod(0o600)

    with pytest.raises(ConfigError, match=line):
        Tokens(file)


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    tokens.add(file, "alice", "run")
    file.chmod(0o622)

    with pytest.raises(ConfigError, match="which others may write"):
        Tokens(file)


def test_a_token_is_added_to_a_file_whose_last_line_has_no_end(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    tokens.add(file, "alice", "run")
    file.write_text(file.read_text().rstrip())

    tokens.add(file, "bob", "read")

    assert [caller.name for caller in tokens.read(file)] == ["alice", "bob"]


def test_a_name_has_one_token(tmp_path: Path) -> None:
    tokens.add(tmp_path / "tokens", "alice", "run")

    for name in ("alice", "a b", "x\n" + "0" * 64 + " run eve"):
        with pytest.raises(ConfigError, match="--name: "):
            tokens.add(tmp_path / "tokens", name, "run")


def test_a_caller_may_ask_so_often_and_others_are_not_held_up() -> None:
    clock = [0.0]
    rate = RateLimit(120, lambda: clock[0])

    answers = [rate.wait("alice") for _ in range(22)]

    assert answers == [0] * 20 + [1, 1]
    assert rate.wait("bob") == 0
    clock[0] += 0.5
    assert (rate.wait("alice"), rate.wait("alice")) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--pipelines", "nowhere"], 2, "--pipelines: nowhere is no folder"),
        (
            ["--pipelines", "."],
            2,
            "--tokens: got service-state/tokens, which has none; make one with lakescore serve token --name NAME --role run",
        ),
        (["--pipelines", ".", "--no-auth", "--host", "0.0.0.0"], 2, "--no-auth: is for a loopback address such as 127.0.0.1; on 0.0.0.0 "),
        (["--pipelines", ".", "--port", "x"], 2, "argument --port: got 'x'; expected a number from 0 to 65535; see lakescore serve --help"),
        (["--pipelines", ".", "--key", "x"], 2, "--certificate, --key: belong together"),
        (["--pipelines", ".", "--no-auth", "--job", "no.py"], 2, "--job: no.py does not exist, and the pipeline a is run by spark-submit"),
        ([], 2, "the following arguments are required: --pipelines; see lakescore serve --help"),
        (["--pipelines", ".", "--no-auth", "--port", "²"], 2, "argument --port: got '²'; expected a number from 0 to 65535"),
        (
            ["--pipelines", ".", "--no-auth", "--port", "0", "--state", "a.yaml"],
            2,
            "--state: got a.yaml, which cannot be used: File exists",
        ),
        (["--pipelines", ".", "--no-auth", "--port", "0", "--state", "odd"], 2, "--state: got odd, which cannot be used: file is not a "),
        (
            ["--pipelines", ".", "--no-auth", "--port", "0", "--certificate", "a.yaml", "--key", "a.yaml"],
            2,
            "--certificate, --key: got a.yaml, a.yaml, which cannot be used: ",
        ),
        (
            ["--pipelines", ".", "--no-auth", "--port", "0", "--certificate", "no", "--key", "no"],
            2,
            "--certificate, --key: got no, no, which ",
        ),
        (["token", "--name", "a", "--role", "run", "--tokens", "a.yaml/x"], 2, "--tokens: got a.yaml/x, which cannot be written: "),
    ],
)
def test_a_service_that_cannot_be_is_one_line(
    arguments: list[str], code: int, line: str, capsys: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = "model: {uri: m}\nsource: {path: a}\noutput: {path: b}\nservice: {command: spark-submit}\n"
    Path("a.yaml").write_text(base if "--job" in arguments else base.replace("spark-submit", "lakescore"), encoding="utf-8")

    Path("odd").mkdir()
    Path("odd", "state.db").write_text("no database at all, but long enough to be looked at as one", encoding="utf-8")

    answered = main(["serve", *arguments])

    assert answered == code
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"lakescore: {line}")


# --- processes


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        started = own_process.started(child.pid)
        assert started is not None
        assert Process(child.pid, started).is_alive()
        assert not Process(child.pid, "another time").is_alive()
    finally:
        child.kill()
    # A zombie has ended, too.
    deadline = time.monotonic() + 5
    while Process(child.pid, started).is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Process(child.pid, started).is_alive()
    child.wait()


def _keep(folder: Path, command: str, timeout: float = 0, grace: float = 5) -> subprocess.Popen[bytes]:
    keeper = [sys.executable, "-m", "lakescore.service.keeper", str(folder), str(timeout), str(grace), "sh", "-c", command]
    return subprocess.Popen(keeper, start_new_session=True)


def _ended(folder: Path) -> tuple[int, bool]:
    found = processes.read_json(folder / processes.EXIT)
    assert found is not None
    return found["code"], found["timed_out"]


@pytest.mark.parametrize(
    ("command", "timeout", "ended"),
    [
        ("echo hello; exit 3", 0, (3, False)),
        ("kill -9 $$", 0, (-9, False)),
        ("exec sleep 60", 0.3, (-15, True)),
        ("trap '' TERM; echo deaf; while :; do sleep 0.1; done", 0.3, (-9, True)),
    ],
)
def test_the_keeper_writes_down_how_a_command_ends(command: str, timeout: float, ended: tuple[int, bool], tmp_path: Path) -> None:
    assert _keep(tmp_path, command, timeout, grace=0.3).wait(20) == 0

    assert _ended(tmp_path) == ended
    assert (tmp_path / processes.LOG).read_text() == {"echo": "hello\n", "trap": "deaf\n"}.get(command[:4], "")


def test_of_two_keepers_of_a_folder_one_runs_the_command(tmp_path: Path) -> None:
    both = [_keep(tmp_path, f"echo run >> {tmp_path}/runs; sleep 0.5") for _ in range(2)]

    assert [keeper.wait(20) for keeper in both] == [0, 0]

    assert (tmp_path / "runs").read_text() == "run\n"


def test_the_keeper_leaves_none_of_the_commands_processes_behind(tmp_path: Path) -> None:
    _keep(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pid; exit 0").wait(20)

    pid = int((tmp_path / "pid").read_text())
    began = own_process.started(pid) or ""
    deadline = time.monotonic() + 5
    while Process(pid, began).is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Process(pid, began).is_alive()


def test_a_command_that_is_not_there_is_told_in_the_log(tmp_path: Path) -> None:
    keeper = [sys.executable, "-m", "lakescore.service.keeper", str(tmp_path), "0", "1", "/no/such/command"]

    subprocess.run(keeper, check=True, env=dict(os.environ))

    assert _ended(tmp_path) == (127, False)
    assert (tmp_path / processes.LOG).read_text() == "lakescore: /no/such/command cannot be started: No such file or directory\n"
