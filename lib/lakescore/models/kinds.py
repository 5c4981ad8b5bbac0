"""A file in, what kind of raw model it is out: told by its content first, by its name only where content says nothing.

| kind        | written by                                                       | told by                                   |
| ----------- | ---------------------------------------------------------------- | ----------------------------------------- |
| pickle      | ``pickle.dump``, ``cloudpickle.dump``                            | the pickle protocol's first bytes         |
| joblib      | ``joblib.dump``, compressed or not                               | joblib's marks in a pickle, a compression |
| skops       | ``skops.io.dump``                                                | a zip with ``schema.json``                |
| xgboost     | ``save_model("m.json")``, ``save_model("m.ubj")``                | ``learner`` at the head of JSON or UBJSON |
| lightgbm    | ``booster.save_model("m.txt")``                                  | the first line ``tree``                   |
| torchscript | ``torch.jit.save``                                               | a zip with ``data.pkl`` and ``code/``     |
| torch       | ``torch.save`` of a module or of a ``state_dict``                | a zip with ``data.pkl``, torch's old magic |
| onnx        | ``onnx.save``, ``torch.onnx.export``, skl2onnx                   | the head of its protobuf                  |
"""

from __future__ import annotations

import mmap
import re
import zipfile
from pathlib import Path
from typing import Literal

from lakescore.errors import ModelError, listing

Kind = Literal["pickle", "joblib", "skops", "xgboost", "lightgbm", "torchscript", "torch", "onnx"]

SUFFIXES = ".pkl, .pickle, .joblib, .skops, .json, .ubj (XGBoost), .txt (LightGBM), .pt, .pth, .onnx"
_HEAD = 4096
_COMPRESSED = (b"\x1f\x8b", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda", b"BZh", b"\xfd7zXZ\x00", b"]\x00\x00", b"\x04\x22\x4d\x18")
_TORCH_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19."
# ONNX: field 1 (ir_version), then producer, graph, opsets or another field of ModelProto.
_ONNX_HEAD = re.compile(rb"^\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]", re.DOTALL)
# UBJSON: an object whose first key has its length before it.
_UBJSON_HEAD = re.compile(rb"^\{[iUIlL]\x00*[\x01-\x40](?:learner|version|Config|Model)", re.DOTALL)
_JSON_HEAD = re.compile(rb"^\s*\{")
# What ends in these and did not tell by its content.
_IS_NO = {
    ".json": "is no XGBoost model: it has no 'learner'; write it by booster.save_model(...), not dump_model or save_config",
    ".ubj": "is no XGBoost model in UBJSON; write it by booster.save_model('model.ubj')",
    ".txt": "is no LightGBM model: its first line is not 'tree'; write it by booster.save_model('model.txt')",
    ".onnx": "is no ONNX model: its head is not that of a ModelProto",
    ".skops": "is no skops file: it is no zip archive",
    ".pt": "is no PyTorch file: it is neither a zip archive nor torch.save's older format",
    ".pth": "is no PyTorch file: it is neither a zip archive nor torch.save's older format",
}
_OTHERS = (
    (b"\x89HDF", "is a Keras HDF5 file, which is not recognised: log it with mlflow.keras.log_model and give its runs:/ or models:/ URI"),
    (b"binf", "is XGBoost's old binary format: load it with the XGBoost that wrote it and save it as .ubj"),
    (b"bs64", "is XGBoost's old binary format: load it with the XGBoost that wrote it and save it as .ubj"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the model: fetch it by git lfs pull"),
)


def recognise(file: Path, label: str) -> Kind:
    """The kind of a raw model file.

    Args:
        file: an existing file.
        label: how errors name it: ``model.uri: models/model.pt``.

    Raises:
        ModelError: it is none, or of a kind that is not supported.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise ModelError(f"{label} cannot be read: {error.strerror or error}") from error
    if not head:
        raise ModelError(f"{label} is empty")
    for magic, reason in _OTHERS:
        if head.startswith(magic):
            raise ModelError(f"{label} {reason}")
    if head.startswith(b"PK\x03\x04"):
        return _in_zip(file, label)
    suffix = file.suffix.lower()
    if _is_pickle(head):
        if _TORCH_MAGIC in head[:32]:
            return "torch"
        # Behind such a mark stand an array's bytes, which pickle itself would take for its own.
        return "joblib" if _contains(file, b"joblib.numpy_pickle") else "pickle"
    if head.startswith((b"tree\n", b"tree\r\n")):
        return "lightgbm"
    if _UBJSON_HEAD.match(head) or (_JSON_HEAD.match(head) and _contains(file, b'"learner"')):
        return "xgboost"
    if _ONNX_HEAD.match(head):
        return "onnx"
    if head.startswith(_COMPRESSED) and suffix not in _IS_NO:
        return "joblib"
    if suffix in (".pkl", ".pickle"):
        return "pickle"  # protocols 0 and 1 have no head
    raise ModelError(f"{label} {_IS_NO.get(suffix, f'is no model that is recognised; expected an MLflow folder, or one of {SUFFIXES}')}")


def _is_pickle(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


def _contains(file: Path, text: bytes) -> bool:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


def _in_zip(file: Path, label: str) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{label} is a damaged zip archive: {error}; was it copied completely?") from error
    # torch puts everything into one folder, which is named after the file.
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" in inner:
        return "torchscript" if "constants.pkl" in inner or any(name.startswith("code/") for name in inner) else "torch"
    if "schema.json" in names:
        return "skops"
    if "archive_format" in inner:
        raise ModelError(
            f"{label} is an archive of torch.export, which is not recognised: log it with mlflow.pytorch.log_model(..., "
            "serialization_format='pt2') and give its runs:/ or models:/ URI"
        )
    if {"config.json", "metadata.json"} <= set(names):
        raise ModelError(
            f"{label} is a Keras file, which is not recognised: log it with mlflow.keras.log_model and give its runs:/ or models:/ URI"
        )
    raise ModelError(f"{label} is a zip archive that is no model of TorchScript, torch.save or skops; it holds {listing(sorted(names), 4)}")
