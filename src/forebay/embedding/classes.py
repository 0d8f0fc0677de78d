"""A class as a model: where an instance process finds it."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from forebay.core.errors import SetupError
from forebay.models.base import Model
from forebay.models.source import ModelSource
from forebay.repository.catalog import NamedModel

_INSTANCE = "forebay.engine.child"


def model_of_class(model: type[Model], name: str | None = None) -> NamedModel:
    """The class as the model of an instance, which imports it from its file under its name.

    Raises `SetupError` for a class that another process cannot import: from a REPL, a notebook, or inside a function.
    """
    where = model.__qualname__
    try:
        file = Path(inspect.getsourcefile(model) or "")
    except (TypeError, OSError):
        file = Path()
    if not file.is_file():
        raise SetupError(
            f"class {where} is in no file (it comes from a REPL, a notebook or exec), and each instance imports "
            "it in a process of its own; put it into a module and import it from there"
        )
    if "." in where:
        raise SetupError(f"class {where} is not at the top of {file}; move it there, so that instances can import it")
    # The main script and a lone module are found by their file; one in a package needs its package for its imports.
    module = model.__module__ if "." in model.__module__ else ""
    source = ModelSource(name or where.lower(), "python", str(file.resolve()), where, module=module)
    return NamedModel(source, lambda: source)


def in_instance() -> bool:
    """Whether this process is an instance, which imports the file of its model and whatever else stands in it."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    return main is not None and main.name == _INSTANCE


def check_not_in_instance() -> None:
    """Raises `SetupError` where an instance imports a script that serves: each would start instances of its own."""
    if in_instance():
        raise SetupError(
            "the file of this model starts a server when it is imported, and each instance imports it; put that under "
            'if __name__ == "__main__":'
        )
