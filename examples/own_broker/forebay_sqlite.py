"""A broker of one's own: queues in a SQLite file, for processes of one machine. docs/own-broker.md tells the story."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from forebay.brokers.port import Capabilities, Delivery, Depth, Message
from forebay.core.errors import DependencyError, SetupError

COLUMNS = (
    "place INTEGER PRIMARY KEY, id TEXT, queue TEXT, level INTEGER, payload BLOB, held_until REAL DEFAULT 0, holder"
)
POLL_S, BUSY_S = 0.02, 5.0
T = TypeVar("T")


class SqliteBroker:
    """`url`: sqlite-queue:///absolute/path. A message is a row; who leases it writes a word of its own into it."""

    capabilities = Capabilities("item", extends=True, orders=True)

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = url.partition("://")[2], clock
        self._database: sqlite3.Connection | None = None
        self._using = threading.Lock()
        self._closed = False

    async def check(self) -> str:
        """Name and version, told when a server starts; what does not pass by itself ends the start."""
        try:
            return await self._do(lambda database: f"SQLite {sqlite3.sqlite_version}")
        except DependencyError as error:
            raise error if "locked" in error.message else SetupError(f"{error.message}; is its folder there?") from None

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        """All or, by raising, none of them."""
        rows = [(one.id, one.queue, one.level, one.payload) for one in messages]
        insert = "INSERT INTO messages (id, queue, level, payload) VALUES (?, ?, ?, ?)"
        if rows or self._closed:
            await self._do(lambda database: database.executemany(insert, rows))
        return [True] * len(rows)

    async def lease(self, queues: Sequence[str], most: int, wait_s: float, lease_s: float) -> Sequence[Delivery]:
        """The first that nobody holds."""
        until = time.monotonic() + wait_s
        while True:
            # Canceled while a thread runs it, what it took would be nobody's for `lease_s`: it is given back.
            taking = asyncio.ensure_future(self._do(lambda database: self._take(database, queues, most, lease_s)))
            try:
                found = await asyncio.shield(taking)
            except asyncio.CancelledError:
                with contextlib.suppress(DependencyError):
                    await self.release(await taking)
                raise
            if found or time.monotonic() >= until:
                return found
            await asyncio.sleep(POLL_S)

    async def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> None:
        """Hold them for longer."""
        await self._change("UPDATE messages SET held_until = ? WHERE place = ? AND holder = ?", deliveries, lease_s)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Delete what is still one's own."""
        await self._change("DELETE FROM messages WHERE place = ? AND holder = ?", deliveries)

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Let go of what is still one's own."""
        release = "UPDATE messages SET held_until = 0, holder = NULL WHERE place = ? AND holder = ?"
        await self._change(release, deliveries)

    async def depth(self, queue: str) -> Depth:
        """Counted."""
        query = "SELECT held_until > ?, length(payload) FROM messages WHERE queue = ?"
        rows = await self._do(lambda database: database.execute(query, (self._clock(), queue)).fetchall())
        waiting = [size for is_held, size in rows if not is_held]
        return Depth(len(waiting), sum(waiting), len(rows) - len(waiting))

    async def close(self) -> None:
        """What is held is anybody's when its lease ends."""
        self._closed = True
        await asyncio.to_thread(self._close)

    def _take(self, database: sqlite3.Connection, queues: Sequence[str], most: int, lease_s: float) -> list[Delivery]:
        names, now, holder = ",".join("?" * len(queues)), self._clock(), secrets.token_hex(8)
        query = (
            "SELECT place, id, queue, payload, level FROM messages "
            f"WHERE held_until <= ? AND queue IN ({names}) ORDER BY level, place LIMIT ?"
        )
        rows = database.execute(query, (now, *queues, most)).fetchall()
        hold = "UPDATE messages SET held_until = ?, holder = ? WHERE place = ?"
        database.executemany(hold, [(now + lease_s, holder, place) for place, *_ in rows])
        return [Delivery(Message(*message), (place, holder)) for place, *message in rows]

    async def _change(self, statement: str, deliveries: Sequence[Delivery], lease_s: float | None = None) -> None:
        until = () if lease_s is None else (self._clock() + lease_s,)
        rows = [(*until, *delivery.receipt) for delivery in deliveries]
        await self._do(lambda database: database.executemany(statement, rows))

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """In a thread and a transaction of its own. Whatever is wrong with the broker is a `DependencyError`."""
        return await asyncio.to_thread(self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._using:
            try:
                if self._closed:
                    raise sqlite3.OperationalError("the connection was closed")
                if self._database is None:
                    self._database = sqlite3.connect(self._path, BUSY_S, isolation_level=None, check_same_thread=False)
                    self._database.execute(f"CREATE TABLE IF NOT EXISTS messages ({COLUMNS})")
                self._database.execute("BEGIN IMMEDIATE")
                with self._database:
                    return work(self._database)
            except sqlite3.Error as error:
                raise DependencyError(f"{self._path}: {error}", code="broker_unavailable") from None

    def _close(self) -> None:
        with self._using:
            if self._database is not None:
                self._database.close()
