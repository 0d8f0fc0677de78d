"""Forebay: requests pool for a moment, run as one batch, and each caller gets their own answer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.client import AsyncClient, Client
    from forebay.embedding.app import create_app, lifespan_of, serve
    from forebay.embedding.engine import open_engine
    from forebay.models.base import Model
    from forebay.models.streaming import Partial, Progress

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Client",
    "Model",
    "Partial",
    "Progress",
    "__version__",
    "create_app",
    "lifespan_of",
    "open_engine",
    "serve",
]

_PLACES = {
    "AsyncClient": "forebay.client",
    "Client": "forebay.client",
    "Model": "forebay.models.base",
    "Partial": "forebay.models.streaming",
    "Progress": "forebay.models.streaming",
    "create_app": "forebay.embedding.app",
    "lifespan_of": "forebay.embedding.app",
    "open_engine": "forebay.embedding.engine",
    "serve": "forebay.embedding.app",
}


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first asked for: `forebay --help` need not wait for numpy."""
    if name == "testing":
        return import_module("forebay.testing")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'forebay' has no attribute {name!r}")
