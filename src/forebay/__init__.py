"""Forebay: requests pool for a moment, run as one batch, and each caller gets their own answer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.models.base import Model
    from forebay.models.streaming import Partial, Progress

__version__ = "0.1.0"
__all__ = ["Model", "Partial", "Progress", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first asked for: `forebay --help` need not wait for numpy."""
    if name == "Model":
        return import_module("forebay.models.base").Model
    if name in ("Partial", "Progress"):
        return getattr(import_module("forebay.models.streaming"), name)
    raise AttributeError(f"module 'forebay' has no attribute {name!r}")
