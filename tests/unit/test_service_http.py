"""The REST interface over a real port: who is let in, what is refused and how, and that no run is lost or run twice."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lakescore.service import tokens
from serving import Site

Serve = Callable[..., Site]
ALLOW = {"churn": "{allow: [run.date, run.name]}"}


def detail(answer: Any, status: int) -> str:
    """The line of an error, which has one form."""
    assert answer.status == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json) == {"type", "title", "status", "detail"}
    assert answer.json["status"] == status
    return str(answer.json["detail"])


def test_a_run_is_answered_at_once_and_then_succeeds(serve: Serve) -> None:
    site = serve("sleep 0.3", ALLOW)

    answer = site.run("churn", {"run.date": "2026-01-31"})

    assert answer.status == 202
    run = answer.json
    assert answer.headers["location"] == f"/runs/{run['id']}"
    assert (run["status"], run["score_date"], run["overrides"]) == ("queued", "2026-01-31", {"run.date": "2026-01-31"})
    assert run["caller"].startswith("tester-")
    ended = site.until_ended(run["id"])
    assert (ended["status"], ended["exit_code"], ended["error"]) == ("succeeded", 0, None)
    assert 0.3 <= ended["seconds"] < 10


def test_what_a_run_answered_is_told_without_secrets(serve: Serve) -> None:
    told = """{"outcome": "scored", "run_id": "abc", "experiment_id": "7", "rows_read": 5, "rows_scored": 4, "rows_written": 4,
      "rows_quarantined": 1, "model_uri": "models:/churn/3", "model_version": "3", "location": "s3://user:hunter2@bucket/out",
      "seconds": {"score": 1.5}, "counts": {"null": 2}, "drift": {"status": "possible", "value": 0.55, "worst": "age", "text": "0.55"}}"""
    site = serve(
        f"echo 'connecting to http://user:hunter2@host'; echo '{told}' > $1/result.json", mlflow_url="http://u:hunter2@mlflow:5000/"
    )

    run_id = site.run("churn").json["id"]
    run = site.until_ended(run_id)

    assert run["rows"] == {"read": 5, "scored": 4, "written": 4, "quarantined": 1}
    assert (run["model_version"], run["drift"]["value"], run["stages"], run["counts"]) == ("3", 0.55, {"score": 1.5}, {"null": 2})
    assert run["mlflow_url"] == "http://mlflow:5000/#/experiments/7/runs/abc"
    assert site.get(f"/runs/{run_id}/log").text == "connecting to http://***@host\n"
    assert "hunter2" not in str(run) + site.get(f"/ui/runs/{run_id}").text


def test_without_a_token_nothing_is_answered(serve: Serve) -> None:
    site = serve()
    run_id = site.run("churn").json["id"]
    assert site.center is not None
    stranger = Site(site.port)
    paths = [
        ("GET", "/pipelines"),
        ("GET", "/pipelines/churn"),
        ("POST", "/pipelines/churn/runs"),
        ("GET", "/runs"),
        ("GET", f"/runs/{run_id}"),
        ("GET", f"/runs/{run_id}/log"),
        ("POST", f"/runs/{run_id}/cancel"),
        ("GET", "/openapi.json"),
    ]

    for method, path in paths:
        assert detail(stranger.ask(method, path), 401) == "a token is needed: Authorization: Bearer TOKEN"
    for path in ("/ui", "/ui/live", "/ui/runs", "/ui/pipelines/churn", f"/ui/runs/{run_id}", f"/ui/runs/{run_id}/drift", "/ui/api"):
        assert stranger.get(path).status == 303, path
    for path in ("/ui/pipelines/churn/runs", f"/ui/runs/{run_id}/cancel", "/ui/logout"):
        assert stranger.form(path, {}).status == 401, path
    assert stranger.get("/health").json == {"status": "ok"}
    # What is new here must be asked for above, too.
    described = {(method.upper(), path) for path, one in site.get("/openapi.json").json["paths"].items() for method in one}
    assert described == {(method, path.replace("/churn", "/{name}").replace(run_id, "{run_id}")) for method, path in paths[:-1]} | {
        ("GET", "/health")
    }


def test_a_wrong_token_and_a_reader_are_refused(serve: Serve, tmp_path: Path) -> None:
    site = serve()
    reader = Site(site.port, tokens.add(tmp_path / "tokens", "rita", "read"))

    assert detail(Site(site.port, "lks_wrong").get("/runs"), 401)
    assert reader.get("/runs").status == 200
    assert detail(reader.run("churn"), 403) == "the token of rita has the role read; this needs run"
    assert detail(reader.ask("POST", "/runs/x/cancel"), 403)
    assert site.get("/runs").json == {"runs": [], "next": None}


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (
            {"overrides": {"model.uri": "x"}},
            403,
            "model.uri: callers of the pipeline churn may not set it; service.allow has run.date, run.name",
        ),
        ({"overrides": {"run.date": "x"}}, 422, "run.date: got 'x' (text); expected must be a date like 2026-01-31"),
        (
            {"overrides": {"run.name": {"x": [{"fs.s3a.secret.key": "hunter2hunter2"}]}}},
            422,
            "fs.s3a.secret.key is a secret and no caller's value; the pipeline's file has it from the environment: ${oc.env:NAME}",
        ),
        ({"overrides": {"run.name": "${oc.env:HOME}"}}, 422, "run.name: a caller's value must not hold ${"),
        ({"overrides": []}, 422, 'the body must be {"overrides": {"section.key": value}}'),
        ({"override": {}}, 422, 'the body must be {"overrides": {"section.key": value}}'),
        ([], 422, 'the body must be {"overrides": {"section.key": value}}'),
        (b"{", 422, "the body is no JSON: "),
        (b'{"overrides": {"run.name": NaN}}', 422, "the body is no JSON: NaN is no number of JSON"),
        (b'{"overrides": {}, "overrides": {}}', 422, "the body is no JSON: a key is given twice"),
        (b"[" * 60_000, 422, "the body is no JSON: "),
        (b'{"overrides": {"run.name": "' + b"x" * 70_000 + b'"}}', 413, "the body is larger than 65,536 bytes"),
    ],
)
def test_a_body_that_is_wrong_is_one_line(body: Any, status: int, line: str, serve: Serve) -> None:
    site = serve(services=ALLOW)

    answer = site.ask("POST", "/pipelines/churn/runs", body, {"Content-Type": "application/json"})

    assert detail(answer, status).startswith(line.replace("expected must", "must"))
    assert site.get("/runs").json["runs"] == []


def test_a_large_body_that_is_not_announced_is_refused_too(serve: Serve) -> None:
    site = serve()

    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
        head = f"POST /pipelines/churn/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"".join(b"4000\r\n" + b" " * 0x4000 + b"\r\n" for _ in range(5)))
        answer = connection.recv(4096)

    assert answer.startswith(b"HTTP/1.1 413 ")


def test_other_types_other_paths_and_other_methods(serve: Serve) -> None:
    site = serve()

    assert detail(site.ask("POST", "/pipelines/churn/runs", b"a=b", {"Content-Type": "text/plain"}), 415)
    assert detail(site.run("chrun"), 404) == "there is no pipeline 'chrun'. Did you mean 'churn'?"
    assert detail(site.get("/pipelines/x"), 404)
    assert detail(site.get("/runs/x"), 404) == "there is no run 'x'"
    assert detail(site.ask("POST", "/runs/x/cancel"), 404)
    assert detail(site.get("/nothing"), 404) == "there is no such path"
    assert detail(site.ask("DELETE", "/runs"), 405)
    assert detail(site.get("/runs?limit=0"), 422).startswith("limit: ")
    assert detail(site.get("/runs?since=yesterday"), 422).startswith("since: got 'yesterday'")
    assert detail(site.get("/runs?status=done"), 422).startswith("status.0: ")


def test_the_same_key_is_the_same_run(serve: Serve) -> None:
    site = serve(services=ALLOW)
    key = {"Idempotency-Key": "nightly-1"}

    first = site.run("churn", {"run.name": "a", "run.date": "2026-01-31"}, **key)
    again = site.run("churn", {"run.date": "2026-01-31", "run.name": "a"}, **key)
    other = site.run("churn", {"run.name": "b"}, **key)

    assert (again.status, again.json["id"]) == (202, first.json["id"])
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    assert detail(other, 422) == "Idempotency-Key: nightly-1 was given before with other overrides"
    assert len(site.get("/runs").json["runs"]) == 1


def test_a_full_queue_says_when_to_come_again(serve: Serve) -> None:
    site = serve("exec sleep 30", queue=2)
    first = site.run("churn").json["id"]
    site.until(first, lambda run: run["status"] == "running")

    answers = [site.run("churn") for _ in range(4)]

    assert [answer.status for answer in answers] == [202, 202, 429, 429]
    assert detail(answers[2], 429) == "2 runs wait already; try again later"
    assert int(answers[2].headers["retry-after"]) > 0


def test_too_many_requests_are_refused_for_a_while(serve: Serve) -> None:
    site = serve(rate=60)

    answers = [site.get("/pipelines") for _ in range(25)]

    assert [answer.status for answer in answers][:20] == [200] * 20
    assert "again in 1 s" in detail(answers[-1], 429)
    assert answers[-1].headers["retry-after"] == "1"
    # Who has no token has a measure of their own.
    assert Site(site.port).get("/pipelines").status == 401


def test_runs_are_found_by_pipeline_status_and_time_and_come_in_pages(serve: Serve) -> None:
    site = serve("exec sleep 30", {"churn": "{}", "flights": "{}"})
    ids = [site.run(name).json["id"] for name in ("churn", "flights", "churn", "churn")]
    site.until(ids[0], lambda run: run["status"] == "running")

    def found(path: str) -> list[str]:
        return [run["id"] for run in site.get(path).json["runs"]]

    assert found("/runs?pipeline=flights") == [ids[1]]
    assert found("/runs?status=queued&status=failed") == [ids[3], ids[2], ids[1]]
    assert found("/runs?since=2999-01-01") == []
    assert found("/runs?since=2020-01-01T00:00:00Z") == ids[::-1]
    page = site.get("/runs?pipeline=churn&limit=2").json
    assert [run["id"] for run in page["runs"]] == [ids[3], ids[2]]
    rest = site.get(page["next"]).json
    assert ([run["id"] for run in rest["runs"]], rest["next"]) == ([ids[0]], None)


@pytest.mark.parametrize("query", ["before=99999999999999999999", "before=0", "since=0001-01-01T00:00:00%2B10:00", "since=tomorrow"])
def test_a_place_in_the_list_that_cannot_be_is_refused(query: str, serve: Serve) -> None:
    site = serve()

    assert site.get(f"/runs?{query}").status == 422
    if query.startswith("before"):
        assert site.get(f"/ui/runs?{query}").status == 422


def test_pipelines_tell_their_schedule_and_what_is_wrong(serve: Serve) -> None:
    site = serve(services={"churn": "{schedule: 0 6 1 1 *, allow: [run.date]}", "wrong": "{alow: x}"})
    site.until_ended(site.run("churn").json["id"])

    good, wrong = site.get("/pipelines").json

    assert (good["schedule"], good["next_run"][4:], good["allow"]) == ("0 6 1 1 * (UTC)", "-01-01T06:00:00.000Z", ["run.date"])
    assert good["last_run"]["status"] == "succeeded"
    assert wrong["error"].startswith("service.alow: unknown key. Did you mean 'allow'?")
    assert detail(site.run("wrong"), 422).startswith("the pipeline wrong cannot be run: service.alow: unknown key.")


def test_fifty_at_once_keep_to_the_bound_and_none_is_lost(serve: Serve, tmp_path: Path) -> None:
    script = f"echo + >> {tmp_path}/log; sleep 0.4; echo - >> {tmp_path}/log"
    site = serve(script, {"churn": "{}", "flights": "{}"}, concurrency=5)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda i: site.run(("churn", "flights")[i % 2], **{"Idempotency-Key": str(i)}), range(50)))
    runs = [site.until_ended(answer.json["id"], 60) for answer in answers]

    assert {answer.status for answer in answers} == {202}
    assert len({run["id"] for run in runs}) == 50
    assert {run["status"] for run in runs} == {"succeeded"}
    now, most = 0, 0
    for line in (tmp_path / "log").read_text().split():
        now += 1 if line == "+" else -1
        most = max(most, now)
    assert now == 0
    assert 2 <= most <= 5
    assert len((tmp_path / "log").read_text().split()) == 100


def test_a_run_that_is_not_cancelled_in_time_cannot_be(serve: Serve) -> None:
    site = serve("exec sleep 30")
    running, waiting = site.run("churn").json["id"], site.run("churn").json["id"]
    site.until(running, lambda run: run["status"] == "running")

    answers = [site.ask("POST", f"/runs/{run_id}/cancel") for run_id in (waiting, running)]
    ended = [site.until_ended(run_id) for run_id in (waiting, running)]

    assert [answer.status for answer in answers] == [202, 202]
    assert [(run["status"], run["exit_code"]) for run in ended] == [("cancelled", None), ("cancelled", -15)]
    assert ended[0]["started_at"] is None
    assert detail(site.ask("POST", f"/runs/{running}/cancel"), 409) == f"the run {running} has ended already: cancelled"


def test_without_tokens_only_this_machine_by_its_own_name_is_answered(serve: Serve) -> None:
    site = serve(token=False)

    assert site.get("/pipelines").status == 200
    assert site.run("churn").status == 202
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8080"):
        assert site.get("/pipelines", Host=host).status == 403
    # A form of another site can be sent, but not as JSON, and not with what is in our own forms.
    assert site.ask("POST", "/pipelines/churn/runs", b"{}", {"Content-Type": "text/plain"}).status == 415
    for sent in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for path in ("/pipelines/churn/runs", "/runs/x/cancel"):
            assert detail(site.ask("POST", path, b"", sent), 403) == "the request was sent from another site"
    assert site.ask("POST", "/runs/x/cancel", b"", {"Sec-Fetch-Site": "same-origin"}).status == 404
    assert site.form("/ui/pipelines/churn/runs", {"form_key": "guess"}).status == 403


def test_every_answer_carries_what_browsers_are_to_know(serve: Serve) -> None:
    site = serve()

    for path in ("/pipelines", "/ui", "/ui/login", "/ui/style.css", "/nothing", "/health"):
        headers = site.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'; script-src 'self'; "), path
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert not re.search("uvicorn|starlette", str(headers), re.IGNORECASE)
