"""Where a model comes from: the MODEL argument of the command line, opened but not loaded."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import mmap
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal

import msgspec

from forebay.core.errors import SetupError
from forebay.models.base import Model
from forebay.models.kinds import KNOWN, check_content, mend_for, runtime_of, weights_of
from forebay.models.source_files import digest_once, walk

_LOCATION = re.compile(rb"\x0a\x08location\x12(?:([\x01-\x7f])|([\x80-\xff])([\x01-\x1f]))", re.DOTALL)
"""The `location` entry of a tensor kept outside its ONNX file, up to the varint length of the file name that follows.
Source: StringStringEntryProto and TensorProto.external_data in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

MEASURED_FILE = "latency.json"
"""Beside a model: what was measured of it elsewhere (`engine.costs_file`)."""


class ModelSource(msgspec.Struct, frozen=True):
    """A model as named by the operator. `runtime` is `onnx`, `openvino`, `torch`, `xgboost`, `lightgbm`, `sklearn` or
    `python`; `class_name` is empty for a file.

    A Python model of a repository may have an empty `class_name`: then it is the file's only subclass of `Model`.
    """

    name: str
    runtime: str
    path: str
    class_name: str = ""
    version: str = "1"
    settings_file: str = ""
    """In a repository: where the model's `model.toml` is, or would be; nothing beside the file is read then."""
    module: str = ""
    """Of a class in a package: the name by which it is imported, so that its relative imports work."""

    @property
    def version_folder(self) -> Path | None:
        """In a repository: the folder of the version."""
        return Path(self.settings_file).parent / self.version if self.settings_file else None

    @property
    def sidecar(self) -> Path | None:
        """The settings file beside the model, if any: `stem.toml`, or `model.toml` in a Python model's folder."""
        path = Path(self.path)
        if self.settings_file:
            return Path(self.settings_file) if Path(self.settings_file).is_file() else None
        candidates = [path.with_suffix(".toml")]
        if self.runtime == "python":
            candidates.append(path.parent / "model.toml")
        return next((candidate for candidate in candidates if candidate.is_file()), None)

    def class_attributes(self) -> Mapping[str, Any]:
        """What is written in the model's class, settings among it. Imports the operator's file; empty for a file."""
        return attributes_of(load_class(self)) if self.runtime == "python" else {}


class LoadOptions(msgspec.Struct, frozen=True):
    """What the operator's settings say about loading a file. The defaults trust nothing."""

    max_batch_rows: int = 256
    deterministic: bool = False
    allow_pickle: bool = False
    trusted_types: tuple[str, ...] = ()
    """Types in a .skops file that may be made, besides those that skops itself trusts."""
    inference_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What OpenVINO (bf16) or TensorRT (fp16) computes in."""
    pad: bool | None = None
    pad_multiple: int | None = None
    """How rows of different lengths share a batch; None: as the model says."""


def open_source(text: str, name: str | None = None) -> ModelSource:
    """Parse a MODEL argument: a model file (see `kinds`) or `file.py:Class`.

    `name` replaces the stem or the class's lower-case name.

    Raises `SetupError` (`config_error`) that names the value and the mend.
    """
    head, colon, class_name = text.rpartition(":")
    if colon and class_name and head.endswith(".py"):
        path = Path(head)
        _must_exist(path, text)
        return ModelSource(name or class_name.lower(), "python", str(path.absolute()), class_name)
    path = Path(text)
    if path.suffix == ".py" or head.endswith(".py"):
        raise SetupError(f"model {text!r} names no class; write {text.rstrip(':')}:Class")
    runtime = runtime_of(path)
    if runtime is None:
        if not path.exists():
            raise SetupError(
                f"model {text!r}: there is no file or folder {str(path)!r} (looked in {Path.cwd()}); "
                f"a model is {KNOWN}, or a repository folder"
            )
        raise SetupError(f"model {text!r} is no file that can be served; {mend_for(path) or f'that is {KNOWN}'}")
    _must_exist(path, text)
    check_content(path, text)
    # Under its own name where it is a link: what belongs to it lies beside that, under that name.
    return ModelSource(name or path.stem, runtime, str(path.absolute()))


def _must_exist(path: Path, text: str) -> None:
    if not path.is_file():
        raise SetupError(f"model {text!r}: there is no file {str(path)!r} (looked in {Path.cwd()})")


def load_class(source: ModelSource) -> type[Model]:
    """Import a Python model's file and return its class. Raises `SetupError` (`model_load_error`)."""
    path = Path(source.path)
    try:
        module = _import_by_name(source.module, path) if source.module else _import_file(path)
    except (Exception, SystemExit) as error:
        raise SetupError(
            f"model {source.name}: importing {path} failed: {type(error).__name__}: {error}", code="model_load_error"
        ) from error
    found = getattr(module, source.class_name, None) if source.class_name else _only_class(source, module)
    if not isinstance(found, type) or not issubclass(found, Model):
        hint = ", ".join(key for key, value in vars(module).items() if _is_model(value)) or "none"
        raise SetupError(
            f"model {source.name}: {path} has no forebay.Model subclass {source.class_name!r}; it has: {hint}",
            code="model_load_error",
        )
    return found


def _import_file(path: Path) -> ModuleType:
    # A name of its own: a model in `json.py` or `onnx.py` must not take the place of the library.
    name = f"forebay_model_{path.stem}"
    loader = _Reader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _look_in(path.parent)
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _import_by_name(name: str, path: Path) -> ModuleType:
    depth = name.count(".") + (path.stem == "__init__")
    _look_in(path.parents[depth])
    return importlib.import_module(name)


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


class _Reader(importlib.machinery.SourceFileLoader):
    """Reads the source each time: a compiled file is kept by the second of its time, and a model may be replaced twice
    within one."""

    def get_code(self, fullname: str) -> CodeType:
        """The module's code, compiled from what is in the file now."""
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Model) and value is not Model


def _only_class(source: ModelSource, module: ModuleType) -> type[Model]:
    own = [value for value in vars(module).values() if _is_model(value) and value.__module__ == module.__name__]
    if len(own) == 1:
        found: type[Model] = own[0]
        return found
    names = ", ".join(value.__name__ for value in own) or "none"
    raise SetupError(
        f"model {source.name}: {source.path} must define exactly one forebay.Model subclass, it has: {names}; "
        f'name the one to serve in {source.settings_file or "model.toml"}: class = "Name"',
        code="model_load_error",
    )


def attributes_of(model: type[Model]) -> dict[str, Any]:
    """The public attributes of a model's class, and of its bases below `Model`, that have a plain value.

    Settings are among them; which names are settings, and which are a slip of the pen, `core` decides.
    """
    found: dict[str, Any] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, Model) and base is not Model:
            found.update({key: value for key, value in vars(base).items() if not key.startswith("_")})
    return {key: value for key, value in found.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether a value could be a setting, and can go into a frame."""
    if type(value) in (list, tuple):
        return all(_is_plain(item) for item in value)
    if type(value) is int:
        return -(1 << 63) <= value < 1 << 64
    return value is None or type(value) in (bool, float, str)


def digest_of(
    source: ModelSource,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - it is frozen
    called: str = "",
) -> str:
    """SHA-256 of the artefact, as hex: the model file, the files beside it that hold its weights, and what in `options`
    changes its answers.

    Of a Python model: its file, its class, and in a repository every file of the version's folder. What else it reads
    only its process knows, once it is loaded: `read_files.ReadFiles`.

    called: what the model file was called when the digest was taken that this one is compared with; empty: as now.
    """
    digest = hashlib.sha256()
    path = Path(source.path)
    _update(digest, path)
    if source.runtime == "python":
        digest.update(f"\0{source.class_name}\0".encode())
        for name, file in _version_files(source):
            digest.update(name.encode(errors="surrogateescape") + f"\0{digest_once(file)}\n".encode())
    for name in _weight_files(source):
        beside = path.parent / name
        if beside.is_file():
            # The weights of an OpenVINO model are named after it; those of an ONNX file are named in it.
            named = weights_of(Path(called)).name if called and source.runtime == "openvino" else name
            digest.update(named.encode())
            _update(digest, beside)
    if options.inference_precision != "fp32":
        digest.update(options.inference_precision.encode())
    return digest.hexdigest()


def _version_files(source: ModelSource) -> list[tuple[str, Path]]:
    """Every file of a Python model's version in a repository, by the name that it has there; else none.

    What was measured on some machine and shipped beside the model is no part of it, and holds the digest itself.
    """
    folder = source.version_folder
    if folder is None or source.runtime != "python":
        return []
    found = sorted((file.relative_to(folder).as_posix(), file) for file in walk(folder))
    return [(name, file) for name, file in found if name != MEASURED_FILE and file.is_file()]


def _weight_files(source: ModelSource) -> list[str]:
    """Files of weights that belong to a model file, relative to its folder: there or not, in order."""
    path = Path(source.path)
    if source.runtime == "openvino":
        return [weights_of(path).name]
    return sorted(_external_names(path)) if source.runtime == "onnx" else []


def _update(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)


def _external_names(path: Path) -> set[str]:
    """The files, relative to the model's folder, in which an ONNX file keeps tensors."""
    if not path.stat().st_size:
        return set()
    names: set[str] = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in _LOCATION.finditer(content):
            short, low, high = match.groups()
            size = short[0] if short else (low[0] & 0x7F) | high[0] << 7
            with contextlib.suppress(UnicodeDecodeError):
                name = content[match.end() : match.end() + size].decode()
                if "\0" not in name:
                    names.add(name)
    return names


def files_of(source: ModelSource) -> list[Path]:
    """The files that a model named by itself is made of, and its settings file where there is one."""
    files = model_files(source)
    return files if source.sidecar is None else [*files, source.sidecar]


def model_files(source: ModelSource) -> list[Path]:
    """The model file, and the files of weights that belong to it, there or not; of a Python model in a repository all
    files of its version."""
    path = Path(source.path)
    if not path.is_file():
        return [path]
    version = (file for _, file in _version_files(source))
    return [path, *(path.parent / name for name in _weight_files(source)), *version]
