"""One queue in order of key: a pair of parallel lists, because nearly every item arrives in order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable
from typing import Generic, TypeVar

from forebay.batching.item import Item

T = TypeVar("T", bound=Item)


class Lane(Generic[T]):
    """Items that may share a batch, smallest key first.

    A discarded item stays as a ghost (its `order` is None) until it is passed or swept. While there are entries, one of
    them lives.
    """

    __slots__ = ("ghosts", "items", "keys", "mixed", "name", "next_expiry", "rows", "wide")

    def __init__(self, name: Hashable) -> None:
        self.name = name
        self.keys: list[float] = []
        self.items: list[T] = []
        self.rows = 0
        """Rows of the living."""
        self.ghosts = 0
        self.wide = 0
        """How many items have more than one row."""
        self.mixed = False
        """Some items stand before or behind their deadlines, so the order of keys is not the order of deadlines."""
        self.next_expiry = 0.0
        """Where `mixed`: no deadline in the lane is earlier than this."""

    def insert(self, key: float, item: T, *, before_equals: bool = False) -> None:
        """Put an item in its place, anywhere in the queue."""
        at = bisect_left(self.keys, key) if before_equals else bisect_right(self.keys, key)
        self.keys.insert(at, key)
        self.items.insert(at, item)

    @property
    def head(self) -> T:
        """The first of the living; there must be one. Ghosts before it go here, all at once: who discards many from the
        front moves the rest of the lists once."""
        items = self.items
        if items[0].order is None:
            dead = next(place for place, item in enumerate(items) if item.order is not None)
            self.ghosts -= dead
            self.drop(0, dead)
        return items[0]

    def rank(self, key: float) -> int:
        """How many items stand before a new one with this key, ghosts included."""
        return bisect_right(self.keys, key)

    def drop(self, first: int, count: int) -> None:
        """Forget `count` entries from number `first` on, which the caller has dealt with."""
        del self.keys[first : first + count]
        del self.items[first : first + count]
        if not self.items:
            self.mixed = False

    def keep(self, kept: list[tuple[float, T]]) -> None:
        """Replace all entries."""
        self.keys = [key for key, _ in kept]
        self.items = [item for _, item in kept]

    def sweep(self) -> None:
        """Remove the ghosts."""
        if self.ghosts:
            self.keep([(k, i) for k, i in zip(self.keys, self.items, strict=True) if i.order is not None])
            self.ghosts = 0
