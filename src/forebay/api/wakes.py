"""The port by which requests load models: those that were unloaded to make room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Wakes(Protocol):
    """Models that are loaded when they are asked for."""

    def names(self) -> Sequence[str]:
        """All of them."""
        ...

    def covers(self, model: str) -> bool:
        """Whether a request would load this model."""
        ...

    async def wake(self, model: str) -> None:
        """Wait until it is loaded. Raises `AdmissionError` (model_not_ready)."""
        ...
