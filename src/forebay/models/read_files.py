"""What a Python model reads besides its own file: files that it names in `files`, and modules that lie beside it.

Only the model's own process knows these, once it is loaded. They go into the digest that is told of the model, so that
nothing is answered from what was computed with other weights.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from forebay.core.errors import SetupError
from forebay.models.repository import Stamp, is_settled, stamp_of
from forebay.models.source import ModelSource, model_files
from forebay.models.source_files import digest_once, walk

_INSTALLED = ("site-packages", "dist-packages")


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A file or folder. `name`: what it is called in the digest, the same on every machine."""

    name: str
    path: str


class ReadFiles(msgspec.Struct, frozen=True):
    """What was read besides the model's own file, as it was when the model was loaded."""

    places: tuple[Place, ...] = ()
    digest: str = ""
    """SHA-256 over names and contents, as hex; empty: there is nothing besides."""
    stamp: Stamp = ()
    """Empty: they had been written to just before, and may be again within one tick of the file system's clock."""

    def holds(self) -> bool:
        """Whether everything is still the same. Reads only what seems to have been written to."""
        try:
            files = _files_in(self.places)
            return bool(self.stamp and stamp_of(_paths(files)) == self.stamp) or _digest(files) == self.digest
        except OSError:
            return False

    def added_to(self, digest: str) -> str:
        """The digest of a model, with that of what it reads."""
        return hashlib.sha256(f"{digest} {self.digest}".encode()).hexdigest() if self.digest else digest


class Reading:
    """The files of one load: made before it, and asked after it."""

    def __init__(self, source: ModelSource, declared: object) -> None:
        """declared: the attribute `files`, which `load` may still set. Raises `SetupError` (`model_load_error`) where
        it is no list of paths."""
        self._source = source
        self._own = frozenset(model_files(source))
        self._before = stamp_of(_paths(_files_in(self._places(declared))))

    def ended(self, declared: object, earlier: ReadFiles | None = None) -> ReadFiles:
        """What was read, once the model is loaded. What another instance has found earlier is not read again as long as
        nothing was written to it.

        Raises `SetupError` (`model_load_error`): a file is not there, cannot be read, or was written to meanwhile.
        """
        places = tuple(sorted((*self._places(declared), *self._modules()), key=lambda place: (place.name, place.path)))
        for place in places:
            if not Path(place.path).exists():
                raise self._error(
                    f"its class names {place.name!r} in files, and there is no file or folder {place.path!r}; put it "
                    "there, or leave it out of files"
                )
        try:
            files = _files_in(places)
            stamp, now_ns = stamp_of(_paths(files)), time.time_ns()
            if earlier is not None and earlier.places == places and earlier.stamp and earlier.stamp == stamp:
                return earlier
            digest = _digest(files)
        except OSError as error:
            raise self._error(f"{error.filename} cannot be read: {error.strerror or error}") from None
        before = tuple(Path(name) for name, *_ in self._before)
        if stamp_of(before) != self._before or stamp_of(_paths(files)) != stamp:
            raise self._error("files that it reads changed while it was loaded; load it again")
        return ReadFiles(places, digest, stamp if is_settled(stamp, now_ns) else ())

    def _places(self, declared: object) -> list[Place]:
        if not isinstance(declared, Sequence) or isinstance(declared, str | bytes | bytearray):
            raise self._error(f'files must be a list of paths, such as ["weights.npz"], and is {declared!r}')
        folder = self._source.version_folder or Path(self._source.path).parent
        found = []
        for one in declared:
            if not isinstance(one, str | os.PathLike) or not isinstance(given := os.fspath(one), str) or not given:
                raise self._error(f"files must be a list of paths, and one of them is {one!r}")
            found.append(self._place(Path(os.path.normpath(folder / given)), folder))
        return [place for place in found if not self._has(place)]

    def _place(self, path: Path, folder: Path) -> Place:
        """Another machine may have the folder elsewhere, and what lies outside it in yet another place."""
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise self._error(f"{str(path)!a}: a file that it reads must have a name in UTF-8; rename it") from None
        return Place(name, str(path))

    def _has(self, place: Place) -> bool:
        """Whether it is all among the model's own files, which the model's digest has in it."""
        files = _paths(_files_in([place]))
        return bool(files) and self._own.issuperset(files)

    def _modules(self) -> list[Place]:
        """Modules that were imported from the model's folder or beneath, but for installed packages and Forebay."""
        path = Path(self._source.path)
        depth = self._source.module.count(".") + (path.stem == "__init__") if self._source.module else 0
        # Of a class in a package: all of the package, since its modules import from one another.
        folder = path.parents[max(0, depth - 1)]
        libraries = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
        found = {}
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if not isinstance(file, str) or name.partition(".")[0] in ("forebay", "__main__"):
                continue
            where = Path(os.path.abspath(file))
            if not where.is_relative_to(folder) or where == path or where in self._own or not where.is_file():
                continue
            inside = where.relative_to(folder).parts
            if any(part in _INSTALLED for part in inside) or any(where.is_relative_to(one) for one in libraries):
                continue
            found[where] = self._place(where, folder)
        return list(found.values())

    def _error(self, message: str) -> SetupError:
        return SetupError(f"model {self._source.name}: {message}", code="model_load_error")


def _files_in(places: Iterable[Place]) -> list[tuple[str, Path]]:
    """Each file, with what it is called in the digest."""
    found: list[tuple[str, Path]] = []
    for place in places:
        path = Path(place.path)
        if path.is_dir():
            found += ((f"{place.name}/{file.relative_to(path).as_posix()}", file) for file in walk(path))
        else:
            found.append((place.name, path))
    return sorted(found)


def _paths(files: Iterable[tuple[str, Path]]) -> list[Path]:
    return [file for _, file in files]


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    """Raises `OSError` where one cannot be read."""
    told = [f"{name}\0{digest_once(file)}\n".encode(errors="surrogateescape") for name, file in files]
    return hashlib.sha256(b"".join(told)).hexdigest() if told else ""
