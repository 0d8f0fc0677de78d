"""`RedisSharedCache`: a `SharedCache` in Redis or Valkey, beside the jobs or on a server of its own.

All keys are in one slot of a cluster. What every key holds: `e:D` the answer with digest D, `c:D` the claim on it,
`w:D` that somebody waits, `order` digests by their last use, `sizes` what they count for, `bytes` the sum, `drops` a
number that grows by one before answers are dropped. It begins anywhere: a store that lost it does not come to the same
one again.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Collection, Sequence
from importlib.resources import files
from typing import Any, Final, Literal, get_args

import msgspec
from redis.exceptions import NoScriptError

from forebay.brokers.redis_link import RedisLink
from forebay.brokers.redis_listener import RedisListener
from forebay.cache.port import (
    CLAIM_S,
    OVERHEAD_BYTES,
    WAITED_FOR_S,
    Found,
    Free,
    Match,
    News,
    Stats,
    Stored,
    Taken,
    ToKeep,
)
from forebay.core.errors import DependencyError

PREFIX: Final = "forebay"
_DIGEST_BYTES: Final = 32
_PORTION: Final = 256
_UNKNOWN: Final = -1
"""A number of drops that no store comes to."""
_ASK_AGAIN_S: Final = 0.5
_Script = Literal["exchange", "keep", "fail", "renew", "number", "drop"]
_FLAGS: Final = {"keep": ""}
"""All but this one may run where memory is full: they make room, or take next to none."""


class RedisSharedCache:
    """One process's end of it. The link is its maker's to close."""

    def __init__(self, link: RedisLink, max_bytes: int, *, prefix: str = PREFIX) -> None:
        self._link = link
        self._max_bytes = max_bytes
        self._base = f"{prefix}:{{cache}}:"
        self._sources: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        for name in get_args(_Script):
            text = (files("forebay.cache") / "lua" / f"{name}.lua").read_text("utf-8")
            source = f"#!lua flags={_FLAGS.get(name, 'allow-oom')}\n{text}"
            self._sources[name] = source
            self._digests[name] = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self._encode = msgspec.msgpack.Encoder().encode
        self._match = msgspec.msgpack.Decoder(Match).decode
        self._listener: RedisListener | None = None
        self._on_news: Callable[[News], None]
        self._on_gap: Callable[[], None]
        self._asking: asyncio.Task[None] | None = None
        self.drops = _UNKNOWN
        """The number of the last drop that was heard of, or of the last one when that was asked."""

    async def exchange(
        self, asked: Sequence[tuple[bytes, str]], computed: Sequence[tuple[bytes, str]] = ()
    ) -> tuple[Sequence[Found], Collection[bytes]]:
        """Answers, or who computes them; and what of `computed` is waited for."""
        if not (asked or computed):
            return [], ()
        words = (word for one in (*computed, *asked) for word in one)
        found, waited = await self._call("exchange", _ms(CLAIM_S), len(computed), *words)
        return [_found(*one) for one in found], set(waited)

    async def keep(self, digest: bytes, claim: str, answer: ToKeep) -> None:
        """Keep an answer."""
        done = await self._call(
            "keep",
            digest,
            claim,
            int(answer.admitted),
            answer.value,
            *answer.place,
            answer.tenant,
            _joined(answer.tags),
            round(answer.fresh_s * 1e3),
            _ms(answer.fresh_s + answer.stale_s),
            _ms(WAITED_FOR_S),
            self._max_bytes,
            "" if answer.drops is None else answer.drops,
            OVERHEAD_BYTES,
            round(answer.age_s * 1e3),
        )
        if done < 0 and self._listener is not None and (self._asking is None or self._asking.done()):
            # A drop that will be told of soon; or the store was emptied, or is another one, and nobody tells of that.
            self._stands()

    async def fail(self, digest: bytes, claim: str, error: bytes = b"") -> None:
        """End a claim."""
        await self._call("fail", digest, claim, error)

    async def renew(self, claims: Sequence[tuple[bytes, str]]) -> None:
        """They stand longer."""
        if claims:
            await self._call("renew", _ms(CLAIM_S), *(word for claim in claims for word in claim))

    async def drop(self, match: Match) -> int:
        """Forget answers, a portion after the other; those that come meanwhile are not looked at, and so are refused
        from the beginning where they are from before. Others are told at the beginning, from when on they may keep
        answers again, and at the end: until then they find what is to go."""
        told = self._encode(match)
        await self._call("number", secrets.randbits(48), told)
        digests: Sequence[bytes] = [match.digest]
        if not match.digest:
            digests = await self._link.execute("ZRANGE", self._base + "order", 0, -1)
        wanted = (
            int(match.tenant is not None),
            match.tenant or "",
            match.model,
            match.version,
            _joined((match.tag,)) if match.tag else "",
        )
        gone = 0
        for at in range(0, len(digests), _PORTION):
            gone += await self._call("drop", *wanted, *digests[at : at + _PORTION])
        await self._link.execute("PUBLISH", self._base + "news", b"e" + told)
        return gone

    async def stats(self) -> Stats:
        """What there is; what has ended by time is counted until it is come upon."""
        entries = await self._link.execute("ZCARD", self._base + "order")
        nbytes = await self._link.execute("GET", self._base + "bytes")
        return Stats(int(entries), int(nbytes or 0))

    def hear(self, on_news: Callable[[News], None], on_gap: Callable[[], None]) -> None:
        """Tell of news."""
        self._on_news, self._on_gap = on_news, on_gap
        self._listener = RedisListener(
            self._link, [self._base + "news"], lambda channel, data: self._tell(data), self._stands, "cached answers"
        )
        self._listener.start()

    async def close(self) -> None:
        """Hear no more."""
        if self._listener is not None:
            await self._listener.close()
        if self._asking is not None:
            self._asking.cancel()

    def _stands(self) -> None:
        """Messages may have been lost: did any of them tell of a drop?"""
        if self._asking is not None:
            self._asking.cancel()
        self._asking = asyncio.get_running_loop().create_task(self._ask_drops())

    async def _ask_drops(self) -> None:
        while True:
            known = self.drops
            try:
                await self._link.execute("SET", self._base + "drops", secrets.randbits(48), "NX")
                drops = int(await self._link.execute("GET", self._base + "drops"))
            except (DependencyError, TypeError, ValueError):  # gone again, or what somebody else has put there
                drops = _UNKNOWN
            if self.drops != known:
                continue  # one was told of meanwhile, and this may be from before it
            if drops != known:  # the first time too: answers may have been kept here while nothing could be heard
                self._on_gap()
                self.drops = drops
            if drops != _UNKNOWN:
                return
            await asyncio.sleep(_ASK_AGAIN_S)

    def _tell(self, data: bytes) -> None:
        kind, rest = data[:1], data[1:]
        if kind == b"d":
            number, _, match = rest.partition(b" ")
            drops = int(number)
            if drops not in (self.drops, self.drops + 1):  # it may have been asked before it was told
                self._on_gap()
            self.drops = drops
            self._on_news(News(match=self._match(match)))
        elif kind == b"e":
            self._on_news(News(match=self._match(rest)))
        elif kind == b"f":
            self._on_news(News(rest[:_DIGEST_BYTES], failed=True, error=rest[_DIGEST_BYTES:]))
        else:
            self._on_news(News(rest))

    async def _call(self, name: _Script, *arguments: Any) -> Any:
        try:
            return await self._link.execute("EVALSHA", self._digests[name], 1, self._base, *arguments)
        except NoScriptError:
            return await self._link.execute("EVAL", self._sources[name], 1, self._base, *arguments)


def _found(kind: int, *told: Any) -> Found:
    if kind == 1:
        value, age_ms, fresh_ms, left_ms = told
        return Stored(value, age_ms / 1e3, fresh_ms / 1e3, left_ms / 1e3)
    return Taken(told[0] / 1e3) if kind == 2 else Free()


def _joined(tags: Sequence[str]) -> str:
    return "".join(f"\x00{tag}\x00" for tag in tags)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1e3))
