"""Queues that a broker refuses: each is left alone for a while, longer each time, so that it holds up no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 8.0
FORGOTTEN_S: Final = 60.0
"""A queue that was not refused for so long after its pause, is as if it never had been."""

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Refusal:
    words: str
    pause_s: float
    until_s: float


class Refusals(Generic[K]):
    """By queue, or by queue and level: whatever is refused by itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refusals: dict[K, _Refusal] = {}

    def note(self, key: K, words: str, pause_s: float | None = None) -> bool:
        """It was refused. Whether that is news: the first time, or another reason than before."""
        now_s = self._clock()
        kept = self._refusals.items()
        self._refusals = {other: one for other, one in kept if now_s < one.until_s + FORGOTTEN_S}
        before = self._refusals.get(key)
        if pause_s is None:
            pause_s = FIRST_PAUSE_S if before is None else min(LONGEST_PAUSE_S, 2 * before.pause_s)
        self._refusals[key] = _Refusal(words, pause_s, now_s + pause_s)
        return before is None or before.words != words

    def forget(self, key: K) -> None:
        """It is not refused any more."""
        self._refusals.pop(key, None)

    def to_ask(self, keys: Iterable[K]) -> list[K]:
        """Those of these that are not left alone now."""
        now_s = self._clock()
        return [key for key in keys if (one := self._refusals.get(key)) is None or one.until_s <= now_s]

    def why(self, keys: Iterable[K]) -> str:
        """Why the first of these that was refused was so."""
        return next((self._refusals[key].words for key in keys if key in self._refusals), "it is refused")
