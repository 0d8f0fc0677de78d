"""Which files a piece of the user's Python reads, so that an artefact can tell later whether they are still the same.

Seen are files that Python opens (an audit hook), modules that are imported, files that are mapped into memory at the
end (Linux), and those that safetensors and torch open by themselves (their functions are replaced by ones that note the
name). Other libraries that open files by themselves, and other processes, are not seen.

What belongs to Python, to installed packages or to the system does not count, nor what the code itself writes.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import site
import stat
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from forebay.core.errors import SetupError
from forebay.models.source_files import SourceFile, taken

_MAKES = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
"""Flags of whoever opens a file to write it. One that is opened to be changed (`r+`) may also be only read."""
_EVENTS: Final = {
    "ctypes.dlopen": (os.O_RDONLY, (0,)),
    "import": (os.O_RDONLY, (1,)),
    "sqlite3.connect": (os.O_RDWR, (0,)),
    "os.rename": (os.O_WRONLY, (0, 1)),
    "os.remove": (os.O_WRONLY, (0,)),
    "os.link": (os.O_WRONLY, (1,)),
    "os.symlink": (os.O_WRONLY, (1,)),
    "os.truncate": (os.O_WRONLY, (0,)),
}
"""Audit events besides `open`: what is done to a file, as flags, and which arguments name one."""
_FUNCTIONS: Final = (
    ("torch._C", "import_ir_module", 1, os.O_RDONLY),
    *((f"safetensors{module}", "safe_open", 0, os.O_RDONLY) for module in ("", ".torch", ".numpy")),
    *((f"safetensors{module}", "_safe_open_handle", 0, os.O_RDONLY) for module in ("", ".torch", ".numpy")),
    *((f"safetensors{module}", "serialize_file", 1, os.O_WRONLY) for module in ("", ".torch", ".numpy")),
)
"""Functions that open a file without telling Python: module, name, which argument is the file, what is done to it."""
_CLASSES: Final = (("PyTorchFileReader", os.O_RDONLY), ("PyTorchFileWriter", os.O_WRONLY))
"""Such classes of torch. Others ask whether something is one of them, so that they stay, with another `__init__`."""
_SYSTEM: Final = (
    *("/bin", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys"),
    *("/usr/bin", "/usr/include", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share"),
)
_IN_HOME: Final = (
    *(".config", ".netrc", ".cache/huggingface/token", ".cache/huggingface/stored_tokens", ".cache/matplotlib"),
)
"""These tell whose account it is, not what the model is."""
_KEPT_BESIDE = re.compile(r"/(\.git|__pycache__)/")
"""Where tools note what they did: it changes while the model does not."""
_LIBRARY = re.compile(r"\.so(\.[0-9.]+)?$")
_MAPS = Path("/proc/self/maps")

_State = tuple[int, int, int]


class Reads:
    """What this process reads while it is watched. The hook cannot be taken away again, and functions of libraries stay
    replaced: it is for a process that ends soon, and once in it.
    """

    def __init__(self, source: Path) -> None:
        """source: the user's file, in whose folder paths begin."""
        self.files: tuple[SourceFile, ...] = ()
        """What was read besides it."""
        self._source = source
        self._first: dict[str, _State | None] = {}  # each file that was opened, as it was before
        self._made: set[str] = set()
        self._changed: set[str] = set()
        self._watching = False
        sys.addaudithook(self._hear)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """What is read in here counts. Raises `SetupError` for a file that somebody else writes to in the meantime."""
        _tell_of_libraries(self._see)
        before = _mapped()
        self._watching = True
        try:
            yield
            for name in _mapped() - before:
                self._see(name)
        finally:
            self._watching = False
        self.files = self._found()

    def _see(self, path: Any, flags: int = os.O_RDONLY) -> None:
        """A file is about to be opened. What is no path is passed over; raises nothing."""
        if not self._watching:
            return
        try:
            name = os.path.abspath(os.fsdecode(path))
        except (TypeError, ValueError, OSError):
            return  # an open file, or the number of one
        for one in (name, _source_of(name)):
            if one and one not in self._first:
                self._first[one] = _state(one)
        if flags & _MAKES:
            self._made.add(name)
        elif flags & os.O_RDWR:
            self._changed.add(name)

    def _found(self) -> tuple[SourceFile, ...]:
        counts = _counting(self._source)
        found: dict[str, _State] = {}
        for name, first in self._first.items():
            now = _state(name)
            if name in self._made or (first, now) == (None, None) or not counts(name):
                continue
            if now != first and name in self._changed:
                continue
            if now is None or first not in (None, now):
                raise _written_to(name, self._source)
            found[name] = now
        files = taken(map(Path, found), self._source.parent)
        for name, state in found.items():
            if _state(name) != state:
                raise _written_to(name, self._source)
        return files

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open":
            self._see(arguments[0], arguments[2] if isinstance(arguments[2], int) else os.O_RDONLY)
        elif event in _EVENTS:
            flags, places = _EVENTS[event]
            for place in places:
                self._see(arguments[place], flags)


def _tell_of_libraries(see: Callable[[Any, int], None]) -> None:
    """`see` is called before safetensors or torch open a file by themselves."""
    import torch

    for module, name, place, flags in _FUNCTIONS:
        with contextlib.suppress(ImportError):
            library = importlib.import_module(module)
            if hasattr(library, name):
                setattr(library, name, _telling(getattr(library, name), place, flags, see))
    for name, flags in _CLASSES:
        kind = getattr(torch._C, name)
        kind.__init__ = _telling(kind.__init__, 1, flags, see)


def _telling(
    function: Callable[..., Any], place: int, flags: int, see: Callable[[Any, int], None]
) -> Callable[..., Any]:
    def telling(*arguments: Any, **named: Any) -> Any:
        see(arguments[place] if len(arguments) > place else named.get("filename"), flags)
        return function(*arguments, **named)

    return telling


def _mapped() -> set[str]:
    """Files that are mapped into this process; none where the system does not tell."""
    try:
        lines = _MAPS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    return {parts[5] for line in lines if len(parts := line.split(maxsplit=5)) == 6 and parts[5].startswith("/")}


def _counting(source: Path) -> Callable[[str], bool]:
    """Whether a file is one of the model's: not the source itself, nor of Python's, of a package's or of the system's,
    unless the source is too.
    """
    kinds = ("stdlib", "platstdlib", "purelib", "platlib", "include", "platinclude")
    given = [
        *(sysconfig.get_path(kind) for kind in kinds),
        *(*site.getsitepackages(), site.getusersitepackages()),
        str(Path(__file__).parents[2]),
        *_SYSTEM,
        *(os.path.join(os.path.expanduser("~"), name) for name in _IN_HOME),
    ]
    others = {os.path.join(path, "") for one in given for path in (os.path.abspath(one), os.path.realpath(one))}
    folder = os.path.join(source.parent, "")

    def counts(name: str) -> bool:
        beside = name.startswith(folder)
        if name == str(source) or _KEPT_BESIDE.search(name) or os.path.isfile(_source_of(name)):
            return False
        if _LIBRARY.search(name) and not beside:
            return False
        return not any(f"{name}/".startswith(other) and not (beside and folder.startswith(other)) for other in others)

    return counts


def _source_of(name: str) -> str:
    """The file that a compiled file of Python's was made from; empty for any other file."""
    if not name.endswith(".pyc"):
        return ""
    try:
        return importlib.util.source_from_cache(name)
    except (NotImplementedError, ValueError):
        return ""


def _state(name: str) -> _State | None:
    """What tells whether a regular file was written to; None where there is none."""
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _written_to(name: str, source: Path) -> SetupError:
    return SetupError(
        f"{name} was written to while {source} read it; do it again, and let nobody write to what the factory reads"
    )
