"""`RedisReader`: looking at jobs in Redis and waiting for them; and spreading calls over shards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar, Final

import msgspec

from forebay.brokers.redis_link import RedisLink
from forebay.core.errors import RequestError, SetupError
from forebay.jobs.ids import is_id, shard_of
from forebay.jobs.record import CANCELED, ENVELOPE_VERSION, STATE_NAMES, TERMINAL, JobRecord, JobSpec, State
from forebay.jobs.redis_codec import LETTERS, STATES, events_of, look_of, packed_error, packed_id, spec_of, written_id
from forebay.jobs.redis_feed import RedisFeed
from forebay.jobs.redis_scripts import ScriptName, Scripts
from forebay.jobs.store import EVENT_BYTES, EVENTS_BYTES, Event, Look, Page
from forebay.jobs.subscription import Subscription

PREFIX: Final = "forebay"
SERVER_CLOCK: Final = "redis.call('TIME')"
_PORTION = 256
_PORTION_BYTES = 8 << 20
"""Most jobs and bytes of one script's call: while it runs, the server does nothing else."""
_LOOKED_AT_A_PAGE = 500
_CANCELED = packed_error(CANCELED)

Row = Sequence[Any]
"""The arguments of a script for one job."""


class RedisReader:
    """A `JobReader`. The link is its maker's to close."""

    brokered: ClassVar[bool] = False
    """Another broker carries the jobs."""

    def __init__(
        self,
        link: RedisLink,
        *,
        shards: int = 1,
        prefix: str = PREFIX,
        clock: str = SERVER_CLOCK,
    ) -> None:
        self._link, self._shards, self._prefix = link, shards, prefix
        self._scripts = Scripts(link, prefix, clock, self.brokered)
        self._feed = RedisFeed(link, [f"{self._scripts.base(shard)}changes" for shard in range(shards)])

    async def check(self) -> str:
        """Name and version of the server, once it is seen that it will do.

        Raises `SetupError` where it is too old, may evict jobs, or holds jobs spread over another number of shards.
        """
        version = await self._link.check()
        key = f"{self._prefix}:shards"
        await self._link.execute("SET", key, self._shards, "NX")
        found = int(await self._link.execute("GET", key) or self._shards)
        if found != self._shards:
            raise SetupError(
                f"jobs at {self._link.shown} are spread over {found} shards; set shards = {found} in [jobs], or use "
                f"an empty store"
            )
        return version

    async def read(self, ids: Sequence[str], *, output: bool = True) -> Sequence[Look]:
        """Records as they are now."""
        return await self._looks("read", 1 if output else 0, ids)

    async def cancel(self, ids: Sequence[str]) -> Sequence[Look]:
        """Cancel what is not finished."""
        return await self._looks("cancel", _CANCELED, ids)

    async def events(self, id: str, after: int, most_bytes: int = EVENTS_BYTES) -> Sequence[Event]:
        """The next events of a job above `after`."""
        if not is_id(id):
            return []
        words = [packed_id(id), after, most_bytes, EVENT_BYTES]
        return events_of(await self._scripts.call("events", self._shard(id), words), after)

    async def delete(self, id: str) -> bool:
        """Forget a job."""
        return is_id(id) and await self._scripts.call("delete", self._shard(id), [_CANCELED, packed_id(id)]) == 1

    async def asked(self, ids: Sequence[str]) -> Sequence[JobSpec | None]:
        """What was asked for, with bodies."""
        return [await self._asked(id) for id in ids]

    async def list(
        self, tenant: str | None, *, model: str = "", state: str = "", cursor: str = "", limit: int = 50
    ) -> Page:
        """A page of records, the newest ids first."""
        if cursor and not is_id(cursor):
            raise RequestError(f"cursor {cursor!r} is none that a page of jobs gave; leave it out to begin anew")
        if state and state not in LETTERS:
            return Page([])
        begin = packed_id(cursor) if cursor else b""
        words = [model, LETTERS.get(state, ""), tenant or "", begin, limit, max(limit, _LOOKED_AT_A_PAGE)]
        sources = await self._indexes(tenant, state)
        calls = [self._scripts.call("page", shard, [index, *words]) for shard, index in sources]
        return _merged(await asyncio.gather(*calls), limit)

    def changes(self, states: Collection[State] = STATE_NAMES) -> Subscription:
        """Changes from now on."""
        return self._feed.subscribe(states)

    async def close(self) -> None:
        """End every wait, and `changes`."""
        await self._feed.close()

    def _shard(self, id: str) -> int:
        return shard_of(id, self._shards) if self._shards > 1 else 0

    async def _asked(self, id: str) -> JobSpec | None:
        if not is_id(id):
            return None
        key = f"{self._scripts.base(self._shard(id))}j:".encode() + packed_id(id)
        envelope, body, state = await self._link.execute("HMGET", key, "d", "b", "s")
        if envelope is None or body is None or STATES[state] in TERMINAL - {"failed"}:
            return None
        with contextlib.suppress(msgspec.DecodeError):
            spec = spec_of(envelope, id, body)
            if spec.envelope == ENVELOPE_VERSION:
                return spec
        raise RequestError(f"job {id} was stored by a newer server; ask that one", code="unsupported")

    async def _indexes(self, tenant: str | None, state: str) -> Sequence[tuple[int, str | bytes]]:
        """The sorted sets that hold what is asked for, each with its shard."""
        shards = range(self._shards)
        if state == "failed" and tenant != "":
            return [(shard, "dead") for shard in shards]
        if tenant is not None:
            return [(shard, f"i:{tenant}") for shard in shards]
        return [(shard, b"i:" + name) for shard in shards for name in await self._scripts.tenants(shard)]

    async def _looks(self, name: ScriptName, head: Any, ids: Sequence[str]) -> Sequence[Look]:
        looks: list[Look] = [None] * len(ids)
        known = [(position, id) for position, id in enumerate(ids) if is_id(id)]
        replies = await self._spread(name, [head], [id for _, id in known], [[packed_id(id)] for _, id in known])
        for (position, id), fields in zip(known, replies, strict=True):
            looks[position] = look_of(id, fields)
        return looks

    async def _spread(self, name: ScriptName, head: Row, ids: Sequence[str], rows: Sequence[Row]) -> Sequence[Any]:
        """Call a script with all rows, each in the shard of its id, in their order; what it replies for each."""
        if self._shards == 1:
            return await self._in_portions(name, 0, head, rows)
        positions: dict[int, list[int]] = {}
        for position, id in enumerate(ids):
            positions.setdefault(self._shard(id), []).append(position)
        calls = [
            self._in_portions(name, shard, head, [rows[position] for position in its])
            for shard, its in positions.items()
        ]
        replies: list[Any] = [None] * len(rows)
        # All have ended before an error is raised: what is done about it then comes after what they do.
        for its, answers in zip(positions.values(), await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if isinstance(answers, BaseException):
                raise answers
            for position, answer in zip(its, answers, strict=True):
                replies[position] = answer
        return replies

    async def _in_portions(self, name: ScriptName, shard: int, head: Row, rows: Sequence[Row]) -> Sequence[Any]:
        replies: list[Any] = []
        for portion in _portions(rows):
            arguments = [*head, *(argument for row in portion for argument in row)]
            replies += self._replies(name, await self._scripts.call(name, shard, arguments))
        return replies

    def _replies(self, name: ScriptName, reply: Any) -> Iterable[Any]:
        """The replies for single jobs out of that of a script."""
        replies: Iterable[Any] = reply
        return replies


def _portions(rows: Sequence[Row]) -> Iterable[Sequence[Row]]:
    portion: list[Row] = []
    nbytes = 0
    for row in rows:
        weight = sum([len(argument) for argument in row if type(argument) is bytes])
        if portion and (len(portion) >= _PORTION or nbytes + weight > _PORTION_BYTES):
            yield portion
            portion, nbytes = [], 0
        portion.append(row)
        nbytes += weight
    if portion:
        yield portion


def _merged(replies: Sequence[Sequence[Any]], limit: int) -> Page:
    """One page of what several indexes gave, each of which was looked through down to an id of its own."""
    found = [(reply[at], reply[at + 1]) for reply in replies for at in range(1, len(reply), 2)]
    found.sort(key=lambda one: one[0], reverse=True)
    down_to = max((reply[0] for reply in replies), default=b"")
    seen = [one for one in found if one[0] >= down_to]
    records = [look for id, fields in seen[:limit] if isinstance(look := look_of(written_id(id), fields), JobRecord)]
    if len(seen) >= limit and (len(found) > limit or down_to):
        return Page(records, written_id(seen[limit - 1][0]))
    return Page(records, written_id(down_to) if down_to else "")
