"""What a model file is: by its suffix, and by how it begins, so that a wrong file is told before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from forebay.core.errors import SetupError

_HEAD_BYTES = 4096
XGBOOST = (".json", ".ubj")
LIGHTGBM = (".txt", ".lgb", ".lightgbm")
PICKLES = (".pkl", ".pickle", ".joblib")

KNOWN = "an .onnx file, a Python model (file.py:Class), or a model of " + ", ".join(
    (
        f"XGBoost ({', '.join(XGBOOST)})",
        f"LightGBM ({', '.join(LIGHTGBM)})",
        f"scikit-learn (.skops; {', '.join(PICKLES)})",
    )
)


def runtime_of(path: Path) -> str | None:
    """The runtime that a suffix stands for: onnx, xgboost, lightgbm, sklearn. None: no known suffix."""
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return "onnx"
    if suffix in XGBOOST:
        return "xgboost"
    if suffix in LIGHTGBM:
        return "lightgbm"
    return "sklearn" if suffix == ".skops" or suffix in PICKLES else None


def check_content(path: Path, text: str) -> None:
    """Look at the beginning of a file. Raises `SetupError` (`config_error`) where it is not what its suffix says."""
    runtime = runtime_of(path)
    if runtime in ("onnx", None):
        return
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if runtime == "xgboost":
        # JSON and UBJSON alike: an object with the key `learner`.
        right = head.lstrip()[:1] == b"{" and b"learner" in head
        mend = "XGBoost writes one with booster.save_model('model.ubj')"
    elif runtime == "lightgbm":
        right = head.split(b"\n", 1)[0].strip() == b"tree"
        mend = "LightGBM writes one with booster.save_model('model.txt')"
    else:
        right = path.suffix.lower() != ".skops" or head[:4] == b"PK\x03\x04"
        mend = "skops writes one with skops.io.dump(estimator, 'model.skops')"
    if not right:
        name = {"xgboost": "an XGBoost model", "lightgbm": "a LightGBM model", "sklearn": "a skops file"}[runtime]
        raise SetupError(f"model {text!r} is not {name}: it begins with {head[:24]!r}; {mend}")
