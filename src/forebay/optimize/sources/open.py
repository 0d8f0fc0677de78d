"""The SOURCE argument to an `Original`."""

from __future__ import annotations

from pathlib import Path

from forebay.core.errors import SetupError
from forebay.models.kinds import check_content, runtime_of
from forebay.optimize.sources.port import Original

TAKEN = (
    "an .onnx file, a Hugging Face folder (config.json and model.safetensors), a torch module (file.py:factory), or a "
    "model file of XGBoost, LightGBM or scikit-learn"
)


def open_original(text: str, name: str | None, work: Path, *, allow_pickle: bool = False) -> Original:
    """Open a source; what has to be exported is written to `work`. Raises `SetupError` that names what is taken."""
    head, colon, factory = text.rpartition(":")
    if colon and head.endswith(".py"):
        from forebay.optimize.sources.torch_module import export_module

        return export_module(_existing(head, text), factory, name, work)
    path = _existing(text, text)
    if path.is_dir():
        from forebay.optimize.sources.bert import export_folder

        return export_folder(path, name, work)
    kind = runtime_of(path)
    if kind is None or kind == "python":
        raise SetupError(f"{text!r} cannot be optimised; that is {TAKEN}")
    check_content(path, text)
    if kind == "onnx":
        return Original(name or path.stem, "onnx", path, str(path), path)
    from forebay.optimize.sources.classic import convert_file

    return convert_file(path, kind, name, work, allow_pickle=allow_pickle)


def _existing(path: str, text: str) -> Path:
    found = Path(path)
    if not found.exists():
        raise SetupError(f"{text!r}: there is no file or folder {path!r} (looked in {Path.cwd()}); it can be {TAKEN}")
    return found.resolve()
