"""Runs outlive the service: found again, lost, tried again, ended in time, and each started once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lakescore.config import ScoreConfig
from lakescore.errors import ConfigError, PlatformError
from lakescore.service import processes
from lakescore.service.client import Client, trigger
from lakescore.service.pipelines import Pipeline, Pipelines
from lakescore.service.supervisor import Supervisor
from serving import Site

Serve = Callable[..., Site]


def _is_running(run: dict[str, Any]) -> bool:
    return run["status"] == "running"


def _process(tmp_path: Path, run_id: str, attempt: int = 1) -> processes.Process:
    deadline = time.monotonic() + 10
    while (found := processes.at_work(tmp_path / "runs" / run_id / str(attempt))) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_after_a_restart_a_run_that_runs_is_found_again_and_one_that_waits_is_run(serve: Serve, tmp_path: Path) -> None:
    waits = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    script = f'echo $1 >> {tmp_path}/started; {waits}; echo \'{{"outcome": "skipped"}}\' > $1/result.json'
    site = serve(script)
    running, waiting = site.run("churn").json["id"], site.run("churn").json["id"]
    site.until(running, _is_running)
    process = _process(tmp_path, running)

    site.close(end_runs=False)
    assert process.is_alive()
    second = serve(script)
    found = second.until(running, _is_running)
    (tmp_path / "go").touch()

    assert found["attempt"] == 1
    assert second.until_ended(running)["status"] == "skipped"
    assert second.until_ended(waiting)["status"] == "skipped"
    assert len((tmp_path / "started").read_text().split()) == 2


def test_a_run_that_ended_while_the_service_was_away_has_ended(serve: Serve, tmp_path: Path) -> None:
    site = serve("sleep 0.5; echo 'lakescore: source.path: there is nothing'; exit 4")
    run_id = site.run("churn").json["id"]
    site.until(run_id, _is_running)
    process = _process(tmp_path, run_id)
    site.close(end_runs=False)
    while process.is_alive():
        time.sleep(0.05)

    run = serve().until_ended(run_id)

    assert (run["status"], run["exit_code"], run["error"]) == ("failed", 4, "source.path: there is nothing")


def test_a_run_whose_process_is_gone_without_a_word_is_lost(serve: Serve, tmp_path: Path) -> None:
    site = serve("exec sleep 30")
    run_id = site.run("churn").json["id"]
    process = _process(tmp_path, run_id)
    site.close(end_runs=False)
    os.kill(process.pid, signal.SIGKILL)

    run = serve().until_ended(run_id)

    assert (run["status"], run["exit_code"]) == ("lost", None)
    assert run["error"].startswith("the process is gone, and nothing tells how it ended: ")


def test_a_run_that_was_to_be_started_when_the_service_died_is_started_once(serve: Serve, tmp_path: Path) -> None:
    script = f"echo $1 >> {tmp_path}/started"
    site = serve("exec sleep 30")
    blocker, run_id = site.run("churn").json["id"], site.run("churn").json["id"]
    site.until(blocker, _is_running)
    site.close(end_runs=True)
    # As a service leaves it that dies between the row and the process.
    second = serve(script, concurrency=1, queue=1)
    assert second.center is not None
    assert second.until_ended(blocker)["status"] == "cancelled"

    run = second.until_ended(run_id)

    assert (run["status"], run["attempt"]) == ("succeeded", 1)
    assert (tmp_path / "started").read_text().split() == [str(tmp_path / "runs" / run_id / "1")]


def test_what_the_platform_failed_is_tried_again_as_the_same_batch(serve: Serve, tmp_path: Path) -> None:
    script = f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -ge 3 ] || {{ echo 'lakescore: no server'; exit 1; }}"
    site = serve(script, {"churn": "{retries: 2, retry_delay: 0.1}"})

    first = site.run("churn").json
    run = site.until_ended(first["id"])

    assert (run["status"], run["attempt"], run["batch_id"]) == ("succeeded", 3, first["batch_id"])


@pytest.mark.parametrize(
    ("script", "service", "attempt", "code", "error"),
    [
        ("echo 'lakescore: bad model'; exit 3", "{retries: 5, retry_delay: 0}", 1, 3, "bad model"),
        ("exit 1", "{retries: 1, retry_delay: 0}", 2, 1, "the process ended with 1; its log may tell more"),
        ("kill -9 $$", "{}", 1, -9, "ended by the signal SIGKILL (out of memory?)"),
        ("exec sleep 30", "{timeout: 0.3}", 1, -15, "service.timeout: the run took longer than 0.3 s and was ended"),
        ('echo \'{"error": "from the result"}\' > $1/result.json; exit 5', "{}", 1, 5, "from the result"),
    ],
)
def test_a_run_that_fails_says_why(script: str, service: str, attempt: int, code: int, error: str, serve: Serve) -> None:
    site = serve(script, {"churn": service})

    run = site.until_ended(site.run("churn").json["id"])

    assert (run["status"], run["attempt"], run["exit_code"], run["error"]) == ("failed", attempt, code, error)


def test_a_pipeline_that_is_taken_away_fails_what_waits(serve: Serve, tmp_path: Path) -> None:
    site = serve("sleep 0.5")
    first, waiting = site.run("churn").json["id"], site.run("churn").json["id"]
    site.until(first, _is_running)
    (tmp_path / "pipelines" / "churn.yaml").unlink()

    run = site.until_ended(waiting)

    assert (run["status"], run["error"]) == ("failed", "the pipeline churn cannot be run: its file is gone")


def test_when_the_service_ends_its_runs_are_ended_if_that_is_wanted(serve: Serve, tmp_path: Path) -> None:
    site = serve("exec sleep 30")
    run_id = site.run("churn").json["id"]
    process = _process(tmp_path, run_id)

    site.close(end_runs=True)

    assert not process.is_alive()
    run = serve().until_ended(run_id)
    assert (run["status"], run["error"]) == ("cancelled", "cancelled by the service, which ended")


def test_the_command_has_the_callers_values_the_batch_and_the_folder(tmp_path: Path) -> None:
    class Nothing:
        def __getattr__(self, _: str) -> Any:
            return None

    from lakescore.service.store import Run
    from lakescore.service.supervisor import Limits

    service = {"command": "spark-submit", "submit_options": ["--master", "yarn"]}
    config = ScoreConfig.model_validate({"model": {"uri": "m"}, "source": {"path": "a"}, "output": {"path": "b"}, "service": service})
    plain = config.model_copy(update={"service": config.service.model_copy(update={"command": "lakescore", "submit_options": ()})})
    supervisor = Supervisor(Nothing(), Nothing(), tmp_path, Limits(), Path("jobs/score.py"), lambda *_: None)  # type: ignore[arg-type]
    run = Run("id", "churn", "queued", "api", "a", {"run.name": 'x "y"'}, "b1", "2026-01-31", "2026-01-31T00:00:00.000Z")
    file = Path("churn.yaml")

    by_spark = supervisor._command(run, Pipeline("churn", file, config), tmp_path)
    by_python = supervisor._command(run, Pipeline("churn", file, plain), tmp_path)

    rest = ["--config", "churn.yaml", "--result", str(tmp_path), r'run.name="x \"y\""', 'run.batch_id="b1"', 'run.date="2026-01-31"']
    assert by_spark == [str(Path(sys.executable).parent / "spark-submit"), "--master", "yarn", "jobs/score.py", *rest]
    assert by_python == [sys.executable, "-m", "lakescore", "score", *rest]


# --- the client


def _client(site: Site, slept: list[float] | None = None) -> Client:
    def sleep(seconds: float) -> None:
        if slept is not None:
            slept.append(seconds)
        time.sleep(min(seconds, 0.05))

    return Client(site.url, site.token, sleep)


def test_the_client_waits_and_tells_how_it_went(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    told = '{"outcome": "scored", "rows_read": 1234, "rows_scored": 1234, "rows_written": 1234, "rows_quarantined": 0, "location": "/out"}'
    site = serve(f"sleep 0.2; echo '{told}' > $1/result.json", {"churn": "{allow: [run.date]}"})

    code = trigger(_client(site), "churn", ["run.date=2026-01-31"], waits=True)

    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert code == 0
    assert (lines["status"].strip(), lines["rows"].strip(), lines["written to"].strip()) == ("succeeded", "1,234", "/out")
    assert lines["batch"].endswith(", date 2026-01-31")


@pytest.mark.parametrize(("script", "code"), [("echo 'lakescore: drift'; exit 6", 6), ("exit 1", 1), ("kill -9 $$", 1)])
def test_the_client_ends_as_the_run_did(script: str, code: int, serve: Serve) -> None:
    with pytest.raises(PlatformError) as caught:
        trigger(_client(serve(script)), "churn", [], waits=True)

    assert caught.value.exit_code == code


def test_a_client_that_gets_no_answer_asks_again_and_makes_one_run(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    site, slept = serve(), []  # type: ignore[var-annotated]
    client = _client(site, slept)
    open_, failures = Client._open, [0]

    def loses_answers(self: Client, *arguments: Any) -> Any:
        answer = open_(self, *arguments)
        failures[0] += 1
        if failures[0] <= 2:
            raise ConnectionResetError("the answer is lost")
        return answer

    monkeypatch.setattr(Client, "_open", loses_answers)

    assert trigger(client, "churn", [], waits=False) == 0
    assert len(site.get("/runs").json["runs"]) == 1
    assert len(slept) == 2


def test_a_service_that_is_not_there_is_one_line() -> None:
    with pytest.raises(
        PlatformError, match=r"the service http://127\.0\.0\.1:1 does not answer as it should: .*Connection refused.*; tried 6 times"
    ):
        trigger(Client("http://127.0.0.1:1", None, lambda _: None), "churn", [], waits=False)


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("http://[::1", None),
        ("http://127.0.0.1:abc", None),
        ("http://127.0.0.1/a b", None),
        ("http://127.0.0.1/é", None),
        ("http://user:hunter2@127.0.0.1", None),
        ("http://127.0.0.1", "lks_hunter2\nlks_other"),
        ("http://127.0.0.1", "lks_hunter2€"),
    ],
)
def test_an_address_or_a_token_that_is_none_is_refused_and_not_shown(url: str, token: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        Client(url, token)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("body", ["[1, 2]", "null", "{}", '{"id": "x", "status": "queued"}', "[" * 200_000])
def test_what_answers_and_is_no_service_is_one_line(body: str) -> None:
    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(202)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(PlatformError, match=r"is no Lakescore service|does not answer as it should"):
                trigger(Client(f"http://127.0.0.1:{server.server_port}", None, lambda _: None), "churn", [], waits=False)
        finally:
            server.shutdown()


def test_a_pipe_among_the_pipelines_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "good.yaml").write_text("model: {uri: m}\nsource: {path: a}\noutput: {path: b}\n", encoding="utf-8")

    assert list(Pipelines(tmp_path).all()) == ["good"]
