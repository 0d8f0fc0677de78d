"""Forebay: requests pool for a moment, run as one batch, and each caller gets their own answer."""

from forebay.models.base import Model

__version__ = "0.1.0"
__all__ = ["Model", "__version__"]
