"""Bringing every job in Redis to its end: one process at a time, in portions."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from itertools import islice
from typing import Any

from forebay.jobs.record import OVERDUE, SILENT
from forebay.jobs.redis_codec import packed_error
from forebay.jobs.redis_scripts import Scripts
from forebay.jobs.store import Reaped

_log = logging.getLogger(__name__)
_LOCK_MS = 1500
"""Longer than the second between two rounds, and short enough that a leader who died is soon replaced."""
_PORTION = 200
_AUDIT_PORTION = 500
_PORTIONS_A_ROUND = 20
_FREED_MOST = 100_000


class RedisReaper:
    """What `reap` does. Every job is in exactly one of the sorted sets of its shard: queue, delayed, running, finished.
    Where one is missing (a server that evicts, or a hand, may do that), all jobs are looked through, at once and then
    no more often than every `republish_after_s`."""

    def __init__(self, scripts: Scripts, shards: int, republish_after_s: float) -> None:
        self._scripts, self._shards, self._republish_after_s = scripts, shards, republish_after_s
        self._owner = secrets.token_hex(8)
        self._words = [self._owner, _LOCK_MS, _PORTION, packed_error(SILENT), packed_error(OVERDUE)]
        self._audits: dict[int, _Audit] = {}
        self._epochs: dict[int, bytes] = {}
        self.freed: dict[bytes, int] = {}
        """Ids of jobs that need a message, with their shards, until somebody takes them off; none where no other broker
        carries them. Of too many the oldest are left to be found lost."""

    async def reap(self) -> Reaped:
        """One round in every shard that this process leads."""
        leader, lost, counts, republished = False, 0, [0] * 5, 0
        for shard in range(self._shards):
            missing = False
            for _ in range(_PORTIONS_A_ROUND):
                epoch, holds, *told = await self._scripts.call("reap", shard, self._words)
                lost += self._epochs.setdefault(shard, epoch) != epoch
                self._epochs[shard] = epoch
                if not holds:
                    break
                leader = True
                counts = [count + new for count, new in zip(counts, told[:5], strict=True)]
                more, missing, freed = told[5:]
                self._note(freed, shard)
                if not more:
                    break
            if missing:
                republished += await self._audit(shard)
        requeued, failed, released, expired, forgotten = counts
        return Reaped(leader, requeued, failed, released, expired, republished, forgotten, lost)

    def _note(self, freed: Sequence[bytes], shard: int) -> None:
        self.freed |= dict.fromkeys(freed, shard)
        for id in list(islice(self.freed, max(0, len(self.freed) - _FREED_MOST))):
            del self.freed[id]

    async def _audit(self, shard: int) -> int:
        """Look at some thousand jobs for those that no sorted set holds; how many were queued anew."""
        audit = self._audits.setdefault(shard, _Audit())
        now = asyncio.get_running_loop().time()
        if not audit.tenants:
            if now < audit.not_before:
                return 0
            _log.warning("Queue entries of jobs were lost in the store; all jobs of shard %d are looked through", shard)
            audit.tenants = await self._scripts.tenants(shard)
        republished = 0
        for _ in range(_PORTIONS_A_ROUND):
            if not audit.tenants:
                break
            words: list[Any] = [audit.tenants[-1], audit.behind, _AUDIT_PORTION]
            audit.behind, count, freed = await self._scripts.call("audit", shard, words)
            self._note(freed, shard)
            republished += count
            if not audit.behind:
                audit.tenants.pop()
        if not audit.tenants:
            audit.not_before = now + self._republish_after_s
        return republished


class _Audit:
    """How far a shard was looked through."""

    def __init__(self) -> None:
        self.tenants: list[bytes] = []
        """Those to come, from behind."""
        self.behind = b""
        self.not_before = 0.0
