"""Libraries held to one thread: the work is done by the thread that asks for it, and the results stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pytest
import torch
import xgboost
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

from lakescore.engine import threads

# A process that starts as Spark's worker does: numpy is there when `hold` is called, the model's libraries are not.
WORKER = """
import json, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
import threads
held = sys.argv[3] == "held"
if held:
    threads.hold(1)
import joblib
models = joblib.load(sys.argv[2])
if held:
    threads.hold(1)
rng = np.random.default_rng(0)
shares, results = {}, {}
for name, (model, rows) in models.items():
    x = rng.normal(size=(rows, 200))
    if name == "torch":
        import torch
        x = torch.from_numpy(x.astype(np.float32))
        predict = lambda x: model(x).detach().numpy()
    else:
        predict = model.predict
    predict(x[:100])
    everyone, me = time.process_time(), time.thread_time()
    for _ in range(3):
        y = predict(x)
    everyone, me = time.process_time() - everyone, time.thread_time() - me
    shares[name] = 1 - me / everyone
    results[name] = np.asarray(y, float)[:5].ravel().tolist()
print(json.dumps([shares, results]))
"""


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By ``free`` and ``held``: for each model the share of the CPU time that other threads took, and some predictions."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 200)), rng.normal(size=(200, 400))
    torch.manual_seed(0)
    models = {
        "forest": (RandomForestClassifier(50, n_jobs=-1, random_state=0).fit(x, y[:, 0] > 0), 5_000),
        "linear": (LinearRegression().fit(x, y), 5_000),
        "xgboost": (xgboost.XGBRegressor(n_estimators=50, n_jobs=-1).fit(x, y[:, 0]), 5_000),
        "lightgbm": (lightgbm.LGBMRegressor(n_estimators=50, n_jobs=-1, verbose=-1).fit(x, y[:, 0]), 5_000),
        "torch": (torch.nn.Sequential(torch.nn.Linear(200, 400), torch.nn.ReLU(), torch.nn.Linear(400, 1)).eval(), 5_000),
    }
    file = tmp_path_factory.mktemp("threads") / "models.joblib"
    joblib.dump(models, file)
    names = [name for name in os.environ if name.endswith("_NUM_THREADS")]
    environment = {name: value for name, value in os.environ.items() if name not in names}
    found = {}
    for how in ("free", "held"):
        command = [sys.executable, "-c", WORKER, str(Path(threads.__file__).parent), str(file), how]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert answer.returncode == 0, answer.stderr
        found[how] = json.loads(answer.stdout)
    return found


@pytest.mark.parametrize("name", ["forest", "linear", "xgboost", "lightgbm", "torch"])
def test_the_work_is_done_by_the_thread_that_asks_for_it(shares: dict[str, Any], name: str) -> None:
    if (os.cpu_count() or 1) > 1:
        assert shares["free"][0][name] > 0.2  # else there would be nothing to hold
    assert shares["held"][0][name] < 0.05


@pytest.mark.parametrize("name", ["forest", "xgboost", "lightgbm"])
def test_the_predictions_are_the_same(shares: dict[str, Any], name: str) -> None:
    assert shares["held"][1][name] == shares["free"][1][name]


def test_a_hold_can_be_changed_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    before = torch.get_num_threads()

    threads.hold(3)
    threads.hold(1)
    held = os.environ["OMP_NUM_THREADS"], joblib.cpu_count(), torch.get_num_threads()
    threads.hold(None)

    assert held == ("1", 1, 1)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "LOKY_MAX_CPU_COUNT" not in os.environ
    assert torch.get_num_threads() == before
