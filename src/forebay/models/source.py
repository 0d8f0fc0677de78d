"""Where a model comes from: the MODEL argument of the command line, opened but not loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from forebay.core.errors import SetupError
from forebay.models.base import Model

SETTING_NAMES = frozenset(
    "instances threads max_batch_rows max_queue_delay_ms max_queue_rows max_queue_bytes slo_ms batching pad "
    "deterministic cache weight memory_bytes devices warm_up_s".split()
)
"""Settings of a model that may stand as class attributes (DESIGN section 6)."""


class ModelSource(msgspec.Struct, frozen=True):
    """A model as named by the operator. `runtime` is `onnx` or `python`; `class_name` is empty for a file."""

    name: str
    runtime: str
    path: str
    class_name: str = ""

    @property
    def sidecar(self) -> Path | None:
        """The settings file beside the model, if there is one: `stem.toml`, or `model.toml` in a Python model's folder."""
        path = Path(self.path)
        candidates = [path.with_suffix(".toml")]
        if self.runtime == "python":
            candidates.append(path.parent / "model.toml")
        return next((candidate for candidate in candidates if candidate.is_file()), None)

    def class_attributes(self) -> Mapping[str, Any]:
        """Settings written in the model's class. Imports the operator's file; empty for a model file."""
        return attributes_of(load_class(self)) if self.runtime == "python" else {}


def open_source(text: str, name: str | None = None) -> ModelSource:
    """Parse a MODEL argument: `file.onnx` or `file.py:Class`. `name` replaces the stem or the class's lower-case name.

    Raises `SetupError` (`config_error`) that names the value and the mend.
    """
    head, colon, class_name = text.rpartition(":")
    if colon and head.endswith(".py"):
        path = Path(head)
        _must_exist(path, text)
        return ModelSource(name or class_name.lower(), "python", str(path.resolve()), class_name)
    path = Path(text)
    if path.suffix == ".py":
        raise SetupError(f"model {text!r} names no class; write {text}:Class")
    if path.suffix != ".onnx":
        raise SetupError(f"model {text!r} is neither an .onnx file nor a Python model (file.py:Class)")
    _must_exist(path, text)
    return ModelSource(name or path.stem, "onnx", str(path.resolve()))


def _must_exist(path: Path, text: str) -> None:
    if not path.is_file():
        raise SetupError(f"model {text!r}: there is no file {str(path)!r} (looked in {Path.cwd()})")


def load_class(source: ModelSource) -> type[Model]:
    """Import a Python model's file and return its class. Raises `SetupError` (`model_load_error`)."""
    path = Path(source.path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SetupError(
            f"model {source.name}: importing {path} failed: {type(error).__name__}: {error}", code="model_load_error"
        ) from error
    found = getattr(module, source.class_name, None)
    if not isinstance(found, type) or not issubclass(found, Model):
        classes = [name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, Model)]
        hint = ", ".join(name for name in classes if name != "Model") or "none"
        raise SetupError(
            f"model {source.name}: {path} has no forebay.Model subclass {source.class_name!r}; it has: {hint}",
            code="model_load_error",
        )
    return found


def attributes_of(model: type[Model]) -> dict[str, Any]:
    """The settings that a model's class gives as attributes."""
    found: dict[str, Any] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, Model) and base is not Model:
            found.update({key: value for key, value in vars(base).items() if key in SETTING_NAMES})
    return found


def digest_of(source: ModelSource) -> str:
    """SHA-256 of the artefact, as hex: the model file, with external ONNX data files beside it that it names."""
    digest = hashlib.sha256()
    path = Path(source.path)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    external = path.with_name(path.name + ".data") if source.runtime == "onnx" else None
    if external is not None and external.is_file():
        with external.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
