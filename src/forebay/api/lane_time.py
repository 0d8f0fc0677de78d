"""Time limits of connections: slow heads and bodies, idle clients, clients that do not read."""

from __future__ import annotations

from time import monotonic
from typing import Any

from forebay.api.lane import Lane
from forebay.api.lane_heads import too_slow
from forebay.api.lane_slot import Slot

SWEEP_S = 1.0
"""How often connections are looked at."""

LINGER_S = 5.0
"""How long a client may go on sending after its last answer."""


def sweep_connections(connections: set[Any]) -> None:
    """One round over a server's connections. A fault in one costs that one, not the rounds to come."""
    now = monotonic()
    for connection in list(connections):
        if isinstance(connection, Lane):
            try:
                sweep(connection, now)
            except Exception as error:
                connection.fail(error)


def sweep(lane: Lane, now: float) -> None:
    """End what is too slow or idle. `since_s` is set here, so that requests need not. `now`: monotonic seconds."""
    if not lane.since_s:
        lane.since_s = now
        return
    waited_s = now - lane.since_s
    settings, cycle = lane.settings, lane.cycle
    if lane.flow.write_paused or lane.transport.is_closing():
        _watch_writing(lane, now, waited_s)
    elif lane.flow.read_paused or lane.deaf:
        lane.since_s = 0.0  # it waits for us
    elif lane.in_message and not lane.in_body:
        if waited_s > settings.head_timeout_s:
            lane.reject(too_slow("head", settings.head_timeout_s))
    elif lane.in_message:
        if waited_s > settings.body_timeout_s:
            _end_body(lane)
    elif cycle is not None and not cycle.response_complete:
        lane.since_s = 0.0
    elif waited_s > (settings.keep_alive_s if cycle is not None else settings.head_timeout_s):
        lane.transport.close()


def _watch_writing(lane: Lane, now: float, waited_s: float) -> None:
    """A client that takes nothing of its answers for as long as an idle one may stay is let go."""
    left_bytes = lane.transport.get_write_buffer_size()
    if left_bytes != lane.unsent_bytes:
        lane.unsent_bytes, lane.since_s = left_bytes, now
    elif waited_s > (LINGER_S if lane.transport.lingers and not left_bytes else lane.settings.keep_alive_s):
        lane.transport.abort()


def _end_body(lane: Lane) -> None:
    if lane.cycle.response_complete:  # answered before its body had arrived
        lane.transport.close()
    elif isinstance(lane.cycle, Slot) and lane.cycle.answer is not None:
        lane.cycle.keep_alive = False  # it has its answer, whose turn has not come
        lane.deaf = True
    else:
        lane.reject(too_slow("body", lane.settings.body_timeout_s))
