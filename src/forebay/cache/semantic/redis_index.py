"""`RedisIndex`: texts and vectors in vector sets of a Redis that has them (8.0 and later; Valkey has none)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, Literal, get_args

import numpy as np
from redis.exceptions import NoScriptError

from forebay.brokers.redis_link import RedisLink
from forebay.cache.semantic.index import Kept, Match
from forebay.core.errors import SetupError
from forebay.core.tensors import Array

ScriptName = Literal["add", "near", "same", "remove"]
_SEARCH_EFFORT: Final = 200
"""How many vectors a search looks at (EF): of 10,000 random ones it then overlooks next to none."""


class RedisIndex:
    """Shared by all processes with one prefix. `link` is its caller's to close.

    A partition is three keys of one slot: a vector set by entry id, and hashes from id to text and from normalised form
    to id. They expire together when nothing is added for `ttl_s`. A full partition loses an entry chosen by chance.
    Vectors are kept as they come (FP32, NOQUANT), so that scores are exact; the search itself is approximate, and may
    overlook a text.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        prefix: str = "forebay",
        max_entries: int = 100_000,
        ttl_s: float = 86_400.0,
        timeout_s: float = 0.25,
    ) -> None:
        """`timeout_s`: of a whole call. What takes longer is a miss to whoever asks."""
        self._link = link
        self._prefix = prefix
        self._max_entries = max_entries
        self._ttl_ms = round(ttl_s * 1e3)
        self._timeout_s = timeout_s
        folder = files("forebay.cache.semantic") / "lua"
        self._sources = {name: (folder / f"{name}.lua").read_text("utf-8") for name in get_args(ScriptName)}
        self._digests = {
            name: hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
            for name, source in self._sources.items()
        }

    async def check(self) -> None:
        """Raises `SetupError` where the server has no vector sets, `DependencyError` where it cannot be asked."""
        if not await self._link.execute("COMMAND LIST", "FILTERBY", "PATTERN", "vadd"):
            raise SetupError(
                f"{self._link.shown} has no vector sets, which come with Redis 8.0; "
                'set semantic_index = "memory" to keep the semantic cache in each process'
            )

    async def add(self, partition: str, kept: Kept) -> None:
        """Keep a text. One with the same id, or the same normalised form, gives way."""
        arguments = (kept.entry_id, kept.text, kept.normal, _packed(kept.vector), self._max_entries, self._ttl_ms)
        await self._call("add", partition, *arguments)

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
        await self._link.execute("UNLINK", *self._keys(partition), timeout_s=self._timeout_s)

    async def count(self, partition: str) -> int:
        """How many texts a partition has."""
        return int(await self._link.execute("HLEN", self._keys(partition)[1], timeout_s=self._timeout_s))

    async def close(self) -> None:
        """Nothing is held here."""

    def _keys(self, partition: str) -> tuple[str, str, str]:
        base = f"{self._prefix}:semantic:{{{partition}}}:"
        return f"{base}vectors", f"{base}texts", f"{base}normals"

    async def _call(self, name: ScriptName, partition: str, *arguments: Any) -> Any:
        words = (3, *self._keys(partition), *arguments)
        try:
            return await self._link.execute("EVALSHA", self._digests[name], *words, timeout_s=self._timeout_s)
        except NoScriptError:
            return await self._link.execute("EVAL", self._sources[name], *words, timeout_s=self._timeout_s)


def _packed(vector: Array) -> bytes:
    return np.ascontiguousarray(vector, "<f4").tobytes()
