"""What there is to serve: models named one by one, and repositories of model folders. Nothing is loaded here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from forebay.core.errors import SetupError
from forebay.models.repository import (
    EVERY,
    ModelFolder,
    Stamp,
    VersionPolicy,
    check_no_model,
    is_repository,
    read_model,
    read_repository,
)
from forebay.models.source import ModelSource, files_of, open_source


class Offer(Protocol):
    """A model as it is on disk at one moment. Its methods read files."""

    @property
    def name(self) -> str: ...
    @property
    def versions(self) -> Mapping[int, Path]:
        """Version to where it is."""
        ...

    @property
    def policy(self) -> VersionPolicy: ...
    @property
    def problem(self) -> str:
        """Why nothing of it can be served; empty where something can."""
        ...

    def source(self, version: int) -> ModelSource:
        """What to load. Raises `SetupError`."""
        ...

    def files(self, version: int) -> list[Path]:
        """What the version is made of, its settings included."""
        ...


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A MODEL argument: one version, 1. `reopen` looks at it anew and raises `SetupError` where it is gone."""

    opened: ModelSource
    reopen: Callable[[], ModelSource]
    policy: VersionPolicy = EVERY
    problem: str = ""
    versions: Mapping[int, Path] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "versions", {int(self.opened.version): Path(self.opened.path)})

    @property
    def name(self) -> str:
        """The model's name."""
        return self.opened.name

    def source(self, version: int) -> ModelSource:
        """See `Offer`."""
        return self.reopen()

    def files(self, version: int) -> list[Path]:
        """See `Offer`."""
        return files_of(self.opened)


class Catalog:
    """The models and repositories of one command line. A name belongs to one of them only."""

    def __init__(self, named: Sequence[NamedModel], repositories: Sequence[Path]) -> None:
        """Raises `SetupError` where two models have one name, or a repository cannot be read."""
        self._named = {model.name: model for model in named}
        self._repositories = tuple(repositories)
        places: dict[str, str] = {}
        for name, place in [
            *((model.name, model.opened.path) for model in named),
            *((name, str(folder.path)) for repository in repositories for name, folder in self._folders(repository)),
        ]:
            if name in places:
                raise SetupError(
                    f"two models are called {name!r}: {places[name]} and {place}; "
                    "rename one, or serve it with --name in a process of its own"
                )
            places[name] = place
        self._first = list(places)

    @classmethod
    def open(cls, arguments: Sequence[str | NamedModel], name: str | None) -> Catalog:
        """The MODEL arguments of the command line. Raises `SetupError`: none, two of a name, a useless `--name`."""
        if not arguments:
            raise SetupError("no model to serve; name at least one, such as model.onnx, file.py:Class, or REPO/")
        if name is not None and len(arguments) != 1:
            raise SetupError(f"--name {name} goes with exactly one MODEL, not {len(arguments)}")
        folders = [text for text in arguments if isinstance(text, str) and is_repository(text)]
        repositories = [Path(text).resolve() for text in folders]
        for repository in repositories:
            check_no_model(repository)
        if name is not None and repositories:
            raise SetupError(f"--name {name} goes with a model, and {arguments[0]} is a repository; rename its folders")
        single = [one for one in arguments if one not in folders]
        return cls([named_model(one, name) if isinstance(one, str) else one for one in single], repositories)

    @staticmethod
    def _folders(repository: Path) -> list[tuple[str, ModelFolder]]:
        return list(read_repository(repository).items())

    @property
    def named(self) -> list[ModelSource]:
        """The models that the operator has named one by one."""
        return [model.opened for model in self._named.values()]

    def sources(self) -> tuple[list[ModelSource], list[SetupError]]:
        """One of each model: of a repository's the latest version that would be served. Then what keeps others of the
        repositories from being served: they do not keep the rest from it."""
        found, wrong = self.named, []
        for name, offer in self.all().items():
            if self.is_named(name):
                continue
            try:
                if offer.problem:
                    raise SetupError(f"model {name}: {offer.problem}")
                found.append(offer.source(offer.policy.choose(offer.versions)[-1]))
            except SetupError as error:
                wrong.append(error)
        return found, wrong

    @property
    def first(self) -> list[str]:
        """The models that were there at the start: named ones, then those of repositories."""
        return self._first

    @property
    def may_grow(self) -> bool:
        """Whether models may come that were not there at the start: there is a repository."""
        return bool(self._repositories)

    def is_named(self, name: str) -> bool:
        """Whether the operator has named this very model: it must load, or nothing is served."""
        return name in self._named

    def find(self, name: str) -> Offer | None:
        """The model of this name as it is now."""
        if name in self._named:
            return self._named[name]
        for repository in self._repositories:
            # Found among what is there: a caller's text never becomes a path.
            if name in _names(repository):
                return read_model(repository / name)
        return None

    def all(self) -> dict[str, Offer]:
        """Every model as it is now, by name. What cannot be read any more is left out."""
        found: dict[str, Offer] = {}
        for repository in reversed(self._repositories):
            try:
                found.update(read_repository(repository))
            except SetupError:
                continue
        return {**found, **self._named}

    def stamps(self) -> dict[str, Stamp]:
        """Of each model in a repository, what tells whether its files may have changed.

        Raises `SetupError` where a repository cannot be read: what cannot be seen has not vanished.
        """
        found: dict[str, Stamp] = {}
        for repository in reversed(self._repositories):
            found.update({name: folder.stamp() for name, folder in read_repository(repository).items()})
        return {name: stamp for name, stamp in found.items() if name not in self._named}


def named_model(text: str, name: str | None) -> NamedModel:
    """A MODEL argument that is no folder. Raises `SetupError`."""
    return NamedModel(open_source(text, name), lambda: open_source(text, name))


def _names(repository: Path) -> set[str]:
    try:
        return {entry.name for entry in repository.iterdir() if entry.is_dir() and entry.name[0] not in "._"}
    except OSError:
        return set()
