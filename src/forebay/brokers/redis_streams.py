"""`RedisStreams`: queues in Redis or Valkey beside another store of records. A stream for each queue and level, read by
one consumer group; a message is deleted when it is acked, so that the length of a stream is what is not done.

All streams share one hash tag: in a cluster they lie on one node, and one read waits for several.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args

from redis.exceptions import NoScriptError

from forebay.brokers.port import PRIORITY_LEVELS, Capabilities, Delivery, Depth, Message
from forebay.brokers.redis_link import RedisLink
from forebay.core.errors import DependencyError

log = logging.getLogger("forebay.jobs")

ScriptName = Literal["publish", "take", "own", "extend", "ack", "release", "depth", "leave"]
_FLAGS: Final[dict[str, str]] = {"publish": "", "depth": "no-writes"}
# What ends messages goes on where memory is short.
_ENDING = "allow-oom"

_GROUP = "workers"
_BLOCK_S = 1.0
"""Longest blocked read: well below every socket timeout, and what `close` may have to wait for."""
_OVERDUE_EVERY_S = 1.0
_FORGET_MS = 3_600_000
_CALL_MESSAGES = 256
_CALL_BYTES = 4 << 20
_GROUP_IS_GONE = ("NOGROUP", "UNBLOCKED")

Item = TypeVar("Item")


class Receipt(NamedTuple):
    """Where a delivered message stands."""

    stream: str
    entry: bytes


@dataclass(slots=True)
class _Kept:
    """A delivery that nobody has been given yet, and until when (monotonic seconds) it is surely ours."""

    delivery: Delivery
    sure_until_s: float


class RedisStreams:
    """One consumer, made on the event loop that uses it. `link` is its caller's to close, and best made with the code
    `broker_unavailable`.

    Reads run by themselves and put what they get into `_kept`: whoever waits for one may leave, and the next gets it.
    """

    capabilities: Capabilities = Capabilities("item", extends=True, orders=True)

    def __init__(self, link: RedisLink, *, prefix: str = "forebay") -> None:
        self._link = link
        self._base = f"{prefix}:{{queues}}:"
        self._lease_key = f"{self._base}lease_ms"
        self._consumer = secrets.token_hex(8)
        self._scripts = {name: _script(name) for name in get_args(ScriptName)}
        self._kept: dict[Receipt, _Kept] = {}
        self._held: dict[Receipt, float] = {}
        """What callers have, until when (monotonic seconds) as far as is known here."""
        self._reads: dict[tuple[str, tuple[str, ...]], asyncio.Task[None]] = {}
        self._streams: dict[str, tuple[str, int]] = {}
        """Every stream that is read, as queue and level."""
        self._answer_lost = False
        self._looked_s = float("-inf")
        self._turn = 0
        self._closed = asyncio.get_running_loop().create_future()

    # -- the port -----------------------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """By a script that may be repeated: what waits already is not added again."""
        self._check_open()
        for part in _parts(messages, lambda message: len(message.payload)):
            places = [(self._stream(message.queue, message.level), message) for message in part]
            await self._call_on("publish", [(stream, message.id, message.payload) for stream, message in places])
        return [True] * len(messages)

    async def lease(self, queues: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[Delivery]:
        """Looks for what others have let lapse too, at least once a second."""
        self._check_open()
        names, until_s = tuple(dict.fromkeys(queues)), time.monotonic() + wait_s
        if not names or most < 1:
            return []
        while True:
            if self._answer_lost:
                await self._run("own", names, partial(self._read_own, lease_s))
            if any(kept.sure_until_s < time.monotonic() for kept in self._kept.values()):
                await self._run("check", names, partial(self._check_kept, lease_s))
            found = self._hand_out(names, most, lease_s)
            if not found:
                await self._run("take", names, partial(self._take, names, most, lease_s))
                found = self._hand_out(names, most, lease_s)
            left_s = until_s - time.monotonic()
            if found or left_s <= 0:
                return found
            block_s = min(left_s, _BLOCK_S, max(lease_s / 2, 0.01))
            await self._run("wait", names, partial(self._wait, names, most, block_s, lease_s), left_s)

    async def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> None:
        """A claim by whom they belong to."""
        self._check_open()
        until_s = time.monotonic() + lease_s
        for part in _parts(deliveries):
            await self._call_on("extend", _places(part))
            self._held.update((one.receipt, until_s) for one in part if one.receipt in self._held)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Out of the group and out of the stream."""
        await self._end("ack", deliveries)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """To the ends of their streams."""
        await self._end("release", deliveries)

    async def depth(self, queue: str) -> Depth:
        """Bytes are not told. When a lease is over is known from who leased last."""
        self._check_open()
        streams = [self._stream(queue, level) for level in range(PRIORITY_LEVELS)]
        waiting, held = await self._call("depth", [*streams, self._lease_key], [])
        return Depth(waiting, -1, held)

    async def close(self) -> None:
        """Gives back what nobody was given. Errors are left to the ends of leases."""
        if self._closed.done():
            return
        self._closed.set_result(None)
        await asyncio.gather(*self._reads.values(), return_exceptions=True)
        try:
            for part in _parts([kept.delivery for kept in self._kept.values()]):
                await self._call_on("release", _places(part))
            if self._streams:
                await self._call("leave", list(self._streams), [_FORGET_MS])
        except DependencyError as error:
            log.warning("the broker could not be told that this consumer ends: %s", error)
        self._kept.clear()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _run(
        self,
        kind: str,
        names: tuple[str, ...],
        read: Callable[[], Coroutine[Any, Any, None]],
        within_s: float | None = None,
    ) -> None:
        """Wait for a read, which goes on if the caller leaves; one of a kind at a time. Raises `DependencyError`."""
        running = self._reads.get((kind, names))
        if running is None:
            running = self._reads[kind, names] = asyncio.create_task(read(), name=f"redis streams: {kind}")
            running.add_done_callback(lambda done: self._ended(kind, names, done))
        await asyncio.wait({running, self._closed}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        self._check_open()
        if running.done():
            running.result()

    def _ended(self, kind: str, names: tuple[str, ...], done: asyncio.Task[None]) -> None:
        del self._reads[kind, names]
        if done.cancelled() or done.exception() is not None:
            # The server may have given us messages in an answer that has not come.
            self._answer_lost = True

    async def _take(self, names: tuple[str, ...], most: int, lease_s: float) -> None:
        streams, now_s = self._to_read(names), time.monotonic()
        keys = [*streams, self._lease_key]
        look_first = now_s - self._looked_s >= _OVERDUE_EVERY_S
        if look_first:
            self._looked_s = now_s
            self._held = {receipt: until_s for receipt, until_s in self._held.items() if until_s > now_s}
        self._keep(streams, await self._call("take", keys, [most, round(lease_s * 1000), int(look_first)]), lease_s)

    async def _wait(self, names: tuple[str, ...], most: int, block_s: float, lease_s: float) -> None:
        streams = self._to_read(names)
        words = ["XREADGROUP", "GROUP", _GROUP, self._consumer, "COUNT", most, "BLOCK", max(1, round(block_s * 1000))]
        try:
            answer = await self._link.execute(*words, "STREAMS", *streams, *[">"] * len(streams))
        except DependencyError as error:
            if not str(error.__cause__).startswith(_GROUP_IS_GONE):
                raise
            return  # All was flushed; the next `take` makes the groups anew.
        numbers = {stream.encode(): number for number, stream in enumerate(streams, 1)}
        for stream, entries in answer or ():
            rows = [(numbers[stream], entry, values.get(b"id"), values.get(b"payload"), 0) for entry, values in entries]
            self._keep(streams, rows, lease_s)

    async def _read_own(self, lease_s: float) -> None:
        """After an answer was lost: what we hold, and nobody here knows of."""
        self._answer_lost = False
        streams = list(self._streams)
        if streams:
            self._keep(streams, await self._call("own", streams, []), lease_s)

    def _keep(self, streams: Sequence[str], rows: Sequence[Any], lease_s: float) -> None:
        # The lease began while the answer was on its way, and whoever gets it wants the most of it.
        sure_until_s = time.monotonic() + lease_s / 3
        for number, entry, id, payload, was_overdue in rows:
            stream = streams[number - 1]
            receipt = Receipt(stream, entry)
            queue, level = self._streams[stream]
            if receipt in self._held and not was_overdue:
                continue
            # Somebody else's entry has neither; who decodes it finds that out.
            message = Message((id or b"").decode(errors="replace"), queue, payload or b"", level)
            delivery = Delivery(message, receipt)
            self._kept[receipt] = _Kept(delivery, sure_until_s)

    async def _check_kept(self, lease_s: float) -> None:
        """What has lain here for long may be another's by now; what is not is held on to."""
        checked, sure_until_s = list(self._kept.values()), time.monotonic() + lease_s / 3
        for part in _parts([kept.delivery for kept in checked]):
            held = await self._call_on("extend", _places(part))
            for delivery, is_held in zip(part, held, strict=True):
                if not is_held:
                    self._kept.pop(delivery.receipt, None)
                elif delivery.receipt in self._kept:
                    self._kept[delivery.receipt].sure_until_s = sure_until_s

    def _hand_out(self, names: tuple[str, ...], most: int, lease_s: float) -> list[Delivery]:
        wanted = [kept.delivery for kept in self._kept.values() if kept.delivery.message.queue in names]
        wanted.sort(key=lambda delivery: delivery.message.level)
        until_s = time.monotonic() + lease_s
        for delivery in wanted[:most]:
            del self._kept[delivery.receipt]
            self._held[delivery.receipt] = until_s
        return wanted[:most]

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _end(self, name: Literal["ack", "release"], deliveries: Sequence[Delivery]) -> None:
        self._check_open()
        for part in _parts(deliveries):
            await self._call_on(name, _places(part))
            for delivery in part:
                self._held.pop(delivery.receipt, None)

    async def _call_on(self, name: ScriptName, rows: Sequence[tuple[str, Any, Any]]) -> Any:
        """A script on rows that begin with their stream."""
        numbers: dict[str, int] = {}
        arguments: list[Any] = []
        for stream, second, third in rows:
            arguments += (numbers.setdefault(stream, len(numbers) + 1), second, third)
        return await self._call(name, [key for stream in numbers for key in (stream, f"{stream}:ids")], arguments)

    async def _call(self, name: ScriptName, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        source, digest = self._scripts[name]
        rest = (len(keys), *keys, _GROUP, self._consumer, *arguments)
        try:
            return await self._link.execute("EVALSHA", digest, *rest)
        except NoScriptError:
            return await self._link.execute("EVAL", source, *rest)

    def _stream(self, queue: str, level: int) -> str:
        return f"{self._base}{level}:{queue}"

    def _to_read(self, names: tuple[str, ...]) -> list[str]:
        """Streams, the highest level first, and another queue first each time."""
        self._turn += 1
        first = self._turn % len(names)
        places = [(name, level) for level in range(PRIORITY_LEVELS) for name in (*names[first:], *names[:first])]
        streams = {self._stream(*place): place for place in places}
        self._streams.update(streams)
        return list(streams)

    def _check_open(self) -> None:
        if self._closed.done():
            raise DependencyError("this connection to the broker was closed", code="broker_unavailable")


def _script(name: ScriptName) -> tuple[str, str]:
    """A script and its digest."""
    folder = files("forebay.brokers") / "lua"
    texts = [(folder / f"{part}.lua").read_text("utf-8") for part in ("prelude", name)]
    source = "\n".join([f"#!lua flags={_FLAGS.get(name, _ENDING)}", *texts])
    return source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def _places(deliveries: Sequence[Delivery]) -> list[tuple[str, bytes, str]]:
    return [(one.receipt.stream, one.receipt.entry, one.message.id) for one in deliveries]


def _parts(items: Sequence[Item], nbytes: Callable[[Item], int] = lambda _: 0) -> Iterator[list[Item]]:
    """As much at a time as does not hold the server up."""
    part: list[Item] = []
    part_bytes = 0
    for item in items:
        part.append(item)
        part_bytes += nbytes(item)
        if len(part) == _CALL_MESSAGES or part_bytes >= _CALL_BYTES:
            yield part
            part, part_bytes = [], 0
    if part:
        yield part
