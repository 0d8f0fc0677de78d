"""The SOURCE argument to an `Original`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from forebay.core.errors import SetupError
from forebay.models.artefact import origin_digest
from forebay.models.kinds import check_content, mend_for, runtime_of
from forebay.models.repository import is_name
from forebay.models.source import LoadOptions
from forebay.models.source_files import taken
from forebay.optimize import wire
from forebay.optimize.processes import CandidateError, export
from forebay.optimize.sources.port import NO_OPTIONS, Original

KINDS = ("onnx", "torch", "huggingface", "xgboost", "lightgbm", "sklearn")
TAKEN = (
    "an .onnx file, a Hugging Face folder (config.json and model.safetensors), a torch module (file.py:factory), or a "
    "model file of XGBoost, LightGBM or scikit-learn"
)


def open_original(
    text: str, name: str | None, work: Path, *, trust: LoadOptions = NO_OPTIONS, depends_on: Sequence[Path] = ()
) -> Original:
    """Open a source; what has to be exported is written to `work`.

    trust: what a file of scikit-learn may make. depends_on: files that it depends on besides those that are found.

    Raises `SetupError` that names what is taken.
    """
    head, colon, factory = text.rpartition(":")
    is_module = bool(colon) and head.endswith(".py")
    given = Path(head if is_module else text)
    path = _existing(given, text)
    kind = "torch" if is_module else "huggingface" if path.is_dir() else runtime_of(path)
    if kind not in KINDS or (kind == "torch" and not is_module):
        raise SetupError(f"{text!r} cannot be optimised{_mend_for(path, kind)}; what can be is {TAKEN}")
    if name is None:
        name = path.name if path.is_dir() else given.stem
    if not is_name(name):
        raise SetupError(
            f"a model cannot be called {name!r}: it may have letters, digits, '.', '_' and '-', the first a letter or "
            "digit; name it with --name"
        )
    sha256, named = origin_digest(path), taken(map(Path.absolute, depends_on), path.parent)
    original = _opened(path, kind, factory, name, work, trust)
    files = {one.path: one for one in [*original.files, *named]}
    return replace(original, sha256=sha256, files=tuple(files[path] for path in sorted(files)))


def _opened(path: Path, kind: str, factory: str, name: str, work: Path, trust: LoadOptions) -> Original:
    if kind == "torch":
        return _exported(path, factory, name, work)
    if kind == "huggingface":
        from forebay.optimize.sources.bert import export_folder

        return export_folder(path, name, work)
    check_content(path, str(path))
    if kind == "onnx":
        return Original(name, "onnx", path, str(path), path)
    from forebay.optimize.sources.classic import convert_file

    return convert_file(path, kind, name, work, trust)


def _exported(path: Path, factory: str, name: str, work: Path) -> Original:
    try:
        made = export(wire.Export(str(path), factory, name, str(work), sys.path))
    except CandidateError as error:
        raise SetupError(f"{path}:{factory}: {error.detail}") from None
    if isinstance(made, wire.Refused):
        raise SetupError(made.message)
    graph = Path(made.graph) if made.graph else None
    return Original(name, "torch", path, made.model, graph, made.note, files=made.files)


def _mend_for(path: Path, kind: str | None) -> str:
    if path.suffix == ".py":
        return ": it names no function; write file.py:factory"
    if kind is not None:
        return f": a model of {kind} is served as it is; give the module or the ONNX file that it was made of"
    return f": {mend}" if (mend := mend_for(path)) else ""


def _existing(path: Path, text: str) -> Path:
    if not path.exists():
        raise SetupError(
            f"{text!r}: there is no file or folder {str(path)!r} (looked in {Path.cwd()}); it can be {TAKEN}"
        )
    return path.resolve()
