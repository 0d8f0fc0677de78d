"""Forebay: requests pool for a moment, run as one batch, and each caller gets their own answer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.client import AsyncClient, Client
    from forebay.models.base import Model
    from forebay.models.streaming import Partial, Progress

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Model", "Partial", "Progress", "__version__"]

_HOMES = {
    "AsyncClient": "forebay.client",
    "Client": "forebay.client",
    "Model": "forebay.models.base",
    "Partial": "forebay.models.streaming",
    "Progress": "forebay.models.streaming",
}


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first asked for: `forebay --help` need not wait for numpy."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'forebay' has no attribute {name!r}")
    return getattr(import_module(home), name)
