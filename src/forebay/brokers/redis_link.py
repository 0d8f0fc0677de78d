"""A URL to a client of Redis or Valkey: one server, TLS, a Unix socket, Sentinel, Cluster.

Nothing is sent twice here: whether a call took effect is not known after an error, and only who made it knows whether
it may be repeated. What goes wrong is a `DependencyError` within `CALL_TIMEOUT_S`; no message shows a password.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, NoReturn, TypeVar

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from forebay.brokers.redis_cluster import ClusterClient, Node
from forebay.brokers.redis_connections import (
    SentinelConnection,
    SentinelTlsConnection,
    SocketConnection,
    TcpConnection,
    TlsConnection,
)
from forebay.brokers.redis_url import parse_url
from forebay.core.errors import DependencyError, SetupError

OLDEST: Final = (7, 2)
SOCKET_TIMEOUT_S: Final = 5.0
CALL_TIMEOUT_S: Final = 8.0
"""Of a whole call: waiting for a connection, connecting, and the answer."""

T = TypeVar("T")
DependencyCode = Literal["store_unavailable", "broker_unavailable"]
_CODE_WORDS = {
    "OOM": "it is at its maxmemory; raise maxmemory or let jobs finish",
    "MISCONF": "it cannot write to its disk (MISCONF)",
    "LOADING": "it is loading its data",
    "READONLY": "it is a replica that takes no writes; a failover may be under way",
    "CLUSTERDOWN": "its cluster is down",
    "MASTERDOWN": "its primary is down",
    "TRYAGAIN": "its cluster is moving keys",
    "NOREPLICAS": "it has too few replicas to take writes",
    "NOAUTH": "it wants a password",
    "WRONGPASS": "it refuses the user or the password",
    "NOPERM": "its ACL does not allow what is needed",
    "BUSY": "it is busy with a script",
}
_CLASS_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (redis_errors.OutOfMemoryError, _CODE_WORDS["OOM"]),
    (redis_errors.ReadOnlyError, _CODE_WORDS["READONLY"]),
    (redis_errors.BusyLoadingError, _CODE_WORDS["LOADING"]),
    (redis_errors.MasterDownError, _CODE_WORDS["MASTERDOWN"]),
    (redis_errors.ClusterDownError, _CODE_WORDS["CLUSTERDOWN"]),
    (redis_errors.TryAgainError, _CODE_WORDS["TRYAGAIN"]),
    (redis_errors.NoPermissionError, _CODE_WORDS["NOPERM"]),
    (redis_errors.AuthenticationError, _CODE_WORDS["WRONGPASS"]),
    (redis_errors.TimeoutError, f"no answer within {SOCKET_TIMEOUT_S:g} s"),
    (TimeoutError, f"no answer within {CALL_TIMEOUT_S:g} s"),
)


def dependency_error(error: BaseException, shown: str, code: DependencyCode) -> DependencyError:
    """What went wrong, in words that name the server and the likely cause."""
    text = str(error)
    words = next((words for kind, words in _CLASS_WORDS if isinstance(error, kind)), None)
    if words is None:
        words = _CODE_WORDS.get(text.partition(" ")[0])
    if words is None and (untrusted := _untrusted(error)) is not None:
        words = f"TLS fails ({untrusted}); name the certificate of who signed the server's: ssl_ca_certs=PATH"
    if words is None and isinstance(error, redis_errors.ConnectionError | OSError):
        words = "cannot be reached, or the connection broke"
    if words is None:
        words = f"it answered {text!r}" if text else type(error).__name__
    return DependencyError(f"Redis at {shown}: {words}", code=code)


def _untrusted(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """What is wrong with the server's certificate, which redis-py raises as the cause of an error of its own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause


class RedisLink:
    """A client of one server, of whom a Sentinel names, or of a cluster. Made on the event loop that uses it.

    `connections`: most at once; further calls wait for one.
    """

    def __init__(self, url: str, *, connections: int = 16, code: DependencyCode = "store_unavailable") -> None:
        self.address = parse_url(url)
        self.shown = self.address.shown
        self._code: DependencyCode = code
        self._free = asyncio.Semaphore(connections)
        self._sentinels: list[Redis] = []
        self._client = self._make(connections)

    async def execute(self, *words: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """One command and its answer. In a cluster the first key of the command says which node is asked.

        Raises `DependencyError`, and `NoScriptError` of redis-py, after which nothing has happened.
        """
        try:
            async with asyncio.timeout(timeout_s), self._free:
                return await unless_canceled(self._client.execute_command(*words))
        except redis_errors.NoScriptError:
            raise
        except _FAILURES as error:
            self._fail(error)

    async def check(self) -> str:
        """Name and version of the server. Raises `SetupError` for one that is too old or may evict what is stored,
        `DependencyError` where it cannot be asked now."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                client = await self._one_node()
                server, memory = await client.info("server"), await client.info("memory")
        except redis_errors.AuthenticationError as error:
            raise SetupError(dependency_error(error, self.shown, self._code).message) from None
        except _FAILURES as error:
            if _untrusted(error) is not None:
                raise SetupError(dependency_error(error, self.shown, self._code).message) from None
            self._fail(error)
        name = "Valkey" if "valkey_version" in server else "Redis"
        version = str(server.get("valkey_version") or server["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise SetupError(
                f"{self.shown} is {name} {version}; Forebay needs Redis or Valkey from {'.'.join(map(str, OLDEST))}"
            )
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if memory.get("maxmemory") and policy.startswith("allkeys"):
            raise SetupError(
                f"{self.shown} has maxmemory-policy {policy} and would throw accepted jobs away when memory is short; "
                f"set maxmemory-policy noeviction there"
            )
        return f"{name} {version}"

    @asynccontextmanager
    async def subscribed(self, channels: Sequence[str]) -> AsyncIterator[PubSub]:
        """A subscription on a connection of its own. What redis-py raises on it is left to `failure`."""
        async with asyncio.timeout(CALL_TIMEOUT_S):
            client = await self._one_node()
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await unless_canceled(pubsub.subscribe(*channels))
            yield pubsub
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    def failure(self, error: BaseException) -> DependencyError | None:
        """The error to tell where `error` came from the server or the way there; None: it is another's."""
        return dependency_error(error, self.shown, self._code) if isinstance(error, _FAILURES) else None

    async def close(self) -> None:
        """Close all connections."""
        for client in (self._client, *self._sentinels):
            await client.aclose()

    def _fail(self, error: BaseException) -> NoReturn:
        raise dependency_error(error, self.shown, self._code) from error

    def _make(self, connections: int) -> Redis | ClusterClient:
        address = self.address
        if address.kind == "cluster":
            return ClusterClient(address.hosts, lambda node: self._client_of(node, connections))
        if address.kind == "sentinel":
            secure = {"ssl": True} if address.tls else {}
            sentinel = Sentinel(  # type: ignore[no-untyped-call]
                address.hosts,
                sentinel_kwargs={**_limits(), **address.sentinel_options, **secure},
                **_limits(),
                **address.options,
                **secure,
            )
            self._sentinels = sentinel.sentinels
            kind = SentinelTlsConnection if address.tls else SentinelConnection
            client: Redis = sentinel.master_for(address.service, connection_class=kind)
            return client
        if address.path:
            return self._pooled(SocketConnection, connections, path=address.path)
        return self._client_of(address.hosts[0], connections)

    def _client_of(self, node: Node, connections: int) -> Redis:
        kind = TlsConnection if self.address.tls else TcpConnection
        return self._pooled(kind, connections, host=node[0], port=node[1])

    def _pooled(self, kind: type[Any], connections: int, **where: Any) -> Redis:
        # Subscriptions and checks are beside the calls that are counted.
        pool = ConnectionPool(
            connection_class=kind, max_connections=connections + 8, **where, **_limits(), **self.address.options
        )
        return Redis.from_pool(pool)

    async def _one_node(self) -> Redis:
        """A client of one node; in a cluster of any, since what is published reaches all of them."""
        if isinstance(self._client, ClusterClient):
            return self._client.node(await self._client.any_node())
        return self._client


async def unless_canceled(call: Awaitable[T]) -> T:
    """What a call of redis-py brings, where the task is not canceled meanwhile. redis-py writes through
    `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that comes as the write ends (bpo-37658): who
    waits for the end of the task would wait for ever."""
    task = asyncio.current_task()
    assert task is not None
    canceled_before = task.cancelling()
    try:
        return await call
    finally:  # also where the call fails after it has forgotten
        if task.cancelling() > canceled_before:
            raise asyncio.CancelledError


def _limits() -> dict[str, Any]:
    """Keyword arguments of every connection: bounded in time, and nothing is tried twice."""
    return {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
    }


_FAILURES = (redis_errors.RedisError, OSError, TimeoutError)
