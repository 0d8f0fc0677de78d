"""`RedisCalls`: calls to workers and their answers through Redis or Valkey."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from forebay.brokers.redis_link import RedisLink
from forebay.brokers.redis_listener import RedisListener
from forebay.core.errors import DependencyError
from forebay.jobs.calls import CALLER_DIGITS, MOST_WAITING, MOST_WAITING_BYTES, WAITING, Call, CallAnswer, Taken
from forebay.jobs.redis_reader import PREFIX
from forebay.jobs.redis_roles import RoleScripts

_log = logging.getLogger(__name__)
_FORM_DIGITS: Final = 16
_TAKEN_BYTES: Final = 16 << 20
"""Bodies in one take, apart from the last one."""
_MESSAGE_BYTES: Final = 64 << 10
"""A server ends a subscription that does not read fast enough: what is larger is fetched."""
_KEPT_MS: Final = 30_000
_PORTION: Final = 512

OnAnswers = Callable[[Sequence[CallAnswer]], None]
OnCalls = Callable[[frozenset[str]], None]


class RedisCalls:
    """A `Calls`. The link is its maker's to close."""

    def __init__(
        self,
        link: RedisLink,
        *,
        prefix: str = PREFIX,
        most_waiting: int = MOST_WAITING,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        self._link = link
        self._scripts = RoleScripts(link, prefix)
        self._bounds = (most_waiting, most_waiting_bytes)
        self._listeners: list[RedisListener] = []
        self._fetching: set[asyncio.Task[None]] = set()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode

    async def send(self, calls: Sequence[Call]) -> Sequence[bool]:
        """Queue calls."""
        words = [
            word for call in calls for word in (call.form, call.level, call.id, _ms(call.left_s), call.body)
        ]  # fmt: skip
        took = await self._scripts.call("send", [*self._bounds, *words])
        return [digit == ord("1") for digit in took]

    async def drop(self, ids: Sequence[str]) -> None:
        """Forget calls."""
        keys = [f"{self._scripts.base}p:{id}" for id in ids]
        if keys:
            await self._link.execute("DEL", *keys)

    async def where(self, ids: Sequence[str]) -> Sequence[str]:
        """Who has each call."""
        places: list[bytes] = []
        for at in range(0, len(ids), _PORTION):
            places += await self._scripts.call("where", ids[at : at + _PORTION])
        return [WAITING if place == b"c" else place[1:].decode() for place in places]

    def hear(self, caller: str, on_answers: OnAnswers, on_gap: Callable[[], None]) -> None:
        """Give this caller its answers."""

        def pass_on(channel: bytes, message: bytes) -> None:
            if message[:1] == b"k":
                fetching = asyncio.get_running_loop().create_task(self._fetch(message[1:].decode(), on_answers))
                self._fetching.add(fetching)
                fetching.add_done_callback(self._fetching.discard)
            else:
                on_answers([CallAnswer(id, body) for id, body in self._decode(memoryview(message)[1:])])

        self._listen(f"r:{caller}", pass_on, on_gap, "answers")

    async def take(self, worker: str, wanted: Mapping[str, int]) -> Taken:
        """Take calls."""
        words = [word for form, most in wanted.items() for word in (form, most)]
        more, *found = await self._scripts.call("take", [worker, _TAKEN_BYTES, *words])
        calls = [
            Call(found[at + 1].decode(), found[at].decode(), found[at + 2] / 1000, found[at + 3])
            for at in range(0, len(found), 4)
        ]
        return Taken(calls, frozenset(_forms(more)))

    async def give_back(self, calls: Sequence[Call]) -> None:
        """Queue calls again."""
        words = [word for call in calls for word in (call.form, call.id, _ms(call.left_s), call.body)]
        if words:
            await self._scripts.call("give_back", words)

    async def answer(self, answers: Sequence[CallAnswer]) -> None:
        """Tell callers: of each all answers in one message, as far as they fit."""
        words: list[Any] = []
        for caller, some in _by_message(answers):
            message = b"m" + self._encode([(answer.id, answer.body) for answer in some])
            kept_ms = _KEPT_MS if len(message) > _MESSAGE_BYTES and len(some) == 1 else 0
            words += [caller, message, kept_ms, len(some), *(answer.id for answer in some)]
        if words:
            await self._scripts.call("answer", words)

    def watch(self, on_calls: OnCalls) -> None:
        """Tell of calls that have come."""
        self._listen(
            "calls",
            lambda channel, message: on_calls(frozenset(_forms(message))),
            lambda: on_calls(frozenset()),
            "calls",
        )

    async def close(self) -> None:
        """Stop listening."""
        for listener in self._listeners:
            await listener.close()
        while self._fetching:
            await asyncio.wait(self._fetching)

    def _listen(
        self, channel: str, on_message: Callable[[bytes, bytes], None], on_stands: Callable[[], None], subject: str
    ) -> None:
        listener = RedisListener(self._link, [self._scripts.base + channel], on_message, on_stands, subject)
        self._listeners.append(listener)
        listener.start()

    async def _fetch(self, id: str, on_answers: OnAnswers) -> None:
        """An answer that did not fit into a message. One that cannot be fetched is lost, as a message may be."""
        try:
            message = await self._scripts.execute("GETDEL", f"a:{id}")
        except DependencyError as error:
            _log.warning("An answer was lost: %s", error.message)
            return
        if message is not None:
            on_answers([CallAnswer(id, body) for id, body in self._decode(memoryview(message)[1:])])


def _by_message(answers: Sequence[CallAnswer]) -> Iterator[tuple[str, list[CallAnswer]]]:
    """Answers of one caller that go together, with the caller."""
    open_: dict[str, list[CallAnswer]] = {}
    nbytes: dict[str, int] = {}
    for answer in answers:
        caller = answer.id[:CALLER_DIGITS]
        size = len(answer.body) + len(answer.id) + 16
        if caller in open_ and nbytes[caller] + size > _MESSAGE_BYTES:
            yield caller, open_.pop(caller)
        if caller not in open_:
            open_[caller], nbytes[caller] = [], 16
        open_[caller].append(answer)
        nbytes[caller] += size
    yield from open_.items()


def _forms(text: bytes) -> list[str]:
    return [text[at : at + _FORM_DIGITS].decode() for at in range(0, len(text), _FORM_DIGITS)]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
