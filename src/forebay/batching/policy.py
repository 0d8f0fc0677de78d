"""The settings of one batcher."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may set for one model. Everything else is measured."""

    max_batch_rows: int = 256
    """No batch holds more rows, unless a single item does."""
    max_queue_delay_s: float = 0.0
    """How long an item may be held back for company while an instance is free. 0: never."""
    max_queue_rows: int = 10_000
    max_queue_bytes: int = 256 * MIB
    batching: bool = True
    """False: one item at a time (it may hold several rows of one request)."""
    ageing_s: float = 10.0
    """How much earlier one step of priority counts than it arrived: an item of a step below that has waited this much
    longer goes first."""
    pad: bool = True
    """Items of different lengths may share a batch, padded to the longest. False: each length is its own lane, and
    the caller sets `lane` so."""
    hands_over_early: bool = True
    """Whether the next batch may leave for a busy instance shortly before its answer is due. Not for a model that
    streams: how long its answers get is not known, and a batch bound too soon would wait while others are free."""

    def __post_init__(self) -> None:
        for name in ("max_batch_rows", "max_queue_rows", "max_queue_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("max_queue_delay_s", "ageing_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
