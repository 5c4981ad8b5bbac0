"""Where models may come from: real paths count, and no spelling leads around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakescore.errors import ModelError
from lakescore.models.roots import check


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/123/artifacts/model/model.pt below a root, and a model beside the root."""
    inside = tmp_path / "models" / "123" / "artifacts" / "model"
    inside.mkdir(parents=True)
    (inside / "model.pt").write_bytes(b"1")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "model.pt").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def refused(uri: str, *roots: str) -> str:
    with pytest.raises(ModelError) as error:
        check(uri, roots, f"model.uri: {uri}")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"model.uri: {uri} ")
    assert message.endswith(f": model.allowed_roots allows {', '.join(roots)}")
    return message


def test_a_model_below_a_root_is_allowed_however_both_are_written(root: Path) -> None:
    path = root / "123" / "artifacts" / "model" / "model.pt"

    for uri in (str(path), path.as_uri(), "models/123/artifacts/model/model.pt", "./models/123/artifacts/model"):
        for allowed in (str(root), "models", "models/", root.as_uri()):
            check(uri, ["other", allowed], "model.uri")


def test_without_roots_everything_is_allowed(root: Path) -> None:
    check("../models/../../x", [], "model.uri")


def test_a_relative_root_above_is_no_detour(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "123")

    check("../123/artifacts/model/model.pt", [".."], "model.uri")


@pytest.mark.parametrize("uuid", ["../outside", "..", "123/../../outside", "./../outside", "%2e%2e/outside", "%252e%252e/outside", "..\\x"])
def test_a_uuid_that_leads_out_is_refused(root: Path, uuid: str) -> None:
    message = refused(f"models/{uuid}/model.pt", "models")

    assert "takes a detour by '..' or percent-encoded dots, which is refused" in message


@pytest.mark.parametrize("uri", ["runs:/1/../../x", "s3://bucket/models/%2E%2E/x", "file:///models/%2e%2e/outside"])
def test_a_detour_in_a_uri_is_refused(uri: str) -> None:
    assert "takes a detour" in refused(uri, "runs:/", "s3://bucket/models", "/models")


@pytest.mark.parametrize("uri", ["/etc/passwd", "outside/model.pt", "../x.pt", "file:///etc/passwd", "modelsx/model.pt", "models:/churn/1"])
def test_what_lies_elsewhere_is_refused(root: Path, uri: str) -> None:
    assert "is outside of the folders that models may come from" in refused(uri, str(root))


def test_a_link_that_leads_out_is_refused_with_its_goal(root: Path) -> None:
    (root / "link.pt").symlink_to(root.parent / "outside" / "model.pt")
    (root / "folder").symlink_to(root.parent / "outside")

    assert f"(it leads to {root.parent}/outside/model.pt)" in refused("models/link.pt", "models")
    assert f"(it leads to {root.parent}/outside/model.pt)" in refused("models/folder/model.pt", "models")


def test_a_link_inside_a_models_folder_that_leads_out_is_refused(root: Path) -> None:
    link = root / "123" / "artifacts" / "model" / "data.pkl"
    link.symlink_to(root.parent / "outside" / "model.pt")

    assert f"({link} leads to {root.parent}/outside/model.pt)" in refused("models/123/artifacts/model", "models")


def test_a_module_beside_the_file_that_leads_out_is_refused(root: Path) -> None:
    link = root / "123" / "artifacts" / "model" / "net.py"
    link.symlink_to(root.parent / "outside" / "net.py")

    assert f"({link} leads to" in refused("models/123/artifacts/model/model.pt", "models")


def test_a_link_that_stays_inside_is_allowed(root: Path) -> None:
    (root / "current").symlink_to(root / "123")

    check("models/current/artifacts/model/model.pt", ["models"], "model.uri")


def test_a_root_that_is_a_link_counts_as_its_goal(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)

    check("models/123/artifacts/model/model.pt", ["alias"], "model.uri")


def test_a_uris_beginning_is_a_root() -> None:
    for uri in ("models:/churn/3", "models:/churn@champion", "runs:/1/model", "s3://bucket/models/a"):
        check(uri, ["models:/churn", "runs:/", "s3://bucket/models"], "model.uri")

    for uri in ("models:/churn_test/1", "s3://bucket/models-old/a", "s3://other/models/a"):
        refused(uri, "models:/churn", "runs:/", "s3://bucket/models")
