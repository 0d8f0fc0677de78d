"""What the user names by `module:name` or `file.py:name`: a recipe, a metric, a redaction of one's own.

A module is looked for in the current folder first, as `python -m` does it; a file's own imports beside the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def open_reference(reference: str) -> Any:
    """The object. Raises `ImportError`, `AttributeError`, `OSError`, or whatever the user's code does."""
    module, _, name = reference.rpartition(":")
    if not module or not name:
        raise ImportError("it names nothing of a module")
    with importable(reference):
        importlib.invalidate_caches()  # a file that was written just now is seen
        return getattr(module_of(Path(module)) if _is_file(module) else importlib.import_module(module), name)


@contextlib.contextmanager
def importable(reference: str) -> Iterator[None]:
    """While what was opened runs: its modules are found, those too that it imports only now."""
    module = reference.rpartition(":")[0]
    folder = str(Path(module).resolve().parent if _is_file(module) else Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _is_file(module: str) -> bool:
    return module.endswith(".py")


def module_of(path: Path) -> Any:
    """A file as a module. Raises `OSError`, or whatever the user's code does."""
    path = path.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    # Two files may have one name.
    name = f"forebay_named_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
