"""The pages in a real Chromium, driven by its DevTools over a pipe: log in, trigger, watch, open the report; on a phone, in the dark."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import Site

Serve = Callable[..., Site]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


class Browser:
    """One page."""

    def __init__(self, folder: Path) -> None:
        # DevTools wants its pipes as 3 and 4.
        pipes = [os.pipe(), os.pipe()]
        child = [fcntl.fcntl(pipe, fcntl.F_DUPFD, 50) for pipe in (pipes[0][0], pipes[1][1])]
        self._process = subprocess.Popen(
            [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={folder}"],
            preexec_fn=lambda: [os.dup2(pipe, number) for number, pipe in enumerate(child, 3)],
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for pipe in (*child, pipes[0][0], pipes[1][1]):
            os.close(pipe)
        self._to, self._from = os.fdopen(pipes[0][1], "wb", buffering=0), os.fdopen(pipes[1][0], "rb")
        self._number, self._rest = 0, b""
        self.problems: list[str] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log"):
            self.call(f"{part}.enable")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._session = None
            self.call("Browser.close")
        self._process.kill()
        self._process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            if answer.get("method") == "Runtime.exceptionThrown":
                self.problems.append(str(answer["params"]["exceptionDetails"]))
            if answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                self.problems.append(answer["params"]["entry"]["text"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._from.fileno(), 65_536)
            assert read, "Chromium has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value") if "exceptionDetails" not in answer else None

    def until(self, expression: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError):  # between two pages there is none to ask
                if self.value(f"Boolean({expression})"):
                    return
            assert time.monotonic() < deadline, (expression, self.value("document.body.innerText"))
            time.sleep(0.05)

    def open(self, url: str, lands: str | None = None) -> None:
        """Go to a page, and wait for it, or for the one that it leads to."""
        self.call("Page.navigate", url=url)
        self.until(f"location.href.startsWith({json.dumps(lands or url)}) && document.readyState === 'complete'")

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    made = Browser(tmp_path / "chromium")
    yield made
    made.close()


SCRIPT = """
echo "2026-01-31T06:00:01+0000 INFO lakescore.pipeline: model: models:/churn/3 (sklearn), 0.1 s"
while [ ! -e FOLDER/go ]; do sleep 0.05; done
echo '{"outcome": "scored", "rows_read": 1234, "rows_written": 1234, "model_version": "3", "location": "/out", "seconds": {"score": 0.1},
  "drift": {"status": "possible", "value": 0.55, "worst": "age", "text": "0.550, possible"}}' > $1/result.json
echo '{"columns": ["a_long_name_of_a_column", "prediction"], "rows": [["VALUE", "1"]]}' > $1/first_rows.json
echo '<title>report</title><p id=p>drift<script>document.getElementById("p").textContent = "drawn"</script>' > $1/drift_table_plot.html
""".replace("VALUE", "x" * 300)


def test_a_run_is_triggered_by_keyboard_watched_and_its_report_opened(serve: Serve, browser: Browser, tmp_path: Path) -> None:
    site = serve(SCRIPT.replace("FOLDER", str(tmp_path)), {"churn": "{allow: [run.name, run.date]}"})

    browser.open(f"{site.url}/ui/pipelines/churn", f"{site.url}/ui/login")
    browser.until("location.pathname === '/ui/login' && document.activeElement.name === 'token'")
    browser.write(str(site.token))
    browser.press("Enter")
    browser.until("location.pathname === '/ui/pipelines/churn' && document.querySelector('[name=\"set:run.name\"]')")
    browser.value("document.querySelector('[name=\"set:run.name\"]').focus()")
    browser.write("<b>né</b>")
    browser.press("Tab")
    browser.write("2026-01-31")
    browser.press("Enter")
    browser.until("location.pathname.startsWith('/ui/runs/') && document.querySelector('.badge.running')")
    # What the process says comes without a reload.
    browser.value("window.mine = true")
    browser.until("document.querySelector('.log')?.textContent.includes('models:/churn/3')")
    browser.until("document.querySelector('[aria-current=step] .stage')?.textContent === 'source'")
    assert browser.value("window.mine") is True
    (tmp_path / "go").touch()
    browser.until("document.querySelector('.badge.succeeded') && !document.querySelector('[data-live]')")

    text = browser.value("document.body.innerText")
    for part in ("<b>né</b>", "date 2026-01-31", "1,234 read, 1,234 written", "a_long_name_of_a_column", "0.550, possible"):
        assert part in text
    browser.value("document.querySelector('a[href$=\"/drift\"]').click()")
    browser.until("document.title === 'report' && document.getElementById('p').textContent.startsWith('drawn')")
    assert browser.problems == []
    # In its sandbox it has no cookie of this site, and no way to its pages.
    assert browser.value("fetch('/runs').then(() => 'reached', () => 'refused')") == "refused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_and_can_be_read_in_the_light_and_in_the_dark(
    scheme: str, serve: Serve, browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    site = serve(SCRIPT.replace("FOLDER", str(tmp_path)), {"churn": "{allow: [run.name], schedule: 0 6 * * *}"}, token=False)
    run_id = site.run("churn", {"run.name": "y" * 200}).json["id"]
    site.until_ended(run_id)
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    for path in ("/ui", "/ui/runs", "/ui/pipelines/churn", f"/ui/runs/{run_id}", "/ui/api", "/ui/login"):
        browser.open(site.url + path)
        assert browser.value("document.documentElement.scrollWidth") <= 360, path
        assert browser.value(_UNREADABLE) == [], path
        assert browser.value(_UNNAMED) == [], path
    assert browser.problems == []


# Texts with a contrast below WCAG's 4.5 to what is behind them.
_UNREADABLE = """(() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = color => color.slice(0, 3).reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = rgb(getComputedStyle(element).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const contrast = element => {
    const [low, high] = [light(rgb(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const hasText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  return [...document.querySelectorAll("body *")].filter(element => hasText(element) && element.checkVisibility())
    .map(element => [`${element.className}: ${element.textContent.trim().slice(0, 20)}`, contrast(element)])
    .filter(([, value]) => value < 4.5);
})()"""
# Fields without a label, and regions that scroll and cannot be reached by keyboard.
_UNNAMED = """[...document.querySelectorAll("input:not([type=hidden]), select, textarea")].filter(e => !e.labels.length).map(e => e.name)
  .concat([...document.querySelectorAll(".scroll, .log")].filter(e => e.tabIndex !== 0).map(e => e.className))"""
