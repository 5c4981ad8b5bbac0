"""A model's requirements against this Python: what is missing or too far away is refused, the rest is warned of."""

from __future__ import annotations

import logging
import platform
from importlib import metadata

import pytest
from packaging.version import Version

from lakescore.errors import ModelError
from lakescore.models.requirements import Mismatch, check_requirements, find_mismatches

SKLEARN = Version(metadata.version("scikit-learn"))
PANDAS = Version(metadata.version("pandas"))
OTHER_MINOR_SKLEARN = f"scikit-learn=={SKLEARN.major}.{SKLEARN.minor + 1}.0"
OTHER_MINOR_PANDAS = f"pandas=={PANDAS.major}.{PANDAS.minor + 1}.0"


def test_what_is_installed_is_no_mismatch() -> None:
    assert find_mismatches([f"scikit-learn=={SKLEARN}", f"pandas=={PANDAS}", "numpy"]) == []


@pytest.mark.parametrize(
    ("line", "package", "serious"),
    [
        ("no-such-package==1.0", "no-such-package", True),
        (f"pandas=={PANDAS.major + 1}.0.0", "pandas", True),
        (OTHER_MINOR_PANDAS, "pandas", False),
        (OTHER_MINOR_SKLEARN, "scikit-learn", True),
        (f"scikit_learn=={SKLEARN.major}.{SKLEARN.minor}.99", "scikit-learn", False),
        (f"pandas>={PANDAS.major + 1}", "pandas", True),
        ("no_such_package @ https://example.com/a.whl", "no-such-package", True),
        ("no-such-package==1.0 --hash=sha256:abc", "no-such-package", True),
        ("no-such-package==1.0 \\", "no-such-package", True),
        ("No.Such_Package[a,b] == 1.0  # why", "no-such-package", True),
        ("no-such-package; python_version >= '3'", "no-such-package", True),
        (f"pandas=={PANDAS.major}.*,!={PANDAS}", "pandas", False),
    ],
)
def test_a_mismatch_is_serious_where_the_release_line_differs(line: str, package: str, serious: bool) -> None:
    assert [(found.package, found.serious) for found in find_mismatches([line])] == [(package, serious)]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# no-such-package",
        "-r other.txt",
        "--hash=sha256:abc",
        "https://example.com/a.whl",
        "git+https://example.com/a",
        "./local.whl",
        "no-such-package; python_version < '3'",
        "mlflow==1.0",
        f"pandas[x]=={PANDAS}  # with a comment",
    ],
)
def test_lines_that_ask_for_nothing_here_are_passed_over(line: str) -> None:
    assert find_mismatches([line]) == []


@pytest.mark.parametrize("name", ["xgboost", "xgboost-cpu"])
def test_one_of_two_distributions_of_the_same_modules_is_enough(name: str) -> None:
    assert find_mismatches([f"{name}=={metadata.version('xgboost')}"]) == []


def test_several_fatal_packages_are_named_with_both_versions() -> None:
    with pytest.raises(ModelError) as caught:
        check_requirements([OTHER_MINOR_SKLEARN, "no-such-package"], None, "compatible")

    wanted = OTHER_MINOR_SKLEARN.removeprefix("scikit-learn")
    assert str(caught.value) == (
        f"model.uri: this Python does not have what the model needs: scikit-learn: wanted {wanted}, found {SKLEARN}, no-such-package: "
        f"wanted any version, found nothing. Install it (pip install 'scikit-learn{wanted}' 'no-such-package'), set "
        "model.env_manager=virtualenv, or model.requirements=ignore"
    )


def test_a_missing_package_is_refused_with_what_to_install() -> None:
    with pytest.raises(ModelError) as caught:
        check_requirements(["no-such-package==1.0"], None, "compatible")

    assert str(caught.value) == (
        "model.uri: this Python does not have what the model needs: no-such-package: wanted ==1.0, found nothing. Install it (pip install "
        "'no-such-package==1.0'), set model.env_manager=virtualenv, or model.requirements=ignore"
    )


def test_a_package_of_any_version_is_named_so() -> None:
    assert str(Mismatch("a", "", None, serious=True)) == "a: wanted any version, found nothing"


def test_a_small_difference_is_warned_of(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lakescore"), "propagate", True)

    check_requirements([OTHER_MINOR_PANDAS], None, "compatible")

    assert f"pandas: wanted {OTHER_MINOR_PANDAS.removeprefix('pandas')}, found {PANDAS}; predictions may differ" in caplog.text


def test_strict_refuses_a_small_difference() -> None:
    with pytest.raises(ModelError, match="does not have what the model needs: pandas: wanted "):
        check_requirements([OTHER_MINOR_PANDAS], None, "strict")


def test_ignore_checks_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lakescore"), "propagate", True)

    check_requirements(["no-such-package==1.0"], "2.7.1", "ignore")

    assert caplog.text == ""


def test_another_python_is_warned_of(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lakescore"), "propagate", True)

    check_requirements([], "2.7.1", "compatible")

    assert f"it was logged with Python 2.7.1 and this is {platform.python_version()}" in caplog.text
