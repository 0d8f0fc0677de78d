"""`RedisDirectory`: what workers serve, told through Redis or Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final
from weakref import WeakSet

import msgspec

from forebay.brokers.redis_link import RedisLink
from forebay.brokers.redis_listener import RedisListener
from forebay.jobs.directory import SILENT_AFTER_S, Announced, Known, ServedModel, identity_of
from forebay.jobs.redis_reader import PREFIX
from forebay.jobs.redis_roles import RoleScripts
from forebay.jobs.wakening import Wakening

_ORDER_DIGITS: Final = 16
_IDENTITY_DIGITS: Final = 16
_SILENT_MS: Final = round(SILENT_AFTER_S * 1000)


class RedisDirectory:
    """A `Directory`. The link is its maker's to close."""

    def __init__(self, link: RedisLink, *, prefix: str = PREFIX) -> None:
        self._scripts = RoleScripts(link, prefix)
        self._listeners: WeakSet[Wakening] = WeakSet()
        self._listener = RedisListener(
            link, [f"{self._scripts.base}news"], lambda channel, data: self._tell(), self._tell, "workers"
        )
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[ServedModel, ...]).decode
        self._read: dict[bytes, Announced] = {}
        """What the last look found, so that only what is new is decoded."""

    async def announce(self, worker: str, models: Sequence[ServedModel], gone: Sequence[str] = ()) -> None:
        """Tell all that a worker serves."""
        by_name: dict[str, list[ServedModel]] = {}
        for model in models:
            by_name.setdefault(model.name, []).append(model)
        told = [
            word
            for name, versions in by_name.items()
            for word in (name, identity_of(versions).encode() + self._encode(versions))
        ]
        await self._scripts.call("announce", [worker, _SILENT_MS, len(by_name), *told, *gone])

    async def renew(self, worker: str) -> bool:
        """It is there still."""
        return bool(await self._scripts.execute("PEXPIRE", f"w:{worker}", _SILENT_MS))

    async def withdraw(self, worker: str) -> None:
        """It is going."""
        await self._scripts.call("withdraw", [worker])

    async def look(self) -> Known:
        """All that is known now."""
        read: dict[bytes, Announced] = {}
        last, *workers = await self._scripts.call("look", [])
        known = Known(
            {
                worker.decode(): self._announced(models, read)
                for worker, models in zip(workers[::2], workers[1::2], strict=True)
            },
            self._announced(last, read),
        )
        self._read = read
        return known

    def _announced(self, flat: Sequence[bytes], read: dict[bytes, Announced]) -> dict[str, Announced]:
        found: dict[str, Announced] = {}
        for name, entry in zip(flat[::2], flat[1::2], strict=True):
            if not name:
                continue
            announced = self._read.get(entry)
            if announced is None:
                announced = Announced(
                    int(entry[:_ORDER_DIGITS]), self._decode(entry[_ORDER_DIGITS + _IDENTITY_DIGITS :])
                )
            found[name.decode()] = read[entry] = announced
        return found

    def news(self) -> AsyncIterator[None]:
        """Something each time that there may be something new."""
        listener = Wakening()
        self._listeners.add(listener)
        self._listener.start()
        if self._listener.stands:
            listener.wake()
        return listener

    async def close(self) -> None:
        """Stop listening."""
        await self._listener.close()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener.wake()
