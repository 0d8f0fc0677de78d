"""`MemoryCalls`: calls to workers in the same process."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from forebay.core.clock import Clock
from forebay.jobs.calls import CALLER_DIGITS, MOST_WAITING, MOST_WAITING_BYTES, WAITING, Call, CallAnswer, Taken

OnAnswers = Callable[[Sequence[CallAnswer]], None]


class _Kept:
    """A call while it is not answered. `end`: when it is overdue."""

    __slots__ = ("call", "end", "place")

    def __init__(self, call: Call, end: float) -> None:
        self.call = call
        self.end = end
        self.place = WAITING


class MemoryCalls:
    """A `Calls`. `clock`: monotonic seconds."""

    def __init__(
        self, clock: Clock, *, most_waiting: int = MOST_WAITING, most_waiting_bytes: int = MOST_WAITING_BYTES
    ) -> None:
        self._clock = clock
        self._most, self._most_bytes = most_waiting, most_waiting_bytes
        self._kept: dict[str, _Kept] = {}
        self._queues: dict[str, list[tuple[int, int, str]]] = {}
        self._number = 0
        self._callers: dict[str, OnAnswers] = {}
        self._watchers: list[Callable[[frozenset[str]], None]] = []

    async def send(self, calls: Sequence[Call]) -> Sequence[bool]:
        """Queue calls."""
        taken: list[bool] = []
        for call in calls:
            waiting = self._waiting(call.form)
            nbytes = sum(len(kept.call.body) for kept in waiting)
            taken.append(len(waiting) < self._most and nbytes + len(call.body) <= self._most_bytes)
            if taken[-1]:
                self._number += 1
                self._queue(call, call.level, self._number)
        self._tell(call.form for call, took in zip(calls, taken, strict=True) if took)
        return taken

    async def drop(self, ids: Sequence[str]) -> None:
        """Forget calls."""
        for id in ids:
            self._kept.pop(id, None)

    async def where(self, ids: Sequence[str]) -> Sequence[str]:
        """Who has each call."""
        return [kept.place if (kept := self._find(id)) is not None else "" for id in ids]

    def hear(self, caller: str, on_answers: OnAnswers, on_gap: Callable[[], None]) -> None:
        """Give this caller its answers; none is ever lost."""
        self._callers[caller] = on_answers

    async def take(self, worker: str, wanted: Mapping[str, int]) -> Taken:
        """Take calls."""
        taken: list[Call] = []
        for form, most in wanted.items():
            queue, left = self._queues.get(form, []), most
            while queue and left:
                kept = self._find(heapq.heappop(queue)[2])
                if kept is not None and kept.place == WAITING:
                    kept.place = worker
                    left -= 1
                    taken.append(msgspec.structs.replace(kept.call, left_s=kept.end - self._clock()))
        return Taken(taken, frozenset(form for form in wanted if self._waiting(form)))

    async def give_back(self, calls: Sequence[Call]) -> None:
        """Queue calls again."""
        for call in calls:
            if self._find(call.id) is not None:
                self._queue(call, -1, 0)
        self._tell(call.form for call in calls)

    async def answer(self, answers: Sequence[CallAnswer]) -> None:
        """Tell callers, in the next turn of the loop."""
        for answer in answers:
            self._kept.pop(answer.id, None)
            on_answers = self._callers.get(answer.id[:CALLER_DIGITS])
            if on_answers is not None:
                asyncio.get_running_loop().call_soon(on_answers, [answer])

    def watch(self, on_calls: Callable[[frozenset[str]], None]) -> None:
        """Tell of calls that have come."""
        self._watchers.append(on_calls)
        on_calls(frozenset())

    def _queue(self, call: Call, level: int, number: int) -> None:
        self._kept[call.id] = _Kept(call, self._clock() + call.left_s)
        heapq.heappush(self._queues.setdefault(call.form, []), (level, number, call.id))

    def _find(self, id: str) -> _Kept | None:
        kept = self._kept.get(id)
        if kept is not None and kept.end <= self._clock():
            del self._kept[id]
            return None
        return kept

    def _waiting(self, form: str) -> list[_Kept]:
        found = [self._find(id) for _, _, id in self._queues.get(form, [])]
        return [kept for kept in found if kept is not None and kept.place == WAITING]

    def _tell(self, forms: Iterable[str]) -> None:
        come = frozenset(forms)
        if come:
            for on_calls in self._watchers:
                on_calls(come)
