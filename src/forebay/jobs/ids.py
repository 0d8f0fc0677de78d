"""Ids of jobs: UUIDv7 (RFC 9562), whose last 16 random bits say in which shard the job lives.

An id of another maker is as good: its last bits are random too. What was asked with an Idempotency-Key takes them from
its key, so that the key and every job that it may stand for live in one shard.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable

from forebay.core.errors import RequestError

_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_COUNTER_BITS = 12
_COUNTER_START = 0x7FF
"""A new millisecond's counter starts at random below this, so that the upper half of its range is left to count in."""
_SHOWN = 60


def wall_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class JobIds:
    """Makes ids that ascend in the order in which they were made here, also when the clock goes back.

    `now_ms` returns milliseconds since 1970; `random_bytes` that many random bytes.
    """

    def __init__(self, now_ms: Callable[[], int] = wall_ms, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._now_ms, self._random_bytes = now_ms, random_bytes
        self._last_ms, self._counter = -1, 0

    def new(self, shard_bits: int | None = None) -> str:
        """An id that no other process makes either. `shard_bits` (0 to 65535): those of `shard_bits_of`."""
        random = int.from_bytes(self._random_bytes(10))
        now_ms = self._now_ms()
        if now_ms > self._last_ms:
            self._last_ms, self._counter = now_ms, (random >> 64) & _COUNTER_START
        else:
            self._counter += 1
            if self._counter >> _COUNTER_BITS:
                # RFC 9562, 6.2: a counter that is full may run the time ahead.
                self._last_ms, self._counter = self._last_ms + 1, 0
        low = random & 0x3FFF_FFFF_FFFF_FFFF
        if shard_bits is not None:
            low = low & ~0xFFFF | shard_bits & 0xFFFF
        text = f"{self._last_ms:012x}7{self._counter:03x}{1 << 63 | low:016x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def shard_of(id: str, shards: int) -> int:
    """The shard in which the job lives: 0 to `shards` - 1."""
    return int(id[-4:], 16) % shards


def shard_bits_of(tenant: str, key: str) -> int:
    """The last bits of ids that are asked for with this Idempotency-Key; `shard_of` of them is the key's shard."""
    digest = hashlib.blake2b(f"{tenant}\0{key}".encode("utf-8", "surrogateescape"), digest_size=2).digest()
    return int.from_bytes(digest)


def shard_of_key(tenant: str, key: str, shards: int) -> int:
    """The shard in which an Idempotency-Key lives, and the jobs that were asked for with it."""
    return shard_bits_of(tenant, key) % shards


def made_ms(id: str) -> int:
    """When it was made, by the clock of its maker: milliseconds since 1970."""
    return int(id[:8] + id[9:13], 16)


def is_id(text: str) -> bool:
    """Whether it is an id in the form in which ids are made here: lower case, version 7."""
    return _FORM.fullmatch(text) is not None


def parse_id(text: str) -> str:
    """The id that a caller wrote, in lower case. Raises `RequestError` (job_not_found) for what cannot be one."""
    id = text.lower()
    if not is_id(id):
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
        raise RequestError(
            f"there is no job {shown!r}: ids are UUIDs of version 7, such as 01890a5d-ac96-774b-bcce-b302099a8057",
            code="job_not_found",
        )
    return id
