"""What a model file is: by its suffix, and by how it begins, so that a wrong file is told before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from forebay.core.errors import SetupError

_HEAD_BYTES = 4096
_ZIP = b"PK\x03\x04"
_RUNTIMES = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}
_NAMES = {
    "openvino": "an OpenVINO model",
    "torch": "an exported program of torch",
    "xgboost": "an XGBoost model",
    "lightgbm": "a LightGBM model",
    "sklearn": "a skops file",
}
XGBOOST = (".json", ".ubj")
LIGHTGBM = (".txt", ".lgb", ".lightgbm")
PICKLES = (".pkl", ".pickle", ".joblib")
TORCH_PICKLES = (".pt", ".pth", ".ts", ".torchscript")
AS_PT2 = (
    "torch.export.save(torch.export.export(module.eval(), (x,), "
    "dynamic_shapes=({0: torch.export.Dim('batch')},)), 'model.pt2')"
)
"""How a torch module becomes a file that is served."""

KNOWN = "an .onnx file, a Python model (file.py:Class), or a model of " + ", ".join(
    (
        "OpenVINO (.xml)",
        "torch.export (.pt2)",
        f"XGBoost ({', '.join(XGBOOST)})",
        f"LightGBM ({', '.join(LIGHTGBM)})",
        f"scikit-learn (.skops; {', '.join(PICKLES)})",
    )
)


def runtime_of(path: Path) -> str | None:
    """The runtime that a suffix stands for, by the name that `ModelSource.runtime` has. None: no known suffix."""
    suffix = path.suffix.lower()
    if suffix in _RUNTIMES:
        return _RUNTIMES[suffix]
    if suffix in XGBOOST:
        return "xgboost"
    if suffix in LIGHTGBM:
        return "lightgbm"
    return "sklearn" if suffix == ".skops" or suffix in PICKLES else None


def weights_of(path: Path) -> Path:
    """The file of weights that belongs to an OpenVINO model.xml."""
    return path.with_suffix(".bin")


def mend_for(path: Path) -> str:
    """What to do with a file that is not served but known; else empty."""
    if path.suffix.lower() not in TORCH_PICKLES:
        return ""
    return f"export the module in Python: {AS_PT2}"


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
    elif runtime == "openvino":
        right = b"<net" in head
        mend = "OpenVINO writes one with openvino.save_model(model, 'model.xml')"
    elif runtime == "torch":
        right = head[:4] == _ZIP
        mend = f"torch writes one with {AS_PT2}"
    elif runtime == "lightgbm":
        right = head.split(b"\n", 1)[0].strip() == b"tree"
        mend = "LightGBM writes one with booster.save_model('model.txt')"
    else:
        right = path.suffix.lower() != ".skops" or head[:4] == _ZIP
        mend = "skops writes one with skops.io.dump(estimator, 'model.skops')"
    if not right:
        raise SetupError(f"model {text!r} is not {_NAMES[runtime]}: it begins with {head[:24]!r}; {mend}")
    if runtime == "openvino" and not weights_of(path).is_file():
        raise SetupError(
            f"model {text!r}: its weights are not there: {weights_of(path)}; put the .bin file that was saved with the "
            ".xml beside it, under the same name"
        )
