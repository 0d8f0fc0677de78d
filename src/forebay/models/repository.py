"""A model repository on disk: `REPO/<name>/<version>/model.onnx`, with an optional `REPO/<name>/model.toml`.

Reads folders and `model.toml` only; no model is loaded and no code is run. Source of the layout and of the version
rules: Triton's model repository (docs/user_guide/model_repository.md in triton-inference-server/server).
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from forebay.core.errors import SetupError
from forebay.core.settings_values import shown
from forebay.models.kinds import runtime_of
from forebay.models.source import ModelSource, open_source
from forebay.models.source_files import SETTLED_NS, digest_once, walk

SETTINGS_FILE, PYTHON_FILE = "model.toml", "model.py"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_POLICIES = '{ latest = 1 }, "all", or a list of versions such as [1, 3]'

Stamp = tuple[tuple[str, int, int, int, int], ...]
"""Of each file: name, size, times of change of content and entry (ns), inode. Equal stamps: nothing was written."""


class VersionPolicy(msgspec.Struct, frozen=True):
    """Which versions are served: the `latest` n, or those `listed`, or all where neither is given."""

    latest: int = 0
    listed: tuple[int, ...] = ()

    def choose(self, available: Iterable[int]) -> list[int]:
        """The versions to serve, smallest first. A listed one is chosen whether it is there or not."""
        if self.listed:
            return sorted(set(self.listed))
        return sorted(available)[-self.latest :]


LATEST, EVERY = VersionPolicy(latest=1), VersionPolicy()


def read_policy(value: object, source: str) -> VersionPolicy:
    """A `version_policy` as TOML has it. Raises `SetupError` that names `source`, the value and what is accepted."""
    match value:
        case "all":
            return VersionPolicy()
        case {"latest": int(count), **rest} if not rest and count >= 1 and not isinstance(count, bool):
            return VersionPolicy(latest=count)
        case list() | tuple():
            listed = tuple(one for one in value if type(one) is int and 1 <= one < 10**18)
            if listed and len(listed) == len(value):
                return VersionPolicy(listed=listed)
    raise SetupError(f"{source}: version_policy cannot be {shown(value)}; accepted: {_POLICIES}")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model of a repository as it is on disk. `problem`: why none of it can be served; empty where some can."""

    name: str
    path: Path
    versions: Mapping[int, Path] = field(default_factory=dict)
    policy: VersionPolicy = LATEST
    class_name: str = ""
    problem: str = ""

    def source(self, version: int) -> ModelSource:
        """What to load for a version. Raises `SetupError` where its folder is not there or holds no model."""
        folder = self.versions.get(version)
        if folder is None:
            raise SetupError(f"model {self.name}: there is no version folder {self.path / str(version)}")
        opened = _open(self.name, folder, self.class_name)
        return msgspec.structs.replace(opened, version=str(version), settings_file=str(self.path / SETTINGS_FILE))

    def files(self, version: int) -> list[Path]:
        """What a version is made of: every file of its folder, and the model's `model.toml`. Hidden ones are not, nor
        what is no regular file: a pipe that nobody writes to would hold whoever opens it."""
        folder = self.versions.get(version)
        own = sorted(walk(folder)) if folder is not None else []
        return [self.path / SETTINGS_FILE, *own]

    def stamp(self) -> Stamp:
        """What tells whether any version, or the settings, may have changed."""
        files = [self.path / SETTINGS_FILE]
        for folder in self.versions.values():
            files += walk(folder)
        # A folder's own times change when Python keeps a compiled file in it, so only its presence counts.
        return (*((str(folder), 0, 0, 0, 0) for folder in self.versions.values()), *stamp_of(files))


def is_name(text: str) -> bool:
    """Whether a model may be called so in a repository."""
    return _NAME.fullmatch(text) is not None


def is_repository(text: str) -> bool:
    """Whether a MODEL argument is a folder."""
    return Path(text).is_dir()


def check_no_model(folder: Path) -> None:
    """Raises `SetupError` for the folder of one model, or of a model's files, given in place of a repository."""
    models = read_repository(folder)
    versions = sorted((name for name in models if _VERSION.fullmatch(name)), key=int)
    if not models and (files := _model_files(folder)):
        raise SetupError(
            f"{folder} is no repository: it holds no model folders, but {', '.join(files)}; serve the files by their "
            "names, or see docs/repository.md for the layout of a repository"
        )
    if len(versions) == len(models) and any(not one.versions and _model_files(one.path) for one in models.values()):
        raise SetupError(
            f"{folder} is the folder of one model (it holds version {', '.join(versions)}), not a repository; serve "
            f"the folder above it, {folder.parent}, or one version's model file with --name {folder.name}"
        )


def _model_files(folder: Path) -> list[str]:
    """The names of the files in a folder that must be models; none where it cannot be read."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and entry.name[0] not in "._")
    except OSError:
        return []
    return [name for name in names if name == PYTHON_FILE or _is_model(Path(name))]


def _is_model(file: Path) -> bool:
    """Whether a name says that a file is a model; notes.txt and config.json need not be."""
    return runtime_of(file) is not None and (
        file.stem == "model" or file.suffix.lower() not in (".txt", ".json", ".xml")
    )


def read_repository(folder: Path) -> dict[str, ModelFolder]:
    """Every model of a repository by name. Hidden folders, files, and those that begin with `_` are passed over.

    Raises `SetupError` where the folder cannot be read.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] not in "._")
    except OSError as error:
        raise SetupError(f"repository {str(folder)!r} cannot be read: {error.strerror or error}") from None
    return {name: read_model(folder / name) for name in names}


def read_model(path: Path) -> ModelFolder:
    """One model's folder. What is wrong with it is in `problem`."""
    name = path.name
    if not is_name(name):
        return ModelFolder(name, path, problem="its name may have letters, digits, '.', '_' and '-' only")
    try:
        versions = {
            int(entry.name): Path(entry.path)
            for entry in os.scandir(path)
            if entry.is_dir() and _VERSION.fullmatch(entry.name)
        }
        policy, class_name = _read_settings(path / SETTINGS_FILE)
    except OSError as error:
        return ModelFolder(name, path, problem=f"{path} cannot be read: {error.strerror or error}")
    except SetupError as error:
        return ModelFolder(name, path, versions, problem=error.message)
    problem = "" if versions else f"{path} has no version folder (1, 2, ...)"
    return ModelFolder(name, path, dict(sorted(versions.items())), policy, class_name, problem)


def _read_settings(file: Path) -> tuple[VersionPolicy, str]:
    """The two keys of `model.toml` that are the repository's own; the settings are read when the model is loaded."""
    if file.exists() and not file.is_file() and not file.is_dir():
        raise SetupError(f"{file}: is no regular file")  # to read a pipe could take for ever
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return LATEST, ""
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{file}: is not valid TOML: {error}") from None
    class_name = table.get("class", "")
    if not isinstance(class_name, str) or (class_name and not class_name.isidentifier()):
        raise SetupError(f"{file}: class cannot be {shown(class_name)}; accepted: the name of a class in model.py")
    policy = LATEST
    if "version_policy" in table:
        policy = read_policy(table["version_policy"], str(file))
    return policy, class_name


def _open(name: str, folder: Path, class_name: str) -> ModelSource:
    """The model in a version's folder: `model.py`, else the one `model.*` that is a model, else the only model file."""
    script = folder / PYTHON_FILE
    if script.is_file():
        return ModelSource(name, "python", str(script.absolute()), class_name)
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.is_file() and entry.name[0] not in "._")
    except OSError as error:
        raise SetupError(f"model {name}: {folder} cannot be read: {error.strerror or error}") from None
    named = [file for file in files if file.stem == "model" and file.suffix != ".toml"]
    for candidates in (named, [file for file in files if file not in named]):
        found, reason = _models_among(candidates, name)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(Path(source.path).name for source in found)
            raise SetupError(f"model {name}: {folder} holds several models: {names}; call the one to serve model.*")
        if candidates and reason and candidates is named:
            raise SetupError(reason)
    raise SetupError(f"model {name}: {folder} holds no model file, such as model.onnx or model.py")


def _models_among(files: Sequence[Path], name: str) -> tuple[list[ModelSource], str]:
    """Those files that can be served, and why another one cannot."""
    found, reason = [], ""
    for file in files:
        if file.suffix == ".py":
            continue
        try:
            found.append(open_source(str(file), name))
        except SetupError as error:
            reason = error.message
    return found, reason


def look(files: list[Path]) -> tuple[Stamp, str]:
    """The stamp and the digest of some files. The stamp is taken before anything is read, so that what is written later
    shows."""
    stamp = stamp_of(files)
    return stamp, digest_of_files(files)


def stamp_of(files: Iterable[Path]) -> Stamp:
    """The stamp of some files; one that is not there has none."""
    found = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        found.append((str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return tuple(sorted(found))


def is_settled(stamp: Stamp, now_ns: int) -> bool:
    """Whether no file was written to so shortly before now that it may be written again, unseen, within one tick."""
    latest_ns = max((max(content_ns, entry_ns) for _, _, content_ns, entry_ns, _ in stamp), default=0)
    return latest_ns < now_ns - SETTLED_NS


def digest_of_files(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents, as hex; a file that is not there counts as none. Each is read once, as long as
    nobody writes to it."""
    digest = hashlib.sha256()
    for file in sorted(files):
        if not file.is_file():
            continue
        try:
            content = digest_once(file)
        except OSError:
            continue
        digest.update(str(file).encode(errors="surrogateescape") + f"\0{content}\n".encode())
    return digest.hexdigest()
