"""What a measuring process is asked and what it tells; `frames` says how a frame looks."""

from __future__ import annotations

import msgspec

from forebay.core.settings import ModelSettings
from forebay.engine.kept_inputs import FEWEST, KeptRequest
from forebay.engine.sizing import Size
from forebay.models.source import ModelSource

TRY, MEASURED, FOUND = 31, 32, 33


class Order(msgspec.Struct, array_like=True):
    """TRY: what to measure. `usual` is what serves now; `kept`: inputs of live requests, none where there were none."""

    source: ModelSource
    settings: ModelSettings
    data_dir: str
    shared_memory_bytes: int
    cores: int
    usual: Size
    groups: list[list[Size]]
    budget_s: float
    kept: list[KeptRequest]

    @property
    def on_live_inputs(self) -> bool:
        """Whether `kept` is enough; where not, what the model shows or what is made up stands beside it."""
        return len(self.kept) >= FEWEST


class Measured(msgspec.Struct, array_like=True):
    """MEASURED: rows a second of one round."""

    rates: list[tuple[Size, float]]


class Found(msgspec.Struct, array_like=True):
    """FOUND: the end."""

    chosen: Size
    rates: list[tuple[Size, float]]
    reason: str
