"""A URL to a client of Redis or Valkey: one server, TLS, a Unix socket, Sentinel, Cluster.

Nothing is sent twice here: whether a call took effect is not known after an error, and only who made it knows whether it
may be repeated. What goes wrong is a `DependencyError` within `CALL_TIMEOUT_S`; no message shows a password.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from redis import exceptions as redis_errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from forebay.core.errors import DependencyError, SetupError

OLDEST: Final = (7, 2)
SOCKET_TIMEOUT_S: Final = 5.0
CALL_TIMEOUT_S: Final = 8.0
"""Of a whole call: waiting for a connection, connecting, and the answer."""

DependencyCode = Literal["store_unavailable", "broker_unavailable"]
Kind = Literal["single", "sentinel", "cluster"]
_FORMS = (
    "redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS), unix:///PATH, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or "
    "redis+cluster://HOST:PORT,HOST:PORT"
)
_OPTIONS = frozenset(
    {"db", "username", "password", "client_name", "sentinel_username", "sentinel_password"}
    | {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
)
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


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A URL taken apart. `options` are keyword arguments of redis-py's connections."""

    shown: str
    """The URL without user, password and options: for logs and messages."""
    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    tls: bool = False
    options: dict[str, Any] = {}
    sentinel_options: dict[str, Any] = {}


def parse_url(url: str) -> RedisAddress:
    """Take a URL apart. Raises `SetupError` for one that no server can have, without showing its password."""
    parts = urlsplit(url)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{hosts}{parts.path}"
    secure, _, form = parts.scheme.partition("+")
    if secure not in ("redis", "rediss", "unix") or form not in ("", "sentinel", "cluster") or (form and secure == "unix"):
        raise SetupError(f"{shown!r} is no URL of a Redis or Valkey; write {_FORMS}")
    kind: Kind = "sentinel" if form == "sentinel" else "cluster" if form == "cluster" else "single"
    options = _options(parts.query, shown)
    user, _, password = userinfo.partition(":")
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    sentinel = {
        name.removeprefix("sentinel_"): options.pop(name) for name in tuple(options) if name.startswith("sentinel_")
    }
    path = unquote(parts.path)
    if secure == "unix":
        if not path:
            raise SetupError(f"{shown!r} names no socket; write unix:///PATH")
        return RedisAddress(shown=shown, kind=kind, path=path, options=options)
    service, database = (path.strip("/"), "") if kind == "sentinel" else ("", path.strip("/"))
    if kind == "sentinel" and not service:
        raise SetupError(f"{shown!r} names no service; write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE")
    if database:
        options["db"] = _number(database, "database", shown)
    if kind == "cluster" and options.pop("db", 0):
        raise SetupError(f"{shown!r}: a cluster has database 0 only")
    port = 26379 if kind == "sentinel" else 6379
    return RedisAddress(
        shown=shown, kind=kind, hosts=_hosts(hosts, port, shown), service=service, tls=secure == "rediss",
        options=options, sentinel_options=sentinel,
    )  # fmt: skip


def _options(query: str, shown: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise SetupError(f"{shown!r}: unknown option {name!r}; there are {', '.join(sorted(_OPTIONS))}")
        if name == "db":
            options[name] = _number(text, "db", shown)
        elif name == "ssl_check_hostname":
            options[name] = text.lower() in ("1", "true", "yes")
        else:
            options[name] = text
    return options


def _number(text: str, what: str, shown: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise SetupError(f"{shown!r}: {what} must be a number, got {text!r}")
    return int(text)


def _hosts(text: str, port: int, shown: str) -> tuple[tuple[str, int], ...]:
    hosts = []
    for item in text.split(",") if text else ["127.0.0.1"]:
        try:
            one = urlsplit(f"//{item}")
            hosts.append((unquote(one.hostname or "127.0.0.1"), one.port or port))
        except ValueError:
            raise SetupError(f"{shown!r}: {item!r} is no HOST:PORT") from None
    return tuple(hosts)


def dependency_error(error: BaseException, shown: str, code: DependencyCode) -> DependencyError:
    """What went wrong, in words that name the server and the likely cause."""
    text = str(error)
    words = next((words for kind, words in _CLASS_WORDS if isinstance(error, kind)), None)
    if words is None:
        words = _CODE_WORDS.get(text.partition(" ")[0])
    if words is None and isinstance(error, redis_errors.ConnectionError | OSError):
        words = "cannot be reached, or the connection broke"
    if words is None:
        words = f"it answered {text!r}" if text else type(error).__name__
    return DependencyError(f"Redis at {shown}: {words}", code=code)


class RedisLink:
    """A client of one server, of whom a Sentinel names, or of a cluster. Made on the event loop that uses it.

    `connections`: most at once; further calls wait for one.
    """

    def __init__(
        self, url: str, *, connections: int = 16, code: DependencyCode = "store_unavailable"
    ) -> None:
        self.address = parse_url(url)
        self.shown = self.address.shown
        self._code: DependencyCode = code
        self._free = asyncio.Semaphore(connections)
        self._client = self._make(connections)

    async def execute(self, *words: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """One command and its answer. In a cluster the first key of the command says which node is asked.

        Raises `DependencyError`, and `NoScriptError` of redis-py, after which nothing has happened.
        """
        try:
            async with asyncio.timeout(timeout_s), self._free:
                return await self._client.execute_command(*words)
        except redis_errors.NoScriptError:
            raise
        except _FAILURES as error:
            self._fail(error)

    async def check(self) -> str:
        """Name and version of the server. Raises `SetupError` for one that is too old or may evict what is stored,
        `DependencyError` where it cannot be asked now."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S), self._one_node() as client:
                server, memory = await client.info("server"), await client.info("memory")
        except redis_errors.AuthenticationError as error:
            raise SetupError(dependency_error(error, self.shown, self._code).message) from None
        except _FAILURES as error:
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
                f"{self.shown} has maxmemory-policy {policy} and would throw accepted jobs away when its memory is full; "
                f"set maxmemory-policy noeviction there"
            )
        return f"{name} {version}"

    @asynccontextmanager
    async def subscribed(self, channels: Sequence[str]) -> AsyncIterator[PubSub]:
        """A subscription on a connection of its own. What redis-py raises on it is left to `failure`."""
        async with self._one_node() as client:
            pubsub = client.pubsub(ignore_subscribe_messages=True)
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await pubsub.subscribe(*channels)
                yield pubsub
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    def failure(self, error: BaseException) -> DependencyError | None:
        """The error to tell where `error` came from the server or the way there; None: it is another's."""
        return dependency_error(error, self.shown, self._code) if isinstance(error, _FAILURES) else None

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    def _fail(self, error: BaseException) -> NoReturn:
        raise dependency_error(error, self.shown, self._code) from error

    def _make(self, connections: int) -> Any:
        address = self.address
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.hosts]
            return RedisCluster(
                startup_nodes=nodes, ssl=address.tls, max_connections=connections, retry=Retry(NoBackoff(), 0), **self._options()
            )
        if address.kind == "sentinel":
            options = {**self._options(), "ssl": True} if address.tls else self._options()
            asked = {**_LIMITS, **address.sentinel_options, **({"ssl": True} if address.tls else {})}
            sentinel = Sentinel(address.hosts, sentinel_kwargs=asked, **options)
            return sentinel.master_for(address.service, retry=Retry(NoBackoff(), 0))
        if address.path:
            return self._single(UnixDomainSocketConnection, connections, path=address.path)
        host, port = address.hosts[0]
        return self._single(SSLConnection if address.tls else Connection, connections, host=host, port=port)

    def _options(self) -> dict[str, Any]:
        return {**_LIMITS, **self.address.options}

    def _single(self, kind: type[Any], connections: int, **where: Any) -> Redis:
        # One more than calls may be under way: a subscription is a further one.
        pool = ConnectionPool(
            connection_class=kind, max_connections=connections + 4, retry=Retry(NoBackoff(), 0), **where, **self._options()
        )
        return Redis.from_pool(pool)

    @asynccontextmanager
    async def _one_node(self) -> AsyncIterator[Redis]:
        """A client of one node; in a cluster any, since what is published reaches all of them."""
        if self.address.kind != "cluster":
            yield self._client
            return
        await self._client.initialize()
        node = self._client.get_random_node()
        client = self._single(SSLConnection if self.address.tls else Connection, 2, host=node.host, port=node.port)
        try:
            yield client
        finally:
            await client.aclose()


_LIMITS: Final[dict[str, Any]] = {
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    "protocol": 2,
}
_FAILURES = (redis_errors.RedisError, redis_errors.RedisClusterException, OSError, TimeoutError)
