"""The Lua scripts by which jobs are kept in Redis, and their call.

Each takes many jobs of one shard. Calling one again with the same arguments changes nothing, but for `lease`, which
claims further jobs, `due`, which takes further webhooks, `settle`, which counts a failure once more, and `claim` and
`lost`, which find done what they ask for. Nothing is called twice here, except where the server says that it does not
know the script: then it has done nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, Literal, get_args

from redis.exceptions import NoScriptError

from forebay.brokers.redis_link import RedisLink

ScriptName = Literal[
    "submit", "lease", "surrender", "extend", "tell", "finish", "cancel", "delete", "read", "events", "page", "depth",
    "reap", "audit", "peek", "due", "settle", "claim", "revive", "carry", "waited", "lost",
]  # fmt: skip
_FLAGS: Final[dict[str, str]] = {
    # What takes memory is refused when there is none; what ends jobs and gives memory back is not.
    "submit": "",
    "tell": "",
    "read": "no-writes",
    "events": "no-writes",
    "page": "no-writes",
    "depth": "no-writes",
    "peek": "no-writes",
    "revive": "",
    "carry": "no-writes",
    "waited": "no-writes",
}
_ENDING = "allow-oom"


class Scripts:
    """All scripts, for one link. `prefix` begins every key; `clock` is the Lua that tells seconds and microseconds;
    `brokered`: another broker carries the jobs."""

    def __init__(self, link: RedisLink, prefix: str, clock: str, brokered: bool = False) -> None:
        self._link = link
        self._prefix = prefix
        folder = files("forebay.jobs") / "lua"
        prelude = (folder / "prelude.lua").read_text("utf-8").replace("CLOCK", clock)
        prelude = prelude.replace("BROKERED = false", f"BROKERED = {'true' if brokered else 'false'}")
        self._sources: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        for name in get_args(ScriptName):
            flags = _FLAGS.get(name, _ENDING)
            source = f"#!lua flags={flags}\n{prelude}\n{(folder / f'{name}.lua').read_text('utf-8')}"
            self._sources[name] = source
            self._digests[name] = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def base(self, shard: int) -> str:
        """What every key of a shard begins with. The hash tag keeps them on one node of a cluster."""
        return f"{self._prefix}:{{s{shard}}}:"

    async def call(self, name: ScriptName, shard: int, arguments: Sequence[Any]) -> Any:
        """Run one script in one shard. Raises `DependencyError`."""
        key = self.base(shard)
        try:
            return await self._link.execute("EVALSHA", self._digests[name], 1, key, *arguments)
        except NoScriptError:
            return await self._link.execute("EVAL", self._sources[name], 1, key, *arguments)

    async def tenants(self, shard: int) -> list[bytes]:
        """Names of all tenants that have had jobs in a shard. Raises `DependencyError`."""
        return list(await self._link.execute("SMEMBERS", f"{self.base(shard)}tenants"))
