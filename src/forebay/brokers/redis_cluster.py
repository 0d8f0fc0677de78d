"""`ClusterClient`: which node of a Redis Cluster is asked.

redis-py's own client of clusters repeats commands and closes connections that others use; this one sends a command
again only where a node says that it did nothing and names who will.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.crc import key_slot

Node = tuple[str, int]
_REDIRECTIONS = 5
_KEY_AT: Final = {"EVALSHA": 3, "EVAL": 3}
"""Where the first key of a command stands, if it is not its first word."""
_MAP_IS_OLD = (redis_errors.ConnectionError, redis_errors.TimeoutError, redis_errors.ReadOnlyError, OSError)


class ClusterClient:
    """Commands with a key, sent to the node that has its slot. `make` gives a client of one node."""

    def __init__(self, seeds: Sequence[Node], make: Callable[[Node], Redis]) -> None:
        self._seeds, self._make = seeds, make
        self._clients: dict[Node, Redis] = {}
        self._owners: list[tuple[int, int, Node]] = []
        """Slots from, to (inclusive), and whose they are."""
        self._known = False
        self._learning = asyncio.Lock()

    async def execute_command(self, *words: Any) -> Any:
        """One command and its answer. Raises what redis-py raises."""
        key = words[_KEY_AT.get(words[0], 1)]
        slot = key_slot(key if isinstance(key, bytes) else str(key).encode())
        owner = await self._owner(slot)
        for _ in range(_REDIRECTIONS):
            try:
                return await self.node(owner).execute_command(*words)  # type: ignore[no-untyped-call]
            except redis_errors.MovedError as error:
                self._known = False
                owner = (error.host or owner[0], error.port)
            except _MAP_IS_OLD:
                self._known = False
                raise
        raise redis_errors.ClusterDownError(f"slot {slot} has no owner")

    def node(self, address: Node) -> Redis:
        """The client of one node."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = self._make(address)
        return client

    async def any_node(self) -> Node:
        """A node that holds slots. Raises what redis-py raises."""
        await self._learn()
        return random.choice(self._owners)[2]

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()

    async def _owner(self, slot: int) -> Node:
        await self._learn()
        for first, last, owner in self._owners:
            if first <= slot <= last:
                return owner
        self._known = False
        raise redis_errors.ClusterDownError(f"slot {slot} has no owner")

    async def _learn(self) -> None:
        """Ask whose the slots are, unless that is known; the first node that answers is believed."""
        async with self._learning:
            if self._known:
                return
            problem: Exception = redis_errors.ClusterDownError("no node is known")
            for address in dict.fromkeys([*(owner for _, _, owner in self._owners), *self._seeds]):
                try:
                    slots = await self.node(address).execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
                except (redis_errors.RedisError, OSError) as error:
                    problem = error
                    continue
                if slots:
                    self._owners = [(first, last, _address(node, address)) for first, last, node, *_ in slots]
                    self._known = True
                    return
            raise problem


def _address(node: Sequence[Any], asked: Node) -> Node:
    """A node as `CLUSTER SLOTS` tells it; one that does not know its own name is where it was asked."""
    host = (node[0] or b"").decode()
    return (host if host not in ("", "?") else asked[0], int(node[1]))
