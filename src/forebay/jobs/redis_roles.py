"""The scripts by which web processes and workers meet in Redis, and their call.

All their keys are in one slot of a cluster. Nothing is called twice here, except where the server says that it does not
know the script: then it has done nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, Literal, get_args

from redis.exceptions import NoScriptError

from forebay.brokers.redis_link import RedisLink
from forebay.jobs.redis_reader import PREFIX

RoleScript = Literal["announce", "withdraw", "look", "send", "take", "give_back", "answer", "where"]
_FLAGS: Final[dict[str, str]] = {"look": "no-writes", "send": "", "where": "no-writes"}
_ENDING = "allow-oom"


class RoleScripts:
    """All scripts, for one link. `prefix` begins every key."""

    def __init__(self, link: RedisLink, prefix: str = PREFIX) -> None:
        self._link = link
        self.base = f"{prefix}:{{roles}}:"
        """What every key and channel begins with."""
        folder = files("forebay.jobs") / "lua_roles"
        self._sources: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        for name in get_args(RoleScript):
            source = f"#!lua flags={_FLAGS.get(name, _ENDING)}\n{(folder / f'{name}.lua').read_text('utf-8')}"
            self._sources[name] = source
            self._digests[name] = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def call(self, name: RoleScript, arguments: Sequence[Any]) -> Any:
        """Run one script. Raises `DependencyError`."""
        try:
            return await self._link.execute("EVALSHA", self._digests[name], 1, self.base, *arguments)
        except NoScriptError:
            return await self._link.execute("EVAL", self._sources[name], 1, self.base, *arguments)

    async def execute(self, command: str, key: str, *words: Any) -> Any:
        """One command on the key of this name. Raises `DependencyError`."""
        return await self._link.execute(command, self.base + key, *words)
