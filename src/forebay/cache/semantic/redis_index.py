"""`RedisIndex`: texts and vectors in vector sets of a Redis that has them (8.0 and later; Valkey has none)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, Literal, get_args

import numpy as np
from redis.exceptions import NoScriptError

from forebay.brokers.redis_link import CALL_TIMEOUT_S, RedisLink
from forebay.cache import port
from forebay.cache.semantic.index import Kept, Match
from forebay.core.errors import SetupError
from forebay.core.tensors import Array

ScriptName = Literal["add", "near", "same", "remove", "drop", "clear"]
_SEARCH_EFFORT: Final = 200
"""How many vectors a search looks at (EF): of 10,000 random ones it then overlooks next to none."""
_PORTION: Final = 64
"""Partitions that one call looks at while answers are forgotten: a store does nothing else meanwhile."""
_FLAGS: Final = {"add": ""}
"""All but this one may run where memory is full: they make room, or take next to none."""


class RedisIndex:
    """Shared by all processes with one prefix. `link` is its caller's to close.

    All keys are in one slot of a cluster, as those of cached answers are, so that all partitions have one bound; what
    every key holds stands in `lua/common.lua`. What a partition has expires when nothing is added to it for `ttl_s`.
    Vectors are kept as they come (FP32, NOQUANT), so that scores are exact; the search itself is approximate, and may
    overlook a text.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        prefix: str = "forebay",
        max_entries: int = 10_000,
        max_bytes: int = 256 << 20,
        ttl_s: float = 86_400.0,
        timeout_s: float = 0.25,
    ) -> None:
        """`max_entries`: of a partition; `max_bytes`: of all, about. `timeout_s`: of a whole call of a request. What
        takes longer is a miss to whoever asks."""
        self._link = link
        self._base = f"{prefix}:{{semantic}}:"
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._ttl_ms = round(ttl_s * 1e3)
        self._timeout_s = timeout_s
        folder = files("forebay.cache.semantic") / "lua"
        common = (folder / "common.lua").read_text("utf-8")
        self._sources: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        for name in get_args(ScriptName):
            text = (folder / f"{name}.lua").read_text("utf-8")
            source = f"#!lua flags={_FLAGS.get(name, 'allow-oom')}\n{common}\n{text}"
            self._sources[name] = source
            self._digests[name] = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def check(self) -> None:
        """Raises `SetupError` where the server has no vector sets, `DependencyError` where it cannot be asked."""
        if not await self._link.execute("COMMAND LIST", "FILTERBY", "PATTERN", "vadd"):
            raise SetupError(
                f"{self._link.shown} has no vector sets, which come with Redis 8.0; "
                'set semantic_index = "memory" to keep the semantic cache in each process'
            )

    async def add(self, partition: str, kept: Kept) -> None:
        """Keep a text. One with the same id, or the same normalised form, gives way."""
        origin = kept.origin
        await self._call(
            "add",
            partition,
            kept.entry_id,
            kept.text,
            kept.normal,
            _packed(kept.vector),
            origin.digest.hex(),
            "".join(map(_tag, origin.tags)),
            "\n".join((origin.tenant, *origin.place)),
            self._max_entries,
            self._max_bytes,
            self._ttl_ms,
        )

    async def same(self, partition: str, normal: str) -> Match | None:
        """The text with this normalised form."""
        found = await self._call("same", partition, normal)
        return Match(found[0].decode(), found[1].decode(), 1.0) if found else None

    async def near(self, partition: str, vector: Array, at_least: float, most: int) -> Sequence[Match]:
        """Texts whose vectors have at least this cosine with one of length 1, best first, at most so many."""
        found = await self._call("near", partition, _packed(vector), most, _SEARCH_EFFORT)
        triples = zip(found[::3], found[1::3], found[2::3], strict=True)
        matches = (Match(name.decode(), text.decode(), 2.0 * float(score) - 1.0) for name, score, text in triples)
        return [match for match in matches if match.score >= at_least]

    async def remove(self, partition: str, entry_id: str) -> None:
        """Forget a text, if it is kept."""
        await self._call("remove", partition, entry_id)

    async def drop(self, partition: str) -> None:
        """Forget a partition."""
        await self._call("drop", partition)

    async def clear(self, which: port.Match) -> None:
        """Forget the texts of these answers, in all partitions, a portion after the other. As nobody's answer waits for
        it, it may take the time that it takes."""
        partitions = await self._link.execute("ZRANGE", self._base + "used", 0, -1)
        wanted = (
            int(which.tenant is not None),
            which.tenant or "",
            which.model,
            which.version,
            _tag(which.tag) if which.tag else "",
            which.digest.hex(),
        )
        for at in range(0, len(partitions), _PORTION):
            await self._call("clear", *wanted, *partitions[at : at + _PORTION], timeout_s=CALL_TIMEOUT_S)

    async def count(self, partition: str) -> int:
        """How many texts a partition has."""
        return int(await self._link.execute("HLEN", f"{self._base}t:{partition}", timeout_s=self._timeout_s))

    async def nbytes(self) -> int:
        """Memory held there, about; what has ended by time is counted until it is come upon."""
        return int(await self._link.execute("GET", self._base + "bytes", timeout_s=self._timeout_s) or 0)

    async def close(self) -> None:
        """Nothing is held here."""

    async def _call(self, name: ScriptName, *arguments: Any, timeout_s: float | None = None) -> Any:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        words = (1, self._base, *arguments)
        try:
            return await self._link.execute("EVALSHA", self._digests[name], *words, timeout_s=limit_s)
        except NoScriptError:
            return await self._link.execute("EVAL", self._sources[name], *words, timeout_s=limit_s)


def _tag(tag: str) -> str:
    return f"\x00{tag}\x00"


def _packed(vector: Array) -> bytes:
    return np.ascontiguousarray(vector, "<f4").tobytes()
