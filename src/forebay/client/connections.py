"""What both clients need of httpx: how a connection pool is set up, what is left of a call's time, what failed."""

from __future__ import annotations

import math
from typing import Any

import httpx

from forebay.client.options import ClientOptions
from forebay.client.steps import Failure, Open, Send
from forebay.core.clock import Clock
from forebay.core.errors import SetupError
from forebay.core.header_values import bearer, check_header

DEFAULT_CONNECT_TIMEOUT_S = 5.0
DEFAULT_MAX_CONNECTIONS = 100
_SHORTEST_WAIT_S = 0.001


class TimeLeft(dict[str, float | None]):
    """httpx's timeouts, counted when each phase of a request begins, so that together they end at one deadline."""

    def __init__(self, deadline: float, connect_timeout_s: float, clock: Clock, idle_s: float = math.inf) -> None:
        super().__init__()
        self._idle_s = idle_s
        self._deadline = deadline
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock

    def get(self, phase: str, default: Any = None) -> float | None:
        """Seconds left for a phase: pool, connect, write or read; None: no limit."""
        left_s = max(self._deadline - self._clock(), _SHORTEST_WAIT_S)
        if phase == "connect":
            return min(left_s, self._connect_timeout_s)
        if phase == "read":
            left_s = min(left_s, self._idle_s)
        return None if left_s == math.inf else left_s


def settings(url: str, options: ClientOptions) -> dict[str, Any]:
    """The arguments of httpx's client. Raises `SetupError` for a URL or an option that cannot be."""
    unknown = set(options) - set(ClientOptions.__annotations__)
    if unknown:
        raise TypeError(f"the client has no option {', '.join(sorted(unknown))}")
    try:
        base = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise SetupError(f"url {url!r} is none: {error}") from None
    if base.scheme not in ("http", "https") or not base.host:
        raise SetupError(f"url must be like http://127.0.0.1:8000, got {url!r}")
    most = options.get("max_connections", DEFAULT_MAX_CONNECTIONS)
    if most < 1:
        raise SetupError(f"max_connections must be at least 1, got {most}")
    # Tensors hardly compress: without this, a server that can would spend its time on it.
    headers = {"user-agent": "forebay-client", "accept-encoding": "identity", **options.get("headers", {})}
    for name, value in headers.items():
        check_header(name, value)
    if api_key := options.get("api_key"):
        headers["authorization"] = bearer(api_key)
    return {
        "base_url": base,
        "headers": headers,
        "verify": options.get("verify", True),
        "limits": httpx.Limits(max_connections=most, max_keepalive_connections=most),
        "timeout": None,
        "follow_redirects": False,
    }


def request_arguments(step: Send, options: ClientOptions, clock: Clock) -> dict[str, Any]:
    """The arguments of `build_request`."""
    connect_timeout_s = options.get("connect_timeout_s", DEFAULT_CONNECT_TIMEOUT_S)
    idle_s = step.idle_s if isinstance(step, Open) else math.inf
    return {
        "method": step.method,
        "url": step.path,
        "headers": dict(step.headers),
        "content": step.body if step.method == "POST" else None,
        "extensions": {"timeout": TimeLeft(step.deadline, connect_timeout_s, clock, idle_s)},
    }


def failure_of(error: httpx.RequestError, step: Send, clock: Clock) -> Failure:
    """What a failed try means."""
    reason = f"{step.method} {step.path}: {str(error) or type(error).__name__}"
    if clock() >= step.deadline or isinstance(error, httpx.PoolTimeout | httpx.ReadTimeout | httpx.WriteTimeout):
        return Failure(reason, late=True)
    final = isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.DecodingError)
    return Failure(reason, final=final)


def late(step: Send) -> Failure:
    """The deadline passed while the answer came."""
    return Failure(f"{step.method} {step.path}: the answer was not complete", late=True)
