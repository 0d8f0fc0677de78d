"""Forebay: requests pool for a moment, run as one batch, and each caller gets their own answer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.embedding.app import create_app, lifespan_of, serve
    from forebay.embedding.engine import open_engine
    from forebay.models.base import Model

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "create_app", "lifespan_of", "open_engine", "serve"]

_PLACES = {
    "Model": "forebay.models.base",
    "create_app": "forebay.embedding.app",
    "lifespan_of": "forebay.embedding.app",
    "open_engine": "forebay.embedding.engine",
    "serve": "forebay.embedding.app",
}


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first asked for: `forebay --help` need not wait for numpy."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'forebay' has no attribute {name!r}")
