"""What is batched, what a batch is, and why it has its size. All times are seconds on one monotonic clock."""

from __future__ import annotations

from collections.abc import Hashable
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from forebay.core.request import Background


class Item(Protocol):
    """A request, or one piece of a split request, as the batcher sees it. Give it `__slots__`."""

    rows: int
    """Rows on the batch axis, at least 1."""
    length: int
    """Size of the variable axis, 1 where that is empty; 0 for a model whose shape is fixed."""
    deadline: float
    """Instant at which the answer becomes worthless."""
    priority: int
    """1 is highest, 0 (the default) is normal, 2 and above are lower."""
    behind_s: float
    """So much later it stands in the queue than its deadline says: a later piece of a split request lets others by."""
    lane: Hashable
    """Items of different lanes never share a batch."""
    background: Background | None
    """Set where nobody waits for the answer: the item stands behind all others, without a deadline."""
    arrived: float
    nbytes: int
    order: Any
    """Belongs to the batcher: the queue key while the item waits, else None. Start it as None."""


T = TypeVar("T", bound=Item)


class DispatchReason(StrEnum):
    """Why a batch has the size that it has."""

    idle = "idle"
    """An instance was free and took all that waited."""
    full = "full"
    """More waited, but no further row was allowed or worth its cost."""
    deadline = "deadline"
    """More waited, but a larger batch would have missed a deadline."""
    delay = "delay"
    """`max_queue_delay_s` ran out before the batch was full."""


class Refusal:
    """An item was not let in. `code` is a code of `AdmissionError`; `retry_after_s` says when it may be worth a try."""

    __slots__ = ("code", "retry_after_s")

    def __init__(self, code: str, retry_after_s: float) -> None:
        self.code = code
        self.retry_after_s = retry_after_s

    def __repr__(self) -> str:
        return f"Refusal({self.code!r}, retry_after_s={self.retry_after_s:.4g})"


class Batch(Generic[T]):
    """Rows that run together on one instance."""

    __slots__ = (
        "background",
        "early",
        "instance",
        "items",
        "lane",
        "length",
        "padding_waste",
        "predicted_s",
        "reason",
        "rows",
        "sent_at",
    )

    def __init__(self, items: list[T], rows: int, length: int, lane: Hashable, reason: DispatchReason) -> None:
        self.items = items
        self.rows = rows
        self.length = length
        """The longest length in it, to which the others are padded."""
        self.lane = lane
        self.reason = reason
        self.instance = -1
        self.predicted_s = 0.0
        """Expected computing time, without the hand-over."""
        self.sent_at = 0.0
        self.early = False
        """Sent to an instance that was still busy; it waits there."""
        self.background = False
        """Of items that nobody waits for."""
        self.padding_waste = 0.0
        """Share of the padded cells that carry no data, 0 to 1."""

    def __repr__(self) -> str:
        return f"Batch(rows={self.rows}, length={self.length}, reason={self.reason}, instance={self.instance})"
