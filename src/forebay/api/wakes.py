"""The port by which requests load models: those that were unloaded to make room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from forebay.core.errors import ForebayError


class Wakes(Protocol):
    """Models that are loaded when they are asked for."""

    def names(self) -> Sequence[str]:
        """All of them."""
        ...

    def covers(self, model: str) -> bool:
        """Whether a request would load this model."""
        ...

    def refusal(self, model: str) -> ForebayError:
        """What is answered about one of them where nothing is loaded for that."""
        ...

    async def wake(self, model: str, version: str | None = None) -> None:
        """Wait until it is loaded. Raises `AdmissionError` (model_not_ready), `RequestError` (model_not_found): without
        a load where there is no such version."""
        ...
