"""The pages: who may see them, forms that only they can send, and nothing that a run is called becomes a part of them."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lakescore.service import tokens
from serving import Site

Serve = Callable[..., Site]
ALLOW = {"churn": "{allow: [run.name, source.path, model.params], schedule: {every: week, on: [monday], at: 06:00}}"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def logged_in(site: Site) -> Site:
    """The same site in a browser, whose cookie is the only thing that it sends."""
    answer = site.form("/ui/login", {"token": str(site.token), "next": "/ui/runs"})
    assert (answer.status, answer.headers["location"]) == (303, "/ui/runs")
    return Site(site.port, None, answer.headers["set-cookie"].partition(";")[0])


def fields(page: str) -> dict[str, str]:
    """The hidden fields of a page's forms."""
    return {name: html.unescape(value) for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page)}


def test_a_session_is_opened_with_a_token_and_its_cookie_is_for_this_site_alone(serve: Serve) -> None:
    site = serve(services=ALLOW)

    asked = Site(site.port).get("/ui/runs?status=failed")
    wrong = Site(site.port).form("/ui/login", {"token": "lks_wrong"})
    right = Site(site.port).form("/ui/login", {"token": f" {site.token}\n", "next": "/ui/runs"})

    assert (asked.status, asked.headers["location"]) == (303, "/ui/login?next=%2Fui%2Fruns%3Fstatus%3Dfailed")
    assert (wrong.status, wrong.headers.get("set-cookie")) == (401, None)
    assert "This token is not known." in wrong.text
    cookie = right.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert str(site.token) not in cookie
    assert Site(site.port, None, cookie.partition(";")[0]).get("/ui/runs").status == 200


@pytest.mark.parametrize(
    "following", ["https://evil.example", "//evil.example", "/\\evil.example", "/ui/\\evil", "/uix", "javascript:alert(1)"]
)
def test_a_login_leads_to_this_site_alone(following: str, serve: Serve) -> None:
    site = serve()

    answer = site.form("/ui/login", {"token": str(site.token), "next": following})

    assert answer.headers["location"] == "/ui"


def test_a_session_ends_with_log_out_and_with_its_token(serve: Serve, tmp_path: Path) -> None:
    site = serve()
    first, second = logged_in(site), logged_in(site)
    form_key = fields(first.get("/ui").text)["form_key"]

    assert first.form("/ui/logout", {"form_key": form_key}).status == 303
    assert first.get("/ui").status == 303
    assert second.get("/ui").status == 200
    tokens.add(tmp_path / "tokens", "other", "read")
    lines = (tmp_path / "tokens").read_text().splitlines()
    (tmp_path / "tokens").write_text(lines[-1] + "\n")
    assert second.get("/ui").status == 303


def test_the_form_runs_the_pipeline_once(serve: Serve) -> None:
    site = serve(services=ALLOW)
    browser = logged_in(site)
    page = browser.get("/ui/pipelines/churn").text
    form = {**fields(page), "set:run.name": "x", "set:source.path": " ", "more": "model.params.a=1\n\nmodel.params.b=[2]\n"}

    answers = [browser.form("/ui/pipelines/churn/runs", form) for _ in range(2)]

    assert [answer.status for answer in answers] == [303, 303]
    assert answers[0].headers["location"] == answers[1].headers["location"]
    (run,) = site.get("/runs").json["runs"]
    assert answers[0].headers["location"] == f"/ui/runs/{run['id']}"
    assert (run["trigger"], run["overrides"]) == ("page", {"run.name": "x", "model.params.a": 1, "model.params.b": [2]})
    assert "every week on monday at 06:00 (UTC)" in page
    assert re.search(r"<time [^>]*>Mon \d{4}-\d\d-\d\d 06:00:00 UTC</time>", page)


def test_a_form_that_is_wrong_comes_back_with_what_was_typed(serve: Serve) -> None:
    browser = logged_in(serve(services=ALLOW))
    form = fields(browser.get("/ui/pipelines/churn").text)

    wrong = browser.form("/ui/pipelines/churn/runs", {**form, "set:source.path": "[", "set:run.name": HOSTILE})
    secret = browser.form("/ui/pipelines/churn/runs", {**form, "more": "run.batch_id=x"})

    assert (wrong.status, secret.status) == (422, 403)
    assert f'value="{html.escape(HOSTILE).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")}"' in wrong.text
    assert "run.batch_id: callers of the pipeline churn may not set it" in secret.text


@pytest.mark.parametrize(
    ("changed", "headers"),
    [
        ({"form_key": "guess"}, {}),
        ({"form_key": ""}, {}),
        ({}, {"Origin": "https://evil.example"}),
        ({}, {"Origin": "null"}),
        ({}, {"Sec-Fetch-Site": "cross-site"}),
    ],
)
def test_what_another_site_sends_with_the_browsers_cookie_is_refused(
    changed: dict[str, str], headers: dict[str, str], serve: Serve
) -> None:
    site = serve("exec sleep 5")
    run_id = site.run("churn").json["id"]
    browser = logged_in(site)
    form = {**fields(browser.get("/ui").text), **changed}

    for path in ("/ui/pipelines/churn/runs", f"/ui/runs/{run_id}/cancel", "/ui/logout"):
        assert browser.form(path, form, **headers).status == 403, path
    # The cookie alone is no token of the REST interface, but to look.
    assert browser.run("churn").status == 401
    assert browser.ask("POST", f"/runs/{run_id}/cancel").status == 401
    assert browser.get("/runs").status == 200
    assert len(site.get("/runs").json["runs"]) == 1


def test_a_reader_sees_and_cannot_run(serve: Serve, tmp_path: Path) -> None:
    site = serve("exec sleep 5", ALLOW)
    run_id = site.run("churn").json["id"]
    reader = logged_in(Site(site.port, tokens.add(tmp_path / "tokens", "rita", "read")))

    page, run = reader.get("/ui/pipelines/churn"), reader.get(f"/ui/runs/{run_id}")

    assert (page.status, run.status) == (200, 200)
    assert "Run now" not in page.text
    assert "Cancel this run" not in run.text
    key = fields(page.text)["form_key"]
    assert reader.form("/ui/pipelines/churn/runs", {"form_key": key}).status == 403


def test_a_run_can_be_cancelled_on_its_page(serve: Serve) -> None:
    site = serve("exec sleep 30", ALLOW)
    run_id = site.run("churn").json["id"]
    browser = logged_in(site)
    site.until(run_id, lambda run: run["status"] == "running")
    page = browser.get(f"/ui/runs/{run_id}").text

    answer = browser.form(f"/ui/runs/{run_id}/cancel", fields(page))

    assert answer.status == 303
    assert 'data-live="/ui/runs/' in page
    assert '<meta http-equiv="refresh" content="5">' in page
    assert site.until_ended(run_id)["status"] == "cancelled"
    assert "data-live" not in browser.get(f"/ui/runs/{run_id}").text


def test_while_it_runs_the_stages_and_the_log_are_there(serve: Serve) -> None:
    lines = [
        f"2026-01-31T06:00:00+0000 INFO lakescore.tracking: run: {'a' * 32}, experiment 3 (churn)",
        "2026-01-31T06:00:01+0000 INFO lakescore.pipeline: model: models:/churn/3 (sklearn), 0.1 s",
        HOSTILE.replace("'", ""),
    ]
    site = serve("printf '%s\\n' " + " ".join(f"'{line}'" for line in lines) + "; exec sleep 30", ALLOW)
    run_id = site.run("churn").json["id"]

    run = site.until(run_id, lambda run: run["mlflow_run_id"] is not None)
    part = site.get(f"/ui/runs/{run_id}/live").text

    assert run["mlflow_run_id"] == "a" * 32
    assert re.search(r'<li class="done">\s*<span class="stage">model</span>\s*<span class="text">models:/churn/3 \(sklearn\), 0.1 s', part)
    assert re.search(r'<li class="now" aria-current="step">\s*<span class="stage">source</span>', part)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in part
    assert "<img" not in part


def _tags(page: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    found: list[tuple[str, list[tuple[str, str | None]]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, given: found.append((tag, given))  # type: ignore[method-assign]
    parser.feed(page)
    return found


def test_nothing_that_a_run_says_becomes_a_part_of_the_page(serve: Serve) -> None:
    text = HOSTILE.replace("'", "").replace('"', "")
    told = f'{{"outcome": "scored", "rows_read": 1, "model_uri": "{text}", "model_version": "{text}", "location": "{text}", '
    told += f'"counts": {{"{text}": 1}}, "seconds": {{"{text}": 1}}, "drift": {{"status": "{text}", "value": 1, "text": "{text}"}}}}'
    rows = f'{{"columns": ["{text}"], "rows": [["{text}"]]}}'
    script = f"echo '{text}'; echo '{told}' > $1/result.json; echo '{rows}' > $1/first_rows.json; echo 'lakescore: {text}'; exit 3"
    site = serve(script, ALLOW)

    run = site.until_ended(site.run("churn", {"run.name": HOSTILE, "model.params": {HOSTILE: HOSTILE}}).json["id"])
    pages = [site.get(path).text for path in ("/ui", "/ui/runs", "/ui/pipelines/churn", f"/ui/runs/{run['id']}")]

    assert run["error"] == text
    assert pages[-1].count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 12
    for page in pages:
        tags = _tags(page)
        assert [dict(given) for tag, given in tags if tag == "script"] == [{"src": "/ui/script.js", "defer": None}]
        assert "img" not in {tag for tag, _ in tags}
        assert not {name for _, given in tags for name, _ in given if name.startswith("on") or name == "style"}


def test_the_drift_report_is_shown_in_a_sandbox(serve: Serve) -> None:
    site = serve("echo '<p>report' > $1/drift_table_plot.html", ALLOW)
    run_id = site.run("churn").json["id"]
    site.until_ended(run_id)

    answer = site.get(f"/ui/runs/{run_id}/drift")

    assert answer.text == "<p>report\n"
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'; ")
    assert f'<a href="/ui/runs/{run_id}/drift">' in site.get(f"/ui/runs/{run_id}").text
    assert site.get("/ui/runs/x/drift").status == 404


def test_runs_are_filtered_and_come_in_pages(serve: Serve) -> None:
    site = serve("exec sleep 30", {"churn": "{}", "flights": "{}"}, queue=200)
    for _ in range(30):
        site.run("churn")
    flights = site.run("flights").json["id"]

    first = site.get("/ui/runs?pipeline=churn&status=queued").text
    older = html.unescape(re.findall(r'<a class="button" href="([^"]+)">Older runs', first)[0])

    assert flights not in first
    assert len(re.findall('<tr role="row">\n  <th scope="row"', first)) == 25
    assert "pipeline=churn&status=queued&before=" in older
    assert len(re.findall('<tr role="row">\n  <th scope="row"', site.get(older).text)) == 4


def test_errors_are_pages_and_paths_of_files_lead_nowhere(serve: Serve) -> None:
    site = serve()

    for path in ("/ui/nothing", "/ui/pipelines/x", "/ui/runs/x", "/ui/..%2fapp.py", "/ui/app.py", "/ui/%2e%2e/tokens.py"):
        answer = site.get(path)
        assert (answer.status, answer.headers["content-type"]) == (404, "text/html; charset=utf-8"), path
    assert site.get("/ui/script.js").headers["content-type"] == "text/javascript; charset=utf-8"


def test_the_rest_interface_is_described(serve: Serve) -> None:
    page = serve().get("/ui/api").text

    for line in ("POST /pipelines/{name}/runs", "GET /runs/{run_id}", "POST /runs/{run_id}/cancel", "GET /runs"):
        assert f"<code>{line}</code>" in page


def _sizes(page: str) -> Any:
    return re.findall(r'x="([\d.]+)" width="([\d.]+)"', page)


def test_the_time_line_of_an_ended_run_has_its_stages_in_order(serve: Serve) -> None:
    told = '{"outcome": "scored", "rows_read": 0, "seconds": {"model": 0.5, "score": 1.5}}'
    site = serve(f"echo '{told}' > $1/result.json; exec sleep 2.2", ALLOW)
    run_id = site.run("churn").json["id"]
    site.until_ended(run_id)

    page = site.get(f"/ui/runs/{run_id}").text

    assert re.findall(r'<span class="stage">([^<]+)</span>', page) == ["queue", "model", "score", "end"]
    (_, _), (left, width), (second_left, second_width), _ = [(float(a), float(b)) for a, b in _sizes(page)]
    assert second_left == pytest.approx(left + width, abs=0.01)
    assert second_width == pytest.approx(3 * width, abs=0.01)
