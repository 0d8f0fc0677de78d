"""Which answers were asked for before: only those are worth a write to the store. Bounded, and may forget."""

from __future__ import annotations

from typing import Final

MOST: Final = 100_000


class Sightings:
    """Two generations of digests: the older is forgotten when the younger is full."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def again(self, digest: bytes) -> bool:
        """Note that it was asked for; whether it was before."""
        short = digest[:8]
        if short in self._young:
            return True
        known = short in self._old
        if len(self._young) >= self._most:
            self._old, self._young = self._young, set()
        self._young.add(short)
        return known
